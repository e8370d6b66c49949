// Table look-up and its gradient. The gradient adds the tokens of a row in their order, without sorting and without
// atomics: a warp that holds the first token of a row scans the later ids 32 at a time. That is tokens^2 / 32 steps in
// all, below a sort's cost up to some ten thousand tokens, which is what a batch has here.

#include "kernels/embedding.h"

#include <algorithm>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/vector.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

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

/// Whether no token before t has t's id. The warp's lanes call it together.
__device__ __forceinline__ bool is_first(const std::int32_t* ids, std::int64_t t) {
  const std::int32_t id = ids[t];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (std::int64_t u = 0; u < t; u += 32)
    if (__any_sync(0xffffffffu, u + lane < t && ids[u + lane] == id) != 0) return false;
  return true;
}

template <class T>
struct Gradient {
  std::int64_t tokens, rows, width, padding_row;
  const std::int32_t* ids;
  const T* dy;
  T* dtable;
  bool accumulate;
  std::int32_t* first;  // [tokens]: 1 for the first token of a row that has a gradient
};

/// A warp a token; the first one of a row adds up the row. 4 columns a lane at a time, in registers.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_tokens(Gradient<T> x) {
  using A = acc_t<T>;
  constexpr int kColumns = 4;
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= x.tokens) return;  // whole warps
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int32_t id = x.ids[t];
  const bool counts = id >= 0 && id < x.rows && id != x.padding_row && is_first(x.ids, t);
  if (lane == 0) x.first[t] = counts ? 1 : 0;
  if (!counts) return;
  T* const to = x.dtable + static_cast<std::int64_t>(id) * x.width;
  for (std::int64_t column0 = 0; column0 < x.width; column0 += 32 * kColumns) {
    A sum[kColumns] = {};
    for (std::int64_t u0 = t / 32 * 32; u0 < x.tokens; u0 += 32) {
      const std::int64_t u = u0 + lane;
      unsigned same = __ballot_sync(0xffffffffu, u >= t && u < x.tokens && x.ids[u] == id);
      for (; same != 0; same &= same - 1) {
        const T* const from = x.dy + (u0 + __ffs(static_cast<int>(same)) - 1) * x.width;
#pragma unroll
        for (int k = 0; k < kColumns; ++k) {
          const std::int64_t column = column0 + lane + 32 * k;
          if (column < x.width) sum[k] += static_cast<A>(from[column]);
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      const std::int64_t column = column0 + lane + 32 * k;
      if (column < x.width) to[column] = static_cast<T>(x.accumulate ? static_cast<A>(to[column]) + sum[k] : sum[k]);
    }
  }
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

unsigned blocks_for(std::int64_t items, std::int64_t each) {
  return static_cast<unsigned>(std::min<std::int64_t>((items + each - 1) / each, 1 << 20));
}

}  // namespace

std::size_t scratch_bytes(const At&, const EmbeddingBackward& call) {
  return static_cast<std::size_t>(call.tokens) * sizeof(std::int32_t);
}

void run(const At& at, const EmbeddingForward& call) {
  if (call.tokens == 0 || call.width == 0) return;
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int n = kPerVector<T>;
    const auto start = [&]<int kPack>() {
      const std::int64_t packs = call.width / kPack, count = call.tokens * packs;
      launch(gather<T, kPack>, dim3(blocks_for(count, kThreads)), dim3(kThreads), 0, stream_of(at), count, call.rows,
             packs, call.ids, static_cast<const T*>(call.table), static_cast<T*>(call.y));
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
    if (!call.dtable.accumulate && bytes > 0) zero(call.dtable.data, bytes, stream_of(at));
    if (call.tokens == 0) return;
    auto* const first = static_cast<std::int32_t*>(call.scratch);
    launch(sum_tokens<T>, dim3(static_cast<unsigned>((call.tokens + kWarps - 1) / kWarps)), dim3(kThreads), 0,
           stream_of(at),
           Gradient<T>{.tokens = call.tokens,
                       .rows = call.rows,
                       .width = call.width,
                       .padding_row = call.padding_row,
                       .ids = call.ids,
                       .dy = static_cast<const T*>(call.dy),
                       .dtable = static_cast<T*>(call.dtable.data),
                       .accumulate = call.dtable.accumulate,
                       .first = first});
    if (call.touched.count != nullptr)
      launch(list_rows, dim3(1), dim3(kThreads), 0, stream_of(at), call.tokens, call.ids, first, call.touched);
  });
}

ADJOINT_GPU_KERNEL(EmbeddingForward)
ADJOINT_GPU_SCRATCH(EmbeddingBackward)
ADJOINT_GPU_KERNEL(EmbeddingBackward)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
