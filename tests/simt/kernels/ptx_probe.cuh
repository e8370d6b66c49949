#pragma once
// One warp calls each wrapper of kernels/cuda/ptx.h on small matrices, so that tests can hold them against plain loops.

#include "kernels/cuda/ptx.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test {

/// d [16, 8] = c + a [16, 16] b [16, 8], every fragment loaded element by element.
template <bool kByShuffles>
__global__ void probe_mma_bf16(const bf16* __restrict__ a, const bf16* __restrict__ b, const float* __restrict__ c,
                               float* __restrict__ d) {
  int g = lane_id() / 4, t = lane_id() % 4;
  std::uint32_t fa[4], fb[2];
  float fd[4];
  for (int i = 0; i < 4; ++i) {
    const bf16* p = a + (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
    fa[i] = pack_bf16(p[0], p[1]);
    fd[i] = c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
  }
  for (int i = 0; i < 2; ++i) fb[i] = pack_bf16(b[(2 * t + 8 * i) * 8 + g], b[(2 * t + 1 + 8 * i) * 8 + g]);
  if constexpr (kByShuffles) {
    detail::mma_by_shuffles(fd, fa, fb, detail::DotBf16{});
  } else {
    mma_bf16(fd, fa, fb);
  }
  for (int i = 0; i < 4; ++i) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = fd[i];
}

/// d [16, 8] = c + a [16, 8] b [8, 8], operands rounded to tf32.
template <bool kByShuffles>
__global__ void probe_mma_tf32(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ c,
                               float* __restrict__ d) {
  int g = lane_id() / 4, t = lane_id() % 4;
  std::uint32_t fa[4], fb[2];
  float fd[4];
  for (int i = 0; i < 4; ++i) {
    fa[i] = to_tf32(a[(g + 8 * (i % 2)) * 8 + t + 4 * (i / 2)]);
    fd[i] = c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
  }
  for (int i = 0; i < 2; ++i) fb[i] = to_tf32(b[(t + 4 * i) * 8 + g]);
  if constexpr (kByShuffles) {
    detail::mma_by_shuffles(fd, fa, fb, detail::DotTf32{});
  } else {
    mma_tf32(fd, fa, fb);
  }
  for (int i = 0; i < 4; ++i) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = fd[i];
}

/// x [32, 8] is four 8x8 matrices, out [32 lanes, kCount, 2] what each lane receives of the first kCount.
template <int kCount, bool kTransposed>
__global__ void probe_ldmatrix(const bf16* __restrict__ x, float* __restrict__ out) {
  Smem smem;
  bf16* tile = smem.take<bf16>(32 * 8);
  int lane = lane_id();
  cp_async_16(tile + lane * 8, x + lane * 8);
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
  std::uint32_t r[kCount];
  if constexpr (kCount == 4) {
    ldmatrix_x4<kTransposed>(r, tile + lane * 8);
  } else {
    ldmatrix_x2<kTransposed>(r, tile + lane % 16 * 8);
  }
  for (int m = 0; m < kCount; ++m) {
    out[(lane * kCount + m) * 2] = low_bf16(r[m]);
    out[(lane * kCount + m) * 2 + 1] = high_bf16(r[m]);
  }
}

/// out[i] = i < kN ? x[i + 1] : 0 through 4-byte copies, which may start anywhere. One warp.
template <int kN>
__global__ void probe_cp_async_4(const float* __restrict__ x, float* __restrict__ out) {
  Smem smem;
  float* tile = smem.take<float>(32);
  int lane = lane_id();
  bool inside = lane < kN;
  cp_async_4(tile + lane, x + (inside ? lane + 1 : 0), inside);
  cp_async_commit();
  cp_async_wait<0>();
  out[lane] = tile[lane];
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test
