#include "engine/shape.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "engine/scope.h"

namespace adjoint {

Shape::Shape(std::initializer_list<std::int64_t> extents) {
  for (const std::int64_t extent : extents) append(extent);
}

Shape Shape::of(const std::int64_t* extents, int rank) {
  Shape shape;
  for (int i = 0; i < rank; ++i) shape.append(extents[i]);
  return shape;
}

void Shape::append(std::int64_t extent) {
  if (rank_ == kMaxRank) throw op_error("E-OP-008", fmt::format("shape: more than {} dimensions", kMaxRank));
  if (extent < 0)
    throw op_error("E-OP-008", fmt::format("shape: extent {} of dimension {} is negative", extent, rank_));
  std::int64_t n;
  if (__builtin_mul_overflow(count(), extent, &n) || n > (std::int64_t{1} << 48)) {
    throw op_error("E-OP-008", fmt::format("shape: {} times {} elements overflow the limit of 2^48", count(), extent));
  }
  extent_[rank_++] = extent;
}

Shape Shape::with_last(std::int64_t extent) const {
  Shape shape = of(extent_, rank_ - 1);
  shape.append(extent);
  return shape;
}

Shape Shape::without(int axis) const {
  Shape shape;
  for (int i = 0; i < rank_; ++i)
    if (i != axis) shape.append(extent_[i]);
  return shape;
}

std::string text(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape.data(), shape.data() + shape.rank(), ","));
}

bool broadcast(const Shape& a, const Shape& b, Shape& result) {
  const int rank = a.rank() > b.rank() ? a.rank() : b.rank();
  Shape out;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const std::int64_t ea = ia < 0 ? 1 : a[ia], eb = ib < 0 ? 1 : b[ib];
    if (ea != eb && ea != 1 && eb != 1) return false;
    out.append(ea == 1 ? eb : ea);
  }
  result = out;
  return true;
}

int checked_axis(const char* op, std::int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) {
    throw op_error("E-OP-007", fmt::format("{}: axis {} is out of range; expected {}..{} for {} dimensions", op, axis,
                                           -rank, rank - 1, rank));
  }
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

void dense_strides(const Shape& shape, std::int64_t* strides) {
  std::int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step *= shape[i];
  }
}

}  // namespace adjoint
