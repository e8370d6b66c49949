#pragma once
// Which work an LSTM call has: the batch sorted by falling length, so that the examples that still run at a step are a
// prefix, and their (step, example) pairs as packed rows without any padding.

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>

#include "kernels/lstm.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm {

/// Hands out 64-byte aligned pieces of the scratch memory; with a null base it only counts.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<std::byte*>(base)) {}

  template <class T>
  T* take(std::int64_t count) {
    const std::size_t at = bytes_;
    bytes_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return base_ ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }
  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* base_;
  std::size_t bytes_ = 0;
};

/// Step s of an example is its time step s, or length-1-s if reverse. Row first[s] + j is step s of the example at
/// sorted position j.
struct Rows {
  std::int32_t* order;   ///< [B] example at a sorted position; equal lengths keep their order
  std::int32_t* active;  ///< [T+1] examples longer than s
  std::int64_t* first;   ///< [T+1] first row of step s; first[T] is the number of rows
  std::int64_t* x_at;    ///< [B*T] where a row's input starts in x
  std::int64_t* y_at;    ///< [B*T] where a row's output starts in y

  void carve(Carver& carver, const LstmShape& shape) {
    order = carver.take<std::int32_t>(shape.batch);
    active = carver.take<std::int32_t>(shape.time + 1);
    first = carver.take<std::int64_t>(shape.time + 1);
    x_at = carver.take<std::int64_t>(shape.batch * shape.time);
    y_at = carver.take<std::int64_t>(shape.batch * shape.time);
  }

  static std::int64_t length(const LstmShape& shape, std::int64_t b) {
    const std::int64_t n = shape.lengths ? shape.lengths[b] : shape.time;
    assert(n >= 0 && n <= shape.time);
    return n;
  }

  void fill(const LstmShape& shape) const {
    const std::int64_t batch = shape.batch, time = shape.time;
    std::fill(active, active + time + 1, 0);
    for (std::int64_t b = 0; b < batch; ++b)
      if (const std::int64_t n = length(shape, b); n > 0) ++active[n - 1];
    for (std::int64_t s = time - 1; s >= 0; --s) active[s] += active[s + 1];
    // The examples of length n follow those that are longer; `first` counts up the places before it gets its values.
    for (std::int64_t s = 0; s <= time; ++s) first[s] = active[s];
    for (std::int64_t b = 0; b < batch; ++b) order[first[length(shape, b)]++] = static_cast<std::int32_t>(b);
    std::int64_t row = 0;
    for (std::int64_t s = 0; s <= time; ++s) {
      first[s] = row;
      for (std::int64_t j = 0; j < active[s]; ++j, ++row) {
        const std::int64_t b = order[j], t = shape.reverse ? length(shape, b) - 1 - s : s;
        x_at[row] = b * shape.x_stride[0] + t * shape.x_stride[1];
        y_at[row] = b * shape.y_stride[0] + t * shape.y_stride[1];
      }
    }
  }
};

/// The batch is cut into blocks of sorted positions that run the whole sequence on their own. An even number of about
/// 16 rows each keeps two threads equally busy; of about 32 where the weights of a step, which each block reads, come
/// from the third-level cache.
inline std::int64_t block_count(const LstmShape& shape) {
  if (shape.batch < 8) return shape.batch > 0 ? 1 : 0;
  constexpr std::int64_t kMostWeights = 1 << 18;
  const std::int64_t rows = 4 * shape.hidden * (shape.input + shape.hidden) > kMostWeights ? 32 : 16;
  return 2 * ((shape.batch + 2 * rows - 1) / (2 * rows));
}
/// More rows than any block has.
constexpr std::int64_t kMostRows = 33;
struct Block {
  std::int64_t begin, end;

  Block(const LstmShape& shape, std::int64_t index)
      : begin(shape.batch * index / block_count(shape)), end(shape.batch * (index + 1) / block_count(shape)) {}
  /// How many of its examples run at step s.
  std::int64_t active(const Rows& rows, std::int64_t s) const {
    return std::clamp<std::int64_t>(rows.active[s] - begin, 0, end - begin);
  }
  std::int64_t steps(const LstmShape& shape, const Rows& rows) const {
    return begin < end ? Rows::length(shape, rows.order[begin]) : 0;
  }
};

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm
