#pragma once
// Attention on tensor cores, bf16 and f32 (see attention_fragments.cuh), for widths up to 128 padded to 32, 64, 96 or
// 128. Four warps a block; a warp owns 16 or 32 rows, so that a row's scores stay in its four lanes (FlashAttention-2,
// arXiv:2307.08691). Tiles of the other side go through shared memory, the next one arriving behind the running one.
//
// ForwardRows and GradientRows are a warp's part, which the kernels for short sequences use as well.

#include "kernels/cuda/attention_fragments.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE::attention {

constexpr int kWarps = 4, kThreads = 32 * kWarps;

/// The maximum and the sum over the four lanes of a row.
__device__ __forceinline__ float quad_max(float v) {
  v = max(v, __shfl_xor_sync(0xffffffffu, v, 1));
  return max(v, __shfl_xor_sync(0xffffffffu, v, 2));
}
__device__ __forceinline__ float quad_sum(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

/// Where element i of a lane's 16 x 8 results lies, counted over the results of a row of tiles.
__device__ __forceinline__ int row_of(int i) { return threadIdx.x % 32 / 4 + i / 2 % 2 * 8; }
__device__ __forceinline__ int column_of(int i) { return i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2; }

/// Products to scores in units of log 2: scaled, biased, -inf where the key is not seen.
template <class T, int kM, int kTile>
__device__ __forceinline__ void finish_scores(float (&s)[kM][kTile / 8][4], const Head<T>& head, int t0, int s0) {
  const bool whole = head.bias == nullptr && t0 + 16 * kM <= head.queries && s0 + kTile <= head.seen(t0);
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int i = 0; i < kTile / 2; ++i) s[m][i / 4][i % 4] *= head.scale;
    if (whole) continue;
    const int seen[2] = {head.seen(t0 + 16 * m + row_of(0)), head.seen(t0 + 16 * m + row_of(2))};
#pragma unroll
    for (int i = 0; i < kTile / 2; ++i) {
      const int key = s0 + column_of(i);
      if (key >= seen[i / 2 % 2]) {
        s[m][i / 4][i % 4] = -INFINITY;
      } else if (head.bias != nullptr) {
        s[m][i / 4][i % 4] += head.added(t0 + 16 * m + row_of(i), key);
      }
    }
  }
}

/// The running maximum and this lane's part of the running sum of a warp's rows.
template <int kM>
struct Running {
  float highest[kM][2], total[kM][2];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) {
      highest[i / 2][i % 2] = -INFINITY;
      total[i / 2][i % 2] = 0.0f;
    }
  }
  /// Takes in the next scores of rows 16 m …, which become weights. shrink[r]: what earlier sums shrink by.
  template <int kTile>
  __device__ void take(int m, float (&s)[kTile / 8][4], float (&shrink)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float now = -INFINITY;
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n) now = max(now, max(s[n][2 * r], s[n][2 * r + 1]));
      now = max(highest[m][r], quad_max(now));
      const float shift = now == -INFINITY ? 0.0f : now;  // nothing seen yet: -inf - -inf is not a number
      shrink[r] = exp2(highest[m][r] - shift);
      highest[m][r] = now;
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) sum += s[n][2 * r + e] = exp2(s[n][2 * r + e] - shift);
      }
      total[m][r] = total[m][r] * shrink[r] + sum;
    }
  }
};

/// 16 kM queries of one warp.
template <class T, int kWidth, int kM, int kTile>
struct ForwardRows {
  Running<kM> running;
  float y[kM][kWidth / 8][4];

  __device__ void clear() {
    running.clear();
#pragma unroll
    for (int i = 0; i < kM * kWidth / 2; ++i) y[i / (kWidth / 2)][i / 4 % (kWidth / 8)][i % 4] = 0.0f;
  }

