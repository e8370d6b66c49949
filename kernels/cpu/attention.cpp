#include "kernels/attention.h"

#include <algorithm>
#include <limits>

#include "kernels/base/philox.h"
#include "kernels/cpu/gemm_tile.h"
#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/thread_pool.h"

// Blocks of queries against tiles of keys, with products on packed panels. A short sequence is one block and one tile;
// a long one rescales what it has summed when a tile brings a larger maximum (online softmax). Where tiles begin
// depends on the position alone, so a padded batch gives each sequence the bits it has alone.

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

constexpr std::int64_t kQueryBlock = 64;
constexpr std::int64_t kKeyTile = 256;
constexpr std::int64_t kQueriesPerChunk = 256;  // of a forward chunk: packs its keys once

template <class A>
constexpr A kMinusInfinity = -std::numeric_limits<A>::infinity();

/// Hands out pieces of this thread's buffer; run once with null to learn the size.
class Carver {
 public:
  explicit Carver(char* base) : base_(base) {}
  template <class A>
  A* take(std::int64_t n) {
    char* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (static_cast<std::size_t>(n) * sizeof(A) + 63) / 64 * 64;
    return reinterpret_cast<A*>(piece);
  }
  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

/// Rows of T as rows of A: in place when they are the same type, else converted into `buffer`.
template <class A>
struct Rows {
  const A* data;
  std::int64_t stride;
};
template <class T>
Rows<acc_t<T>> rows_of(const T* x, std::int64_t stride, std::int64_t rows, std::int64_t width, acc_t<T>* buffer) {
  using A = acc_t<T>;
  if constexpr (std::is_same_v<T, A>) {
    return {x, stride};
  } else {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t i = 0; i < width; ++i) buffer[r * width + i] = static_cast<A>(x[r * stride + i]);
    return {buffer, width};
  }
}

template <class A>
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const A* a, std::int64_t a_row, std::int64_t a_column,
              const A* packed, A* c, std::int64_t ldc, A alpha = 1, bool accumulate = false) {
  gemm<A>(m, n, k, Left<A>{a, a_row, a_column}, packed, 0, n, c, ldc, Finish<A>{alpha, nullptr, accumulate});
}

/// One head of one example: where its operands lie and how much of them counts.
template <class T>
struct Head {
  using A = acc_t<T>;
  const AttentionShape& s;
  std::int64_t b, h;
  const T *q, *k, *v;
  const T* bias;
  std::int64_t queries, keys;  // that take part

  Head(const AttentionShape& shape, const void* q_, const void* k_, const void* v_, std::int64_t index)
      : s(shape), b(index / shape.heads), h(index % shape.heads) {
    q = static_cast<const T*>(q_) + b * s.q_stride[0] + h * s.q_stride[1];
    k = static_cast<const T*>(k_) + b * s.k_stride[0] + h * s.k_stride[1];
    v = v_ == nullptr ? nullptr : static_cast<const T*>(v_) + b * s.v_stride[0] + h * s.v_stride[1];
    bias = s.bias == nullptr ? nullptr : static_cast<const T*>(s.bias) + b * s.bias_stride[0] + h * s.bias_stride[1];
    const auto limited = [&](const std::int32_t* lengths, std::int64_t n) {
      return lengths == nullptr ? n : std::clamp<std::int64_t>(lengths[b], 0, n);
    };
    queries = limited(s.query_lengths, s.queries);
    keys = limited(s.key_lengths, s.keys);
  }

  /// Number of keys that query t sees.
  std::int64_t seen(std::int64_t t) const {
    return s.causal ? std::clamp<std::int64_t>(t + 1 + s.keys - s.queries, 0, keys) : keys;
  }

  std::int64_t index() const { return b * s.heads + h; }

