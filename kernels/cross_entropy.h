#pragma once
// Softmax cross-entropy with ignored positions.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

/// loss = sum over counted rows of (log_sum_exp(x_r) - x_r[target_r]) / max(1, counted rows).
/// x [rows, classes] dense float; targets i32 [rows]; rows whose target is `ignore` do not count.
/// loss: one element of the accumulator dtype; log_sum_exp [rows] and count [1] in the accumulator dtype, saved for
/// backward. A target outside 0..classes-1 that is not `ignore` throws E-OP-011 on the CPU, naming the row, and makes
/// the loss NaN on a GPU. Sum in fixed order. The loss of a row is (largest - x_r[target_r]) + log(sum exp(x -
/// largest)), exact up to ±1e38; a target of -inf has an infinite loss, and a row of only -inf counts as one whose
/// probabilities are all 0.
struct CrossEntropyForward {
  DType dtype;
  std::int64_t rows;
  std::int64_t classes;
  const void* x;
  const std::int32_t* targets;
  std::int32_t ignore;
  void* loss;
  void* log_sum_exp;
  void* count;
  void* scratch = nullptr;
};

/// dx (+)= dloss (softmax(x_r) - onehot(target_r)) / max(1, count); 0 for ignored rows. dloss: one element (accumulator
/// dtype). Assigned, dx may be x: the gradient over the logits. A log-sum-exp far from 0 is too coarse to subtract:
/// such rows are summed again.
struct CrossEntropyBackward {
  DType dtype;
  std::int64_t rows;
  std::int64_t classes;
  const void* x;
  const std::int32_t* targets;
  std::int32_t ignore;
  const void* log_sum_exp;
  const void* count;
  const void* dloss;
  GradOut dx;
};

}  // namespace adjoint

ADJOINT_CPU_KERNEL(CrossEntropyForward)
ADJOINT_CPU_KERNEL(CrossEntropyBackward)
ADJOINT_CPU_SCRATCH(CrossEntropyForward)