  /// Takes in keys s0 …; q are this warp's rows, t0 the first of them.
  __device__ void step(const Head<T>& head, const T* q, const T* k, const T* v, int t0, int s0) {
    float s[kM][kTile / 8][4];
    multiply_rows<T, kWidth, kM, kTile>(s, q, k);
    finish_scores<T, kM, kTile>(s, head, t0, s0);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      float shrink[2];
      running.template take<kTile>(m, s[m], shrink);
#pragma unroll
      for (int i = 0; i < kWidth / 2; ++i) y[m][i / 4][i % 4] *= shrink[i / 2 % 2];
      if (head.drop_below != 0) {
        const unsigned kept = kept_bits(head, kTile / 2, [&](int i, int& t, int& key) {
          t = t0 + 16 * m + row_of(i);
          key = s0 + column_of(i);
        });
#pragma unroll
        for (int i = 0; i < kTile / 2; ++i) {
          if ((kept >> i & 1) == 0) s[m][i / 4][i % 4] = 0.0f;
        }
      }
    }
    add_product<T, kWidth, kM, kTile>(y, s, v);
  }

  __device__ void store(const Head<T>& head, const AttentionForward& call, int t0, bool vectors) {
    const AttentionShape& shape = call.shape;
    const float keep_scale = static_cast<float>(1.0 / (1.0 - shape.dropout));
    float* log_sum_exp = head.template dense<float>(call.log_sum_exp, shape.queries);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      float factor[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float total = quad_sum(running.total[m][r]);
        factor[r] = total == 0.0f ? 0.0f : keep_scale / total;
        const int t = t0 + 16 * m + row_of(2 * r);
        if (threadIdx.x % 4 == 0 && t < head.all_queries) {
          log_sum_exp[t] = log_sum_exp_of(running.highest[m][r], total);
        }
      }
      store_rows<kWidth>(head.template dense<T>(call.y, shape.queries * shape.value_width), y[m], factor[0], factor[1],
                         t0 + 16 * m, head.all_queries, static_cast<int>(shape.value_width), vectors, false);
    }
  }
};

/// Which operands may be moved 16 bytes at a time; found out by the launch code.
struct Vectors {
  bool q = false, k = false, v = false, y = false, dy = false, dq = false, dk = false, dv = false;
};

/// Shared memory that is filled and used in turn; selected, since indexed pointers would lie in local memory.
template <class E>
struct Stages {
  E* first;
  E* second;
  __device__ E* operator[](int i) const { return i == 0 ? first : second; }
};
template <int kStages, class E>
__device__ __forceinline__ Stages<E> take_stages(Smem& smem, int count) {
  E* first = smem.take<E>(count);
  return {first, kStages == 2 ? smem.take<E>(count) : first};
}

/// Two stages of K and V.
template <class T, int kWidth, int kM, int kTile>
constexpr std::size_t forward_shared_bytes() {
  return sizeof(T) * kTileStride<kWidth> * (16 * kM * kWarps + 4 * kTile);
}

