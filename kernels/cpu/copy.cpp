// Strided copies with conversion, and fill.

#include "kernels/copy.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/strided.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

// ---- Conversion of one element ----

/// f64 to f32 rounded to odd: a following rounding to bf16 then gives what one rounding from f64 would.
inline float to_odd(double value) {
  const float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || value != value) return nearest;
  std::uint32_t bits = std::bit_cast<std::uint32_t>(nearest);
  if (std::abs(static_cast<double>(nearest)) > std::abs(value)) --bits;
  return std::bit_cast<float>(bits | 1u);
}

template <class To, class From>
inline To convert(From value) {
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
    constexpr double kLowest = std::numeric_limits<To>::min(), kHighest = std::numeric_limits<To>::max();
    const double v = value;
    return static_cast<To>(v > kLowest ? (v < kHighest ? v : kHighest) : (v == v ? kLowest : 0.0));
  } else {
    return static_cast<To>(value);
  }
}

// ---- Loops over contiguous elements; tables indexed by dtype ----

using Loop = void (*)(const void* from, void* to, std::int64_t n);

template <class From, class To>
void convert_loop(const void* from, void* to, std::int64_t n) {
  if constexpr (std::is_same_v<From, To>) {
    std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(To));
  } else {
    const From* const f = static_cast<const From*>(from);
    To* const t = static_cast<To*>(to);
    for (std::int64_t i = 0; i < n; ++i) t[i] = convert<To>(f[i]);
  }
}

template <class From>
constexpr Loop kConvertFrom[5] = {convert_loop<From, double>, convert_loop<From, float>, convert_loop<From, bf16>,
                                  convert_loop<From, std::int32_t>, convert_loop<From, std::uint8_t>};
constexpr const Loop* kConvert[5] = {kConvertFrom<double>, kConvertFrom<float>, kConvertFrom<bf16>,
                                     kConvertFrom<std::int32_t>, kConvertFrom<std::uint8_t>};

Loop converter(DType from, DType to) { return kConvert[static_cast<int>(from)][static_cast<int>(to)]; }

/// to += from, from already in acc_t.
template <class To>
void add_loop(const void* from, void* to, std::int64_t n) {
  const acc_t<To>* const f = static_cast<const acc_t<To>*>(from);
  for_registers<true>(static_cast<To*>(to), n, [f](std::int64_t i, auto get) { return get(f + i); });
}
constexpr Loop kAdd[3] = {add_loop<double>, add_loop<float>, add_loop<bf16>};

/// One call of either kind, for n <= kTile if it adds across dtypes.
class Mover {
 public:
  explicit Mover(const Copy& call) {
    if (!call.accumulate) {
      convert_ = converter(call.from.dtype, call.to.dtype);
      return;
    }
    add_ = kAdd[static_cast<int>(call.to.dtype)];
    const DType wide = accumulator_of(call.to.dtype);
    if (call.from.dtype != wide) convert_ = converter(call.from.dtype, wide);
  }

  bool any_length() const { return !convert_ || !add_; }

  void operator()(const void* from, void* to, std::int64_t n) const {
    if (!add_) return convert_(from, to, n);
    if (!convert_) return add_(from, to, n);
    TileBuffer wide;
    convert_(from, wide.bytes, n);
    add_(wide.bytes, to, n);
  }

 private:
  Loop convert_ = nullptr;
  Loop add_ = nullptr;
};

// ---- Transposition of the last two dimensions ----

/// to[r, c] = from[c, r] by square blocks that stay in L1; strides in elements, to's rows and from's columns
/// contiguous.
template <class Word>
void transpose(const Word* from, std::int64_t from_stride, Word* to, std::int64_t to_stride, std::int64_t rows,
               std::int64_t columns) {
  constexpr std::int64_t kBlock = 16;
  for (std::int64_t r = 0; r < rows; r += kBlock) {
    for (std::int64_t c = 0; c < columns; c += kBlock) {
      const std::int64_t height = std::min(kBlock, rows - r), width = std::min(kBlock, columns - c);
      const Word* const f = from + c * from_stride + r;
      Word* const t = to + r * to_stride + c;
      if (height == kBlock && width == kBlock) {
        Word block[kBlock][kBlock];
        for (int j = 0; j < kBlock; ++j) std::memcpy(block[j], f + j * from_stride, sizeof block[j]);
        for (int i = 0; i < kBlock; ++i)
          for (int j = 0; j < kBlock; ++j) t[i * to_stride + j] = block[j][i];
      } else {
        for (std::int64_t i = 0; i < height; ++i)
          for (std::int64_t j = 0; j < width; ++j) t[i * to_stride + j] = f[j * from_stride + i];
      }
    }
  }
}

template <class Word>
void transpose_all(const At& at, const View& from, const View& to, int row_dim, int column_dim) {
  const std::int64_t rows = to.shape[row_dim], columns = to.shape[column_dim];
  std::int64_t outer = 1;
  for (int i = 0; i < to.rank; ++i)
    if (i != row_dim && i != column_dim) outer *= to.shape[i];
  constexpr std::int64_t kStrip = 64;
  const std::int64_t strips = (rows + kStrip - 1) / kStrip;
  parallel_for(at, outer * strips, std::max<std::int64_t>(1, kGrain / (std::min(rows, kStrip) * columns)),
               std::min(rows, kStrip) * columns, [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t j = begin; j < end; ++j) {
                   std::int64_t rest = j / strips;
                   const std::int64_t r = (j - rest * strips) * kStrip;
                   const Word* f = static_cast<const Word*>(from.data) + r * from.stride[row_dim];
                   Word* t = static_cast<Word*>(to.data) + r * to.stride[row_dim];
                   for (int i = to.rank - 1; i >= 0; --i) {
                     if (i == row_dim || i == column_dim) continue;
                     f += rest % to.shape[i] * from.stride[i];
                     t += rest % to.shape[i] * to.stride[i];
                     rest /= to.shape[i];
                   }
                   transpose(f, from.stride[column_dim], t, to.stride[row_dim], std::min(kStrip, rows - r), columns);
                 }
               });
}

