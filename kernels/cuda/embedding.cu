// Table look-up and its gradient. Every order of summation is fixed, and nothing is added atomically.
//
// The gradient of a small table (a string's alphabet: 7 rows, a thousand tokens each) goes by parts of the tokens: a
// block adds up its part for every row in shared memory, a second kernel adds the parts. For larger tables the tokens
// are sorted by row, and blocks take equal parts of the sorted tokens, so that a word that makes up a tenth of a text
// does not keep one block busy for long; rows that reach over parts are joined by a second kernel.

#include "kernels/embedding.h"

#include <algorithm>
#include <bit>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/sort.h"
#include "kernels/cuda/vector.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kColumnThreads = 64;        // of a block whose threads are columns
constexpr int kAhead = 8;                 // loads in flight
constexpr std::int64_t kSmallTable = 32;  // rows, at most
constexpr std::int64_t kPartTokens = 32;  // of a part; at least, for a small table
constexpr std::int64_t kMostParts = 256;  // for a small table

/// An id outside the table gives NaN, which the loss then shows: a GPU cannot stop a run by itself.
template <class T, int n>
__global__ void __launch_bounds__(kThreads)
    gather(std::int64_t count, std::int64_t rows, std::int64_t packs, const std::int32_t* ids, const T* table, T* y) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const std::int64_t id = ids[i / packs];
    Pack<T, n> pack;
    if (id >= 0 && id < rows) {
      pack = *reinterpret_cast<const Pack<T, n>*>(table + (id * packs + i % packs) * n);
    } else {
#pragma unroll
      for (int k = 0; k < n; ++k) pack.element[k] = static_cast<T>(static_cast<acc_t<T>>(NAN));
    }
    *reinterpret_cast<Pack<T, n>*>(y + i * n) = pack;
  }
}

template <class T>
struct Gradient {
  std::int64_t tokens, rows, width, padding_row;
  const std::int32_t* ids;
  const T* dy;
  T* dtable;
  bool accumulate;
};

template <class T>
__device__ __forceinline__ bool counts(const Gradient<T>& x, std::int64_t id) {
  return id >= 0 && id < x.rows && id != x.padding_row;
}

/// to (+)= sum, for n columns.
template <class T, int n>
__device__ __forceinline__ void put(const Gradient<T>& x, std::int64_t row, std::int64_t column,
                                    const acc_t<T> (&sum)[n]) {
  T* const to = x.dtable + row * x.width + column;
  acc_t<T> total[n] = {};
  if (x.accumulate) load_pack<T, n>(to, total);
#pragma unroll
  for (int k = 0; k < n; ++k) total[k] += sum[k];
  store_pack<T, n>(to, total);
}

/// parts [part, rows, width] = the sums over each part's tokens. A thread a column; blockIdx.y is the part.
template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    sum_parts(Gradient<T> x, std::int64_t tokens_a_part, acc_t<T>* parts) {
  using A = acc_t<T>;
  Smem smem;
  A* const sum = smem.take<A>(static_cast<std::size_t>(x.rows) * kColumnThreads) + threadIdx.x;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kColumnThreads + threadIdx.x;
  if (column >= x.width) return;  // no barrier: a thread sees its own column alone
  for (std::int64_t row = 0; row < x.rows; ++row) sum[row * kColumnThreads] = A(0);
  const std::int64_t begin = blockIdx.y * tokens_a_part, end = min(x.tokens, begin + tokens_a_part);
#pragma unroll 1
  for (std::int64_t t0 = begin; t0 < end; t0 += kAhead) {
    A value[kAhead];
    std::int32_t id[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      id[k] = t0 + k < end ? x.ids[t0 + k] : -1;
      value[k] = t0 + k < end ? static_cast<A>(x.dy[(t0 + k) * x.width + column]) : A(0);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (counts(x, id[k])) sum[id[k] * kColumnThreads] += value[k];
  }
  for (std::int64_t row = 0; row < x.rows; ++row)
    parts[(blockIdx.y * x.rows + row) * x.width + column] = sum[row * kColumnThreads];
}

/// dtable (+)= the parts, in order. A thread an element.
template <class T>
__global__ void __launch_bounds__(kThreads) add_parts(Gradient<T> x, std::int64_t parts, const acc_t<T>* part) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= x.rows * x.width) return;
  acc_t<T> sum[1] = {};