template <class T, int kWidth, int kM, int kTile>
__global__ void __launch_bounds__(kThreads, 2) forward(AttentionForward call, Vectors vectors, int tiles) {
  if constexpr (kTensorCores) {
    constexpr int kRows = 16 * kM * kWarps, kStride = kTileStride<kWidth>;
    const AttentionShape& s = call.shape;
    Smem smem;
    T* q_tile = smem.take<T>(kRows * kStride);
    const auto k_tile = take_stages<2, T>(smem, kTile * kStride), v_tile = take_stages<2, T>(smem, kTile * kStride);
    // Late queries see most keys under causality, so they come first.
    const int tile = static_cast<int>(blockIdx.x % tiles), t0 = (s.causal ? tiles - 1 - tile : tile) * kRows;
    const Head<T> head(s, blockIdx.x / tiles);
    const int width = static_cast<int>(s.width), value_width = static_cast<int>(s.value_width);
    const Rows<T> q{head.rows(call.q, s.q_stride), s.q_stride[2], head.queries, width, vectors.q};
    const Rows<T> k{head.rows(call.k, s.k_stride), s.k_stride[2], head.keys, width, vectors.k};
    const Rows<T> v{head.rows(call.v, s.v_stride), s.v_stride[2], head.keys, value_width, vectors.v};
    const int warp_row = static_cast<int>(threadIdx.x / 32) * 16 * kM;
    const int end = t0 < head.queries ? head.seen(min(t0 + kRows, head.queries) - 1) : 0;

    ForwardRows<T, kWidth, kM, kTile> rows;
    rows.clear();
    if (end > 0) {
      load_tile<kWidth>(q_tile, q, t0, kRows, threadIdx.x, kThreads);
      load_tile<kWidth>(k_tile[0], k, 0, kTile, threadIdx.x, kThreads);
      load_tile<kWidth>(v_tile[0], v, 0, kTile, threadIdx.x, kThreads);
      cp_async_commit();
    }
    for (int s0 = 0, stage = 0; s0 < end; s0 += kTile, stage ^= 1) {
      cp_async_wait<0>();
      __syncthreads();  // this tile is there, and all are done with the other stage
      if (s0 + kTile < end) {
        load_tile<kWidth>(k_tile[stage ^ 1], k, s0 + kTile, kTile, threadIdx.x, kThreads);
        load_tile<kWidth>(v_tile[stage ^ 1], v, s0 + kTile, kTile, threadIdx.x, kThreads);
        cp_async_commit();
      }
      rows.step(head, q_tile + warp_row * kStride, k_tile[stage], v_tile[stage], t0 + warp_row, s0);
    }
    rows.store(head, call, t0 + warp_row, vectors.y);
  }
}

/// 16 rows of one warp: queries, for dq and dbias, or keys, for dk and dv. `own1` and `other1` are q and k in the order
/// of the roles, `own2` and `other2` dy and v. log_sum_exp (in_log2) and delta belong to the queries.
template <class T, int kWidth, int kTile, bool kOwnKeys>
struct GradientRows {
  float sum1[1][kWidth / 8][4];                 // dq or dk
  float sum2[1][kOwnKeys ? kWidth / 8 : 1][4];  // dv

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) {
      sum1[0][i / 4][i % 4] = 0.0f;
      if constexpr (kOwnKeys) sum2[0][i / 4][i % 4] = 0.0f;
    }
  }

  /// log_sum_exp and delta point at query own0 or other0.
  __device__ void step(const Head<T>& head, const T* own1, const T* own2, const T* other1, const T* other2,
                       const float* log_sum_exp, const float* delta, int own0, int other0, float keep_scale,
                       const GradOut& dbias) {
    float p[1][kTile / 8][4], ds[1][kTile / 8][4];
    multiply_rows<T, kWidth, 1, kTile>(p, own1, other1);
    multiply_rows<T, kWidth, 1, kTile>(ds, own2, other2);
    const int t0 = kOwnKeys ? other0 : own0, t1 = t0 + (kOwnKeys ? kTile : 16);
    const int key1 = kOwnKeys ? own0 + 16 : other0 + kTile;
    const bool whole = head.bias == nullptr && t1 <= head.queries && key1 <= head.seen(t0);
    const bool drops = head.drop_below != 0;
    unsigned kept = ~0u;
    if (drops) {
      kept = kept_bits(head, kTile / 2, [&](int i, int& t, int& key) {
        t = kOwnKeys ? other0 + column_of(i) : own0 + row_of(i);
        key = kOwnKeys ? own0 + row_of(i) : other0 + column_of(i);
      });
    }
#pragma unroll
    for (int i = 0; i < kTile / 2; ++i) {
      float &weight = p[0][i / 4][i % 4], &gradient = ds[0][i / 4][i % 4];
      const int at = kOwnKeys ? column_of(i) : row_of(i);  // the query, from t0
      float score = weight * head.scale;
      bool seen = true;
      if (!whole) {
        const int t = t0 + at, key = kOwnKeys ? own0 + row_of(i) : other0 + column_of(i);
        seen = key < head.seen(t);
        if (seen && head.bias != nullptr) score += head.added(t, key);
      }
      weight = seen ? exp2(score - log_sum_exp[at]) : 0.0f;
      const bool keep = (kept >> i & 1) != 0;
      if (drops) gradient = keep ? gradient * keep_scale : 0.0f;
      gradient = seen ? weight * (gradient - delta[at]) : 0.0f;
      if (kOwnKeys && drops && !keep) weight = 0.0f;
    }
    if constexpr (!kOwnKeys) {
      if (dbias.data != nullptr) store_dbias(head, ds[0], own0, other0, dbias);
    }
    add_product<T, kWidth, 1, kTile>(sum1, ds, other1);
    if constexpr (kOwnKeys) add_product<T, kWidth, 1, kTile>(sum2, p, other2);
  }

  __device__ void store_dbias(const Head<T>& head, const float (&ds)[kTile / 8][4], int t0, int s0,
                              const GradOut& dbias) {
    T* out = static_cast<T*>(dbias.data) + head.index * head.all_queries * head.all_keys;
#pragma unroll
    for (int i = 0; i < kTile / 2; ++i) {
      const int t = t0 + row_of(i), key = s0 + column_of(i);
      if (t < head.all_queries && key < head.all_keys) {
        put(out[static_cast<std::int64_t>(t) * head.all_keys + key], ds[i / 4][i % 4], dbias.accumulate);
      }
    }
  }

  __device__ void store(const Head<T>& head, const AttentionBackward& call, int own0, float keep_scale,
                        const Vectors& vectors) {
    const AttentionShape& s = call.shape;
    const GradOut& out = kOwnKeys ? call.dk : call.dq;
    const std::int64_t count = kOwnKeys ? s.keys : s.queries;
    const float scale = static_cast<float>(s.scale);
    if (out.data != nullptr) {
      store_rows<kWidth>(head.template dense<T>(out.data, count * s.width), sum1[0], scale, scale, own0,
                         static_cast<int>(count), static_cast<int>(s.width), kOwnKeys ? vectors.dk : vectors.dq,
                         out.accumulate);
    }
    if constexpr (kOwnKeys) {
      if (call.dv.data != nullptr) {
        store_rows<kWidth>(head.template dense<T>(call.dv.data, count * s.value_width), sum2[0], keep_scale, keep_scale,
                           own0, static_cast<int>(count), static_cast<int>(s.value_width), vectors.dv,
                           call.dv.accumulate);
      }
    }
  }
};

