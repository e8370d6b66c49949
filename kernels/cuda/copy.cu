// Strided copies with conversion, and fill. Bound by memory: each element is read once and written once, in 16-byte
// accesses where both views allow it. Views that run along different dimensions meet in a tile of shared memory.

#include "kernels/copy.h"

#include <type_traits>

#include "kernels/cuda/layout.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {

constexpr int kCopyThreads = 256;

// ---- Conversion of one element ----

/// f64 to f32 rounded to odd: a following rounding to bf16 then gives what one rounding from f64 would.
ADJOINT_HD inline float to_odd(double value) {
  const float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || value != value) return nearest;
  std::uint32_t bits = __builtin_bit_cast(std::uint32_t, nearest);
  const double size = value < 0 ? -value : value, nearest_size = nearest < 0 ? -nearest : nearest;
  if (nearest_size > size) --bits;
  return __builtin_bit_cast(float, bits | 1u);
}

template <class To, class From>
ADJOINT_HD To convert(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (std::is_same_v<To, bf16>) {
    if constexpr (std::is_same_v<From, double> || std::is_same_v<From, std::int32_t>) {
      return bf16(to_odd(static_cast<double>(value)));
    } else {
      return bf16(static_cast<float>(value));
    }
  } else if constexpr (std::is_same_v<From, bf16>) {
    return convert<To>(static_cast<float>(value));
  } else if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    // Toward zero, the nearest end beyond the range, 0 for NaN: C++ leaves the last two open.
    constexpr double kLowest = std::is_same_v<To, std::int32_t> ? -2147483648.0 : 0.0;
    constexpr double kHighest = std::is_same_v<To, std::int32_t> ? 2147483647.0 : 255.0;
    const double v = value;
    return static_cast<To>(v > kLowest ? (v < kHighest ? v : kHighest) : (v == v ? kLowest : 0.0));
  } else {
    return static_cast<To>(value);
  }
}

/// An element on its way: of a copy to To, or converted to To's acc_t for a sum.
template <class To, bool accumulate>
using Moved = std::conditional_t<accumulate, acc_t<To>, To>;

/// Calls f(Type<From>{}) for the source's dtype. A copy that converts nothing moves words of the element's size.
template <class To, class F>
__device__ __forceinline__ void visit_source(DType dtype, const F& f) {
  if constexpr (std::is_same_v<To, std::uint16_t>) {
    f(Type<std::uint16_t>{});
  } else {
    switch (dtype) {
      case DType::f64: f(Type<double>{}); break;
      case DType::f32: f(Type<float>{}); break;
      case DType::bf16: f(Type<bf16>{}); break;
      case DType::i32: f(Type<std::int32_t>{}); break;
      case DType::u8: f(Type<std::uint8_t>{}); break;
    }
  }
}

// ---- Views that run along the same dimension, or along none ----

struct StridedCopy {
  Layout<2> layout;  // from, to
  const void* from;
  void* to;
  DType dtype;    ///< of from
  bool repeated;  ///< in vectors: one element of from for all
  bool vectors;
};

template <class To, bool accumulate>
__global__ void __launch_bounds__(kCopyThreads) copy_strided(StridedCopy call) {
  constexpr int n = kPerVector<To>;
  const unsigned block_first = blockIdx.x * (kCopyThreads * n), count = call.layout.count;
  const unsigned first = block_first + threadIdx.x * (call.vectors ? n : 1);
  const unsigned step = call.vectors ? 1 : kCopyThreads;
  std::int64_t at[2];
  if (call.vectors && first + n <= count) {
    call.layout.place(first, at);
    Moved<To, accumulate> v[n];
    visit_source<To>(call.dtype, [&](auto type) {
      using From = typename decltype(type)::type;
      const From* const p = static_cast<const From*>(call.from) + at[0];
      if (call.repeated) {
        const auto one = convert<Moved<To, accumulate>>(*p);
#pragma unroll
        for (int k = 0; k < n; ++k) v[k] = one;
      } else {
        const Pack<From, n> pack = *reinterpret_cast<const Pack<From, n>*>(p);
#pragma unroll
        for (int k = 0; k < n; ++k) v[k] = convert<Moved<To, accumulate>>(pack.element[k]);
      }
    });
    To* const to = static_cast<To*>(call.to) + at[1];
    if constexpr (accumulate) {
      acc_t<To> old[n];
      load_pack<To, n>(to, old);
#pragma unroll
      for (int k = 0; k < n; ++k) v[k] += old[k];
      store_pack<To, n>(to, v);
    } else {
      Pack<To, n> pack;
#pragma unroll
      for (int k = 0; k < n; ++k) pack.element[k] = v[k];
      *reinterpret_cast<Pack<To, n>*>(to) = pack;
    }
    return;
  }
  // As many elements at a time, so that their loads overlap, but no more than four.
  constexpr int together = n < 4 ? n : 4;
#pragma unroll 1
  for (int part = 0; part < n; part += together) {
    Moved<To, accumulate> v[together];
    std::int64_t from[together], to[together];
#pragma unroll
    for (int k = 0; k < together; ++k) {
      call.layout.place(min(first + (part + k) * step, count - 1), at);
      from[k] = at[0];
      to[k] = at[1];
    }
    visit_source<To>(call.dtype, [&](auto type) {
      using From = typename decltype(type)::type;
#pragma unroll
      for (int k = 0; k < together; ++k)
        v[k] = convert<Moved<To, accumulate>>(static_cast<const From*>(call.from)[from[k]]);
    });
#pragma unroll
    for (int k = 0; k < together; ++k) {
      if (first + (part + k) * step >= count) break;
      To* const p = static_cast<To*>(call.to) + to[k];
      if constexpr (accumulate) {
        *p = static_cast<To>(static_cast<acc_t<To>>(*p) + v[k]);
      } else {
        *p = v[k];
      }
    }
  }
}