#pragma unroll 8
  for (std::int64_t p = 0; p < parts; ++p) sum[0] += part[p * x.rows * x.width + i];
  put<T, 1>(x, i / x.width, i % x.width, sum);
}

/// Keys to sort tokens by: their rows; those without a gradient last.
template <class T>
__global__ void __launch_bounds__(kThreads) make_keys(Gradient<T> x, std::int32_t* keys, std::int32_t* tokens) {
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= x.tokens) return;
  keys[t] = counts(x, x.ids[t]) ? x.ids[t] : static_cast<std::int32_t>(x.rows);
  tokens[t] = static_cast<std::int32_t>(t);
}

/// The sorted tokens in parts of kPartTokens. Within a part, a row's tokens are consecutive. A row that also has tokens
/// in the part before, or in the next, has its sum here put aside: joined [part, 2, width], first the row that goes on
/// from the part before, then the one that begins here and goes on.
template <class T>
struct Sorted {
  const std::int32_t* rows;
  const std::int32_t* tokens;
  acc_t<T>* joined;
};

/// Threads are n columns each; blockIdx.x runs over parts and, inside, over blocks of columns.
template <class T, int n>
__global__ void __launch_bounds__(kColumnThreads) sum_sorted(Gradient<T> x, Sorted<T> sorted, std::int64_t blocks) {
  using A = acc_t<T>;
  const std::int64_t part = blockIdx.x / blocks;
  const std::int64_t column = (blockIdx.x % blocks * kColumnThreads + threadIdx.x) * n;
  if (column >= x.width) return;
  const std::int64_t begin = part * kPartTokens, end = min(x.tokens, begin + kPartTokens);
  A sum[n] = {};
  std::int64_t row = sorted.rows[begin];
  bool began_before = begin > 0 && sorted.rows[begin - 1] == row;
  const auto finish = [&](bool goes_on) {
    if (row >= x.rows) return;
    if (began_before || goes_on) {
      store_pack<A, n>(sorted.joined + (2 * part + (began_before ? 0 : 1)) * x.width + column, sum);
    } else {
      put<T, n>(x, row, column, sum);
    }
  };
#pragma unroll 1
  for (std::int64_t i0 = begin; i0 < end; i0 += kAhead) {
    A value[kAhead][n];
    std::int32_t of[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      of[j] = i0 + j < end ? sorted.rows[i0 + j] : -1;
      if (of[j] >= 0 && of[j] < x.rows)
        load_pack<T, n>(x.dy + static_cast<std::int64_t>(sorted.tokens[i0 + j]) * x.width + column, value[j]);
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (of[j] < 0) continue;
      if (of[j] != row) {
        finish(false);
        row = of[j];
        began_before = false;
#pragma unroll
        for (int k = 0; k < n; ++k) sum[k] = A(0);
      }
      if (row < x.rows)
#pragma unroll
        for (int k = 0; k < n; ++k) sum[k] += value[j][k];
    }
  }
  finish(end < x.tokens && sorted.rows[end] == row);
}

/// The rows that reach over several parts: the part where one begins adds up all of them.
template <class T, int n>
__global__ void __launch_bounds__(kColumnThreads) join_parts(Gradient<T> x, Sorted<T> sorted, std::int64_t blocks) {
  using A = acc_t<T>;
  const std::int64_t part = blockIdx.x / blocks, parts = (x.tokens + kPartTokens - 1) / kPartTokens;
  const std::int64_t column = (blockIdx.x % blocks * kColumnThreads + threadIdx.x) * n;
  const std::int64_t begin = part * kPartTokens, end = begin + kPartTokens;
  if (column >= x.width || end >= x.tokens) return;
  const std::int32_t row = sorted.rows[end - 1];
  if (row >= x.rows || sorted.rows[end] != row) return;                                 // ends here
  if (begin > 0 && sorted.rows[begin] == row && sorted.rows[begin - 1] == row) return;  // began before
  A sum[n];
  load_pack<A, n>(sorted.joined + (2 * part + 1) * x.width + column, sum);
  for (std::int64_t p0 = part + 1; p0 < parts && sorted.rows[p0 * kPartTokens] == row; p0 += kAhead) {
    A value[kAhead][n];
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      if (p0 + j < parts && sorted.rows[(p0 + j) * kPartTokens] == row)
        load_pack<A, n>(sorted.joined + 2 * (p0 + j) * x.width + column, value[j]);
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      if (p0 + j < parts && sorted.rows[(p0 + j) * kPartTokens] == row)
#pragma unroll
        for (int k = 0; k < n; ++k) sum[k] += value[j][k];
  }
  put<T, n>(x, row, column, sum);
}

