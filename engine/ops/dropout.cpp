#include "engine/op_support.h"
#include "kernels/base/philox.h"
#include "kernels/random.h"

namespace adjoint {
namespace {

struct DropoutGradient {
  Saved state;
  std::int64_t n;
  double p;
  DType dtype;

  void backward(const Gradients& g) const {  // the mask is drawn again, from the same state
    const GradOut dx = g.into(0);
    launch(g.device(), Dropout{.dtype = dtype,
                               .n = n,
                               .state = philox_state(state.get("dropout")),
                               .p = p,
                               .x = g.incoming(),
                               .y = dx.data,
                               .accumulate = dx.accumulate});
  }
};

constexpr std::uint64_t kSeed = 42;

/// The mask of a generator's first draw, on the host.
Tensor composite(const Tensor& x, double p) {
  std::vector<double> mask;
  for (std::int64_t i = 0; i < x.count(); ++i)
    mask.push_back(philox_uniform(philox_word(kSeed, 0, static_cast<std::uint64_t>(i))) >= p ? 1.0 / (1.0 - p) : 0.0);
  return mul(x, Tensor::from(std::span<const double>(mask), x.shape(), x.dtype()));
}

std::vector<OpSample> samples(Generator& random) {
  std::vector<OpSample> samples;
  for (const double p : {0.0, 0.3, 0.9})
    for (const Shape& shape : {Shape{3, 33}, Shape{1}, Shape{0}})
      samples.push_back({.label = fmt::format("{} p {}", text(shape), p),
                         .inputs = {random.normal(shape, 0, 1, DType::f64), Generator(kSeed).state()},
                         .run =
                             [p](auto in) {
                               Generator generator(in[1]);
                               return Tensors{dropout(in[0], p, generator)};
                             },
                         .reference = [p](auto in) { return Tensors{composite(in[0], p)}; },
                         .flops = static_cast<double>(shape.count()),
                         .bytes = 8.0 * static_cast<double>(shape.count())});
  return samples;
}

const OpRegistration registration{
    {.name = "dropout", .samples = samples, .bad_inputs = [] {
       const auto run = [](const Tensor& x, double p) {
         Generator generator(1);
         dropout(x, p, generator);
       };
       return std::vector<BadInput>{
           {"p of 1", [=] { run(Tensor::zeros({2}), 1.0); }, "E-OP-009.*dropout: p is 1; expected.*\\[0, 1\\)"},
           {"negative p", [=] { run(Tensor::zeros({2}), -0.1); }, "E-OP-009.*p is -0.1"},
           {"integers", [=] { run(Tensor::zeros({2}, DType::i32), 0.5); }, "E-OP-006.*x is i32"}};
     }}};

}  // namespace

Tensor dropout(const Tensor& x_in, double p, Generator& generator) {
  check_operand("dropout", "x", x_in);
  ADJOINT_OP_CHECK(p >= 0 && p < 1, "E-OP-009", fmt::format("dropout: p is {}; expected a number in [0, 1)", p));
  ADJOINT_OP_CHECK(
      generator.device() == x_in.device(), "E-OP-006",
      fmt::format("dropout: generator is on {}; expected {}", text(generator.device()), text(x_in.device())));
  const Tensor x = dense(x_in);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const Tensor state = generator.draw(x.count());
  launch(
      x.device(),
      Dropout{.dtype = x.dtype(), .n = x.count(), .state = philox_state(state), .p = p, .x = x.data(), .y = y.data()});
  if (Tape* tape = Tape::recording({&x})) tape->add({&x}, {&y}, DropoutGradient{Saved(state), x.count(), p, x.dtype()});
  return y;
}

}  // namespace adjoint