  /// Scores of a block of queries against a tile of keys: scale q k' + bias, -inf where the key is not seen. Whole
  /// registers, which is what the loops over them read.
  void scores(std::int64_t t0, std::int64_t rows, std::int64_t s0, std::int64_t columns, const Rows<A>& q_rows,
              const A* packed_keys, A* out, std::int64_t ld) const {
    const std::int64_t padded = round_to_lanes<A>(columns);
    multiply<A>(rows, padded, s.width, q_rows.data, q_rows.stride, 1, packed_keys, out, ld, static_cast<A>(s.scale));
    for (std::int64_t r = 0; r < rows; ++r) {
      A* row = out + r * ld;
      if (bias != nullptr) {
        const T* add = bias + (t0 + r) * s.bias_stride[2] + s0 * s.bias_stride[3];
        for (std::int64_t c = 0; c < columns; ++c) row[c] += static_cast<A>(add[c * s.bias_stride[3]]);
      }
      const std::int64_t visible = std::clamp<std::int64_t>(seen(t0 + r) - s0, 0, columns);
      for (std::int64_t c = visible / kLanes<A> * kLanes<A>; c < padded; c += kLanes<A>) {
        const int first = static_cast<int>(std::max<std::int64_t>(visible - c, 0));
        store(row + c, select(first_lanes<A>(first), load(row + c), broadcast(kMinusInfinity<A>)));
      }
    }
  }

  /// What the weight of (t, key) is multiplied with under dropout: 0 or 1 / (1 - p).
  A keep(std::int64_t t, std::int64_t key) const {
    const auto element = static_cast<std::uint64_t>((index() * s.queries + t) * s.keys + key);
    const float u = philox_uniform(philox_word(s.random->key, s.random->counter, element));
    return u >= s.dropout ? static_cast<A>(1.0 / (1.0 - s.dropout)) : A(0);
  }
};

template <class A>
A row_max(const A* x, std::int64_t padded) {
  Vec<A> best = load(x);
  for (std::int64_t i = kLanes<A>; i < padded; i += kLanes<A>) {
    const Vec<A> v = load(x + i);
    best = select(v != v, v, max<A>(best, v));
  }
  return max_lanes<A>(best);
}

/// x = exp(x - shift) in place; returns the sum.
template <class A>
A exp_and_sum(A* x, std::int64_t padded, A shift) {
  Vec<A> total{};
  for (std::int64_t i = 0; i < padded; i += kLanes<A>) {
    const Vec<A> e = exp(load(x + i) - shift);
    store(x + i, e);
    total += e;
  }
  return sum_lanes<A>(total);
}

/// Sum over a[i] b[i].
template <class T, class A = acc_t<T>>
A dot(const A* a, const T* b, std::int64_t n) {
  Vec<A> total{};
  std::int64_t i = 0;
  for (; i + kLanes<A> <= n; i += kLanes<A>) total = multiply_add(load(a + i), load(b + i), total);
  if (const int rest = static_cast<int>(n - i); rest > 0)
    total = multiply_add(load_first(a + i, rest), load_first(b + i, rest), total);
  return sum_lanes<A>(total);
}

/// Packs x' (for products that contract over the width) tile by tile.
template <class A>
void pack_transposed(const Rows<A>& x, std::int64_t rows, std::int64_t width, A* out) {
  for (std::int64_t s0 = 0; s0 < rows; s0 += kKeyTile) {
    const std::int64_t n = std::min(kKeyTile, rows - s0);
    pack<A>(width, n, x.data + s0 * x.stride, 1, x.stride, nullptr, 0, n, out + s0 * width);
  }
}
/// Packs x (for products that contract over its rows) tile by tile.
template <class A>
void pack_rows(const Rows<A>& x, std::int64_t rows, std::int64_t width, A* out) {
  for (std::int64_t s0 = 0; s0 < rows; s0 += kKeyTile) {
    const std::int64_t n = std::min(kKeyTile, rows - s0);
    pack<A>(n, width, x.data + s0 * x.stride, x.stride, 1, nullptr, 0, width, out + s0 * round_to_lanes<A>(width));
  }
}
/// A whole number of tiles.
std::int64_t padded_rows(std::int64_t rows) { return (rows + kKeyTile - 1) / kKeyTile * kKeyTile; }
/// Elements from one query's scores to the next's. An odd number of lines apart, so that they do not compete for the
/// same cache sets.
template <class A>
std::int64_t score_row(std::int64_t keys) {
  return round_to_lanes<A>(std::min(keys, kKeyTile)) + (keys > 2 * kLanes<A> ? kLanes<A> : 0);
}

