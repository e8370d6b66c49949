#include "kernels/layer_norm.h"

#include "engine/op_support.h"

namespace adjoint {
namespace {

struct LayerNormGradient {
  Saved s, gamma, mean, rstd;
  std::int64_t rows, width;
  DType dtype;
  bool residual;  // inputs x, residual, gamma, beta and outputs sum, y; else x, gamma, beta and y

  void backward(const Gradients& g) const {
    const char* op = "layer_norm";
    const int shift = residual ? 1 : 0;
    const void* dy = g.incoming(shift);
    Tensor zeros;
    if (dy == nullptr) {  // only the sum is used further on
      zeros = Tensor::zeros(s.get(op).shape(), dtype, g.device());
      dy = zeros.data();
    }
    launch(g.device(), LayerNormBackward{.dtype = dtype,
                                         .rows = rows,
                                         .width = width,
                                         .s = s.data(op),
                                         .gamma = gamma.data(op),
                                         .mean = mean.data(op),
                                         .rstd = rstd.data(op),
                                         .dy = dy,
                                         .dsum = residual ? g.incoming(0) : nullptr,
                                         .dx = g.into(0),
                                         .dresidual = residual ? g.into(1) : GradOut{},
                                         .dgamma = g.into(1 + shift),
                                         .dbeta = g.into(2 + shift)});
  }
};

SumAndNorm norm(const char* op, const Tensor& x_in, const Tensor& residual_in, const Tensor& gamma_in,
                const Tensor& beta_in, double eps) {
  check_operand(op, "x", x_in);
  ADJOINT_OP_CHECK(x_in.rank() >= 1, "E-OP-003", fmt::format("{}: x is a scalar; expected at least one axis", op));
  const std::int64_t width = x_in.shape().back();
  ADJOINT_OP_CHECK(width >= 1 || x_in.count() == 0, "E-OP-003", fmt::format("{}: the last axis is empty", op));
  const bool with_residual = residual_in.defined();
  if (with_residual) {
    check_operand(op, "residual", residual_in, &x_in);
    check_shape(op, "residual", residual_in, x_in.shape(), "E-OP-003");
  }
  for (const auto& [name, p] : {std::pair{"gamma", &gamma_in}, std::pair{"beta", &beta_in}}) {
    if (!p->defined()) continue;
    check_operand(op, name, *p, &x_in);
    ADJOINT_OP_CHECK(p->shape() == Shape{width}, "E-OP-003",
                     fmt::format("{}: {} has shape {} but the last axis of x is {} (x is {})", op, name,
                                 text(p->shape()), width, text(x_in.shape())));
  }
  ADJOINT_OP_CHECK(eps >= 0, "E-OP-009", fmt::format("{}: eps is {}; expected a number >= 0", op, eps));

  const Tensor x = dense(x_in), residual = with_residual ? dense(residual_in) : Tensor();
  const Tensor gamma = gamma_in.defined() ? dense(gamma_in) : Tensor();
  const Tensor beta = beta_in.defined() ? dense(beta_in) : Tensor();
  const std::int64_t rows = x.shape().rows();
  Tensor sum = with_residual ? Tensor::empty_like(x) : Tensor();
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const Tensor mean = Tensor::empty({rows}, accumulator_of(x.dtype()), x.device());
  const Tensor rstd = Tensor::empty({rows}, accumulator_of(x.dtype()), x.device());
  launch(x.device(), LayerNormForward{.dtype = x.dtype(),
                                      .rows = rows,
                                      .width = width,
                                      .x = x.data(),
                                      .residual = residual.data(),
                                      .gamma = gamma.data(),
                                      .beta = beta.data(),
                                      .eps = eps,
                                      .sum = sum.data(),
                                      .y = y.data(),
                                      .mean = mean.data(),
                                      .rstd = rstd.data()});
  if (Tape* tape = Tape::recording({&x, &residual, &gamma, &beta})) {
    LayerNormGradient gradient{.s = Saved(with_residual ? sum : x),
                               .gamma = Saved(gamma),
                               .mean = Saved(mean),
                               .rstd = Saved(rstd),
                               .rows = rows,
                               .width = width,
                               .dtype = x.dtype(),
                               .residual = with_residual};
    if (with_residual) {
      tape->add({&x, &residual, &gamma, &beta}, {&sum, &y}, std::move(gradient));
    } else {
      tape->add({&x, &gamma, &beta}, {&y}, std::move(gradient));
    }
  }
  return {sum, y};
}

/// The same from plainer ops.
Tensor composite(const Tensor& s, const Tensor& gamma, const Tensor& beta, double eps) {
  const Tensor centred = s - mean(s, {-1}, true);
  const Tensor variance = mean(square(centred), {-1}, true);
  return centred * rsqrt(variance + eps) * gamma + beta;
}

std::vector<OpSample> samples(Generator& random) {
  std::vector<OpSample> samples;
  for (const Shape& shape : {Shape{3, 5}, Shape{2, 3, 33}, Shape{1, 1}, Shape{4, 128}, Shape{0, 4}}) {
    const std::int64_t width = shape.back();
    const auto normal = [&](const Shape& s) { return random.normal(s, 0.3, 1.5, DType::f64); };
    samples.push_back({.label = "x" + text(shape),
                       .inputs = {normal(shape), normal({width}), normal({width})},
                       .run = [](auto in) { return Tensors{layer_norm(in[0], in[1], in[2], 1e-3)}; },
                       .reference = [](auto in) { return Tensors{composite(in[0], in[1], in[2], 1e-3)}; },
                       .flops = 8.0 * static_cast<double>(shape.count()),
                       .bytes = 8.0 * static_cast<double>(shape.count())});
  }
  return samples;
}

std::vector<OpSample> residual_samples(Generator& random) {
  const auto normal = [&](const Shape& s) { return random.normal(s, 0.3, 1.5, DType::f64); };
  return {{.label = "both results",
           .inputs = {normal({3, 17}), normal({3, 17}), normal({17}), normal({17})},
           .run =
               [](auto in) {
                 const auto [sum, y] = add_layer_norm(in[0], in[1], in[2], in[3], 1e-3);
                 return Tensors{sum, y};
               },
           .reference =
               [](auto in) {
                 const Tensor s = in[0] + in[1];
                 return Tensors{s, composite(s, in[2], in[3], 1e-3)};
               }},
          {.label = "sum only",
           .inputs = {normal({2, 4}), normal({2, 4})},
           .run = [](auto in) { return Tensors{add_layer_norm(in[0], in[1], {}, {}, 1e-3).sum}; },
           .reference = [](auto in) { return Tensors{in[0] + in[1]}; }}};
}

std::vector<BadInput> bad_inputs() {
  const auto zeros = [](const Shape& s) { return Tensor::zeros(s); };
  return {{"gamma of another width",
           [=] {
             layer_norm(zeros({2, 3}), zeros({4}), zeros({3}));
           },
           "E-OP-003.*layer_norm: gamma has shape \\[4\\] but the last axis of x is 3 \\(x is \\[2,3\\]\\)"},
          {"beta of another width",
           [=] {
             layer_norm(zeros({2, 3}), zeros({3}), zeros({2}));
           },
           "E-OP-003.*beta.*2.*3"},
          {"a scalar", [=] { layer_norm(zeros({}), {}, {}); }, "E-OP-003.*scalar"},
          {"negative eps",
           [=] {
             layer_norm(zeros({2, 3}), {}, {}, -1.0);
           },
           "E-OP-009.*eps is -1"},
          {"another dtype",
           [=] {
             layer_norm(zeros({2, 3}), Tensor::zeros({3}, DType::f64), {});
           },
           "E-OP-006.*gamma is f64; expected f32"}};
}

const OpRegistration registration{{.name = "layer_norm", .samples = samples, .bad_inputs = bad_inputs}};
const OpRegistration residual_registration{
    {.name = "add_layer_norm", .samples = residual_samples, .bad_inputs = [] {
       const auto zeros = [](const Shape& s) { return Tensor::zeros(s); };
       return std::vector<BadInput>{
           {"residual of another shape",
            [=] {
              add_layer_norm(zeros({2, 3}), zeros({3, 2}), {}, {});
            },
            "E-OP-003.*residual has shape \\[3,2\\]; expected \\[2,3\\]"},
           {"integers", [=] { add_layer_norm(Tensor::zeros({2}, DType::i32), zeros({2}), {}, {}); },
            "E-OP-006.*x is i32"},
           {"undefined residual dtype",
            [=] {
              add_layer_norm(zeros({2, 3}), Tensor::zeros({2, 3}, DType::f64), {}, {});
            },
            "E-OP-006.*residual is f64"}};
     }}};

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) {
  return norm("layer_norm", x, {}, gamma, beta, eps).y;
}

SumAndNorm add_layer_norm(const Tensor& x, const Tensor& residual, const Tensor& gamma, const Tensor& beta,
                          double eps) {
  ADJOINT_OP_CHECK(residual.defined(), "E-OP-006", "add_layer_norm: residual is undefined; expected a tensor");
  return norm("add_layer_norm", x, residual, gamma, beta, eps);
}

}  // namespace adjoint
