#include "kernels/cross_entropy.h"

#include <algorithm>

#include "engine/op_support.h"

namespace adjoint {
namespace {

struct CrossEntropyGradient {
  Saved x, targets, log_sum_exp, count;
  std::int64_t rows, classes;
  std::int32_t ignore;

  void backward(const Gradients& g) const {
    const char* op = "cross_entropy";
    launch(g.device(), CrossEntropyBackward{.dtype = x.get(op).dtype(),
                                            .rows = rows,
                                            .classes = classes,
                                            .x = x.data(op),
                                            .targets = static_cast<const std::int32_t*>(targets.data(op)),
                                            .ignore = ignore,
                                            .log_sum_exp = log_sum_exp.data(op),
                                            .count = count.data(op),
                                            .dloss = g.incoming(),
                                            .dx = g.into(0)});
  }
};

Tensor ints(const std::vector<std::int32_t>& values, const Shape& shape) {
  return Tensor::from(std::span<const std::int32_t>(values), shape);
}

/// Mean of the picked negative log-probabilities, by a 0/1 mask.
Tensor composite(const Tensor& logits, const Tensor& targets, std::int32_t ignore) {
  const std::int64_t classes = logits.extent(-1);
  std::vector<double> mask;
  double counted = 0;
  for (const std::int32_t target : targets.to_ints()) {
    for (std::int64_t c = 0; c < classes; ++c) mask.push_back(target != ignore && c == target ? 1.0 : 0.0);
    counted += target != ignore ? 1 : 0;
  }
  const DType dtype = accumulator_of(logits.dtype());
  const Tensor weights = Tensor::from(std::span<const double>(mask), logits.shape(), dtype);
  return sum(mul(log_softmax(cast(logits, dtype)), weights)) * (-1.0 / std::max(1.0, counted));
}

std::vector<OpSample> samples(Generator& random) {
  const auto sample = [&](const char* label, const Shape& shape, const Tensor& targets, std::int32_t ignore) {
    return OpSample{.label = label,
                    .inputs = {random.normal(shape, 0, 2, DType::f64), targets},
                    .run = [ignore](auto in) { return Tensors{cross_entropy(in[0], in[1], ignore)}; },
                    .reference = [ignore](auto in) { return Tensors{composite(in[0], in[1], ignore)}; },
                    .flops = 5.0 * static_cast<double>(shape.count()),
                    .bytes = 4.0 * static_cast<double>(shape.count())};
  };
  return {sample("few classes", {4, 7}, ints({0, 6, 3, 3}, {4}), -100),
          sample("ignored rows", {2, 3, 5}, ints({1, -1, 4, -1, -1, 0}, {2, 3}), -1),
          sample("nothing counts", {2, 3}, ints({-100, -100}, {2}), -100),
          sample("many classes", {3, 129}, ints({128, 0, 31}, {3}), -100),
          sample("no rows", {0, 3}, ints({}, {0}), -100)};
}

const OpRegistration registration{{.name = "cross_entropy", .samples = samples, .bad_inputs = [] {
                                     const auto logits = [](const Shape& s) { return Tensor::zeros(s); };
                                     return std::vector<BadInput>{{"target too large",
                                                                   [=] {
                                                                     cross_entropy(logits({2, 3}), ints({0, 3}, {2}));
                                                                   },
                                                                   "E-OP-011: cross_entropy: row 1: target 3.*0..2"},
                                                                  {"negative target",
                                                                   [=] {
                                                                     cross_entropy(logits({2, 3}), ints({-1, 0}, {2}));
                                                                   },
                                                                   "E-OP-011.*row 0: target -1"},
                                                                  {"shapes",
                                                                   [=] {
                                                                     cross_entropy(logits({2, 3}), ints({0}, {1}));
                                                                   },
                                                                   "E-OP-002.*targets.*\\[1\\].*\\[2\\]"},
                                                                  {"float targets",
                                                                   [=] {
                                                                     cross_entropy(logits({2, 3}), logits({2}));
                                                                   },
                                                                   "E-OP-006.*targets is f32; expected i32"}};
                                   }}};

}  // namespace

Tensor cross_entropy(const Tensor& logits_in, const Tensor& targets_in, std::int32_t ignore) {
  check_operand("cross_entropy", "logits", logits_in);
  check_ints("cross_entropy", "targets", targets_in, logits_in);
  ADJOINT_OP_CHECK(logits_in.rank() >= 1, "E-OP-002", "cross_entropy: logits is a scalar; expected [...,classes]");
  check_shape("cross_entropy", "targets", targets_in, logits_in.shape().without(logits_in.rank() - 1));
  const Tensor x = dense(logits_in), targets = dense(targets_in);
  const std::int64_t rows = x.shape().rows(), classes = x.shape().back();
  const DType statistics = accumulator_of(x.dtype());
  Tensor loss = Tensor::empty({}, statistics, x.device());
  const Tensor log_sum_exp = Tensor::empty({rows}, statistics, x.device());
  const Tensor count = Tensor::empty({}, statistics, x.device());
  launch(x.device(), CrossEntropyForward{.dtype = x.dtype(),
                                         .rows = rows,
                                         .classes = classes,
                                         .x = x.data(),
                                         .targets = targets.data_as<std::int32_t>(),
                                         .ignore = ignore,
                                         .loss = loss.data(),
                                         .log_sum_exp = log_sum_exp.data(),
                                         .count = count.data()});
  if (Tape* tape = Tape::recording({&x})) {
    tape->add({&x}, {&loss},
              CrossEntropyGradient{Saved(x), Saved(targets), Saved(log_sum_exp), Saved(count), rows, classes, ignore});
  }
  return loss;
}

}  // namespace adjoint
