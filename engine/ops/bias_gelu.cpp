#include "kernels/bias_gelu.h"

#include "engine/op_support.h"

namespace adjoint {
namespace {

struct BiasGeluGradient {
  Saved x, bias, lengths;
  std::int64_t rows, width, rows_per_length;
  DType dtype;
  bool tanh_form;

  void backward(const Gradients& g) const {
    const char* op = tanh_form ? "bias_gelu_tanh" : "bias_gelu";
    launch(g.device(), BiasGeluBackward{.dtype = dtype,
                                        .rows = rows,
                                        .width = width,
                                        .x = x.data(op),
                                        .bias = bias.data(op),
                                        .dy = g.incoming(),
                                        .dx = g.into(0),
                                        .dbias = g.into(1),
                                        .row_lengths = static_cast<const std::int32_t*>(lengths.data(op)),
                                        .rows_per_length = rows_per_length,
                                        .tanh_form = tanh_form});
  }
};

Tensor activated_sum(bool tanh_form, const Tensor& x_in, const Tensor& bias_in, const Tensor& lengths) {
  const char* op = tanh_form ? "bias_gelu_tanh" : "bias_gelu";
  check_operand(op, "x", x_in);
  ADJOINT_OP_CHECK(x_in.rank() >= 1, "E-OP-002", fmt::format("{}: x is a scalar; expected at least one axis", op));
  const std::int64_t width = x_in.shape().back();
  check_operand(op, "bias", bias_in, &x_in);
  check_shape(op, "bias", bias_in, {width});
  if (lengths.defined()) {
    check_ints(op, "lengths", lengths, x_in);
    ADJOINT_OP_CHECK(x_in.rank() == 3 && lengths.shape() == Shape{x_in.extent(0)} && lengths.dense(), "E-OP-002",
                     fmt::format("{}: lengths {} for x {}; expected [B] for x [B,T,D]", op, text(lengths.shape()),
                                 text(x_in.shape())));
  }
  const Tensor x = dense(x_in), bias = dense(bias_in);
  const std::int64_t rows = x.shape().rows(), rows_per_length = lengths.defined() ? x.extent(1) : 0;
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  launch(x.device(), BiasGeluForward{.dtype = x.dtype(),
                                     .rows = rows,
                                     .width = width,
                                     .x = x.data(),
                                     .bias = bias.data(),
                                     .y = y.data(),
                                     .row_lengths = static_cast<const std::int32_t*>(lengths.data()),
                                     .rows_per_length = rows_per_length,
                                     .tanh_form = tanh_form});
  if (Tape* tape = Tape::recording({&x, &bias})) {
    tape->add(
        {&x, &bias}, {&y},
        BiasGeluGradient{Saved(x), Saved(bias), Saved(lengths), rows, width, rows_per_length, x.dtype(), tanh_form});
  }
  return y;
}

// ---- Records ----

using Op = Tensor (*)(const Tensor&, const Tensor&, const Tensor&);
using Function = Tensor (*)(const Tensor&);

std::vector<OpSample> samples(Generator& random, Op op, Function function) {
  std::vector<OpSample> samples;
  for (const Shape& shape : {Shape{5}, Shape{2, 3, 33}, Shape{1, 1}, Shape{19, 8}, Shape{0, 4}, Shape{3, 0}}) {
    samples.push_back(
        {.label = "x" + text(shape),
         .inputs = {random.normal(shape, 0, 2, DType::f64), random.normal({shape.back()}, 0, 1, DType::f64)},
         .run = [=](auto in) { return Tensors{op(in[0], in[1], {})}; },
         .reference = [=](auto in) { return Tensors{function(in[0] + in[1])}; },
         .flops = 20.0 * static_cast<double>(shape.count()),
         .bytes = 8.0 * static_cast<double>(shape.count())});
  }
  const std::vector<std::int32_t> lengths{3, 0, 1};
  samples.push_back({.label = "with lengths",
                     .inputs = {random.normal({3, 4, 6}, 0, 2, DType::f64), random.normal({6}, 0, 1, DType::f64),
                                Tensor::from(std::span(lengths), {3})},
                     .run = [=](auto in) { return Tensors{op(in[0], in[1], in[2])}; },
                     .reference =
                         [=](auto in) {
                           std::vector<double> keep;
                           for (const std::int32_t n : in[2].to_ints())
                             for (int t = 0; t < 4; ++t) keep.push_back(t < n ? 1.0 : 0.0);
                           const Tensor mask = Tensor::from(std::span<const double>(keep), {3, 4, 1}, in[0].dtype());
                           return Tensors{mul(function(in[0] + in[1]), mask)};
                         }});
  return samples;
}

std::vector<BadInput> bad_inputs(Op op) {
  const auto zeros = [](const Shape& s) { return Tensor::zeros(s); };
  return {{"bias of another width",
           [=] {
             op(zeros({2, 3}), zeros({4}), {});
           },
           "E-OP-002.*bias_gelu.*bias has shape \\[4\\]; expected \\[3\\]"},
          {"a scalar", [=] { op(zeros({}), zeros({1}), {}); }, "E-OP-002.*scalar"},
          {"no bias",
           [=] {
             op(zeros({2, 3}), {}, {});
           },
           "E-OP-006.*bias"},
          {"another dtype",
           [=] {
             op(zeros({2, 3}), Tensor::zeros({3}, DType::f64), {});
           },
           "E-OP-006.*bias is f64"},
          {"lengths without time",
           [=] {
             op(zeros({2, 3}), zeros({3}), Tensor::zeros({2}, DType::i32));
           },
           "E-OP-002.*lengths.*\\[B,T,D\\]"},
          {"float lengths",
           [=] {
             op(zeros({2, 3, 3}), zeros({3}), zeros({2}));
           },
           "E-OP-006.*lengths is f32"}};
}

const OpRegistration registration{{.name = "bias_gelu",
                                   .samples = [](Generator& random) { return samples(random, bias_gelu, gelu); },
                                   .bad_inputs = [] { return bad_inputs(bias_gelu); }}};
const OpRegistration tanh_registration{
    {.name = "bias_gelu_tanh",
     .samples = [](Generator& random) { return samples(random, bias_gelu_tanh, gelu_tanh); },
     .bad_inputs = [] { return bad_inputs(bias_gelu_tanh); }}};

}  // namespace

void note_gelu_tanh(const Tensor& sum, const Tensor& bias, Tensor& y) {
  if (Tape* tape = Tape::recording({&sum, &bias})) {
    tape->add(
        {&sum, &bias}, {&y},
        BiasGeluGradient{Saved(sum), Saved(), Saved(), sum.shape().rows(), sum.shape().back(), 0, sum.dtype(), true});
  }
}

Tensor bias_gelu(const Tensor& x, const Tensor& bias, const Tensor& lengths) {
  return activated_sum(false, x, bias, lengths);
}
Tensor bias_gelu_tanh(const Tensor& x, const Tensor& bias, const Tensor& lengths) {
  return activated_sum(true, x, bias, lengths);
}

}  // namespace adjoint
