#pragma once
// What every attention kernel knows about its head: where the scores' additions lie, which keys a query sees, which
// weights are dropped. Scores are kept in units of log 2, so that a weight is one exp2.

#include "kernels/attention.h"
#include "kernels/base/philox.h"
#include "kernels/cuda/block.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE::attention {

constexpr double kLog2e = 1.4426950408889634, kLn2 = 0.6931471805599453;

template <class T>
struct Head {
  using A = acc_t<T>;
  std::int64_t index;  // b H + h
  int b, h;
  int all_queries, all_keys;
  int queries, keys;  // that take part
  bool causal;
  A scale;        // of q k', times log2 e
  const T* bias;  // of this head, or null
  std::int64_t bias_query, bias_key;
  unsigned drop_below;  // a weight is dropped if its 24 random bits are below
  const PhiloxState* random;

  __device__ Head(const AttentionShape& s, std::int64_t head) : index(head) {
    b = static_cast<int>(head / s.heads);
    h = static_cast<int>(head % s.heads);
    all_queries = static_cast<int>(s.queries);
    all_keys = static_cast<int>(s.keys);
    queries = s.query_lengths == nullptr ? all_queries : max(0, min(s.query_lengths[b], all_queries));
    keys = s.key_lengths == nullptr ? all_keys : max(0, min(s.key_lengths[b], all_keys));
    causal = s.causal;
    scale = static_cast<A>(s.scale * kLog2e);
    bias = static_cast<const T*>(s.bias);
    if (bias != nullptr) bias += b * s.bias_stride[0] + h * s.bias_stride[1];
    bias_query = s.bias_stride[2];
    bias_key = s.bias_stride[3];
    // u >= p for u = bits / 2^24 is bits >= ceil(2^24 p), exactly.
    drop_below = static_cast<unsigned>(ceil(s.dropout * 16777216.0));
    random = s.random;
  }

  /// x [B, H, positions, width] of this head.
  __device__ const T* rows(const void* x, const std::int64_t (&stride)[3]) const {
    return static_cast<const T*>(x) + b * stride[0] + h * stride[1];
  }
  /// x [B, H, Q, …] or [B, H, K, …], dense, with so many elements a head.
  template <class E>
  __device__ E* dense(void* x, std::int64_t a_head) const {
    return x == nullptr ? nullptr : static_cast<E*>(x) + index * a_head;
  }
  template <class E>
  __device__ const E* dense(const void* x, std::int64_t a_head) const {
    return static_cast<const E*>(x) + index * a_head;
  }

  /// The number of keys that query t sees.
  __device__ int seen(int t) const {
    if (t >= queries) return 0;
    return causal ? max(0, min(t + 1 + all_keys - all_queries, keys)) : keys;
  }
  /// The first query that may see key s; queries before it see less.
  __device__ int first_query(int s) const { return causal ? max(0, s - (all_keys - all_queries)) : 0; }

  /// What is added to the scaled score of a pair that is there.
  __device__ A added(int t, int s) const {
    return static_cast<A>(bias[t * bias_query + s * bias_key]) * static_cast<A>(kLog2e);
  }
};

/// Bit i says whether the i-th of up to 32 weights is kept; position(i, t, key) names it. One loop, not unrolled,
/// since a Philox block is some hundred instructions; neighbours in a row share a block, so the last is remembered.
template <class T, class Position>
__device__ __forceinline__ unsigned kept_bits(const Head<T>& head, int count, Position position) {
  const PhiloxState state = *head.random;
  const std::uint64_t first = static_cast<std::uint64_t>(head.index) * head.all_queries * head.all_keys;
  std::uint64_t last = ~std::uint64_t{0};
  PhiloxBlock block{};
  unsigned bits = 0;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    int t, key;
    position(i, t, key);
    const std::uint64_t element = first + static_cast<std::uint64_t>(t) * head.all_keys + key;
    if (element / 4 != last) {
      last = element / 4;
      block = philox(state.key, state.counter + last);
    }
    // Selected, not indexed: an index known only at run time would move the block to local memory.
    const unsigned low = element & 1 ? block.word[1] : block.word[0];
    const unsigned high = element & 1 ? block.word[3] : block.word[2];
    if (((element & 2 ? high : low) >> 8) >= head.drop_below) bits |= 1u << i;
  }
  return bits;
}

/// A row's log-sum-exp in the units of the scores; +inf for a query that sees no key, whose weights exp2 then makes 0.
template <class A>
__device__ __forceinline__ A in_log2(A log_sum_exp) {
  return log_sum_exp == -INFINITY ? static_cast<A>(INFINITY) : log_sum_exp * static_cast<A>(kLog2e);
}
/// Maximum (in units of log 2) and sum of a row to its log-sum-exp.
template <class A>
__device__ __forceinline__ A log_sum_exp_of(A highest, A total) {
  return total == A(0) ? static_cast<A>(-INFINITY) : (highest + log2(total)) * static_cast<A>(kLn2);
}

template <class T>
__device__ __forceinline__ void put(T& to, acc_t<T> value, bool accumulate) {
  to = static_cast<T>(accumulate ? static_cast<acc_t<T>>(to) + value : value);
}

/// a·b over `width` elements, in eight lanes that share a row.
template <class T>
__device__ __forceinline__ acc_t<T> row_dot(const T* a, const T* b, int width, bool vectors) {
  using A = acc_t<T>;
  constexpr int kVec = 16 / sizeof(T);
  struct alignas(16) Vector {
    T lane[kVec];
  };
  A sum = 0;
  if (vectors) {
    for (int c = threadIdx.x % 8 * kVec; c < width; c += 8 * kVec) {
      const Vector va = *reinterpret_cast<const Vector*>(a + c), vb = *reinterpret_cast<const Vector*>(b + c);
#pragma unroll
      for (int e = 0; e < kVec; ++e) sum += static_cast<A>(va.lane[e]) * static_cast<A>(vb.lane[e]);
    }
  } else {
    for (int c = threadIdx.x % 8; c < width; c += 8) sum += static_cast<A>(a[c]) * static_cast<A>(b[c]);
  }
#pragma unroll
  for (int d = 4; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  return sum;
}

/// delta[row] = dy·y, the sum over keys of P dP, for each of B H Q rows; 0 past the query lengths.
template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads)
    dot_rows(AttentionShape shape, const T* __restrict__ y, const T* __restrict__ dy, acc_t<T>* __restrict__ delta,
             std::int64_t rows, bool vectors) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kThreads / 8) + threadIdx.x / 8;
  bool counts = row < rows;
  if (counts && shape.query_lengths != nullptr) {
    counts = row % shape.queries < shape.query_lengths[row / shape.queries / shape.heads];
  }
  const int width = static_cast<int>(shape.value_width);
  const acc_t<T> dot = row_dot(y + row * width, dy + row * width, counts ? width : 0, vectors);
  if (row < rows && threadIdx.x % 8 == 0) delta[row] = dot;
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::attention
