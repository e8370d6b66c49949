#pragma once
// Attention for any dtype and any width, on the ordinary arithmetic units: f64 always, f32 and bf16 beyond the widths
// of the tensor-core kernels. A block owns 64 rows (queries; keys for dk and dv) of one head and one slice of the
// output's columns, and goes over the other side in tiles of 32. Operands are streamed in pieces of 32 columns, so no
// width is too large; each slice repeats the scores, which costs a factor of (D + slice) / (D + V) a slice.
//
// 128 threads as 16 x 8; a thread holds 4 x 4 scores, of rows y + 16 i and columns x + 8 j: eight 16-byte loads from
// shared memory for 64 multiply-adds in f32, 32 in f64, free of bank conflicts.

#include "kernels/cuda/attention_head.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE::attention::general {

constexpr int kThreads = 128, kRows = 64, kTile = 32, kDepth = 32;

/// Columns of the output that one block owns.
template <class A>
constexpr int kSlice = sizeof(A) == 8 ? 32 : 128;

template <class A>
struct alignas(16) Vector {
  static constexpr int kCount = 16 / sizeof(A);
  A lane[kCount];
};
template <class A>
__device__ __forceinline__ Vector<A> vector_at(const A* p) {
  return *reinterpret_cast<const Vector<A>*>(p);
}

/// Distance of rows in shared memory: 16 bytes more than they hold, so that eight rows lie in different banks.
template <class A>
constexpr int kStride = kDepth + Vector<A>::kCount;
static_assert(kTile == kDepth, "weights and operands share the stride");

__device__ __forceinline__ int thread_row(int i) { return threadIdx.x / 8 + 16 * i; }
__device__ __forceinline__ int thread_column(int j) { return threadIdx.x % 8 + 8 * j; }

/// One operand: rows of T with a stride, and how many rows and columns there are.
template <class T>
struct Operand {
  const T* data;
  std::int64_t stride;
  int rows, width;

  /// Rows first … first + kCount - 1, columns column … column + kWidth - 1, zeros outside.
  template <int kCount, int kWidth, int kRowStride>
  __device__ void load(acc_t<T>* tile, int first, int column) const {
    for (int i = threadIdx.x; i < kCount * kWidth; i += kThreads) {
      const int r = i / kWidth, c = i % kWidth;
      const bool inside = first + r < rows && column + c < width;
      tile[r * kRowStride + c] = inside ? static_cast<acc_t<T>>(data[(first + r) * stride + column + c]) : acc_t<T>(0);
    }
  }
};

/// The products of rows own_first … with rows other_first …, each thread's 4 x 4 of them.
template <class T>
__device__ __forceinline__ void products(acc_t<T> (&sum)[4][4], acc_t<T>* own_piece, acc_t<T>* other_piece,
                                         const Operand<T>& own, int own_first, const Operand<T>& other,
                                         int other_first) {
  using A = acc_t<T>;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[i][j] = A(0);
  }
  for (int k0 = 0; k0 < own.width; k0 += kDepth) {
    __syncthreads();
    own.template load<kRows, kDepth, kStride<A>>(own_piece, own_first, k0);
    other.template load<kTile, kDepth, kStride<A>>(other_piece, other_first, k0);
    __syncthreads();
#pragma unroll 1  // twice is more than sm_86 and sm_89 have registers for, beside two slices' sums
    for (int k = 0; k < kDepth; k += Vector<A>::kCount) {
      Vector<A> a[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = vector_at(own_piece + thread_row(i) * kStride<A> + k);
#pragma unroll
      for (int j = 0; j < 4; ++j) b[j] = vector_at(other_piece + thread_column(j) * kStride<A> + k);
#pragma unroll
      for (int e = 0; e < Vector<A>::kCount; ++e) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][j] += a[i].lane[e] * b[j].lane[e];
        }
      }
    }
  }
}

/// A block's slice of an output: 4 rows a thread, and every eighth vector of columns.
template <class A>
struct Slice {
  static constexpr int kVectors = kSlice<A> / (8 * Vector<A>::kCount);
  Vector<A> sum[4][kVectors];

  __device__ static int column(int v) { return (threadIdx.x % 8 + 8 * v) * Vector<A>::kCount; }

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) sum[i][v] = Vector<A>{};
    }
  }
  __device__ void scale_row(int i, A factor) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
