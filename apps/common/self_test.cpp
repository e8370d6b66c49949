#include "apps/common/self_test.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "engine/generator.h"
#include "engine/ops.h"
#include "engine/step.h"
#include "engine/tape.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

// Sums of at most a hundred f32 products of numbers near one, through five layers and back.
constexpr double kTolerance = 1e-4;

class Model {
 public:
  Model(Device device, DType dtype) : device_(device), dtype_(dtype), random_(20, Device{}) {
    x_ = normal({kBatch, kTime, kInput});
    watched_ = {normal({4 * kHidden, kInput}),
                normal({4 * kHidden, kHidden}),
                normal({4 * kHidden}),
                normal({4 * kHidden}),
                normal({kHidden}),
                normal({kHidden}),
                normal({kClasses, kHidden}),
                normal({kClasses})};
    std::vector<std::int32_t> lengths, targets;
    for (std::int32_t i = 0; i < kBatch; ++i) lengths.push_back(static_cast<std::int32_t>(kTime) - i);
    for (std::int32_t i = 0; i < kBatch * kTime; ++i) targets.push_back(i % static_cast<std::int32_t>(kClasses));
    lengths_ = Tensor::from(std::span<const std::int32_t>(lengths), {kBatch}, device);
    targets_ = Tensor::from(std::span<const std::int32_t>(targets), {kBatch, kTime}, device);
  }

  const Tensor& input() const { return x_; }

  /// The loss, and the gradients of the input and all weights.
  std::vector<Tensor> run(const Tensor& input) {
    std::vector<Tensor> in;
    Tensor loss;
    {
      const auto recording = tape_.record();
      in.push_back(tape_.watch(input));
      for (const Tensor& w : watched_) in.push_back(tape_.watch(w));
      const Tensor h =
          lstm(in[0], {.w_ih = in[1], .w_hh = in[2], .b_ih = in[3], .b_hh = in[4]}, {.lengths = lengths_}).y;
      const Tensor q = reshape(h, {kBatch, 1, kTime, kHidden});  // one head
      const Tensor y = reshape(attention(q, q, q, {.key_lengths = lengths_}), {kBatch, kTime, kHidden});
      loss = cross_entropy(linear(layer_norm(y, in[5], in[6]), in[7], in[8]), targets_);
    }
    tape_.backward(loss);
    std::vector<Tensor> results{loss};
    for (const Tensor& t : in) results.push_back(tape_.gradient(t));
    return results;
  }

 private:
  static constexpr std::int64_t kBatch = 3, kTime = 5, kInput = 8, kHidden = 32, kClasses = 4;

  /// The same numbers on every device and in every dtype.
  Tensor normal(const Shape& shape) {
    const std::vector<double> values = random_.normal(shape, 0.0, 0.3, DType::f32).to_vector();
    return Tensor::from(std::span<const double>(values), shape, dtype_, device_);
  }

  Device device_;
  DType dtype_;
  Generator random_;
  Tape tape_;
  Tensor x_, lengths_, targets_;
  std::vector<Tensor> watched_;
};

std::vector<std::vector<double>> values(const std::vector<Tensor>& tensors) {
  std::vector<std::vector<double>> all;
  for (const Tensor& t : tensors) all.push_back(t.to_vector());
  return all;
}

}  // namespace

double largest_difference(const std::vector<std::vector<double>>& actual,
                          const std::vector<std::vector<double>>& expected) {
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  if (actual.size() != expected.size()) return kInfinite;
  double most = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (actual[i].size() != expected[i].size()) return kInfinite;
    double scale = std::numeric_limits<double>::min(), difference = 0;
    for (std::size_t j = 0; j < actual[i].size(); ++j) {
      if (!std::isfinite(actual[i][j]) || !std::isfinite(expected[i][j])) return kInfinite;
      scale = std::max(scale, std::abs(expected[i][j]));
      difference = std::max(difference, std::abs(actual[i][j] - expected[i][j]));
    }
    most = std::max(most, difference / scale);
  }
  return most;
}

SelfTest self_test(Device device) {
  try {
    Model exact(Device{}, DType::f64), model(device, DType::f32);
    const DefaultDevice everywhere(device);
    const double difference = [&] {
      const std::vector<std::vector<double>> found = values(model.run(model.input()));
      const DefaultDevice on_cpu(Device{});
      return largest_difference(found, values(exact.run(exact.input())));
    }();
    if (!(difference <= kTolerance)) {
      return {false, fmt::format("loss and gradients in f32 differ by {:.1e} from the CPU's in f64; expected at most "
                                 "{:.0e}",
                                 difference, kTolerance)};
    }
    Step step([&](std::span<const Tensor> in) { return model.run(in[0]); });
    step.verify({model.input()});
    return {true, fmt::format("loss and gradients within {:.1e} of f64, a replay gives equal bits", difference)};
  } catch (const Error& error) {
    return {false, error.line()};
  } catch (const std::exception& error) {
    return {false, error.what()};
  }
}

}  // namespace adjoint::app