/// q, k, v and dy of one head.
template <class T>
struct Operands {
  Rows<T> q, k, v, dy;

  __device__ Operands(const Head<T>& head, const AttentionBackward& call, const Vectors& vectors)
      : q{head.rows(call.q, call.shape.q_stride), call.shape.q_stride[2], head.queries,
          static_cast<int>(call.shape.width), vectors.q},
        k{head.rows(call.k, call.shape.k_stride), call.shape.k_stride[2], head.keys, static_cast<int>(call.shape.width),
          vectors.k},
        v{head.rows(call.v, call.shape.v_stride), call.shape.v_stride[2], head.keys,
          static_cast<int>(call.shape.value_width), vectors.v},
        dy{head.template dense<T>(call.dy, call.shape.queries * call.shape.value_width), call.shape.value_width,
           head.queries, static_cast<int>(call.shape.value_width), vectors.dy} {}
};

constexpr int kGradientRows = 16 * kWarps;

template <class T, int kWidth, int kTile, int kStages, bool kOwnKeys>
constexpr std::size_t gradient_shared_bytes() {
  return sizeof(T) * kTileStride<kWidth> * (2 * kGradientRows + 2 * kStages * kTile) +
         sizeof(float) * 2 * (kOwnKeys ? kStages * kTile : kGradientRows);
}

