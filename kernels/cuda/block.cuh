#pragma once
// Sums and maxima over the lanes of a warp and over a block, in an order that depends on the block's size alone.

#include "kernels/cuda/compat.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE {

/// The sum over the warp's 32 lanes, in every lane. All lanes must call it.
template <class T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}

/// The larger of two numbers, or NaN if one is: fmax would swallow it.
template <class T>
__device__ __forceinline__ T nan_max(T a, T b) {
  return a > b || a != a ? a : b;
}

/// The maximum over the warp's 32 lanes, in every lane; NaN if any is.
template <class T>
__device__ __forceinline__ T warp_max(T v) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v = nan_max(v, __shfl_xor_sync(0xffffffffu, v, d));
  return v;
}

/// The sum over a block of kThreads, in every thread. Ends with a barrier, so it may be called again at once.
template <int kThreads, class T>
__device__ __forceinline__ T block_sum(T v) {
  constexpr int kWarps = kThreads / 32;
  static_assert(kThreads % 32 == 0 && kWarps <= 32);
  v = warp_sum(v);
  if constexpr (kWarps > 1) {
    __shared__ SharedArray<T, kWarps> part;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) part[warp] = v;
    __syncthreads();
    v = T(0);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) v += part[w];
    __syncthreads();
  }
  return v;
}

/// The maximum over a block of kThreads, in every thread; NaN if any is. Ends with a barrier.
template <int kThreads, class T>
__device__ __forceinline__ T block_max(T v) {
  constexpr int kWarps = kThreads / 32;
  static_assert(kThreads % 32 == 0 && kWarps <= 32);
  v = warp_max(v);
  if constexpr (kWarps > 1) {
    __shared__ SharedArray<T, kWarps> part;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) part[warp] = v;
    __syncthreads();
    v = part[0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) v = nan_max(v, part[w]);
    __syncthreads();
  }
  return v;
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