/// first [tokens]: 1 for the first token of a row that has a gradient, else 0.
__global__ void __launch_bounds__(kThreads)
    mark_first(std::int64_t count, std::int64_t table_rows, const std::int32_t* rows, const std::int32_t* tokens,
               std::int32_t* first) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  first[tokens[i]] = rows[i] < table_rows && (i == 0 || rows[i - 1] != rows[i]) ? 1 : 0;
}

/// Appends the rows that are not yet listed, in the order of their first tokens. One block.
__global__ void __launch_bounds__(kThreads)
    list_rows(std::int64_t tokens, const std::int32_t* ids, const std::int32_t* first, RowList rows) {
  __shared__ SharedArray<int, kWarps> in_warp;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  std::int64_t listed = *rows.count;
  for (std::int64_t t0 = 0; t0 < tokens; t0 += kThreads) {
    const std::int64_t t = t0 + threadIdx.x;
    const bool is_new = t < tokens && first[t] != 0 && rows.listed[ids[t]] == 0;
    const unsigned mine = __ballot_sync(0xffffffffu, is_new);
    if (lane == 0) in_warp[warp] = __popc(mine);
    __syncthreads();
    std::int64_t place = listed + __popc(mine & ((1u << lane) - 1));
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) place += in_warp[w];
      listed += in_warp[w];
    }
    if (is_new) {
      rows.rows[place] = ids[t];
      rows.listed[ids[t]] = 1;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) *rows.count = listed;
}

dim3 grid_of(std::int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); }

/// Parts of the tokens, and tokens of a part, for a small table.
struct Parts {
  std::int64_t tokens_each, count;
  explicit Parts(std::int64_t tokens)
      : tokens_each(std::max(kPartTokens, blocks_for(tokens, kMostParts))), count(blocks_for(tokens, tokens_each)) {}
};

bool is_small(const EmbeddingBackward& call) { return call.rows <= kSmallTable && call.touched.count == nullptr; }

/// Where the sorted way keeps what it needs, in scratch.
struct Layout {
  std::size_t ints, joined, sorting, bytes;
  int key_bits;

  explicit Layout(const EmbeddingBackward& call) {
    const auto tokens = static_cast<std::size_t>(call.tokens), width = static_cast<std::size_t>(call.width);
    key_bits = std::bit_width(static_cast<std::uint64_t>(call.rows));
    ints = (tokens * sizeof(std::int32_t) + 255) / 256 * 256;
    joined = 5 * ints;
    sorting = joined + (static_cast<std::size_t>(blocks_for(call.tokens, kPartTokens)) * 2 * width *
                            size_of(accumulator_of(call.dtype)) +
                        255) /
                           256 * 256;
    bytes = sorting + sort_bytes(call.tokens, key_bits);
  }
};

template <class T>
void backward_small(const At& at, const EmbeddingBackward& call, const Gradient<T>& x) {
  if (call.rows == 0 || call.width == 0) return;
  using A = acc_t<T>;
  const Parts parts(call.tokens);
  auto* const sums = static_cast<A*>(call.scratch);
  launch(sum_parts<T>,
         dim3(static_cast<unsigned>(blocks_for(call.width, kColumnThreads)), static_cast<unsigned>(parts.count)),
         dim3(kColumnThreads), static_cast<std::size_t>(call.rows) * kColumnThreads * sizeof(A), stream_of(at), x,
         parts.tokens_each, sums);
  launch(add_parts<T>, grid_of(blocks_for(call.rows * call.width, kThreads)), dim3(kThreads), 0, stream_of(at), x,
         parts.count, static_cast<const A*>(sums));
}

