#pragma once
// Fused attention forward, f32, head dimension 64: 32 query rows a block (4 warps of 8 rows), keys in tiles of 32,
// online softmax.

#include "tests/simt/kernels/bug.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test {

struct Attention {
  const float *q, *k, *v;  // [B, H, N, 64]
  const int* key_length;   // [B], the number of keys that are no padding
  float* o;                // [B, H, N, 64]
  float* lse;              // [B, H, N]
  int B, H, N;
  bool causal;
  float scale;
};

constexpr int kD = 64, kRowTile = 32, kKeyTile = 32, kStride = kD + 4, kAttentionWarps = 4;
constexpr int kRowsPerWarp = kRowTile / kAttentionWarps;
constexpr size_t kAttentionShared = sizeof(float) * (kRowTile * kStride + kKeyTile * kStride + kKeyTile * kD);

__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ void store4(float* p, float4 v) { *reinterpret_cast<float4*>(p) = v; }

template <Bug kBug>
__global__ void __launch_bounds__(kAttentionWarps * 32) attention_forward(Attention a) {
  Smem smem;
  float* sq = smem.take<float>(kRowTile * kStride);
  float* sk = smem.take<float>(kKeyTile * kStride);
  float* sv = smem.take<float>(kKeyTile * kD);
  int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  int b = blockIdx.z, h = blockIdx.y, q0 = blockIdx.x * kRowTile;
  size_t head = (size_t(b) * a.H + h) * a.N * kD;
  int keys = a.key_length[b];
  for (int i = tid; i < kRowTile * kD / 4; i += kAttentionWarps * 32) {
    int r = i / (kD / 4), c = i % (kD / 4) * 4;
    float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
    if (q0 + r < a.N) v = load4(a.q + head + size_t(q0 + r) * kD + c);
    store4(sq + r * kStride + c, v);
  }
  float m[kRowsPerWarp], l[kRowsPerWarp], acc[kRowsPerWarp][2];
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    m[r] = -INFINITY;
    l[r] = 0.f;
    acc[r][0] = acc[r][1] = 0.f;
  }
  int end = a.causal ? min(keys, q0 + kRowTile) : keys;
  for (int k0 = 0; k0 < end; k0 += kKeyTile) {
    if constexpr (kBug == Bug::warp_skips_barriers) {
      if (q0 + warp * kRowsPerWarp >= a.N) continue;
    }
    if constexpr (kBug != Bug::no_barrier_before_refill) __syncthreads();
    for (int i = tid; i < kKeyTile * kD / 4; i += kAttentionWarps * 32) {
      int r = i / (kD / 4), c = i % (kD / 4) * 4;
      float4 kv = make_float4(0.f, 0.f, 0.f, 0.f), vv = kv;
      int bound = kBug == Bug::bound_from_tile ? k0 + kKeyTile : a.N;
      if (k0 + r < bound) {
        kv = load4(a.k + head + size_t(k0 + r) * kD + c);
        vv = load4(a.v + head + size_t(k0 + r) * kD + c);
      } else if (kBug == Bug::tile_tail_not_filled) {
        continue;
      }
      store4(sk + r * kStride + c, kv);
      store4(sv + r * kD + c, vv);
    }
    if constexpr (kBug == Bug::barrier_under_warp_if) {
      if (warp < 2) __syncthreads();
    } else if constexpr (kBug != Bug::no_barrier_after_fill) {
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      int row = warp * kRowsPerWarp + r, qi = q0 + row, ki = k0 + lane;
      const float* kr = sk + (kBug == Bug::shared_tile_overrun ? lane + 1 : lane) * kStride;
      const float* qr = sq + row * kStride;
      float s = 0.f;
#pragma unroll
      for (int c = 0; c < kD; c += 4) {
        float4 x = load4(qr + c), y = load4(kr + c);
        s += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
      }
      bool visible = ki < keys && (!a.causal || ki <= qi);
      s = visible ? s * a.scale : -INFINITY;
      float top = fmaxf(m[r], warp_max(s));
      float p = top == -INFINITY ? 0.f : __expf(s - top);
      float correction = top == -INFINITY ? 1.f : __expf(m[r] - top);
      l[r] = l[r] * correction + warp_sum(p);
      m[r] = top;
      acc[r][0] *= correction;
      acc[r][1] *= correction;
#pragma unroll 8
      for (int j = 0; j < kKeyTile; ++j) {
        float pj = __shfl_sync(0xffffffffu, p, j);
        acc[r][0] += pj * sv[j * kD + lane];
        acc[r][1] += pj * sv[j * kD + lane + 32];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    int qi = q0 + warp * kRowsPerWarp + r;
    if (qi >= a.N) continue;
    float inverse = l[r] > 0.f ? 1.f / l[r] : 0.f;
    float* o = a.o + head + size_t(qi) * kD;
    o[lane] = acc[r][0] * inverse;
    o[lane + 32] = acc[r][1] * inverse;
    if (lane == 0) a.lse[(size_t(b) * a.H + h) * a.N + qi] = l[r] > 0.f ? m[r] + __logf(l[r]) : -INFINITY;
  }
}

template <Bug kBug>
void launch_attention(const Attention& a, Stream stream) {
  dim3 grid((a.N + kRowTile - 1) / kRowTile, a.H, a.B);
  launch(attention_forward<kBug>, grid, dim3(kAttentionWarps * 32), kAttentionShared, stream, a);
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test
