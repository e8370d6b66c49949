#pragma once
// Attention of up to 64 queries and 64 keys on tensor cores: a head's operands lie in shared memory as a whole, a block
// takes several heads, and forward and backward are one launch each. At such sizes a call is bound by latency, so the
// backward gives a head twice the warps, half of them for dq and half for dk and dv.

#include "kernels/cuda/attention_tensor_core.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE::attention {

constexpr int kShort = 64, kShortTile = 32;

/// Rows of a tile that is gone over in steps of kShortTile.
__host__ __device__ constexpr int padded(std::int64_t positions) {
  return static_cast<int>((positions + kShortTile - 1) / kShortTile) * kShortTile;
}
/// How many warps own the rows of a head, 16 each: 1, 2 or 4.
constexpr int warps_a_head(std::int64_t rows) { return rows <= 16 ? 1 : rows <= 32 ? 2 : 4; }

template <class T, int kWidth>
std::size_t short_forward_shared_bytes(const AttentionShape& s) {
  const std::size_t heads = kWarps / warps_a_head(s.queries);
  return sizeof(T) * kTileStride<kWidth> * (16 * kWarps + heads * 2 * padded(s.keys));
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 2) short_forward(AttentionForward call, Vectors vectors, int warps) {
  if constexpr (kTensorCores) {
    constexpr int kStride = kTileStride<kWidth>;
    const AttentionShape& s = call.shape;
    const int heads = kWarps / warps, slot = static_cast<int>(threadIdx.x / 32) / warps;
    const int key_rows = padded(s.keys);
    Smem smem;
    T* q_tile = smem.take<T>(16 * kWarps * kStride);
    T* k_tile = smem.take<T>(heads * key_rows * kStride);
    T* v_tile = smem.take<T>(heads * key_rows * kStride);
    q_tile += slot * 16 * warps * kStride;
    k_tile += slot * key_rows * kStride;
    v_tile += slot * key_rows * kStride;
    const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * heads + slot;
    const bool real = index < s.batch * s.heads;  // the last block may have places to spare
    const Head<T> head(s, real ? index : 0);
    const int t0 = static_cast<int>(threadIdx.x / 32) % warps * 16;
    if (real) {
      const int thread = threadIdx.x % (32 * warps), width = static_cast<int>(s.width);
      const Rows<T> q{head.rows(call.q, s.q_stride), s.q_stride[2], head.queries, width, vectors.q};
      const Rows<T> k{head.rows(call.k, s.k_stride), s.k_stride[2], head.keys, width, vectors.k};
      const Rows<T> v{head.rows(call.v, s.v_stride), s.v_stride[2], head.keys, static_cast<int>(s.value_width),
                      vectors.v};
      load_tile<kWidth>(q_tile, q, 0, 16 * warps, thread, 32 * warps);
      load_tile<kWidth>(k_tile, k, 0, key_rows, thread, 32 * warps);
      load_tile<kWidth>(v_tile, v, 0, key_rows, thread, 32 * warps);
      cp_async_commit();
    }
    cp_async_wait<0>();
    __syncthreads();
    if (real) {
      ForwardRows<T, kWidth, 1, kShortTile> rows;
      rows.clear();
      const int end = t0 < head.queries ? head.seen(min(t0 + 16, head.queries) - 1) : 0;
      for (int s0 = 0; s0 < end; s0 += kShortTile) {
        rows.step(head, q_tile + t0 * kStride, k_tile + s0 * kStride, v_tile + s0 * kStride, t0, s0);
      }
      rows.store(head, call, t0, vectors.y);
    }
  }
}

constexpr int kShortBackwardThreads = 2 * kThreads;

