#pragma once
// GELU of a sum with a bias, as a feed-forward layer has it. Source: Hendrycks, Gimpel, "Gaussian error linear units",
// arXiv:1606.08415.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

/// y = gelu(x + bias), by the normal distribution or (tanh_form) its approximation; pointwise_functions.h has both.
/// x, y [rows, width] dense; bias [width], or null for zeros; one float dtype. The sum is not rounded to it in between.
/// y overlaps nothing.
/// row_lengths: null, or i32 [rows / rows_per_length]: row r takes part only if r % rows_per_length <
/// row_lengths[r / rows_per_length]; another gives 0.
struct BiasGeluForward {
  DType dtype;
  std::int64_t rows;
  std::int64_t width;
  const void* x;
  const void* bias;
  void* y;
  const std::int32_t* row_lengths = nullptr;
  std::int64_t rows_per_length = 0;
  bool tanh_form = false;
};

/// With g = dy gelu'(x + bias): dx (+)= g; dbias (+)= sum_rows g. Rows that take no part have g = 0, whatever dy is.
/// Each may be unwanted; they overlap nothing. Column sums in acc_t in a fixed two-stage order.
struct BiasGeluBackward {
  DType dtype;
  std::int64_t rows;
  std::int64_t width;
  const void* x;
  const void* bias;
  const void* dy;
  GradOut dx;
  GradOut dbias;
  const std::int32_t* row_lengths = nullptr;
  std::int64_t rows_per_length = 0;
  bool tanh_form = false;
  void* scratch = nullptr;
};

}  // namespace adjoint

ADJOINT_CPU_KERNEL(BiasGeluForward)
ADJOINT_CPU_KERNEL(BiasGeluBackward)
ADJOINT_CPU_SCRATCH(BiasGeluBackward)
