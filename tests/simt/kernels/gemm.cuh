#pragma once
// C [M, N] = A [M, K] op(B) on tensor cores, bf16 in, f32 out: 64x64x32 tiles, four warps of 32x32, two cp.async
// stages.

#include "kernels/cuda/ptx.h"
#include "tests/simt/kernels/bug.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test {

constexpr int kGemmThreads = 128;

/// The shared tile of B: [64, 32] when B is given as [N, K], else [32, 64]; rows padded by 16 bytes against bank
/// conflicts.
template <bool kTransposedB>
struct TileB {
  static constexpr int kRows = kTransposedB ? 64 : 32;
  static constexpr int kRowStride = (kTransposedB ? 32 : 64) + 8;
};
constexpr int kStrideA = 40;

template <bool kTransposedB>
constexpr size_t gemm_shared() {
  return sizeof(bf16) * 2 * (64 * kStrideA + TileB<kTransposedB>::kRows * TileB<kTransposedB>::kRowStride);
}

/// kTransposedB: B is [N, K], otherwise [K, N]. K % 32 == 0, N % 8 == 0.
template <bool kTransposedB, Bug kBug>
__global__ void __launch_bounds__(kGemmThreads)
    gemm(const bf16* __restrict__ A, const bf16* __restrict__ B, float* __restrict__ C, int M, int N, int K) {
  constexpr int kStrideB = TileB<kTransposedB>::kRowStride, kRowsB = TileB<kTransposedB>::kRows;
  Smem smem;
  bf16* sa = smem.take<bf16>(2 * 64 * kStrideA);
  bf16* sb = smem.take<bf16>(2 * kRowsB * kStrideB);
  int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  int wm = warp % 2 * 32, wn = warp / 2 * 32, m0 = blockIdx.y * 64, n0 = blockIdx.x * 64;
  auto load = [&](int stage, int k0) {
    for (int i = tid; i < 64 * 4; i += kGemmThreads) {
      int r = i / 4, c = i % 4 * 8;
      bool inside = m0 + r < M;
      cp_async_16(sa + (stage * 64 + r) * kStrideA + c, A + size_t(inside ? m0 + r : 0) * K + k0 + c, inside);
    }
    constexpr int kVectors = kTransposedB ? 4 : 8;
    for (int i = tid; i < kRowsB * kVectors; i += kGemmThreads) {
      int r = i / kVectors, c = i % kVectors * 8;
      bool inside = kTransposedB ? n0 + r < N : n0 + c < N;
      const bf16* from =
          kTransposedB ? B + size_t(inside ? n0 + r : 0) * K + k0 + c : B + size_t(k0 + r) * N + (inside ? n0 + c : 0);
      cp_async_16(sb + (stage * kRowsB + r) * kStrideB + c, from, inside);
    }
    cp_async_commit();
  };
  float acc[2][4][4] = {};
  load(0, 0);
  for (int k0 = 0, s = 0; k0 < K; k0 += 32, s ^= 1) {
    if (k0 + 32 < K) {
      load(s ^ 1, k0 + 32);
      cp_async_wait<kBug == Bug::waits_for_one_group_less ? 2 : 1>();
    } else {
      cp_async_wait<0>();
    }
    if constexpr (kBug != Bug::no_barrier_after_wait) __syncthreads();
#pragma unroll
    for (int kk = 0; kk < 32; kk += 16) {
      std::uint32_t a[2][4], b[4][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        int r = lane % 16, c = lane / 16 * 8;
        if constexpr (kBug == Bug::ldmatrix_halves_swapped) {
          r = lane / 16 * 8 + lane % 8;
          c = lane / 8 % 2 * 8;
        }
        ldmatrix_x4<false>(a[i], sa + (s * 64 + wm + i * 16 + r) * kStrideA + kk + c);
      }
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        std::uint32_t t[4];
        if constexpr (kTransposedB) {
          int r = wn + j * 8 + lane % 8 + lane / 16 * 8, c = kk + lane / 8 % 2 * 8;
          ldmatrix_x4<false>(t, sb + (s * kRowsB + r) * kStrideB + c);
        } else {
          int r = kk + lane % 16, c = wn + j * 8 + lane / 16 * 8;
          ldmatrix_x4<true>(t, sb + (s * kRowsB + r) * kStrideB + c);
        }
        b[j][0] = t[0];
        b[j][1] = t[1];
        b[j + 1][0] = t[2];
        b[j + 1][1] = t[3];
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) mma_bf16(acc[i][j], a[i], b[j]);
      }
    }
    if constexpr (kBug != Bug::no_barrier_before_reload) __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int r = m0 + wm + i * 16 + lane / 4 + 8 * (e / 2), c = n0 + wn + j * 8 + 2 * (lane % 4) + e % 2;
        if (r < M && c < N) C[size_t(r) * N + c] = acc[i][j][e];
      }
    }
  }
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test