// ---- Views that run along different dimensions ----

struct TransposedCopy {
  Layout<2> outer;  ///< of all other dimensions: from, to
  const void* from;
  void* to;
  DType dtype;               ///< of from
  unsigned rows, columns;    ///< along which from's and to's elements are neighbours
  std::int64_t from_column;  ///< stride
  std::int64_t to_row;       ///< stride
  Divisor across, down;      ///< tiles
};

/// A tile's elements have at least a bank each, so that columns of narrow types do not share one.
template <class T>
using Slot = std::conditional_t<sizeof(T) < 4, std::conditional_t<std::is_same_v<T, bf16>, bf16, unsigned>, T>;

template <class To>
constexpr int kTileSide = sizeof(To) > 4 ? 32 : 64;

template <class To, bool accumulate>
__global__ void __launch_bounds__(kCopyThreads) copy_transposed(TransposedCopy call) {
  using Value = Moved<To, accumulate>;
  constexpr int side = kTileSide<Value>, lines = kCopyThreads / side;
  __shared__ SharedArray<Slot<Value>, side*(side + 1)> tile;  // [columns, rows]
  const unsigned across = call.across.quotient(blockIdx.x), outer = call.down.quotient(across);
  const unsigned column = (blockIdx.x - across * call.across.value) * side,
                 row = (across - outer * call.down.value) * side;
  std::int64_t at[2];
  call.outer.place(outer, at);
  const unsigned along = threadIdx.x % side, line = threadIdx.x / side;

  if (row + along < call.rows) {
    const std::int64_t first = at[0] + row + along + (column + line) * call.from_column,
                       step = lines * call.from_column;
    const unsigned end = min(call.columns - column, static_cast<unsigned>(side));
    visit_source<To>(call.dtype, [&](auto type) {
      using From = typename decltype(type)::type;
      const From* from = static_cast<const From*>(call.from) + first;
#pragma unroll 4
      for (unsigned c = line; c < end; c += lines, from += step)
        tile[c * (side + 1) + along] = static_cast<Slot<Value>>(convert<Value>(*from));
    });
  }
  __syncthreads();
  if (column + along >= call.columns) return;
  To* to = static_cast<To*>(call.to) + at[1] + column + along + (row + line) * call.to_row;
  const unsigned end = min(call.rows - row, static_cast<unsigned>(side));
#pragma unroll 4
  for (unsigned r = line; r < end; r += lines, to += lines * call.to_row) {
    const Value v = static_cast<Value>(tile[along * (side + 1) + r]);
    if constexpr (accumulate) {
      *to = static_cast<To>(static_cast<acc_t<To>>(*to) + v);
    } else {
      *to = v;
    }
  }
}

// ---- Launches ----

unsigned blocks_for(unsigned count, unsigned per_block) { return count / per_block + (count % per_block != 0); }

/// The dimension along which `from` runs, if that is worth a transposition; else -1. `to` runs along the last.
int transposed_row(const Dimensions<2>& d) {
  constexpr std::int64_t kWorthwhile = 8;
  const int last = d.rank - 1;
  if (d.rank < 2 || d.stride[1][last] != 1 || d.stride[0][last] == 0 || d.stride[0][last] == 1) return -1;
  for (int i = 0; i < last; ++i)
    if (d.stride[0][i] == 1) return d.size[i] >= kWorthwhile && d.size[last] >= kWorthwhile ? i : -1;
  return -1;
}

