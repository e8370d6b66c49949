#pragma once
// Reductions over any set of dimensions, and arg max over the last.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

enum class ReduceKind : std::uint8_t { sum, max };

/// y (+)= factor * reduce(x). x: any strides. y: a view of x's shape whose stride is 0 on every reduced dimension,
/// dense otherwise (so the shape tells what is reduced). Same float dtype; sums in acc_t, pairwise or blocked, in an
/// order that depends on the shape alone; relative error O(log n) roundings. An empty sum is 0; max needs at least one
/// element. NaN propagates through max. accumulate is for sum only.
struct Reduce {
  ReduceKind kind;
  View x;
  View y;
  double factor = 1.0;
  bool accumulate = false;
  void* scratch = nullptr;
};

/// dx (+)= dy at the first position (in row-major order of the reduced dimensions) where x equals y, or both are NaN;
/// else 0. y: the maximum as Reduce gave it, with factor 1.
/// x any strides; y, dy views of x's shape with stride 0 on reduced dimensions; dx dense, x's shape.
struct MaxBackward {
  View x;
  View y;
  View dy;
  GradOut dx;
};

/// index[r] = position of the largest element of row r (the first of equals; the first NaN wins).
/// x [rows, width] dense, float dtype; index [rows] i32. width >= 1.
struct ArgMax {
  DType dtype;
  std::int64_t rows;
  std::int64_t width;
  const void* x;
  std::int32_t* index;
};

}  // namespace adjoint

ADJOINT_CPU_KERNEL(Reduce)
ADJOINT_CPU_KERNEL(MaxBackward)
ADJOINT_CPU_KERNEL(ArgMax)
ADJOINT_CPU_NO_SCRATCH(Reduce)