/// Copies by blocks if the two views run along different dimensions; false if they do not.
bool copy_transposed(const At& at, const View& from, const View& to) {
  constexpr std::int64_t kWorthwhile = 8;
  int row_dim = -1, column_dim = -1;
  for (int i = 0; i < to.rank; ++i) {
    if (to.shape[i] < kWorthwhile) continue;
    if (to.stride[i] == 1) column_dim = i;
    if (from.stride[i] == 1) row_dim = i;
  }
  if (row_dim < 0 || column_dim < 0 || row_dim == column_dim || from.stride[column_dim] == 0) return false;
  switch (size_of(to.dtype)) {
    case 1: transpose_all<std::uint8_t>(at, from, to, row_dim, column_dim); break;
    case 2: transpose_all<std::uint16_t>(at, from, to, row_dim, column_dim); break;
    case 4: transpose_all<std::uint32_t>(at, from, to, row_dim, column_dim); break;
    default: transpose_all<std::uint64_t>(at, from, to, row_dim, column_dim); break;
  }
  return true;
}

template <class Word>
void fill_words(const At& at, const View& view, Word word) {
  const Extent e = extent(view);
  if (e.dense) {
    Word* const to = static_cast<Word*>(view.data);
    parallel_for(at, e.n, kGrain, 1,
                 [&](std::int64_t begin, std::int64_t end) { std::fill(to + begin, to + end, word); });
    return;
  }
  View ordered = view;
  order_by(ordered);
  parallel_for(at, e.n, kGrain, 1, [&](std::int64_t begin, std::int64_t end) {
    Word tile[kTile];
    std::fill(tile, tile + std::min(kTile, end - begin), word);
    Walk out(ordered);
    out.seek(begin);
    for (std::int64_t i = begin; i < end; i += kTile) out.write(std::min(kTile, end - i), tile);
  });
}

template <class T>
auto bits_of(T value) {
  if constexpr (sizeof(T) == 8) return std::bit_cast<std::uint64_t>(value);
  if constexpr (sizeof(T) == 4) return std::bit_cast<std::uint32_t>(value);
  if constexpr (sizeof(T) == 2) return std::bit_cast<std::uint16_t>(value);
  if constexpr (sizeof(T) == 1) return std::bit_cast<std::uint8_t>(value);
}

}  // namespace

void run(const At& at, const Copy& call) {
  const Extent from = extent(call.from), to = extent(call.to);
  if (to.n == 0) return;
  if (from.dense && to.dense && call.from.dtype == call.to.dtype && !call.accumulate && to.n <= kGrain) {
    std::memcpy(call.to.data, call.from.data, static_cast<std::size_t>(to.n) * size_of(call.to.dtype));
    return;
  }
  const Mover move(call);
  const std::int64_t from_size = static_cast<std::int64_t>(size_of(call.from.dtype)),
                     to_size = static_cast<std::int64_t>(size_of(call.to.dtype));
  if (from.dense && to.dense) {
    const char* const f = static_cast<const char*>(call.from.data);
    char* const t = static_cast<char*>(call.to.data);
    if (to.n <= kTile || (move.any_length() && to.n <= kGrain)) return move(f, t, to.n);
    parallel_for(at, to.n, kGrain, 1, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t step = move.any_length() ? kGrain : kTile;
      for (std::int64_t i = begin; i < end; i += step)
        move(f + i * from_size, t + i * to_size, std::min(step, end - i));
    });
    return;
  }
  const bool plain = !call.accumulate && call.from.dtype == call.to.dtype;
  if (plain && copy_transposed(at, call.from, call.to)) return;
  View source = call.from, target = call.to;
  order_by(target, source);
  parallel_for(at, to.n, kGrain, 1, [&](std::int64_t begin, std::int64_t end) {
    Walk in(source), out(target);
    in.seek(begin);
    out.seek(begin);
    TileBuffer in_buffer, out_buffer;
    for (std::int64_t i = begin, n; i < end; i += n) {
      n = out.tile(in.tile(std::min(kTile, end - i)));
      if (plain) {  // gathered straight to its place
        void* const t = out.in_place(n);
        const void* const f = in.read(n, t ? t : in_buffer.bytes);
        if (!t) {
          out.write(n, f);
        } else if (f != t) {
          std::memcpy(t, f, static_cast<std::size_t>(n * to_size));
        }
        continue;
      }
      const void* const f = in.read(n, in_buffer.bytes);
      if (void* const t = out.in_place(n)) {
        move(f, t, n);
        continue;
      }
      if (call.accumulate) {
        Walk old = out;
        old.read(n, out_buffer.bytes);
      }
      move(f, out_buffer.bytes, n);
      out.write(n, out_buffer.bytes);
    }
  });
}

void run(const At& at, const Fill& call) {
  visit_any(call.to.dtype,
            [&](auto type) { fill_words(at, call.to, bits_of(convert<typename decltype(type)::type>(call.value))); });
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
