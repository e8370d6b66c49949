#pragma once
// One LSTM step's pointwise part.

#include "tests/simt/kernels/bug.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test {

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + __expf(-x)); }

/// gates [B, 4 H] hold x W + h U + b in the order i, f, g, o; they are overwritten with their activations.
template <Bug kBug>
__global__ void lstm_cell(float* __restrict__ gates, const float* __restrict__ c_prev, float* __restrict__ c,
                          float* __restrict__ h, int B, int H) {
  constexpr int kOutput = kBug == Bug::wrong_gate_stride ? 4 : 3;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < B * H; i += gridDim.x * blockDim.x) {
    float* gate = gates + size_t(i / H) * 4 * H + i % H;
    float ig = sigmoid(gate[0]), fg = sigmoid(gate[H]), gg = tanhf(gate[2 * H]), og = sigmoid(gate[kOutput * H]);
    float cell = fg * c_prev[i] + ig * gg;
    gate[0] = ig;
    gate[H] = fg;
    gate[2 * H] = gg;
    gate[3 * H] = og;
    c[i] = cell;
    h[i] = og * tanhf(cell);
  }
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test
