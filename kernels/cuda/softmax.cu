// Softmax and log-softmax over rows. A row is held in registers: by 1 … 32 lanes of a warp or by a block of threads.
// Rows too wide for that are read twice, the maximum and the sum being found in one pass (Milakov and Gimelshein,
// "Online normalizer calculation for softmax", arXiv:1805.02867). Bound by memory: 2 streams forward, 3 backward.

#include "kernels/softmax.h"

#include <limits>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/vector.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {

constexpr int kSoftmaxThreads = 256;
constexpr int kHeld = 4;  // vectors of a row in a thread's registers

template <class A>
constexpr A kLowest = -std::numeric_limits<A>::infinity();

/// The elements of a row that belong to one of `across` threads: vectors lane, lane + across, …
template <class S>
struct Part {
  using A = acc_t<S>;
  static constexpr int n = kPerVector<S>;

  unsigned lane, across;
  std::int64_t width;
  bool vectors;

  __device__ __forceinline__ std::int64_t first(int j) const {
    return (static_cast<std::int64_t>(j) * across + lane) * n;
  }

  /// A vector that begins at i; beyond the row, `missing`.
  __device__ __forceinline__ void load(const S* row, std::int64_t i, A missing, A (&v)[n]) const {
    if (vectors && i < width) {
      load_pack<S, n>(row + i, v);
    } else {
#pragma unroll
      for (int k = 0; k < n; ++k) v[k] = i + k < width ? static_cast<A>(row[i + k]) : missing;
    }
  }
  __device__ __forceinline__ void store(S* row, std::int64_t i, const A (&v)[n]) const {
    if (vectors) {
      if (i < width) store_pack<S, n>(row + i, v);
    } else {
#pragma unroll
      for (int k = 0; k < n; ++k)
        if (i + k < width) row[i + k] = static_cast<S>(v[k]);
    }
  }
  /// The same, added to what is there if `accumulate`.
  __device__ __forceinline__ void put(S* row, std::int64_t i, A (&v)[n], bool accumulate) const {
    if (accumulate) {
      A old[n];
      load(row, i, A(0), old);
#pragma unroll
      for (int k = 0; k < n; ++k) v[k] += old[k];
    }
    store(row, i, v);
  }
};

/// The sum and the maximum over the threads of a row: a part of a warp, or (kBlock) the block.
template <bool kBlock, class A>
__device__ __forceinline__ A row_sum(A v, unsigned across) {
  if constexpr (kBlock) {
    return block_sum<kSoftmaxThreads>(v);
  } else {
    for (unsigned d = across / 2; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, static_cast<int>(d));
    return v;
  }
}
template <bool kBlock, class A>
__device__ __forceinline__ A row_max(A v, unsigned across) {
  if constexpr (kBlock) {
    return block_max<kSoftmaxThreads>(v);
  } else {
    for (unsigned d = across / 2; d > 0; d /= 2) v = nan_max(v, __shfl_xor_sync(0xffffffffu, v, static_cast<int>(d)));
    return v;
  }
}

struct SoftmaxRows {
  std::int64_t rows, width;
  unsigned across;  ///< threads of a row
  bool vectors;
  bool log;

  template <class S>
  __device__ __forceinline__ Part<S> part() const {  // of no elements where there is no row
    return {threadIdx.x % across, across, row() < rows ? width : 0, vectors};
  }
  __device__ __forceinline__ std::int64_t row() const {
    return static_cast<std::int64_t>(blockIdx.x) * (kSoftmaxThreads / across) + threadIdx.x / across;
  }
};

