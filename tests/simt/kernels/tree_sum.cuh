#pragma once
// Sums x within each warp through shared memory.

#include "tests/simt/kernels/bug.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test {

/// out [2 * grid]: the sums of the blocks' two warps. 64 threads a block.
template <Bug kBug>
__global__ void tree_sum(const float* __restrict__ x, float* __restrict__ out) {
  __shared__ SharedArray<float, 64> buffer;
  int t = threadIdx.x, lane = t % 32;
  buffer[t] = x[blockIdx.x * 64 + t];
  if constexpr (kBug != Bug::no_syncwarp_after_store) __syncwarp();
  for (int d = 16; d > 0; d >>= 1) {
    float v = lane < d ? buffer[t + d] : 0.f;
    __syncwarp();
    if (lane < d) buffer[t] += v;
    if constexpr (kBug != Bug::no_syncwarp_in_tree) __syncwarp();
  }
  if (lane == 0) out[blockIdx.x * 2 + t / 32] = buffer[t];
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test