#pragma unroll
      for (int e = 0; e < Vector<A>::kCount; ++e) sum[i][v].lane[e] *= factor;
    }
  }
  /// sum += weights [kRows, kTile] x [kTile, kSlice].
  __device__ void add_product(const A* weights, const A* x) {
#pragma unroll 2
    for (int k = 0; k < kTile; k += Vector<A>::kCount) {
      Vector<A> w[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i] = vector_at(weights + thread_row(i) * kStride<A> + k);
#pragma unroll
      for (int e = 0; e < Vector<A>::kCount; ++e) {
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          const Vector<A> row = vector_at(x + (k + e) * kSlice<A> + column(v));
#pragma unroll
          for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int c = 0; c < Vector<A>::kCount; ++c) sum[i][v].lane[c] += w[i].lane[e] * row.lane[c];
          }
        }
      }
    }
  }
  /// Rows first … of a dense [rows, width] output, columns from slice_column, times factor[i].
  template <class T>
  __device__ void store(T* out, int first, int rows, int slice_column, int width, const A (&factor)[4],
                        bool accumulate) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = first + thread_row(i);
      if (r >= rows) continue;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
#pragma unroll
        for (int e = 0; e < Vector<A>::kCount; ++e) {
          const int c = slice_column + column(v) + e;
          if (c < width) put(out[static_cast<std::int64_t>(r) * width + c], sum[i][v].lane[e] * factor[i], accumulate);
        }
      }
    }
  }
};

/// The largest and the sum over a row's eight threads.
template <class A>
__device__ __forceinline__ A row_max(A v) {
#pragma unroll
  for (int d = 4; d > 0; d >>= 1) v = max(v, __shfl_xor_sync(0xffffffffu, v, d));
  return v;
}
template <class A>
__device__ __forceinline__ A row_sum(A v) {
#pragma unroll
  for (int d = 4; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}

/// Products to scores in units of log 2: scaled, biased, -inf where the key is not seen.
template <class T>
__device__ __forceinline__ void finish_scores(acc_t<T> (&s)[4][4], const Head<T>& head, int t0, int s0) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int t = t0 + thread_row(i), seen = head.seen(t);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int key = s0 + thread_column(j);
      s[i][j] *= head.scale;
      if (key >= seen) {
        s[i][j] = -INFINITY;
      } else if (head.bias != nullptr) {
        s[i][j] += head.added(t, key);
      }
    }
  }
}

/// A row's largest score so far, and the sum of exp2(score - largest) over this thread's columns.
template <class A>
struct Running {
  A highest = -INFINITY, total = 0;

  /// Takes in a row's next four scores, which become weights. Returns what earlier sums shrink by.
  __device__ A take(A (&score)[4]) {
    const A now = max(highest, row_max(max(max(score[0], score[1]), max(score[2], score[3]))));
    const A shift = now == -INFINITY ? A(0) : now;  // nothing seen yet: -inf - -inf is not a number
    const A shrink = exp2(highest - shift);
    total *= shrink;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      score[j] = exp2(score[j] - shift);
      total += score[j];
    }
    highest = now;
    return shrink;
  }
};

template <class T>
constexpr std::size_t forward_shared_bytes() {
  using A = acc_t<T>;
  return sizeof(A) * (kRows * kStride<A> + kTile * kStride<A> + kTile * kSlice<A>);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) forward(AttentionForward call, int tiles, int slices) {
  using A = acc_t<T>;
  const AttentionShape& s = call.shape;
  Smem smem;
  A* own_piece = smem.take<A>(kRows * kStride<A>);
  A* other_piece = smem.take<A>(kTile * kStride<A>);
  A* weights = own_piece;  // which is not needed until the next tile
  A* values = smem.take<A>(kTile * kSlice<A>);
  const int slice_column = static_cast<int>(blockIdx.x % slices) * kSlice<A>;
  const int t0 = static_cast<int>(blockIdx.x / slices % tiles) * kRows;
  const Head<T> head(s, blockIdx.x / slices / tiles);
  const int width = static_cast<int>(s.width), value_width = static_cast<int>(s.value_width);
  const Operand<T> q{head.rows(call.q, s.q_stride), s.q_stride[2], head.queries, width};
  const Operand<T> k{head.rows(call.k, s.k_stride), s.k_stride[2], head.keys, width};
  const Operand<T> v{head.rows(call.v, s.v_stride), s.v_stride[2], head.keys, value_width};

  Running<A> running[4];
  Slice<A> y;
  y.clear();
  const int end = t0 < head.queries ? head.seen(min(t0 + kRows, head.queries) - 1) : 0;
  for (int s0 = 0; s0 < end; s0 += kTile) {
    A score[4][4];
    products<T>(score, own_piece, other_piece, q, t0, k, s0);
    finish_scores<T>(score, head, t0, s0);
#pragma unroll
    for (int i = 0; i < 4; ++i) y.scale_row(i, running[i].take(score[i]));
    if (head.drop_below != 0) {
      const unsigned kept = kept_bits(head, 16, [&](int i, int& t, int& key) {
        t = t0 + thread_row(i / 4);
        key = s0 + thread_column(i % 4);
      });
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        if ((kept >> i & 1) == 0) score[i / 4][i % 4] = A(0);
      }
    }
    __syncthreads();  // own_piece has been used, and the last tile's values
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) weights[thread_row(i) * kStride<A> + thread_column(j)] = score[i][j];
    }
    v.template load<kTile, kSlice<A>, kSlice<A>>(values, s0, slice_column);
    __syncthreads();
    y.add_product(weights, values);
  }

  A factor[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const A total = row_sum(running[i].total);
    factor[i] = total == A(0) ? A(0) : static_cast<A>(1.0 / (1.0 - s.dropout)) / total;
    const int t = t0 + thread_row(i);
    if (slice_column == 0 && threadIdx.x % 8 == 0 && t < head.all_queries) {
      head.template dense<A>(call.log_sum_exp, s.queries)[t] = log_sum_exp_of(running[i].highest, total);
    }
  }
  y.store(head.template dense<T>(call.y, s.queries * s.value_width), t0, head.all_queries, slice_column, value_width,
          factor, false);
}