template <class T>
void forward_chunk(const AttentionForward& call, std::int64_t chunk) {
  using A = acc_t<T>;
  const AttentionShape& s = call.shape;
  const std::int64_t groups = (s.queries + kQueriesPerChunk - 1) / kQueriesPerChunk;
  const Head<T> head(s, call.q, call.k, call.v, chunk / groups);
  const std::int64_t first = chunk % groups * kQueriesPerChunk;
  const std::int64_t last = std::min(first + kQueriesPerChunk, s.queries);
  const std::int64_t ld = score_row<A>(head.keys), y_width = round_to_lanes<A>(s.value_width);

  A *keys, *values, *q_buffer, *kv_buffer, *p, *sum;
  const auto carve = [&](char* base) {
    Carver carver(base);
    keys = carver.take<A>(padded_rows(head.keys) * s.width);
    values = carver.take<A>(padded_rows(head.keys) * y_width);
    p = carver.take<A>(kQueryBlock * ld);
    sum = carver.take<A>(kQueryBlock * y_width);
    q_buffer = carver.take<A>(std::is_same_v<T, A> ? 0 : kQueryBlock * s.width);
    kv_buffer = carver.take<A>(std::is_same_v<T, A> ? 0 : head.keys * std::max(s.width, s.value_width));
    return carver.used();
  };
  carve(static_cast<char*>(thread_buffer(0, carve(nullptr))));
  pack_transposed(rows_of(head.k, s.k_stride[2], head.keys, s.width, kv_buffer), head.keys, s.width, keys);
  pack_rows(rows_of(head.v, s.v_stride[2], head.keys, s.value_width, kv_buffer), head.keys, s.value_width, values);

  T* y = static_cast<T*>(call.y) + head.index() * s.queries * s.value_width;
  A* lse = static_cast<A*>(call.log_sum_exp) + head.index() * s.queries;
  for (std::int64_t t0 = first; t0 < last; t0 += kQueryBlock) {
    const std::int64_t block = std::min(kQueryBlock, last - t0);
    const std::int64_t rows = std::clamp<std::int64_t>(head.queries - t0, 0, block);
    A highest[kQueryBlock], total[kQueryBlock], log_total[kQueryBlock];
    std::fill(highest, highest + block, kMinusInfinity<A>);
    std::fill(total, total + kQueryBlock, A(0));
    std::fill(sum, sum + block * y_width, A(0));
    const auto q_rows = rows_of(head.q + t0 * s.q_stride[2], s.q_stride[2], rows, s.width, q_buffer);
    const std::int64_t visible = rows > 0 ? head.seen(t0 + rows - 1) : 0;
    for (std::int64_t s0 = 0; s0 < visible; s0 += kKeyTile) {
      const std::int64_t columns = std::min(kKeyTile, head.keys - s0), padded = round_to_lanes<A>(columns);
      head.scores(t0, rows, s0, columns, q_rows, keys + s0 * s.width, p, ld);
      for (std::int64_t r = 0; r < rows; ++r) {
        A* row = p + r * ld;
        const A tile_max = row_max(row, padded);
        const A now = tile_max > highest[r] || tile_max != tile_max ? tile_max : highest[r];
        if (now == kMinusInfinity<A>) {  // nothing seen yet: exp(-inf - -inf) is not a number
          std::fill(row, row + padded, A(0));
          continue;
        }
        const A tile_sum = exp_and_sum(row, padded, now);
        if (s0 > 0 && now != highest[r]) {
          const A shrink = of_one(highest[r] - now, [](auto x) { return exp(x); });
          total[r] *= shrink;
          for (std::int64_t i = 0; i < y_width; i += kLanes<A>)
            store(sum + r * y_width + i, load(sum + r * y_width + i) * shrink);
        }
        total[r] += tile_sum;
        highest[r] = now;
        if (s.dropout > 0)
          for (std::int64_t c = 0; c < columns; ++c) row[c] *= head.keep(t0 + r, s0 + c);
      }
      multiply<A>(rows, s.value_width, columns, p, ld, 1, values + s0 * y_width, sum, y_width, A(1), true);
    }
    for (std::int64_t r = 0; r < block; r += kLanes<A>) store(log_total + r, log(load(total + r)));
    for (std::int64_t r = 0; r < block; ++r) {
      const bool any = r < rows && highest[r] != kMinusInfinity<A>;
      const Vec<A> inverse = broadcast(any ? A(1) / total[r] : A(0));
      for_registers<false>(y + (t0 + r) * s.value_width, s.value_width, [&](std::int64_t i, auto get) {
        return any ? get(sum + r * y_width + i) * inverse : Vec<A>{};
      });
      lse[t0 + r] = any ? highest[r] + log_total[r] : kMinusInfinity<A>;
    }
  }
}

