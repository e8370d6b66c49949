#pragma once
// Pointwise functions of one and two operands, with broadcasting. The list of functions is
// kernels/pointwise_functions.h: adding one there adds the kernel on every backend, the op, its record and so its
// tests.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"
#include "kernels/pointwise_functions.h"

namespace adjoint {

/// y = f(x). x, y: same shape, float dtype, any strides (y's not 0); may be the same memory.
struct UnaryForward {
  UnaryKind kind;
  View x;
  View y;
};

/// dx (+)= dy * f'(x). All of one shape and dtype; dy, y, dx dense row-major; x any strides.
/// dx may be the same memory as dy when it is assigned.
/// Of x and y, the one that f' does not read may be any readable memory of that extent.
struct UnaryBackward {
  UnaryKind kind;
  View x;
  const void* y;
  const void* dy;
  GradOut dx;
};

/// y = f(a, b). a, b are already broadcast to y's shape (stride 0 on repeated dimensions); one dtype.
struct BinaryForward {
  BinaryKind kind;
  View a;
  View b;
  View y;
};

/// Gradient of one operand: d (+)= sum over the dimensions in which that operand was repeated of dy * ∂f/∂operand.
/// a, b: broadcast to the result's shape as in forward; dy dense, of the result's shape.
/// d: a view of the result's shape whose stride is 0 exactly where the operand was repeated, dense otherwise.
/// Of a and b, the one that the derivative does not read may be any readable memory of that extent.
/// Sums are formed in acc_t, in an order that depends on the shape alone.
struct BinaryBackward {
  BinaryKind kind;
  int operand;  ///< 0: gradient of a, 1: of b
  View a;
  View b;
  const void* dy;
  View d;
  bool accumulate;
  void* scratch = nullptr;
};

/// y = factor * x + offset; dense, n elements.
struct ScaleShift {
  DType dtype;
  std::int64_t n;
  const void* x;
  void* y;
  double factor;
  double offset;
  bool accumulate = false;  ///< y += instead
};

}  // namespace adjoint

ADJOINT_CPU_KERNEL(UnaryForward)
ADJOINT_CPU_KERNEL(UnaryBackward)
ADJOINT_CPU_KERNEL(BinaryForward)
ADJOINT_CPU_KERNEL(BinaryBackward)
ADJOINT_CPU_KERNEL(ScaleShift)
ADJOINT_CPU_NO_SCRATCH(BinaryBackward)