template <class T, bool kOwnKeys>
constexpr std::size_t gradient_shared_bytes() {
  using A = acc_t<T>;
  return sizeof(A) * ((kOwnKeys ? 2 : 1) * (kRows * kStride<A> + kTile * kSlice<A>)+kTile * kStride<A>);
}

/// Blocks that own queries give dq and dbias, blocks that own keys give dk and dv. Every sum has one owner and a fixed
/// order, at the price of forming P and dP twice.
template <class T, bool kOwnKeys>
__global__ void __launch_bounds__(kThreads, 2)
    gradient(AttentionBackward call, const acc_t<T>* __restrict__ deltas, int tiles, int slices) {
  using A = acc_t<T>;
  const AttentionShape& s = call.shape;
  Smem smem;
  A* own_piece = smem.take<A>(kRows * kStride<A>);
  A* other_piece = smem.take<A>(kTile * kStride<A>);
  A* ds_tile = own_piece;  // which is not needed until the next tile
  A* other_slice = smem.take<A>(kTile * kSlice<A>);
  A *p_tile = nullptr, *dy_slice = nullptr;
  if constexpr (kOwnKeys) {
    p_tile = smem.take<A>(kRows * kStride<A>);
    dy_slice = smem.take<A>(kTile * kSlice<A>);
  }
  const int slice = static_cast<int>(blockIdx.x % slices), slice_column = slice * kSlice<A>;
  const int own0 = static_cast<int>(blockIdx.x / slices % tiles) * kRows;
  const Head<T> head(s, blockIdx.x / slices / tiles);
  const int width = static_cast<int>(s.width), value_width = static_cast<int>(s.value_width);
  const Operand<T> q{head.rows(call.q, s.q_stride), s.q_stride[2], head.queries, width};
  const Operand<T> k{head.rows(call.k, s.k_stride), s.k_stride[2], head.keys, width};
  const Operand<T> v{head.rows(call.v, s.v_stride), s.v_stride[2], head.keys, value_width};
  const Operand<T> dy{head.template dense<T>(call.dy, s.queries * s.value_width), s.value_width, head.queries,
                      value_width};
  const Operand<T>&own1 = kOwnKeys ? k : q, &own2 = kOwnKeys ? v : dy, &other1 = kOwnKeys ? q : k,
        &other2 = kOwnKeys ? dy : v;
  const A* log_sum_exp = head.template dense<A>(call.log_sum_exp, s.queries);
  const A* delta = deltas + head.index * s.queries;
  T* dbias = kOwnKeys || slice != 0 ? nullptr : head.template dense<T>(call.dbias.data, s.queries * s.keys);
  const A keep_scale = static_cast<A>(1.0 / (1.0 - s.dropout));

  Slice<A> sum1, sum2;  // of dq or dk, and of dv
  sum1.clear();
  if constexpr (kOwnKeys) sum2.clear();
  int begin = 0, end;
  if constexpr (kOwnKeys) {
    begin = head.first_query(own0) / kTile * kTile;
    end = own0 < head.keys ? head.queries : 0;
  } else {
    end = own0 < head.queries ? head.seen(min(own0 + kRows, head.queries) - 1) : 0;
    if (dbias != nullptr && !call.dbias.accumulate) end = head.all_keys;  // unseen pairs are assigned 0
  }
  for (int other0 = begin; other0 < end; other0 += kTile) {
    A p[4][4], dp[4][4];
    products<T>(p, own_piece, other_piece, own1, own0, other1, other0);
    products<T>(dp, own_piece, other_piece, own2, own0, other2, other0);
    unsigned kept = ~0u;
    if (head.drop_below != 0) {
      kept = kept_bits(head, 16, [&](int i, int& t, int& key) {
        const int own = own0 + thread_row(i / 4), other = other0 + thread_column(i % 4);
        t = kOwnKeys ? other : own;
        key = kOwnKeys ? own : other;
      });
    }
    __syncthreads();  // own_piece has been used, and the last tile's slices
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int own = own0 + thread_row(i), other = other0 + thread_column(j);
        const int t = kOwnKeys ? other : own, key = kOwnKeys ? own : other;
        const int place = thread_row(i) * kStride<A> + thread_column(j);
        const bool keep = (kept >> (4 * i + j) & 1) != 0;
        A weight = 0, gradient = 0;
        if (key < head.seen(t)) {
          A score = p[i][j] * head.scale;
          if (head.bias != nullptr) score += head.added(t, key);
          weight = exp2(score - in_log2(log_sum_exp[t]));
          gradient = weight * ((keep ? dp[i][j] * keep_scale : A(0)) - delta[t]);
        }
        ds_tile[place] = gradient;
        if constexpr (kOwnKeys) p_tile[place] = keep ? weight : A(0);
        if (dbias != nullptr && t < head.all_queries && key < head.all_keys) {
          put(dbias[static_cast<std::int64_t>(t) * head.all_keys + key], gradient, call.dbias.accumulate);
        }
      }
    }
    other1.template load<kTile, kSlice<A>, kSlice<A>>(other_slice, other0, slice_column);
    if constexpr (kOwnKeys) other2.template load<kTile, kSlice<A>, kSlice<A>>(dy_slice, other0, slice_column);
    __syncthreads();
    sum1.add_product(ds_tile, other_slice);
    if constexpr (kOwnKeys) sum2.add_product(p_tile, dy_slice);
  }

  const GradOut& out1 = kOwnKeys ? call.dk : call.dq;
  const std::int64_t rows = kOwnKeys ? s.keys : s.queries;
  const int stored = static_cast<int>(rows);
  const A scale = static_cast<A>(s.scale);
  if (out1.data != nullptr) {
    sum1.store(head.template dense<T>(out1.data, rows * s.width), own0, stored, slice_column, width,
               {scale, scale, scale, scale}, out1.accumulate);
  }
  if constexpr (kOwnKeys) {
    if (call.dv.data != nullptr) {
      sum2.store(head.template dense<T>(call.dv.data, rows * s.value_width), own0, stored, slice_column, value_width,
                 {keep_scale, keep_scale, keep_scale, keep_scale}, call.dv.accumulate);
    }
  }
}