/// Blocks that own queries give dq and dbias, blocks that own keys give dk and dv. Every sum has one owner and a fixed
/// order, at the price of forming P and dP twice: seven products for five.
template <class T, int kWidth, int kTile, int kStages, bool kOwnKeys>
__global__ void __launch_bounds__(kThreads, 2)
    gradient(AttentionBackward call, Vectors vectors, const float* __restrict__ deltas, int tiles) {
  if constexpr (kTensorCores) {
    constexpr int kStride = kTileStride<kWidth>, kQueries = kOwnKeys ? kTile : kGradientRows;
    const AttentionShape& s = call.shape;
    Smem smem;
    T* own1 = smem.take<T>(kGradientRows * kStride);
    T* own2 = smem.take<T>(kGradientRows * kStride);
    const auto other1 = take_stages<kStages, T>(smem, kTile * kStride);
    const auto other2 = take_stages<kStages, T>(smem, kTile * kStride);
    constexpr int kQueryStages = kOwnKeys ? kStages : 1;
    const auto log_sum_exp = take_stages<kQueryStages, float>(smem, kQueries);
    const auto delta = take_stages<kQueryStages, float>(smem, kQueries);
    // The rows with most work under causality come first: late queries, early keys.
    const int tile = static_cast<int>(blockIdx.x % tiles);
    const int own0 = (s.causal && !kOwnKeys ? tiles - 1 - tile : tile) * kGradientRows;
    const Head<T> head(s, blockIdx.x / tiles);
    const Operands<T> x(head, call, vectors);
    const float* all_log_sum_exp = head.template dense<float>(call.log_sum_exp, s.queries);
    const float* all_delta = deltas + head.index * s.queries;
    const float keep_scale = static_cast<float>(1.0 / (1.0 - s.dropout));
    const int warp_row = static_cast<int>(threadIdx.x / 32) * 16;

    // Queries past the last one get weights of 0.
    const auto load_queries = [&](int stage, int t0) {
      for (int i = threadIdx.x; i < kQueries; i += kThreads) {
        const bool inside = t0 + i < head.queries;
        log_sum_exp[stage][i] = inside ? in_log2(all_log_sum_exp[t0 + i]) : INFINITY;
        delta[stage][i] = inside ? all_delta[t0 + i] : 0.0f;
      }
    };
    const auto load_other = [&](int stage, int other0) {
      load_tile<kWidth>(other1[stage], kOwnKeys ? x.q : x.k, other0, kTile, threadIdx.x, kThreads);
      load_tile<kWidth>(other2[stage], kOwnKeys ? x.dy : x.v, other0, kTile, threadIdx.x, kThreads);
      if constexpr (kOwnKeys) load_queries(stage, other0);
      cp_async_commit();
    };

    int begin = 0, end;
    if constexpr (kOwnKeys) {
      begin = head.first_query(own0) / kTile * kTile;
      end = own0 < head.keys ? head.queries : 0;
    } else {
      end = own0 < head.queries ? head.seen(min(own0 + kGradientRows, head.queries) - 1) : 0;
      if (call.dbias.data != nullptr && !call.dbias.accumulate) end = head.all_keys;  // unseen pairs are assigned 0
    }
    GradientRows<T, kWidth, kTile, kOwnKeys> rows;
    rows.clear();
    if (begin < end) {
      load_tile<kWidth>(own1, kOwnKeys ? x.k : x.q, own0, kGradientRows, threadIdx.x, kThreads);
      load_tile<kWidth>(own2, kOwnKeys ? x.v : x.dy, own0, kGradientRows, threadIdx.x, kThreads);
      if constexpr (!kOwnKeys) load_queries(0, own0);
      load_other(0, begin);
    }
    for (int other0 = begin, stage = 0; other0 < end; other0 += kTile) {
      cp_async_wait<0>();
      __syncthreads();  // this tile is there, and all are done with the other stage
      if (kStages == 2 && other0 + kTile < end) load_other(stage ^ 1, other0 + kTile);
      const int query = kOwnKeys ? 0 : warp_row;
      rows.step(head, own1 + warp_row * kStride, own2 + warp_row * kStride, other1[stage], other2[stage],
                log_sum_exp[kOwnKeys ? stage : 0] + query, delta[kOwnKeys ? stage : 0] + query, own0 + warp_row, other0,
                keep_scale, call.dbias);
      if constexpr (kStages == 1) {
        __syncthreads();
        if (other0 + kTile < end) load_other(0, other0 + kTile);
      } else {
        stage ^= 1;
      }
    }
    rows.store(head, call, own0 + warp_row, keep_scale, vectors);
  }
}

