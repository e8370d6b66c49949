#pragma once
// Softmax cross entropy, one block a row.

#include "tests/simt/kernels/bug.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test {

/// loss[row] = lse - logit[target]; dlogits = softmax - onehot. target < 0: the row is ignored.
template <int kThreads, Bug kBug>
__global__ void __launch_bounds__(kThreads)
    cross_entropy(const float* __restrict__ logits, const int* __restrict__ target, float* __restrict__ loss,
                  float* __restrict__ dlogits, int classes) {
  constexpr int kWarps = kThreads / 32;
  __shared__ SharedArray<float, kWarps> part;
  __shared__ SharedArray<float, 1> result;
  int row = blockIdx.x, tid = threadIdx.x, lane = tid % 32, warp = tid / 32, t = target[row];
  const float* x = logits + size_t(row) * classes;
  float* d = dlogits + size_t(row) * classes;
  if constexpr (kBug == Bug::return_before_barrier) {
    if (tid >= classes) return;
  }
  float m = -INFINITY;
  for (int i = tid; i < classes; i += kThreads) m = fmaxf(m, x[i]);
  m = warp_max(m);
  if (lane == 0) part[warp] = m;
  if constexpr (kBug != Bug::no_barrier_before_maxima) __syncthreads();
  if (warp == 0) {
    float v;
    if constexpr (kBug == Bug::reads_unwritten_slots) {
      v = warp_max(part.data[lane]);
    } else {
      v = warp_max(lane < kWarps ? part[lane] : -INFINITY);
    }
    if (lane == 0) result[0] = v;
  }
  __syncthreads();
  m = result[0];
  float s = 0.f;
  for (int i = tid; i < classes; i += kThreads) s += __expf(x[i] - m);
  s = warp_sum(s);
  if (lane == 0) part[warp] = s;
  __syncthreads();
  if constexpr (kBug == Bug::no_barrier_before_total) {
    if (tid == 0) {
      float v = 0.f;
      for (int w = 0; w < kWarps; ++w) v += part[w];
      result[0] = v;
    }
    s = result[0];
  } else if constexpr (kBug == Bug::lost_update) {
    if (tid == 0) result[0] = 0.f;
    __syncthreads();
    if (lane == 0) result[0] += s;
    __syncthreads();
    s = result[0];
  } else if constexpr (kBug == Bug::shared_total_not_cleared) {
    __shared__ SharedArray<float, 1> total;
    if (lane == 0) atomicAdd(&total[0], s);
    __syncthreads();
    s = total[0];
  } else {
    if (warp == 0) {
      float v = warp_sum(lane < kWarps ? part[lane] : 0.f);
      if (lane == 0) result[0] = v;
    }
    __syncthreads();
    s = result[0];
  }
  float inverse = t < 0 ? 0.f : 1.f / s;
  for (int i = tid; i < classes; i += kThreads) {
    d[i] = t < 0 ? 0.f : __expf(x[i] - m) * inverse - (i == t ? 1.f : 0.f);
  }
  if (tid == 0) loss[row] = t < 0 ? 0.f : m + __logf(s) - x[t];
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test
