// More registers than cuda_budgets.txt has for it: the compile gate must refuse this file.

#include "kernels/cuda/compat.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test {

__global__ void exceeds_budget(const float* __restrict__ x, float* __restrict__ y) {
  float v[12];
#pragma unroll
  for (int i = 0; i < 12; ++i) v[i] = x[threadIdx.x + i * 32];
#pragma unroll
  for (int i = 0; i < 12; ++i) y[threadIdx.x + i * 32] = v[i] * v[11 - i];
}

void launch_exceeds_budget(const float* x, float* y, Stream stream) {
  launch(exceeds_budget, dim3(1), dim3(32), 0, stream, x, y);
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test