template <class T, int kWidth, int kTile>
constexpr std::size_t weights_shared_bytes() {
  return sizeof(T) * kTileStride<kWidth> * (16 * kWarps + 2 * kTile);
}

/// The softmax's weights: once over the keys for each row's log-sum-exp, once more to write.
template <class T, int kWidth, int kTile>
__global__ void __launch_bounds__(kThreads, 2) weights(AttentionWeights call, Vectors vectors, int tiles) {
  if constexpr (kTensorCores) {
    constexpr int kRows = 16 * kWarps, kStride = kTileStride<kWidth>;
    const AttentionShape& s = call.shape;
    Smem smem;
    T* q_tile = smem.take<T>(kRows * kStride);
    const auto k_tile = take_stages<2, T>(smem, kTile * kStride);
    const int t0 = static_cast<int>(blockIdx.x % tiles) * kRows;
    const Head<T> head(s, blockIdx.x / tiles);
    const int width = static_cast<int>(s.width);
    const Rows<T> q{head.rows(call.q, s.q_stride), s.q_stride[2], head.queries, width, vectors.q};
    const Rows<T> k{head.rows(call.k, s.k_stride), s.k_stride[2], head.keys, width, vectors.k};
    T* out = head.template dense<T>(call.weights, s.queries * s.keys);
    const int end = t0 < head.queries ? head.seen(min(t0 + kRows, head.queries) - 1) : 0;
    const int warp_row = static_cast<int>(threadIdx.x / 32) * 16, tiles_seen = (end + kTile - 1) / kTile;

    Running<1> running;
    running.clear();
    float log_sum_exp[2] = {};
    if (end > 0) {
      load_tile<kWidth>(q_tile, q, t0, kRows, threadIdx.x, kThreads);
      load_tile<kWidth>(k_tile[0], k, 0, kTile, threadIdx.x, kThreads);
      cp_async_commit();
    }
    for (int step = 0; step < 2 * tiles_seen; ++step) {
      const int s0 = step % tiles_seen * kTile;
      cp_async_wait<0>();
      __syncthreads();  // this tile is there, and all are done with the other stage
      if (step + 1 < 2 * tiles_seen) {
        load_tile<kWidth>(k_tile[(step + 1) % 2], k, (step + 1) % tiles_seen * kTile, kTile, threadIdx.x, kThreads);
        cp_async_commit();
      }
      float score[1][kTile / 8][4];
      multiply_rows<T, kWidth, 1, kTile>(score, q_tile + warp_row * kStride, k_tile[step % 2]);
      finish_scores<T, 1, kTile>(score, head, t0 + warp_row, s0);
      if (step < tiles_seen) {
        float shrink[2];
        running.template take<kTile>(0, score[0], shrink);
        continue;
      }
      if (step == tiles_seen) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          log_sum_exp[r] = in_log2(log_sum_exp_of(running.highest[0][r], quad_sum(running.total[0][r])));
        }
      }
#pragma unroll
      for (int i = 0; i < kTile / 2; ++i) {
        const int t = t0 + warp_row + row_of(i), key = s0 + column_of(i);
        if (t < head.all_queries && key < head.all_keys) {
          out[static_cast<std::int64_t>(t) * head.all_keys + key] =
              static_cast<T>(exp2(score[0][i / 4][i % 4] - log_sum_exp[i / 2 % 2]));
        }
      }
    }
    // Keys that none of the block's queries sees.
    const int first = min(tiles_seen * kTile, head.all_keys), rest = head.all_keys - first;
    const int rows = min(kRows, head.all_queries - t0);
    for (std::int64_t i = threadIdx.x; i < static_cast<std::int64_t>(rows) * rest; i += kThreads) {
      out[(t0 + i / rest) * head.all_keys + first + i % rest] = T(0.0f);
    }
  }
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::attention
