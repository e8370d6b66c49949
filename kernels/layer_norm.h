#pragma once
// Layer normalisation over the last axis, with an optional residual added first.
// Source: Ba, Kiros, Hinton, "Layer normalization", arXiv:1607.06450.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

/// s = x + residual; y = (s - mean(s)) / sqrt(var(s) + eps) * gamma + beta, row by row; biased variance, two passes.
/// x, residual, sum, y [rows, width] dense; gamma, beta [width]; one float dtype.
/// residual null: s is x, and sum is not written. gamma, beta may each be null (1 and 0).
/// mean, rstd [rows] in the accumulator dtype: saved for backward. y may not alias. width >= 1 unless rows is 0.
struct LayerNormForward {
  DType dtype;
  std::int64_t rows;
  std::int64_t width;
  const void* x;
  const void* residual = nullptr;
  const void* gamma;
  const void* beta;
  double eps;
  void* sum = nullptr;
  void* y;
  void* mean;
  void* rstd;
};

/// With x^ = (s - mean) rstd and g = dy gamma:
///   ds (+)= rstd (g - mean(g) - x^ mean(g x^)) [+ dsum];  dgamma (+)= sum_rows dy x^;  dbeta (+)= sum_rows dy.
/// s [rows, width]: what was normalised (x, or sum). dsum: incoming gradient of `sum`, or null.
/// ds and dresidual receive the same values; each may be unwanted. Column sums in acc_t in a fixed two-stage order.
struct LayerNormBackward {
  DType dtype;
  std::int64_t rows;
  std::int64_t width;
  const void* s;
  const void* gamma;
  const void* mean;
  const void* rstd;
  const void* dy;
  const void* dsum = nullptr;
  GradOut dx;
  GradOut dresidual;
  GradOut dgamma;
  GradOut dbeta;
  void* scratch = nullptr;
};

}  // namespace adjoint

ADJOINT_CPU_KERNEL(LayerNormForward)
ADJOINT_CPU_KERNEL(LayerNormBackward)
ADJOINT_CPU_SCRATCH(LayerNormBackward)
