// More live values than the 64 registers that each of 1024 threads can have: the compile gate must refuse this file.

#include "kernels/cuda/compat.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test {

__global__ void __launch_bounds__(1024) spills(const float* __restrict__ x, float* __restrict__ y, int rounds) {
  float v[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) v[i] = x[threadIdx.x + i * 1024];
  for (int k = 0; k < rounds; ++k) {
#pragma unroll
    for (int i = 0; i < 96; ++i) v[i] = fmaf(v[i], v[(7 * i + 1) % 96], 1.f);
  }
#pragma unroll
  for (int i = 0; i < 96; ++i) y[threadIdx.x + i * 1024] = v[i];
}

void launch_spills(const float* x, float* y, int rounds, Stream stream) {
  launch(spills, dim3(1), dim3(1024), 0, stream, x, y, rounds);
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test
