#pragma once
// From a step's tensors to the numbers that the training loop wants, without waiting for a GPU at every step.

#include <cstdint>
#include <optional>
#include <vector>

#include "apps/common/training_loop.h"
#include "engine/tensor.h"

namespace adjoint::app {

/// What a step leaves behind on its device; valid until the next step.
struct StepTensors {
  Tensor loss;                // []
  Tensor gradient_norm = {};  // [], or undefined without a clip limit
  std::int64_t tokens = 0;
};

/// Keeps the numbers of up to kMostOutstanding steps on their device, since reading one waits for all that was queued.
class StepNumbers {
 public:
  explicit StepNumbers(Device device);
  /// The step's result where it is known at once, on the CPU; on a GPU it is kept for take(), and nothing waits.
  std::optional<StepResult> add(const StepTensors& step);
  /// The results that are kept, in their order. Waits for them.
  std::vector<StepResult> take();

 private:
  Tensor kept_;  // f64 [steps, 2], loss and norm
  struct Known {
    std::int64_t tokens;
    bool has_norm;
  };
  std::vector<Known> known_;  // of the steps that are kept
};

}  // namespace adjoint::app