template <class To, bool accumulate>
void copy_piece(Stream stream, const View& from, const View& to) {
  constexpr int n = kPerVector<To>;
  const Dimensions<2> dimensions = dimensions_of({from, to}, true);
  if (dimensions.count() == 0) return;
  if (const int row = transposed_row(dimensions); row >= 0) {
    const int last = dimensions.rank - 1;
    constexpr std::int64_t side = kTileSide<Moved<To, accumulate>>;
    Dimensions<2> outer;
    for (int d = 0; d < last; ++d)
      if (d != row) outer.add(dimensions.size[d], {dimensions.stride[0][d], dimensions.stride[1][d]});
    TransposedCopy call;
    call.outer = outer.layout();
    call.from = from.data;
    call.to = to.data;
    call.dtype = from.dtype;
    call.rows = static_cast<unsigned>(dimensions.size[row]);
    call.columns = static_cast<unsigned>(dimensions.size[last]);
    call.from_column = dimensions.stride[0][last];
    call.to_row = dimensions.stride[1][row];
    call.across = Divisor((dimensions.size[last] + side - 1) / side);
    call.down = Divisor((dimensions.size[row] + side - 1) / side);
    launch(copy_transposed<To, accumulate>, dim3(call.across.value * call.down.value * call.outer.count),
           dim3(kCopyThreads), 0, stream, call);
    return;
  }
  StridedCopy call;
  call.layout = dimensions.layout();
  call.from = from.data;
  call.to = to.data;
  call.dtype = from.dtype;
  call.repeated = dimensions.rank > 0 && dimensions.stride[0][dimensions.rank - 1] == 0;
  call.vectors = dimensions.has_vectors(n) && is_aligned(to.data, n * sizeof(To)) &&
                 (call.repeated || is_aligned(from.data, n * size_of(from.dtype)));
  launch(copy_strided<To, accumulate>, dim3(blocks_for(call.layout.count, kCopyThreads * n)), dim3(kCopyThreads), 0,
         stream, call);
}

template <class To, bool accumulate>
void copy_all(Stream stream, const Copy& call) {
  const View views[] = {call.from, call.to};
  for_pieces(views, kLayoutLimit,
             [&](const View(&piece)[2]) { copy_piece<To, accumulate>(stream, piece[0], piece[1]); });
}

void run(const At& at, const Copy& call) {
  const Stream stream = stream_of(at);
  if (call.accumulate) {
    visit_float(call.to.dtype, [&](auto type) { copy_all<typename decltype(type)::type, true>(stream, call); });
  } else if (call.from.dtype == DType::bf16 && call.to.dtype == DType::bf16) {
    copy_all<std::uint16_t, false>(stream, call);  // through f32 a NaN would not keep its bits
  } else {
    visit_any(call.to.dtype, [&](auto type) { copy_all<typename decltype(type)::type, false>(stream, call); });
  }
}
ADJOINT_GPU_KERNEL(Copy)

// ---- Fill ----

struct StridedFill {
  Layout<1> layout;
  void* to;
  bool vectors;
};

template <class Word>
__global__ void __launch_bounds__(kCopyThreads) fill_words(StridedFill call, Word word) {
  constexpr int n = kPerVector<Word>;
  const unsigned first = blockIdx.x * (kCopyThreads * n) + threadIdx.x * (call.vectors ? n : 1);
  const unsigned step = call.vectors ? 1 : kCopyThreads;
  Word* const to = static_cast<Word*>(call.to);
  std::int64_t at[1];
  if (call.vectors && first + n <= call.layout.count) {
    call.layout.place(first, at);
    Pack<Word, n> pack;
#pragma unroll
    for (int k = 0; k < n; ++k) pack.element[k] = word;
    *reinterpret_cast<Pack<Word, n>*>(to + at[0]) = pack;
    return;
  }
#pragma unroll 1
  for (int k = 0; k < n; ++k) {
    if (first + k * step >= call.layout.count) break;
    call.layout.place(first + k * step, at);
    to[at[0]] = word;
  }
}

void run(const At& at, const Fill& call) {
  const View views[] = {call.to};
  visit_any(call.to.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using Word = std::conditional_t<
        sizeof(T) == 8, std::uint64_t,
        std::conditional_t<sizeof(T) == 4, std::uint32_t, std::conditional_t<sizeof(T) == 2, std::uint16_t, T>>>;
    constexpr int n = kPerVector<Word>;
    const Word word = __builtin_bit_cast(Word, convert<T>(call.value));
    for_pieces(views, kLayoutLimit, [&](const View(&piece)[1]) {
      const Dimensions<1> dimensions = dimensions_of(piece, true);
      if (dimensions.count() == 0) return;
      const StridedFill fill{dimensions.layout(), piece[0].data,
                             dimensions.has_vectors(n) && is_aligned(piece[0].data, 16)};
      launch(fill_words<Word>, dim3(blocks_for(fill.layout.count, kCopyThreads * n)), dim3(kCopyThreads), 0,
             stream_of(at), fill, word);
    });
  });
}
ADJOINT_GPU_KERNEL(Fill)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
