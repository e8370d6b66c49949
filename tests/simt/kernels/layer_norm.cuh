#pragma once
// LayerNorm: one warp a row, float4 loads; cols is a multiple of 4.

#include "tests/simt/kernels/bug.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test {

/// The row's mean, from this lane's part of the sum.
template <Bug kBug>
__device__ __forceinline__ float row_mean(float s, int lane, int cols) {
  if constexpr (kBug == Bug::half_warp_mask) {
    for (int d = 16; d > 0; d >>= 1) s += __shfl_xor_sync(0x0000ffffu, s, d);
  } else if constexpr (kBug == Bug::collective_under_lane_if) {
    float mean = 0.f;
    if (lane < 31) mean = warp_sum(s) / cols;
    return mean;
  } else if constexpr (kBug == Bug::reduction_one_step_short) {
    for (int d = 16; d > 1; d >>= 1) s += __shfl_xor_sync(0xffffffffu, s, d);
  } else if constexpr (kBug == Bug::shuffle_down_broadcast) {
    for (int d = 16; d > 0; d >>= 1) s += __shfl_down_sync(0xffffffffu, s, d);
  } else {
    s = warp_sum(s);
  }
  return s / cols;
}

template <int kWarps, Bug kBug>
__global__ void __launch_bounds__(kWarps * 32)
    layer_norm_forward(const float* __restrict__ x, const float* __restrict__ gamma, const float* __restrict__ beta,
                       float* __restrict__ y, float* __restrict__ mean_out, float* __restrict__ rstd_out, int rows,
                       int cols, float eps) {
  int lane = threadIdx.x % 32, row = blockIdx.x * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  constexpr int kShift = kBug == Bug::misaligned_vector ? 1 : 0;
  const float4* xr = reinterpret_cast<const float4*>(x + size_t(row) * cols + kShift);
  float s = 0.f;
  for (int i = lane; i < cols / 4; i += 32) {
    float4 v = xr[i];
    s += (v.x + v.y) + (v.z + v.w);
  }
  float mean = row_mean<kBug>(s, lane, cols);
  float q = 0.f;
  for (int i = lane; i < cols / 4; i += 32) {
    float4 v = xr[i];
    float a = v.x - mean, b = v.y - mean, c = v.z - mean, d = v.w - mean;
    q += (a * a + b * b) + (c * c + d * d);
  }
  float rstd = rsqrtf(warp_sum(q) / cols + eps);
  const float4* g4 = reinterpret_cast<const float4*>(gamma);
  const float4* b4 = reinterpret_cast<const float4*>(beta);
  float4* yr = reinterpret_cast<float4*>(y + size_t(row) * cols);
  int vectors = cols / 4 + (kBug == Bug::one_vector_too_many ? 1 : 0);
  for (int i = lane; i < vectors; i += 32) {
    float4 v = xr[i], g = g4[i], b = b4[i];
    yr[i] = make_float4((v.x - mean) * rstd * g.x + b.x, (v.y - mean) * rstd * g.y + b.y,
                        (v.z - mean) * rstd * g.z + b.z, (v.w - mean) * rstd * g.w + b.w);
  }
  if (lane == 0) {
    mean_out[row] = mean;
    rstd_out[row] = rstd;
  }
}

/// dgamma += the sum over rows; each block takes a slab of them.
template <Bug kBug>
__global__ void layer_norm_gamma(const float* __restrict__ dy, const float* __restrict__ x,
                                 const float* __restrict__ mean, const float* __restrict__ rstd,
                                 float* __restrict__ dgamma, int rows, int cols, int slab) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  int first = blockIdx.y * slab, last = min(rows, first + slab);
  if (c >= cols) return;
  float s = 0.f;
  for (int r = first; r < last; ++r) {
    s += dy[size_t(r) * cols + c] * (x[size_t(r) * cols + c] - mean[r]) * rstd[r];
  }
  if constexpr (kBug == Bug::plain_add_across_blocks) {
    dgamma[c] += s;
  } else {
    atomicAdd(&dgamma[c], s);
  }
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test
