#pragma once
// Optimizers over flat buffers. What changes from step to step (learning rate, step number, clip factor) is read
// through pointers, so that a recorded step can be replayed.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

/// *sum += sum of g^2 over the listed rows of g [., width], in f64, in the order of the list.
struct RowSquares {
  DType dtype;
  std::int64_t width;
  const void* g;
  RowList rows;
  double* sum;
};

/// Zeroes the listed rows of g [., width] and empties the list.
struct RowsClear {
  DType dtype;
  std::int64_t width;
  void* g;
  RowList rows;
};

/// norm[0] = sqrt(sum g^2 + *more); if factor is not null: factor[0] = min(1, max_norm / (norm + 1e-6)).
/// g dense [n]; norm, factor one element of the accumulator dtype. Fixed two-stage order. more (optional): squares that
/// were summed elsewhere; set to 0 once read.
/// A norm that is not finite gives factor NaN, so the update shows it instead of hiding it.
struct GlobalNorm {
  DType dtype;
  std::int64_t n;
  const void* g;
  double max_norm;
  void* norm;
  void* factor;
  void* scratch = nullptr;
  double* more = nullptr;
};

/// The step counter every optimizer keeps: *step += 1.
struct StepAdvance {
  std::int64_t* step;
};

/// g' = factor g + weight_decay p; v = momentum v + g' (skipped if momentum is 0); p -= lr v (Nesterov: g' + momentum
/// v). p, g, v dense [n], one float dtype. lr: f64 in device memory. factor: accumulator dtype or null (1).
/// rows (optional): all are tables [., width] and only the listed rows change, n is not read.
struct SgdUpdate {
  DType dtype;
  std::int64_t n;
  void* p;
  const void* g;
  void* v;
  const double* lr;
  const void* factor;
  double momentum;
  double weight_decay;
  bool nesterov;
  RowList rows = {};
  std::int64_t width = 0;
};

/// AdamW (Loshchilov and Hutter, arXiv:1711.05101; Kingma and Ba, arXiv:1412.6980):
/// p -= lr weight_decay p; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
/// p -= lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps), with g scaled by factor first and t = *step (already advanced).
/// decoupled false adds weight_decay p to g instead (Adam). p, g [n] in dtype; m, v [n] in the accumulator dtype.
/// rows (optional): all are tables [., width] and only the listed rows change, n is not read.
struct AdamUpdate {
  DType dtype;
  std::int64_t n;
  void* p;
  const void* g;
  void* m;
  void* v;
  const double* lr;
  const std::int64_t* step;
  const void* factor;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
  bool decoupled;
  RowList rows = {};
  std::int64_t width = 0;
};

/// a += (1 - d) (p - a) with d = min(decay, (1 + t) / (10 + t)), t = *step: an average over the last steps that forgets
/// the first ones sooner. a, p dense [n], one float dtype; step as StepAdvance left it.
struct AverageUpdate {
  DType dtype;
  std::int64_t n;
  void* a;
  const void* p;
  const std::int64_t* step;
  double decay;
};

}  // namespace adjoint

ADJOINT_CPU_KERNEL(RowSquares)
ADJOINT_CPU_KERNEL(RowsClear)
ADJOINT_CPU_KERNEL(GlobalNorm)
ADJOINT_CPU_KERNEL(StepAdvance)
ADJOINT_CPU_KERNEL(SgdUpdate)
ADJOINT_CPU_KERNEL(AdamUpdate)
ADJOINT_CPU_KERNEL(AverageUpdate)
ADJOINT_CPU_SCRATCH(GlobalNorm)