/// Adds or assigns rows of sums [rows, width] (row stride ld) to a dense gradient; later rows up to `all` get 0.
template <class T>
void put_rows(T* out, const acc_t<T>* sums, std::int64_t rows, std::int64_t all, std::int64_t width, std::int64_t ld,
              bool accumulate) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto sum = [from = sums + r * ld](std::int64_t i, auto get) { return get(from + i); };
    accumulate ? for_registers<true>(out + r * width, width, sum) : for_registers<false>(out + r * width, width, sum);
  }
  if (!accumulate) std::fill(out + rows * width, out + all * width, T(0.0f));
}

template <class T>
void backward_head(const AttentionBackward& call, std::int64_t index) {
  using A = acc_t<T>;
  const AttentionShape& s = call.shape;
  const Head<T> head(s, call.q, call.k, call.v, index);
  const std::int64_t ld = score_row<A>(head.keys), w = round_to_lanes<A>(s.width),
                     vw = round_to_lanes<A>(s.value_width);
  const bool same = std::is_same_v<T, A>;

  A *keys_t, *keys, *values_t, *q_packed, *dy_packed, *q_buffer, *dy_buffer, *k_buffer, *v_buffer, *p, *ds, *dq, *dk,
      *dv;
  const auto carve = [&](char* base) {
    Carver carver(base);
    const std::int64_t n = padded_rows(head.keys);
    keys_t = carver.take<A>(n * s.width);
    keys = carver.take<A>(n * w);
    values_t = carver.take<A>(n * s.value_width);
    q_packed = carver.take<A>(kQueryBlock * w);
    dy_packed = carver.take<A>(kQueryBlock * vw);
    p = carver.take<A>(kQueryBlock * ld);
    ds = carver.take<A>(kQueryBlock * ld);
    dq = carver.take<A>(kQueryBlock * w);
    dk = carver.take<A>(head.keys * w);
    dv = carver.take<A>(head.keys * vw);
    q_buffer = carver.take<A>(same ? 0 : kQueryBlock * s.width);
    dy_buffer = carver.take<A>(same ? 0 : kQueryBlock * s.value_width);
    k_buffer = carver.take<A>(same ? 0 : head.keys * s.width);
    v_buffer = carver.take<A>(same ? 0 : head.keys * s.value_width);
    return carver.used();
  };
  carve(static_cast<char*>(thread_buffer(0, carve(nullptr))));
  const auto k_rows = rows_of(head.k, s.k_stride[2], head.keys, s.width, k_buffer);
  const auto v_rows = rows_of(head.v, s.v_stride[2], head.keys, s.value_width, v_buffer);
  pack_transposed(k_rows, head.keys, s.width, keys_t);
  pack_rows(k_rows, head.keys, s.width, keys);
  pack_transposed(v_rows, head.keys, s.value_width, values_t);
  std::fill(dk, dk + head.keys * w, A(0));
  std::fill(dv, dv + head.keys * vw, A(0));

  const T* y = static_cast<const T*>(call.y) + index * s.queries * s.value_width;
  const T* dy = static_cast<const T*>(call.dy) + index * s.queries * s.value_width;
  const A* lse = static_cast<const A*>(call.log_sum_exp) + index * s.queries;
  T* dq_out = call.dq.data == nullptr ? nullptr : static_cast<T*>(call.dq.data) + index * s.queries * s.width;
  T* dbias = call.dbias.data == nullptr ? nullptr : static_cast<T*>(call.dbias.data) + index * s.queries * s.keys;
  if (dbias != nullptr && !call.dbias.accumulate) std::fill(dbias, dbias + s.queries * s.keys, T(0.0f));

  for (std::int64_t t0 = 0; t0 < head.queries; t0 += kQueryBlock) {
    const std::int64_t rows = std::min(kQueryBlock, head.queries - t0);
    const auto q_rows = rows_of(head.q + t0 * s.q_stride[2], s.q_stride[2], rows, s.width, q_buffer);
    const auto dy_rows = rows_of(dy + t0 * s.value_width, s.value_width, rows, s.value_width, dy_buffer);
    pack<A>(rows, s.width, q_rows.data, q_rows.stride, 1, nullptr, 0, s.width, q_packed);
    pack<A>(rows, s.value_width, dy_rows.data, dy_rows.stride, 1, nullptr, 0, s.value_width, dy_packed);
    A delta[kQueryBlock];  // sum over keys of P dP, which is dy·y
    for (std::int64_t r = 0; r < rows; ++r)
      delta[r] = dot<T>(dy_rows.data + r * dy_rows.stride, y + (t0 + r) * s.value_width, s.value_width);
    std::fill(dq, dq + rows * w, A(0));
    const std::int64_t visible = head.seen(t0 + rows - 1);
    for (std::int64_t s0 = 0; s0 < visible; s0 += kKeyTile) {
      const std::int64_t columns = std::min(kKeyTile, head.keys - s0), padded = round_to_lanes<A>(columns);
      head.scores(t0, rows, s0, columns, q_rows, keys_t + s0 * s.width, p, ld);
      multiply<A>(rows, padded, s.value_width, dy_rows.data, dy_rows.stride, 1, values_t + s0 * s.value_width, ds, ld);
      for (std::int64_t r = 0; r < rows; ++r) {
        A *pr = p + r * ld, *dr = ds + r * ld;
        if (lse[t0 + r] == kMinusInfinity<A>) {
          std::fill(pr, pr + padded, A(0));
          std::fill(dr, dr + padded, A(0));
          continue;
        }
        const Vec<A> shift = broadcast(lse[t0 + r]), mean = broadcast(delta[r]);
        if (s.dropout > 0) {
          for (std::int64_t c = 0; c < padded; c += kLanes<A>) store(pr + c, exp(load(pr + c) - shift));
          for (std::int64_t c = 0; c < columns; ++c) {
            const A keep = head.keep(t0 + r, s0 + c);
            dr[c] = pr[c] * (dr[c] * keep - delta[r]);
            pr[c] *= keep;
          }
        } else {
          for (std::int64_t c = 0; c < padded; c += kLanes<A>) {
            const Vec<A> weight = exp(load(pr + c) - shift);
            store(pr + c, weight);
            store(dr + c, weight * (load(dr + c) - mean));
          }
        }
        if (dbias != nullptr) {
          T* out = dbias + (t0 + r) * s.keys + s0;
          for (std::int64_t c = 0; c < columns; ++c) out[c] = static_cast<T>(static_cast<A>(out[c]) + dr[c]);
        }
      }
      const A scale = static_cast<A>(s.scale);
      if (dq_out != nullptr) multiply<A>(rows, s.width, columns, ds, ld, 1, keys + s0 * w, dq, w, scale, true);
      if (call.dk.data != nullptr)
        multiply<A>(columns, s.width, rows, ds, 1, ld, q_packed, dk + s0 * w, w, scale, true);
      if (call.dv.data != nullptr)
        multiply<A>(columns, s.value_width, rows, p, 1, ld, dy_packed, dv + s0 * vw, vw, A(1), true);
    }
    if (dq_out != nullptr) put_rows(dq_out + t0 * s.width, dq, rows, rows, s.width, w, call.dq.accumulate);
  }
  if (dq_out != nullptr && !call.dq.accumulate)
    std::fill(dq_out + head.queries * s.width, dq_out + s.queries * s.width, T(0.0f));
  if (call.dk.data != nullptr)
    put_rows(static_cast<T*>(call.dk.data) + index * s.keys * s.width, dk, head.keys, s.keys, s.width, w,
             call.dk.accumulate);
  if (call.dv.data != nullptr)
    put_rows(static_cast<T*>(call.dv.data) + index * s.keys * s.value_width, dv, head.keys, s.keys, s.value_width, vw,
             call.dv.accumulate);
}