template <class S, bool kBlock>
__global__ void __launch_bounds__(kSoftmaxThreads) softmax_held(const S* x, S* y, SoftmaxRows call) {
  using A = acc_t<S>;
  using M = Math<S>;
  constexpr int n = kPerVector<S>;
  const Part<S> part = call.part<S>();
  const std::size_t start = static_cast<std::size_t>(call.row()) * static_cast<std::size_t>(call.width);
  A v[kHeld][n];
  A top = kLowest<A>;
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    part.load(x + start, part.first(j), kLowest<A>, v[j]);
#pragma unroll
    for (int k = 0; k < n; ++k) top = nan_max(top, v[j][k]);
  }
  top = row_max<kBlock>(top, call.across);
  const bool nothing = top == kLowest<A>;  // nothing but -inf
  const A shift = nothing ? A(0) : top;
  A sum = A(0);
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const A e = M::exp(v[j][k] - shift);
      sum += e;
      v[j][k] = call.log ? v[j][k] - shift : e;
    }
  }
  sum = row_sum<kBlock>(sum, call.across);
  const A factor = nothing ? A(0) : A(1) / sum, log_sum = nothing ? A(0) : library_log(sum);
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
#pragma unroll
    for (int k = 0; k < n; ++k) v[j][k] = call.log ? v[j][k] - log_sum : v[j][k] * factor;
    part.store(y + start, part.first(j), v[j]);
  }
}

/// A block to a row of any width.
template <class S>
__global__ void __launch_bounds__(kSoftmaxThreads) softmax_streamed(const S* x, S* y, SoftmaxRows call) {
  using A = acc_t<S>;
  using M = Math<S>;
  constexpr int n = kPerVector<S>;
  const Part<S> part = call.part<S>();
  const std::size_t start = static_cast<std::size_t>(blockIdx.x) * static_cast<std::size_t>(call.width);
  A v[n];
  A top = kLowest<A>, sum = A(0);
#pragma unroll 1
  for (std::int64_t i = part.first(0); i < call.width; i += kSoftmaxThreads * n) {
    part.load(x + start, i, kLowest<A>, v);
    A higher = top;
#pragma unroll
    for (int k = 0; k < n; ++k) higher = nan_max(higher, v[k]);
    if (higher == kLowest<A>) continue;
    sum *= M::exp(top - higher);
#pragma unroll
    for (int k = 0; k < n; ++k) sum += M::exp(v[k] - higher);
    top = higher;
  }
  const A all_top = block_max<kSoftmaxThreads>(top);
  const bool nothing = all_top == kLowest<A>;
  sum = block_sum<kSoftmaxThreads>(top == kLowest<A> ? A(0) : sum * M::exp(top - all_top));
  const A shift = nothing ? A(0) : all_top;
  const A factor = nothing ? A(0) : A(1) / sum, log_sum = nothing ? A(0) : library_log(sum);
#pragma unroll 1
  for (std::int64_t i = part.first(0); i < call.width; i += kSoftmaxThreads * n) {
    part.load(x + start, i, kLowest<A>, v);
#pragma unroll
    for (int k = 0; k < n; ++k) v[k] = call.log ? v[k] - shift - log_sum : M::exp(v[k] - shift) * factor;
    part.store(y + start, i, v);
  }
}

/// What the sum of a row is over, and an element's gradient.
template <class S>
struct SoftmaxSlope {
  using A = acc_t<S>;
  bool log;

  __device__ __forceinline__ A term(A y, A dy) const { return log ? dy : y * dy; }
  __device__ __forceinline__ A slope(A y, A dy, A sum) const {
    return log ? dy - Math<S>::exp(y) * sum : y * (dy - sum);
  }
};

template <class S, bool kBlock>
__global__ void __launch_bounds__(kSoftmaxThreads)
    softmax_backward_held(const S* y, const S* dy, S* dx, bool accumulate, SoftmaxRows call) {
  using A = acc_t<S>;
  constexpr int n = kPerVector<S>;
  const Part<S> part = call.part<S>();
  const SoftmaxSlope<S> row{call.log};
  const std::size_t start = static_cast<std::size_t>(call.row()) * static_cast<std::size_t>(call.width);
  A vy[kHeld][n], vdy[kHeld][n];
  A sum = A(0);
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    part.load(y + start, part.first(j), A(0), vy[j]);
    part.load(dy + start, part.first(j), A(0), vdy[j]);
#pragma unroll
    for (int k = 0; k < n; ++k) sum += row.term(vy[j][k], vdy[j][k]);
  }
  sum = row_sum<kBlock>(sum, call.across);
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
#pragma unroll
    for (int k = 0; k < n; ++k) vdy[j][k] = row.slope(vy[j][k], vdy[j][k], sum);
    part.put(dx + start, part.first(j), vdy[j], accumulate);
  }
}