template <class T, int kWidth>
std::size_t short_backward_shared_bytes(const AttentionShape& s) {
  const std::size_t heads = kWarps / warps_a_head(std::max(s.queries, s.keys));
  return heads * (sizeof(T) * kTileStride<kWidth> * 2 * (padded(s.queries) + padded(s.keys)) +
                  sizeof(float) * 2 * padded(s.queries));
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kShortBackwardThreads, 1)
    short_backward(AttentionBackward call, Vectors vectors, int warps) {
  if constexpr (kTensorCores) {
    constexpr int kStride = kTileStride<kWidth>;
    const AttentionShape& s = call.shape;
    const int heads = kWarps / warps, slot = static_cast<int>(threadIdx.x / 32) / (2 * warps);
    const int query_rows = padded(s.queries), key_rows = padded(s.keys);
    Smem smem;
    T* q_tile = smem.take<T>(heads * query_rows * kStride);
    T* dy_tile = smem.take<T>(heads * query_rows * kStride);
    T* k_tile = smem.take<T>(heads * key_rows * kStride);
    T* v_tile = smem.take<T>(heads * key_rows * kStride);
    float* log_sum_exp = smem.take<float>(heads * query_rows);
    float* delta = smem.take<float>(heads * query_rows);
    q_tile += slot * query_rows * kStride;
    dy_tile += slot * query_rows * kStride;
    k_tile += slot * key_rows * kStride;
    v_tile += slot * key_rows * kStride;
    log_sum_exp += slot * query_rows;
    delta += slot * query_rows;
    const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * heads + slot;
    const bool real = index < s.batch * s.heads;  // the last block may have places to spare
    const Head<T> head(s, real ? index : 0);
    if (real) {
      const Operands<T> x(head, call, vectors);
      const int threads = 64 * warps, thread = threadIdx.x % threads;
      load_tile<kWidth>(q_tile, x.q, 0, query_rows, thread, threads);
      load_tile<kWidth>(k_tile, x.k, 0, key_rows, thread, threads);
      load_tile<kWidth>(dy_tile, x.dy, 0, query_rows, thread, threads);
      load_tile<kWidth>(v_tile, x.v, 0, key_rows, thread, threads);
      cp_async_commit();
      const T* y = head.template dense<T>(call.y, s.queries * s.value_width);
      const float* saved = head.template dense<float>(call.log_sum_exp, s.queries);
      // Eight lanes a row; query_rows is a multiple of 32, so that all lanes go round equally often.
      for (int t = thread / 8; t < query_rows; t += threads / 8) {
        const bool counts = t < head.queries;
        const float dot = row_dot(y + t * s.value_width, x.dy.data + t * s.value_width,
                                  counts ? static_cast<int>(s.value_width) : 0, vectors.y && vectors.dy);
        if (thread % 8 == 0) {
          log_sum_exp[t] = counts ? in_log2(saved[t]) : INFINITY;  // queries past the last one get weights of 0
          delta[t] = dot;
        }
      }
    }
    cp_async_wait<0>();
    __syncthreads();
    const int part = static_cast<int>(threadIdx.x / 32) % (2 * warps), own0 = part % warps * 16;
    const float keep_scale = static_cast<float>(1.0 / (1.0 - s.dropout));
    if (real && part < warps && own0 < head.all_queries && (call.dq.data != nullptr || call.dbias.data != nullptr)) {
      GradientRows<T, kWidth, kShortTile, false> rows;
      rows.clear();
      int end = own0 < head.queries ? head.seen(min(own0 + 16, head.queries) - 1) : 0;
      if (call.dbias.data != nullptr && !call.dbias.accumulate) end = head.all_keys;  // unseen pairs are assigned 0
      for (int s0 = 0; s0 < end; s0 += kShortTile) {
        rows.step(head, q_tile + own0 * kStride, dy_tile + own0 * kStride, k_tile + s0 * kStride, v_tile + s0 * kStride,
                  log_sum_exp + own0, delta + own0, own0, s0, keep_scale, call.dbias);
      }
      rows.store(head, call, own0, keep_scale, vectors);
    }
    if (real && part >= warps && own0 < head.all_keys && (call.dk.data != nullptr || call.dv.data != nullptr)) {
      GradientRows<T, kWidth, kShortTile, true> rows;
      rows.clear();
      const int end = own0 < head.keys ? head.queries : 0;
      for (int t0 = head.first_query(own0) / kShortTile * kShortTile; t0 < end; t0 += kShortTile) {
        rows.step(head, k_tile + own0 * kStride, v_tile + own0 * kStride, q_tile + t0 * kStride, dy_tile + t0 * kStride,
                  log_sum_exp + t0, delta + t0, own0, t0, keep_scale, call.dbias);
      }
      rows.store(head, call, own0, keep_scale, vectors);
    }
  }
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::attention