template <class T>
void weights_head(const AttentionWeights& call, std::int64_t index) {
  using A = acc_t<T>;
  const AttentionShape& s = call.shape;
  const Head<T> head(s, call.q, call.k, nullptr, index);
  const std::int64_t ld = padded_rows(head.keys);
  A *keys, *q_buffer, *k_buffer, *p;
  const auto carve = [&](char* base) {
    Carver carver(base);
    keys = carver.take<A>(ld * s.width);
    p = carver.take<A>(kQueryBlock * ld);
    q_buffer = carver.take<A>(std::is_same_v<T, A> ? 0 : kQueryBlock * s.width);
    k_buffer = carver.take<A>(std::is_same_v<T, A> ? 0 : head.keys * s.width);
    return carver.used();
  };
  carve(static_cast<char*>(thread_buffer(0, carve(nullptr))));
  pack_transposed(rows_of(head.k, s.k_stride[2], head.keys, s.width, k_buffer), head.keys, s.width, keys);
  T* out = static_cast<T*>(call.weights) + index * s.queries * s.keys;
  std::fill(out, out + s.queries * s.keys, T(0.0f));
  for (std::int64_t t0 = 0; t0 < head.queries && head.keys > 0; t0 += kQueryBlock) {
    const std::int64_t rows = std::min(kQueryBlock, head.queries - t0);
    const auto q_rows = rows_of(head.q + t0 * s.q_stride[2], s.q_stride[2], rows, s.width, q_buffer);
    for (std::int64_t s0 = 0; s0 < head.keys; s0 += kKeyTile) {
      head.scores(t0, rows, s0, std::min(kKeyTile, head.keys - s0), q_rows, keys + s0 * s.width, p + s0, ld);
    }
    const std::int64_t padded = round_to_lanes<A>(head.keys);
    for (std::int64_t r = 0; r < rows; ++r) {
      A* row = p + r * ld;
      const A highest = row_max(row, padded);
      if (highest == kMinusInfinity<A>) continue;
      const A inverse = A(1) / exp_and_sum(row, padded, highest);
      for (std::int64_t c = 0; c < head.keys; ++c) out[(t0 + r) * s.keys + c] = static_cast<T>(row[c] * inverse);
    }
  }
}

/// Multiply-adds of one head, for deciding whether threads are worth waking.
std::int64_t work(const AttentionShape& s) { return s.queries * s.keys * (s.width + s.value_width) / 16 + 1; }

}  // namespace

std::size_t scratch_bytes(const AttentionForward&) { return 0; }
std::size_t scratch_bytes(const AttentionBackward&) { return 0; }

void run(const At& at, const AttentionForward& call) {
  const AttentionShape& s = call.shape;
  const std::int64_t chunks = s.batch * s.heads * ((s.queries + kQueriesPerChunk - 1) / kQueriesPerChunk);
  visit_float(s.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    parallel_for(at, chunks, 1, work(s), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; ++c) forward_chunk<T>(call, c);
    });
  });
}

void run(const At& at, const AttentionBackward& call) {
  const AttentionShape& s = call.shape;
  visit_float(s.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    parallel_for(at, s.batch * s.heads, 1, 3 * work(s), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) backward_head<T>(call, i);
    });
  });
}

void run(const At& at, const AttentionWeights& call) {
  const AttentionShape& s = call.shape;
  visit_float(s.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    parallel_for(at, s.batch * s.heads, 1, work(s), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) weights_head<T>(call, i);
    });
  });
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