template <class T>
constexpr std::size_t weights_shared_bytes() {
  return sizeof(acc_t<T>) * (kRows + kTile) * kStride<acc_t<T>>;
}

/// The softmax's weights: once over the keys for each row's log-sum-exp, once more to write.
template <class T>
__global__ void __launch_bounds__(kThreads, 3) weights(AttentionWeights call, int tiles) {
  using A = acc_t<T>;
  const AttentionShape& s = call.shape;
  Smem smem;
  A* own_piece = smem.take<A>(kRows * kStride<A>);
  A* other_piece = smem.take<A>(kTile * kStride<A>);
  const int t0 = static_cast<int>(blockIdx.x % tiles) * kRows;
  const Head<T> head(s, blockIdx.x / tiles);
  const int width = static_cast<int>(s.width);
  const Operand<T> q{head.rows(call.q, s.q_stride), s.q_stride[2], head.queries, width};
  const Operand<T> k{head.rows(call.k, s.k_stride), s.k_stride[2], head.keys, width};
  T* out = head.template dense<T>(call.weights, s.queries * s.keys);
  const int end = t0 < head.queries ? head.seen(min(t0 + kRows, head.queries) - 1) : 0;

  Running<A> running[4];
  A score[4][4];
  for (int s0 = 0; s0 < end; s0 += kTile) {
    products<T>(score, own_piece, other_piece, q, t0, k, s0);
    finish_scores<T>(score, head, t0, s0);
#pragma unroll
    for (int i = 0; i < 4; ++i) running[i].take(score[i]);
  }
  A log_sum_exp[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    log_sum_exp[i] = in_log2(log_sum_exp_of(running[i].highest, row_sum(running[i].total)));
  }
  for (int s0 = 0; s0 < head.all_keys; s0 += kTile) {
    if (s0 < end) {
      products<T>(score, own_piece, other_piece, q, t0, k, s0);
      finish_scores<T>(score, head, t0, s0);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int t = t0 + thread_row(i);
      if (t >= head.all_queries) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = s0 + thread_column(j);
        if (key >= head.all_keys) continue;
        const A weight = s0 < end ? exp2(score[i][j] - log_sum_exp[i]) : A(0);
        out[static_cast<std::int64_t>(t) * head.all_keys + key] = static_cast<T>(weight);
      }
    }
  }
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::attention::general
