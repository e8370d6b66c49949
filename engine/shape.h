#pragma once
// Extents and strides of up to six dimensions, and the rules of broadcasting.

#include <cstdint>
#include <initializer_list>
#include <string>

#include "kernels/base/view.h"

namespace adjoint {

/// Extents of a tensor, stored inline. A scalar has rank 0.
class Shape {
 public:
  Shape() = default;
  /// Throws E-OP-008 for more than kMaxRank extents or a negative one.
  Shape(std::initializer_list<std::int64_t> extents);
  static Shape of(const std::int64_t* extents, int rank);

  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return extent_[axis]; }
  std::int64_t& operator[](int axis) { return extent_[axis]; }
  std::int64_t back() const { return extent_[rank_ - 1]; }
  const std::int64_t* data() const { return extent_; }

  /// Number of elements; 1 for a scalar.
  std::int64_t count() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= extent_[i];
    return n;
  }
  /// Product of all extents but the last; 1 for a scalar.
  std::int64_t rows() const {
    std::int64_t n = 1;
    for (int i = 0; i + 1 < rank_; ++i) n *= extent_[i];
    return n;
  }
  /// This shape with the last extent replaced.
  Shape with_last(std::int64_t extent) const;
  Shape without(int axis) const;
  void append(std::int64_t extent);

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i)
      if (a.extent_[i] != b.extent_[i]) return false;
    return true;
  }

 private:
  int rank_ = 0;
  std::int64_t extent_[kMaxRank];
};

/// "[8,64,512]"
std::string text(const Shape& shape);

/// The shape that a and b broadcast to: aligned at the last dimension, an extent of 1 is repeated.
/// Returns false if they do not fit.
bool broadcast(const Shape& a, const Shape& b, Shape& result);

/// axis counted from the end if negative. Throws E-OP-007, naming `op`, when it is out of range.
int checked_axis(const char* op, std::int64_t axis, int rank);

/// Row-major strides of a shape.
void dense_strides(const Shape& shape, std::int64_t* strides);

}  // namespace adjoint