template <class T>
void backward_sorted(const At& at, const EmbeddingBackward& call, const Gradient<T>& x) {
  const Layout layout(call);
  char* const scratch = static_cast<char*>(call.scratch);
  const auto ints = [&](std::size_t i) { return reinterpret_cast<std::int32_t*>(scratch + i * layout.ints); };
  std::int32_t *const keys = ints(0), *const tokens = ints(1), *const rows = ints(2), *const sorted_tokens = ints(3);
  const dim3 over_tokens = grid_of(blocks_for(call.tokens, kThreads));
  launch(make_keys<T>, over_tokens, dim3(kThreads), 0, stream_of(at), x, keys, tokens);
  sort_pairs(scratch + layout.sorting, layout.bytes - layout.sorting, call.tokens, layout.key_bits, keys, rows, tokens,
             sorted_tokens, stream_of(at));
  if (call.touched.count != nullptr) {
    launch(mark_first, over_tokens, dim3(kThreads), 0, stream_of(at), call.tokens, call.rows, rows, sorted_tokens,
           ints(4));
    launch(list_rows, dim3(1), dim3(kThreads), 0, stream_of(at), call.tokens, call.ids, ints(4), call.touched);
  }
  if (call.width == 0) return;
  const Sorted<T> sorted{rows, sorted_tokens, reinterpret_cast<acc_t<T>*>(scratch + layout.joined)};
  const auto start = [&]<int n>() {
    const std::int64_t blocks = blocks_for(call.width, kColumnThreads * n);
    const dim3 grid = grid_of(blocks_for(call.tokens, kPartTokens) * blocks);
    launch(sum_sorted<T, n>, grid, dim3(kColumnThreads), 0, stream_of(at), x, sorted, blocks);
    launch(join_parts<T, n>, grid, dim3(kColumnThreads), 0, stream_of(at), x, sorted, blocks);
  };
  constexpr int n = 4;
  const bool packs = call.width % n == 0 && is_aligned(call.dy, n * sizeof(T)) && is_aligned(x.dtable, n * sizeof(T));
  if (packs) {
    start.template operator()<n>();
  } else {
    start.template operator()<1>();
  }
}

}  // namespace

std::size_t scratch_bytes(const At&, const EmbeddingBackward& call) {
  if (call.tokens == 0) return 0;
  if (!is_small(call)) return Layout(call).bytes;
  return static_cast<std::size_t>(Parts(call.tokens).count * call.rows * call.width) *
         size_of(accumulator_of(call.dtype));
}

void run(const At& at, const EmbeddingForward& call) {
  if (call.tokens == 0 || call.width == 0) return;
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int n = kPerVector<T>;
    const auto start = [&]<int kPack>() {
      const std::int64_t packs = call.width / kPack, count = call.tokens * packs;
      launch(gather<T, kPack>, grid_of(std::min<std::int64_t>(blocks_for(count, kThreads), 1 << 20)), dim3(kThreads), 0,
             stream_of(at), count, call.rows, packs, call.ids, static_cast<const T*>(call.table),
             static_cast<T*>(call.y));
    };
    if (call.width % n == 0 && is_aligned(call.table, 16) && is_aligned(call.y, 16)) {
      start.template operator()<n>();
    } else {
      start.template operator()<1>();
    }
  });
}

void run(const At& at, const EmbeddingBackward& call) {
  if (call.dtable.data == nullptr) return;
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const std::size_t bytes = static_cast<std::size_t>(call.rows * call.width) * sizeof(T);
    const bool small = is_small(call) && call.tokens > 0;  // then every row is written
    if (!call.dtable.accumulate && bytes > 0 && !small) zero(call.dtable.data, bytes, stream_of(at));
    if (call.tokens == 0) return;
    const Gradient<T> x{.tokens = call.tokens,
                        .rows = call.rows,
                        .width = call.width,
                        .padding_row = call.padding_row,
                        .ids = call.ids,
                        .dy = static_cast<const T*>(call.dy),
                        .dtable = static_cast<T*>(call.dtable.data),
                        .accumulate = call.dtable.accumulate};
    if (small) {
      backward_small(at, call, x);
    } else {
      backward_sorted(at, call, x);
    }
  });
}

ADJOINT_GPU_KERNEL(EmbeddingForward)
ADJOINT_GPU_SCRATCH(EmbeddingBackward)
ADJOINT_GPU_KERNEL(EmbeddingBackward)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
