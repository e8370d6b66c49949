#include "apps/common/step_numbers.h"

#include <stdexcept>

namespace adjoint::app {
namespace {

StepResult result_of(double loss, const double* norm, std::int64_t tokens) {
  StepResult result{.loss = loss, .tokens = tokens};
  if (norm != nullptr) result.more.emplace_back("grad_norm", *norm);
  return result;
}

}  // namespace

StepNumbers::StepNumbers(Device device) {
  if (device != Device{}) kept_ = Tensor::zeros({static_cast<std::int64_t>(kMostOutstanding), 2}, DType::f64, device);
}

std::optional<StepResult> StepNumbers::add(const StepTensors& step) {
  const bool has_norm = step.gradient_norm.defined();
  if (!kept_.defined()) {
    const double norm = has_norm ? step.gradient_norm.item() : 0;
    return result_of(step.loss.item(), has_norm ? &norm : nullptr, step.tokens);
  }
  if (known_.size() == kMostOutstanding) throw std::logic_error("StepNumbers: nobody took them");
  double* const row = kept_.data_as<double>() + 2 * known_.size();
  Tensor::view_of(kept_.storage(), row, {}, nullptr, DType::f64).copy_from(step.loss);
  if (has_norm) Tensor::view_of(kept_.storage(), row + 1, {}, nullptr, DType::f64).copy_from(step.gradient_norm);
  known_.push_back({step.tokens, has_norm});
  return std::nullopt;
}

std::vector<StepResult> StepNumbers::take() {
  std::vector<StepResult> results;
  if (known_.empty()) return results;
  const std::vector<double> numbers = kept_.to_vector();
  for (std::size_t i = 0; i < known_.size(); ++i)
    results.push_back(result_of(numbers[2 * i], known_[i].has_norm ? &numbers[2 * i + 1] : nullptr, known_[i].tokens));
  known_.clear();
  return results;
}

}  // namespace adjoint::app
