#pragma once
// Sums and maxima over any dimensions of values that are read from memory or computed on the way. The order of
// combination follows from the shape alone: not from strides, dtypes or threads.
//
// Adjacent dimensions that are all reduced or all kept are one group. Each pass removes the last reduced group:
//   [M, R]     rows: registers side by side over 512 values, pairwise above that; rows over 16384 in blocks of their
//   own [M, R, N]  columns: blocks of 32 rows, then blocks of those, so that a sum is about log32(R) levels deep

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/strided.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {

struct Sum {
  template <class A>
  static constexpr A identity = A(0);
  template <class V>
  static V combine(V a, V b) {
    return a + b;
  }
};
struct Max {
  template <class A>
  static constexpr A identity = -std::numeric_limits<A>::infinity();
  template <class V>
  static V combine(V a, V b) {
    return select((a > b) | (a != a), a, b);  // NaN wins
  }
};

// A source of values has `const A* fetch(begin, n, A* buffer)`: n <= kTile values from position `begin` of the
// row-major order, in place or in the buffer. Sources keep a position, so every chunk makes its own.

template <class A>
struct InMemory {
  const A* data;
  const A* fetch(std::int64_t begin, std::int64_t, A*) const { return data + begin; }
  InMemory operator()() const { return *this; }  // as its own maker
};

/// The elements of a view, widened.
template <class S>
class Elements {
 public:
  using A = acc_t<S>;

  explicit Elements(const View& v) : walk_(v) {}

  const A* fetch(std::int64_t begin, std::int64_t n, A* buffer) {
    walk_.seek(begin);
    if constexpr (std::is_same_v<S, A>) {
      return static_cast<const A*>(walk_.read(n, buffer));
    } else {
      alignas(64) S narrow[kTile];
      const S* const p = static_cast<const S*>(walk_.read(n, narrow));
      for_registers<false>(buffer, n, [p](std::int64_t i, auto get) { return get(p + i); });
      return buffer;
    }
  }

 private:
  Walk walk_;
};

template <class Op, class A>
inline Vec<A> fold_rest(const A* p, std::int64_t n) {
  const Vec<A> v = load_first(p, static_cast<int>(n));
  if constexpr (Op::template identity<A> == A(0)) {
    return v;
  } else {
    return select(first_lanes<A>(static_cast<int>(n)), v, broadcast(Op::template identity<A>));
  }
}

/// n >= 1 contiguous values, combined into one register.
template <class Op, class A>
inline Vec<A> fold(const A* p, std::int64_t n) {
  constexpr int lanes = kLanes<A>;
  if (n < lanes) return fold_rest<Op>(p, n);
  Vec<A> a = load(p);
  std::int64_t i = lanes;
  if (n >= 4 * lanes) {
    Vec<A> b = load(p + lanes), c = load(p + 2 * lanes), d = load(p + 3 * lanes);
    for (i = 4 * lanes; i + 4 * lanes <= n; i += 4 * lanes) {
      a = Op::combine(a, load(p + i));
      b = Op::combine(b, load(p + i + lanes));
      c = Op::combine(c, load(p + i + 2 * lanes));
      d = Op::combine(d, load(p + i + 3 * lanes));
    }
    a = Op::combine(Op::combine(a, b), Op::combine(c, d));
  }
  for (; i + lanes <= n; i += lanes) a = Op::combine(a, load(p + i));
  if (i < n) a = Op::combine(a, fold_rest<Op>(p + i, n - i));
  return a;
}

template <class Op, class A>
inline A fold_to_one(Vec<A> v) {
  return fold_lanes(v, [](auto a, auto b) { return Op::combine(a, b); });
}

/// Any number of values, pairwise above a tile.
template <class Op, class A, class Source>
Vec<A> fold_range(Source& values, std::int64_t begin, std::int64_t n, A* buffer) {
  if (n <= kTile) return fold<Op>(values.fetch(begin, n, buffer), n);
  const std::int64_t half = (n / kTile + 1) / 2 * kTile;
  const Vec<A> first = fold_range<Op>(values, begin, half, buffer);
  return Op::combine(first, fold_range<Op>(values, begin + half, n - half, buffer));
}

// Temporary memory: thread buffers 1 and 2 hold the results of passes in turn, 3 the blocks within one.
constexpr int kPassSlot = 1;
constexpr int kBlockSlot = 3;

template <class A>
class Temporary {
 public:
  A* get(int slot, std::int64_t n) {
    const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(A);
    return bytes <= sizeof small_ ? small_.template as<A>() : static_cast<A*>(thread_buffer(slot, bytes));
  }

 private:
  TileBuffer small_;
};

/// [rows, width] -> out[rows].
template <class Op, class A, class Make>
void reduce_rows(const At& at, std::int64_t rows, std::int64_t width, Make make, A* out) {
  constexpr std::int64_t kBlock = 16384;
  const std::int64_t blocks = (width + kBlock - 1) / kBlock;
  if (blocks > 1) {
    Temporary<A> memory;
    A* const partial = memory.get(kBlockSlot, rows * blocks);
    parallel_for(at, rows * blocks, 1, kBlock, [&](std::int64_t begin, std::int64_t end) {
      auto values = make();
      TileBuffer buffer;
      for (std::int64_t j = begin; j < end; ++j) {
        const std::int64_t row = j / blocks, from = (j - row * blocks) * kBlock;
        partial[j] = fold_to_one<Op, A>(
            fold_range<Op, A>(values, row * width + from, std::min(kBlock, width - from), buffer.as<A>()));
      }
    });
    InMemory<A> values{partial};
    for (std::int64_t row = 0; row < rows; ++row)
      out[row] = fold_to_one<Op, A>(fold_range<Op, A>(values, row * blocks, blocks, partial));
    return;
  }
  parallel_for(at, rows, std::max<std::int64_t>(1, kGrain / width), width, [&](std::int64_t begin, std::int64_t end) {
    auto values = make();
    TileBuffer buffer;
    if (width > kTile / 2) {
      for (std::int64_t row = begin; row < end; ++row)
        out[row] = fold_to_one<Op, A>(fold_range<Op, A>(values, row * width, width, buffer.as<A>()));
      return;
    }
    const std::int64_t together = kTile / width;
    for (std::int64_t row = begin; row < end; row += together) {
      const std::int64_t m = std::min(together, end - row);
      const A* const p = values.fetch(row * width, m * width, buffer.as<A>());
      for (std::int64_t i = 0; i < m; ++i) out[row + i] = fold_to_one<Op, A>(fold<Op>(p + i * width, width));
    }
  });
}

constexpr std::int64_t kRowBlock = 32;

/// The combination of `count` rows, four and four, in `registers` registers side by side from column c.
template <class Op, int registers, class A, class Get, class Set>
inline void combine_columns(const A* const* rows, int count, std::int64_t c, A* to, bool first, Get get, Set set) {
  Vec<A> sum[registers] = {};
  for (int q = 0; q < count; q += 4) {
    const A* const* const row = rows + q;
#pragma GCC unroll 4
    for (int k = 0; k < registers; ++k) {
      const std::int64_t i = c + k * kLanes<A>;
      Vec<A> v = get(row[0] + i);
      if (q + 4 <= count) {
        v = Op::combine(Op::combine(v, get(row[1] + i)), Op::combine(get(row[2] + i), get(row[3] + i)));
      } else {
        for (int r = 1; r < count - q; ++r) v = Op::combine(v, get(row[r] + i));
      }
      sum[k] = q > 0 ? Op::combine(sum[k], v) : first ? v : Op::combine(get(to + i), v);
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < registers; ++k) set(to + c + k * kLanes<A>, sum[k]);
}

/// to[c] = (unless first: to[c] combined with) the combination of count >= 1 rows.
template <class Op, class A>
void combine_rows(const A* const* rows, int count, std::int64_t width, A* to, bool first) {
  constexpr int lanes = kLanes<A>;
  const auto get = [](const A* p) { return load(p); };
  const auto set = [](A* p, Vec<A> v) { store(p, v); };
  std::int64_t c = 0;
  for (; c + 4 * lanes <= width; c += 4 * lanes) combine_columns<Op, 4>(rows, count, c, to, first, get, set);
  for (; c + lanes <= width; c += lanes) combine_columns<Op, 1>(rows, count, c, to, first, get, set);
  if (const int rest = static_cast<int>(width - c); rest > 0) {
    combine_columns<Op, 1>(
        rows, count, c, to, first, [rest](const A* p) { return load_first(p, rest); },
        [rest](A* p, Vec<A> v) { store_first(p, v, rest); });
  }
}

inline std::int64_t row_blocks(std::int64_t rows) { return (rows + kRowBlock - 1) / kRowBlock; }

/// [outer, rows, width] -> out[outer, width]. `partial` has room for the blocks of all levels.
template <class Op, class A, class Make>
void reduce_columns(const At& at, std::int64_t outer, std::int64_t rows, std::int64_t width, Make make, A* out,
                    A* partial) {
  const std::int64_t blocks = row_blocks(rows), pieces = (width + kTile - 1) / kTile;
  A* const to = blocks == 1 ? out : partial;
  const std::int64_t job = std::min(rows, kRowBlock) * std::min(width, kTile);
  parallel_for(at, outer * blocks * pieces, std::max<std::int64_t>(1, kGrain / job), job,
               [&](std::int64_t begin, std::int64_t end) {
                 auto values = make();
                 TileBuffer buffer[4];
                 for (std::int64_t j = begin; j < end; ++j) {
                   const std::int64_t block = j / pieces, c = (j - block * pieces) * kTile;
                   const std::int64_t o = block / blocks, r = (block - o * blocks) * kRowBlock;
                   const std::int64_t height = std::min(kRowBlock, rows - r), w = std::min(kTile, width - c);
                   const std::int64_t from = (o * rows + r) * width + c;
                   A* const sums = to + block * width + c;
                   const A* row[kRowBlock];
                   int have = 0;
                   bool first = true;
                   const auto flush = [&] {
                     combine_rows<Op>(row, have, w, sums, first);
                     first = false;
                     have = 0;
                   };
                   if (width * 4 <= kTile) {  // narrow rows: many are fetched at once
                     const std::int64_t together = kTile / width / 4 * 4;
                     for (std::int64_t i = 0; i < height; i += together) {
                       const std::int64_t m = std::min(together, height - i);
                       const A* const p = values.fetch(from + i * width, m * width, buffer[0].template as<A>());
                       for (std::int64_t k = 0; k < m; ++k) row[have++] = p + k * width;
                       flush();
                     }
                     continue;
                   }
                   bool in_place = true;  // as long as no buffer is used, all rows can be combined at once
                   for (std::int64_t i = 0; i < height; ++i) {
                     A* const space = buffer[have % 4].template as<A>();
                     row[have] = values.fetch(from + i * width, w, space);
                     in_place &= row[have++] != space;
                     if (have % 4 == 0 && !in_place) flush();
                   }
                   if (have > 0) flush();
                 }
               });
  if (blocks > 1) {
    reduce_columns<Op>(at, outer, blocks, width, InMemory<A>{partial}, out, partial + outer * blocks * width);
  }
}

/// y (+)= factor * reduction of the values that make() gives. y: shape of the values, stride 0 on reduced dimensions.
template <class Op, class S, class Make>
void reduce(const At& at, const View& y, double factor, bool accumulate, Make make) {
  using A = acc_t<S>;
  std::int64_t size[kMaxRank], kept = 1, all = 1;
  bool reduced[kMaxRank];
  int groups = 0, passes = 0;
  for (int i = 0; i < y.rank; ++i) {
    all *= y.shape[i];
    if (y.shape[i] == 1) continue;
    const bool r = y.stride[i] == 0;
    if (!r) kept *= y.shape[i];
    if (groups > 0 && reduced[groups - 1] == r) {
      size[groups - 1] *= y.shape[i];
    } else {
      size[groups] = y.shape[i];
      reduced[groups++] = r;
      passes += r;
    }
  }
  if (kept == 0) return;
  S* const result = static_cast<S*>(y.data);
  const auto finish = [&](const A* values, std::int64_t n, S* to) {
    const Vec<A> f = broadcast(static_cast<A>(factor));
    const auto scaled = [=](std::int64_t i, auto get) { return f * get(values + i); };
    accumulate ? for_registers<true>(to, n, scaled) : for_registers<false>(to, n, scaled);
  };

  if (all == 0) {
    const A nothing = A(0);
    for (std::int64_t i = 0; i < kept; ++i) finish(&nothing, 1, result + i);
    return;
  }
  if (passes == 0) {
    parallel_for(at, kept, kGrain, 1, [&](std::int64_t begin, std::int64_t end) {
      auto values = make();
      TileBuffer buffer;
      for (std::int64_t i = begin; i < end; i += kTile) {
        const std::int64_t n = std::min(kTile, end - i);
        finish(values.fetch(i, n, buffer.as<A>()), n, result + i);
      }
    });
    return;
  }

  const auto pass = [&](int r, std::int64_t before, std::int64_t after, auto from, A* to) {
    if (after == 1) return reduce_rows<Op>(at, before, size[r], from, to);
    std::int64_t partials = 0;
    for (std::int64_t rows = row_blocks(size[r]); rows > 1; rows = row_blocks(rows)) partials += rows;
    Temporary<A> memory;
    A* const partial = partials > 0 ? memory.get(kBlockSlot, before * partials * after) : nullptr;
    reduce_columns<Op>(at, before, size[r], after, from, to, partial);
  };
  Temporary<A> memory[2];
  const A* last = nullptr;
  std::int64_t before = all, after = 1;
  for (int r = groups - 1, done = 0; done < passes; --r) {
    before /= size[r];
    if (!reduced[r]) {
      after *= size[r];
      continue;
    }
    A* to = nullptr;
    if constexpr (std::is_same_v<S, A>) {
      if (done == passes - 1 && factor == 1.0 && !accumulate) to = result;
    }
    if (!to) to = memory[done % 2].get(kPassSlot + done % 2, before * after);
    if (done == 0) {
      pass(r, before, after, make, to);
    } else {
      pass(r, before, after, InMemory<A>{last}, to);
    }
    last = to;
    ++done;
  }
  if (static_cast<const void*>(last) != y.data) finish(last, kept, result);
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
