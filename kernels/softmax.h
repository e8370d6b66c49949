#pragma once
// Softmax and log-softmax over the last axis.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

/// y = exp(x - max) / sum exp(x - max), or its logarithm. x, y [rows, width] dense; may be the same memory.
/// A row of only -inf gives zeros (log: -inf). width 0 gives nothing.
struct SoftmaxForward {
  DType dtype;
  std::int64_t rows;
  std::int64_t width;
  const void* x;
  void* y;
  bool log;
};

/// Softmax: dx (+)= y * (dy - sum(y * dy)). Log-softmax: dx (+)= dy - exp(y) * sum(dy). All [rows, width] dense.
struct SoftmaxBackward {
  DType dtype;
  std::int64_t rows;
  std::int64_t width;
  const void* y;
  const void* dy;
  GradOut dx;
  bool log;
};

}  // namespace adjoint

ADJOINT_CPU_KERNEL(SoftmaxForward)
ADJOINT_CPU_KERNEL(SoftmaxBackward)
