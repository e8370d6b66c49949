#pragma once
// Arithmetic on numbers that came from a file: an overflow is remembered, never wrapped.

#include <cassert>
#include <cstdint>

namespace adjoint {

/// A count, byte size or offset. Once a product or sum did not fit in 64 bits, the value stays overflowed.
class CheckedSize {
 public:
  constexpr explicit CheckedSize(std::uint64_t value = 0) : value_(value) {}

  constexpr CheckedSize& operator*=(std::uint64_t factor) {
    overflowed_ |= __builtin_mul_overflow(value_, factor, &value_);
    return *this;
  }
  constexpr CheckedSize& operator+=(std::uint64_t term) {
    overflowed_ |= __builtin_add_overflow(value_, term, &value_);
    return *this;
  }

  constexpr bool overflowed() const { return overflowed_; }
  constexpr std::uint64_t value() const {
    assert(!overflowed_);
    return value_;
  }

 private:
  std::uint64_t value_;
  bool overflowed_ = false;
};

}  // namespace adjoint
