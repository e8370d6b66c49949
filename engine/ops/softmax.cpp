#include "kernels/softmax.h"

#include <cmath>
#include <limits>

#include "engine/op_support.h"

namespace adjoint {
namespace {

struct SoftmaxGradient {
  Saved y;
  std::int64_t rows, width;
  DType dtype;
  bool log;

  void backward(const Gradients& g) const {
    launch(g.device(), SoftmaxBackward{.dtype = dtype,
                                       .rows = rows,
                                       .width = width,
                                       .y = y.data(log ? "log_softmax" : "softmax"),
                                       .dy = g.incoming(),
                                       .dx = g.into(0),
                                       .log = log});
  }
};

Tensor softmax_of(const char* op, const Tensor& x_in, bool log) {
  check_operand(op, "x", x_in);
  ADJOINT_OP_CHECK(x_in.rank() >= 1, "E-OP-002", fmt::format("{}: x is a scalar; expected at least one axis", op));
  const Tensor x = dense(x_in);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const std::int64_t rows = x.shape().rows(), width = x.shape().back();
  launch(x.device(),
         SoftmaxForward{.dtype = x.dtype(), .rows = rows, .width = width, .x = x.data(), .y = y.data(), .log = log});
  if (Tape* tape = Tape::recording({&x})) tape->add({&x}, {&y}, SoftmaxGradient{Saved(y), rows, width, x.dtype(), log});
  return y;
}

std::vector<OpSample> samples(Generator& random, bool log) {
  std::vector<OpSample> samples;
  const auto run = [log](auto in) { return Tensors{log ? log_softmax(in[0]) : softmax(in[0])}; };
  for (const Shape& shape :
       {Shape{5}, Shape{3, 1}, Shape{2, 33}, Shape{2, 2, 7}, Shape{2, 128}, Shape{0, 3}, Shape{3, 0}}) {
    samples.push_back({.label = text(shape),
                       .inputs = {random.normal(shape, 0, 3, DType::f64)},
                       .run = run,
                       .reference =
                           [log](auto in) {
                             if (in[0].count() == 0) return Tensors{in[0]};
                             const Tensor shifted = in[0] - max(in[0].detached(), {-1}, true);
                             const Tensor e = exp(shifted), total = sum(e, {-1}, true);
                             return Tensors{log ? shifted - adjoint::log(total) : e / total};
                           },
                       .flops = 5.0 * static_cast<double>(shape.count()),
                       .bytes = 8.0 * static_cast<double>(shape.count())});
  }
  return samples;
}

template <bool kLog>
std::vector<BadInput> bad_inputs() {
  const auto run = [](const Tensor& x) { kLog ? log_softmax(x) : softmax(x); };
  return {{"a scalar", [=] { run(Tensor::zeros({})); }, "E-OP-002.*softmax: x is a scalar"},
          {"integers", [=] { run(Tensor::zeros({2}, DType::i32)); }, "E-OP-006.*x is i32"},
          {"undefined", [=] { run(Tensor()); }, "E-OP-006.*undefined"}};
}

const OpRegistration registration{
    {.name = "softmax", .samples = [](Generator& g) { return samples(g, false); }, .bad_inputs = bad_inputs<false>}};
const OpRegistration log_registration{
    {.name = "log_softmax", .samples = [](Generator& g) { return samples(g, true); }, .bad_inputs = bad_inputs<true>}};

}  // namespace

Tensor softmax(const Tensor& x) { return softmax_of("softmax", x, false); }
Tensor log_softmax(const Tensor& x) { return softmax_of("log_softmax", x, true); }

}  // namespace adjoint
