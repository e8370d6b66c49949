#include "kernels/matmul.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/gemm_tile.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu {
namespace {

/// Up to this many rows, b is read where it lies: packing it would cost as much as it saves.
constexpr std::int64_t kDirectRows = 2 * kTileRows;
/// Multiplications below which a product stays on one thread (about 20 us), and that a chunk should have at least.
constexpr std::int64_t kParallelWork = 1'200'000;
constexpr std::int64_t kChunkWork = 1'000'000;
/// Packed at a time: rows of b (blocks of kDepth would do, several save forks) and elements.
constexpr std::int64_t kPackedRows = 8192;
constexpr std::int64_t kPackedElements = std::int64_t{1} << 22;

struct Chunks {
  std::int64_t rows, columns;  // extents of one chunk
};

/// Cuts [m, n] so that there is work for up to 16 threads, the longer side first, down to chunks of kChunkWork.
template <class A>
Chunks choose_chunks(std::int64_t m, std::int64_t n, std::int64_t k) {
  // At most this many columns: a block of packed b then stays in the second-level cache while rows pass over it.
  Chunks c{m, std::min<std::int64_t>(n, 16 * kPanel<A>)};
  const auto halve = [](std::int64_t extent, std::int64_t unit) { return ((extent + 1) / 2 + unit - 1) / unit * unit; };
  const auto count = [&] { return ((m + c.rows - 1) / c.rows) * ((n + c.columns - 1) / c.columns); };
  while (count() < 32 && c.rows * c.columns * k >= 2 * kChunkWork) {
    if (c.rows >= c.columns && c.rows > kTileRows) {
      c.rows = halve(c.rows, kTileRows);
    } else if (c.columns > kPanel<A>) {
      c.columns = halve(c.columns, kPanel<A>);
    } else {
      break;
    }
  }
  return c;
}

template <class T>
struct Right {
  const T* data;
  std::int64_t row, column;
  const std::int32_t* pick;
};

/// c = a b through packed panels of b; m and k count what the lists of `a` pick.
template <class T>
void packed_product(const At& at, std::int64_t m, std::int64_t n, std::int64_t k, const Left<T>& a, const Right<T>& b,
                    T* c, std::int64_t ldc, const Finish<T>& finish, acc_t<T>* packed, std::int64_t k_step,
                    std::int64_t n_step, bool inline_only) {
  using A = acc_t<T>;
  for (std::int64_t p = 0; p < k || p == 0; p += k_step) {
    const std::int64_t depth = std::min(k_step, k - p);
    Left<T> left = a;
    if (a.depth != nullptr) {
      left.depth = a.depth + p;
    } else {
      left.data += p * a.column;
    }
    const T* rows_of_b = b.pick != nullptr ? b.data : b.data + p * b.row;
    const std::int32_t* pick = b.pick != nullptr ? b.pick + p : nullptr;
    Finish<T> here = finish;
    if (p > 0) here.accumulate = true;
    for (std::int64_t j = 0; j < n; j += n_step) {
      const std::int64_t columns = std::min(n_step, n - j);
      here.bias = p == 0 && finish.bias != nullptr ? finish.bias + j : nullptr;
      const auto pack_columns = [&](std::int64_t first, std::int64_t last) {
        pack(depth, columns, rows_of_b + j * b.column, b.row, b.column, pick, first, last, packed);
      };
      const Chunks chunk = choose_chunks<A>(m, columns, depth);
      const std::int64_t across = (columns + chunk.columns - 1) / chunk.columns;
      const std::int64_t down = (m + chunk.rows - 1) / chunk.rows;
      const auto multiply = [&](std::int64_t i) {
        const std::int64_t row = i / across * chunk.rows, first = i % across * chunk.columns;
        Left<T> part = left;
        if (a.rows != nullptr) {
          part.rows = a.rows + row;
        } else {
          part.data += row * a.row;
        }
        gemm(std::min(chunk.rows, m - row), columns, depth, part, packed, first,
             std::min(first + chunk.columns, columns), a.rows != nullptr ? c + j : c + row * ldc + j, ldc, here);
      };
      if (inline_only || m * columns * depth < kParallelWork) {
        pack_columns(0, columns);
        for (std::int64_t i = 0; i < across * down; ++i) multiply(i);
      } else {
        const std::int64_t panels = (columns + kPanel<A> - 1) / kPanel<A>;
        parallel_for(at, panels, 2, depth * kPanel<A> / 4, [&](std::int64_t begin, std::int64_t end) {
          pack_columns(begin * kPanel<A>, std::min(end * kPanel<A>, columns));
        });
        at.pool->run(across * down, multiply);
      }
    }
  }
}

/// Lists what takes part: r with r % rows_per_length < row_lengths[r / rows_per_length].
std::int64_t list_rows(const Matmul& call, std::int64_t rows, std::int32_t* list) {
  std::int64_t count = 0;
  for (std::int64_t first = 0, group = 0; first < rows; first += call.rows_per_length, ++group) {
    const std::int64_t length =
        std::clamp<std::int64_t>(call.row_lengths[group], 0, std::min(call.rows_per_length, rows - first));
    for (std::int64_t i = 0; i < length; ++i) list[count++] = static_cast<std::int32_t>(first + i);
  }
  return count;
}

template <class T>
void clear_other_rows(const Matmul& call, T* c) {
  for (std::int64_t row = 0; row < call.m; ++row)
    if (row % call.rows_per_length >= call.row_lengths[row / call.rows_per_length])
      std::memset(c + row * call.ldc, 0, static_cast<std::size_t>(call.n) * sizeof(T));
}

template <class T>
void product(const At& at, const Matmul& call, const T* a, const T* b, T* c, bool inline_only) {
  using A = acc_t<T>;
  const std::int64_t m = call.m, n = call.n, k = call.k;
  const std::int64_t a_row = call.transpose_a ? 1 : call.lda, a_column = call.transpose_a ? call.lda : 1;
  const Finish<T> finish{static_cast<A>(call.alpha), static_cast<const T*>(call.bias), call.accumulate};
  const bool ragged = call.row_lengths != nullptr;
  if (!call.transpose_b && !ragged && m <= kDirectRows) {
    if (inline_only || m * n * k < kParallelWork) {
      gemm_direct(m, n, k, a, a_row, a_column, b, call.ldb, c, call.ldc, finish);
      return;
    }
    const std::int64_t grain = std::max<std::int64_t>(kChunkWork / (m * k) / kPanel<A>, 4) * kPanel<A>;
    parallel_for(at, n, grain, m * k, [&](std::int64_t begin, std::int64_t end) {
      Finish<T> part = finish;
      if (part.bias != nullptr) part.bias += begin;
      gemm_direct(m, end - begin, k, a, a_row, a_column, b + begin, call.ldb, c + begin, call.ldc, part);
    });
    return;
  }
  const std::int64_t k_step = std::max<std::int64_t>(std::is_same_v<T, A> ? std::min(k, kPackedRows) : k, 1);
  const std::int64_t n_step =
      std::min(round_to_lanes<A>(n), std::max<std::int64_t>(kPackedElements / k_step / kPanel<A>, 1) * kPanel<A>);
  const std::size_t packed_bytes = static_cast<std::size_t>(k_step * n_step) * sizeof(A);
  const std::int64_t listed = ragged ? (call.transpose_a ? k : m) : 0;
  A* packed = static_cast<A*>(thread_buffer(3, packed_bytes + static_cast<std::size_t>(listed) * 4));
  Left<T> left{a, a_row, a_column};
  Right<T> right{b, call.transpose_b ? 1 : call.ldb, call.transpose_b ? call.ldb : 1, nullptr};
  std::int64_t rows = m, depth = k;
  if (ragged) {
    auto* list = reinterpret_cast<std::int32_t*>(reinterpret_cast<std::byte*>(packed) + packed_bytes);
    const std::int64_t count = list_rows(call, listed, list);
    if (call.transpose_a) {
      left.depth = right.pick = list;
      depth = count;
    } else {
      left.rows = list;
      rows = count;
      if (!call.accumulate) clear_other_rows(call, c);
    }
  }
  if (rows > 0)
    packed_product(at, rows, n, depth, left, right, c, call.ldc, finish, packed, k_step, n_step, inline_only);
}

template <class T>
void all_products(const At& at, Matmul call) {
  if (call.m == 0 || call.n == 0 || call.batches == 0) return;
  if (call.batches > 1 && call.b_batch == 0 && !call.transpose_a && call.a_batch == call.m * call.lda &&
      call.c_batch == call.m * call.ldc) {
    call.m *= call.batches;  // one b for all, and the rows follow each other
    call.batches = 1;
  }
  const T* a = static_cast<const T*>(call.a);
  const T* b = static_cast<const T*>(call.b);
  T* c = static_cast<T*>(call.c);
  if (call.batches == 1) {
    product(at, call, a, b, c, false);
    return;
  }
  const std::int64_t work = call.m * call.n * call.k;
  const bool split_products = work > 16 * kChunkWork;
  const auto one = [&](std::int64_t i) {
    product(at, call, a + i * call.a_batch, b + i * call.b_batch, c + i * call.c_batch, !split_products);
  };
  if (split_products) {
    for (std::int64_t i = 0; i < call.batches; ++i) one(i);
    return;
  }
  const std::int64_t grain = std::max<std::int64_t>(kChunkWork / 4 / std::max<std::int64_t>(work, 1), 1);
  const std::int64_t per_item = std::max<std::int64_t>(work * kInlineWork / kParallelWork, 1);
  parallel_for(at, call.batches, std::min(grain, call.batches), per_item, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) one(i);
  });
}

}  // namespace

void run(const At& at, const Matmul& call) {
  switch (call.dtype) {
    case DType::f32: return all_products<float>(at, call);
    case DType::f64: return all_products<double>(at, call);
    default: return all_products<bf16>(at, call);
  }
}

}  // namespace adjoint::cpu