template <class S>
__global__ void __launch_bounds__(kSoftmaxThreads)
    softmax_backward_streamed(const S* y, const S* dy, S* dx, bool accumulate, SoftmaxRows call) {
  using A = acc_t<S>;
  constexpr int n = kPerVector<S>;
  const Part<S> part = call.part<S>();
  const SoftmaxSlope<S> row{call.log};
  const std::size_t start = static_cast<std::size_t>(blockIdx.x) * static_cast<std::size_t>(call.width);
  A vy[n], vdy[n];
  A sum = A(0);
#pragma unroll 1
  for (std::int64_t i = part.first(0); i < call.width; i += kSoftmaxThreads * n) {
    part.load(y + start, i, A(0), vy);
    part.load(dy + start, i, A(0), vdy);
#pragma unroll
    for (int k = 0; k < n; ++k) sum += row.term(vy[k], vdy[k]);
  }
  sum = block_sum<kSoftmaxThreads>(sum);
#pragma unroll 1
  for (std::int64_t i = part.first(0); i < call.width; i += kSoftmaxThreads * n) {
    part.load(y + start, i, A(0), vy);
    part.load(dy + start, i, A(0), vdy);
#pragma unroll
    for (int k = 0; k < n; ++k) vdy[k] = row.slope(vy[k], vdy[k], sum);
    part.put(dx + start, i, vdy, accumulate);
  }
}

/// Calls f(kind, grid, rows) with kind 0: parts of warps, 1: blocks, 2: blocks that stream.
template <class S, class F>
void over_rows(std::int64_t rows, std::int64_t width, bool aligned, bool log, const F& f) {
  constexpr int n = kPerVector<S>;
  const std::int64_t vectors = (width + n - 1) / n;
  SoftmaxRows call{rows, width, kSoftmaxThreads, aligned && width % n == 0, log};
  if (vectors > kHeld * 32)
    return f(vectors > kHeld * kSoftmaxThreads ? 2 : 1, dim3(static_cast<unsigned>(rows)), call);
  call.across = 1;
  while (call.across * kHeld < vectors) call.across *= 2;
  const std::int64_t together = kSoftmaxThreads / call.across;
  f(0, dim3(static_cast<unsigned>((rows + together - 1) / together)), call);
}

void run(const At& at, const SoftmaxForward& call) {
  if (call.rows == 0 || call.width == 0) return;
  visit_float(call.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    constexpr decltype(&softmax_streamed<S>) kKernels[] = {softmax_held<S, false>, softmax_held<S, true>,
                                                           softmax_streamed<S>};
    over_rows<S>(call.rows, call.width, is_aligned(call.x, 16) && is_aligned(call.y, 16), call.log,
                 [&](int kind, dim3 grid, const SoftmaxRows& rows) {
                   launch(kKernels[kind], grid, dim3(kSoftmaxThreads), 0, stream_of(at), static_cast<const S*>(call.x),
                          static_cast<S*>(call.y), rows);
                 });
  });
}
ADJOINT_GPU_KERNEL(SoftmaxForward)

void run(const At& at, const SoftmaxBackward& call) {
  if (call.rows == 0 || call.width == 0 || call.dx.data == nullptr) return;
  visit_float(call.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    constexpr decltype(&softmax_backward_streamed<S>) kKernels[] = {
        softmax_backward_held<S, false>, softmax_backward_held<S, true>, softmax_backward_streamed<S>};
    over_rows<S>(call.rows, call.width,
                 is_aligned(call.y, 16) && is_aligned(call.dy, 16) && is_aligned(call.dx.data, 16), call.log,
                 [&](int kind, dim3 grid, const SoftmaxRows& rows) {
                   launch(kKernels[kind], grid, dim3(kSoftmaxThreads), 0, stream_of(at), static_cast<const S*>(call.y),
                          static_cast<const S*>(call.dy), static_cast<S*>(call.dx.data), call.dx.accumulate, rows);
                 });
  });
}
ADJOINT_GPU_KERNEL(SoftmaxBackward)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
