#include "kernels/lstm.h"

#include "engine/gpu_libraries.h"
#include "engine/op_support.h"

namespace adjoint {
namespace {

struct LstmGradient {
  LstmShape shape;
  Saved x, w_ih, w_hh, h0, c0, y, saved, lengths;

  void backward(const Gradients& g) const {
    const char* op = "lstm";
    lengths.get(op);
    launch(g.device(), LstmBackward{.shape = shape,
                                    .x = x.data(op),
                                    .w_ih = w_ih.data(op),
                                    .w_hh = w_hh.data(op),
                                    .h0 = h0.data(op),
                                    .c0 = c0.data(op),
                                    .y = y.data(op),
                                    .saved = saved.data(op),
                                    .dy = g.incoming(0),
                                    .dh_n = g.incoming(1),
                                    .dc_n = g.incoming(2),
                                    .dx = g.into(0),
                                    .dw_ih = g.into(1),
                                    .dw_hh = g.into(2),
                                    .db_ih = g.into(3),
                                    .db_hh = g.into(4),
                                    .dh0 = g.into(5),
                                    .dc0 = g.into(6)});
  }
};

LstmResult run(const char* op, const Tensor& x_in, const LstmWeights& w, const LstmOptions& o) {
  check_operand(op, "x", x_in);
  ADJOINT_OP_CHECK(x_in.rank() == 3, "E-OP-013",
                   fmt::format("{}: x has shape {}; expected [B,T,I]", op, text(x_in.shape())));
  check_operand(op, "w_ih", w.w_ih, &x_in);
  check_operand(op, "w_hh", w.w_hh, &x_in);
  const std::int64_t batch = x_in.extent(0), time = x_in.extent(1), input = x_in.extent(2);
  ADJOINT_OP_CHECK(w.w_hh.rank() == 2 && w.w_hh.extent(0) == 4 * w.w_hh.extent(1) && w.w_hh.extent(1) >= 1, "E-OP-013",
                   fmt::format("{}: w_hh has shape {}; expected [4H,H]", op, text(w.w_hh.shape())));
  const std::int64_t hidden = w.w_hh.extent(1);
  check_shape(op, "w_ih", w.w_ih, {4 * hidden, input}, "E-OP-013");
  ADJOINT_OP_CHECK(w.b_ih.defined() == w.b_hh.defined(), "E-OP-013",
                   fmt::format("{}: one of b_ih and b_hh is given; expected both or neither", op));
  for (const auto& [name, b] : {std::pair{"b_ih", &w.b_ih}, std::pair{"b_hh", &w.b_hh}}) {
    if (!b->defined()) continue;
    check_operand(op, name, *b, &x_in);
    check_shape(op, name, *b, {4 * hidden}, "E-OP-013");
  }
  for (const auto& [name, s] : {std::pair{"h0", &o.h0}, std::pair{"c0", &o.c0}}) {
    if (!s->defined()) continue;
    check_operand(op, name, *s, &x_in);
    check_shape(op, name, *s, {batch, hidden}, "E-OP-013");
  }
  if (o.lengths.defined()) {
    check_ints(op, "lengths", o.lengths, x_in);
    check_shape(op, "lengths", o.lengths, {batch}, "E-OP-013");
  }

  const auto dense_or_none = [](const Tensor& t) { return t.defined() ? dense(t) : Tensor(); };
  const Tensor x = dense(x_in), w_ih = dense(w.w_ih), w_hh = dense(w.w_hh);
  const Tensor b_ih = dense_or_none(w.b_ih), b_hh = dense_or_none(w.b_hh);
  const Tensor h0 = dense_or_none(o.h0), c0 = dense_or_none(o.c0), lengths = dense_or_none(o.lengths);
  const LstmShape shape{.dtype = x.dtype(),
                        .batch = batch,
                        .time = time,
                        .input = input,
                        .hidden = hidden,
                        .x_stride = {time * input, input},
                        .y_stride = {time * hidden, hidden},
                        .lengths = static_cast<const std::int32_t*>(lengths.data()),
                        .reverse = o.reverse,
                        .by_library = lstm_by_library(x.device())};
  LstmResult r{Tensor::empty({batch, time, hidden}, x.dtype(), x.device()),
               Tensor::empty({batch, hidden}, x.dtype(), x.device()),
               Tensor::empty({batch, hidden}, x.dtype(), x.device())};
  Tape* tape = Tape::recording({&x, &w_ih, &w_hh, &b_ih, &b_hh, &h0, &c0});
  LstmForward call{.shape = shape,
                   .x = x.data(),
                   .w_ih = w_ih.data(),
                   .w_hh = w_hh.data(),
                   .b_ih = b_ih.data(),
                   .b_hh = b_hh.data(),
                   .h0 = h0.data(),
                   .c0 = c0.data(),
                   .y = r.y.data(),
                   .h_n = r.h_n.data(),
                   .c_n = r.c_n.data(),
                   .saved = nullptr};
  Tensor saved;
  if (tape != nullptr) {
    const DType dtype = accumulator_of(x.dtype());
    const auto size = static_cast<std::int64_t>(size_of(dtype));
    saved = Tensor::empty(
        {shape.by_library ? (static_cast<std::int64_t>(saved_bytes_on(x.device(), call)) + size - 1) / size
                          : shape.saved_elements()},
        dtype, x.device());
    call.saved = saved.data();
  }
  launch(x.device(), call);
  if (tape != nullptr) {
    tape->add({&x, &w_ih, &w_hh, &b_ih, &b_hh, &h0, &c0}, {&r.y, &r.h_n, &r.c_n},
              LstmGradient{shape, Saved(x), Saved(w_ih), Saved(w_hh), Saved(h0), Saved(c0), Saved(r.y), Saved(saved),
                           Saved(lengths)});
  }
  return r;
}

// ---- Records ----

/// Step by step from plainer ops, with masks for the lengths.
LstmResult composite(const Tensor& x, const LstmWeights& w, const LstmOptions& o) {
  const std::int64_t batch = x.extent(0), time = x.extent(1), hidden = w.w_hh.extent(1);
  const auto zeros = [&] { return Tensor::zeros({batch, hidden}, x.dtype()); };
  Tensor h = o.h0.defined() ? o.h0 : zeros(), c = o.c0.defined() ? o.c0 : zeros();
  std::vector<Tensor> ys(static_cast<std::size_t>(time));
  for (std::int64_t i = 0; i < time; ++i) {
    const std::int64_t t = o.reverse ? time - 1 - i : i;
    std::vector<double> real(static_cast<std::size_t>(batch), 1.0), padded(static_cast<std::size_t>(batch), 0.0);
    if (o.lengths.defined()) {
      const std::vector<std::int32_t> n = o.lengths.to_ints();
      for (std::size_t b = 0; b < n.size(); ++b) {
        real[b] = t < n[b] ? 1.0 : 0.0;
        padded[b] = 1.0 - real[b];
      }
    }
    const Tensor on = Tensor::from(std::span<const double>(real), {batch, 1}, x.dtype());
    const Tensor off = Tensor::from(std::span<const double>(padded), {batch, 1}, x.dtype());
    const Tensor x_t = reshape(slice(x, 1, t, t + 1), {batch, x.extent(2)});
    Tensor z = matmul(x_t, transpose(w.w_ih, 0, 1)) + matmul(h, transpose(w.w_hh, 0, 1));
    if (w.b_ih.defined()) z = z + w.b_ih + w.b_hh;
    const auto gate = [&](int k) { return slice(z, 1, k * hidden, (k + 1) * hidden); };
    const Tensor c_next = sigmoid(gate(1)) * c + sigmoid(gate(0)) * tanh(gate(2));
    const Tensor h_next = sigmoid(gate(3)) * tanh(c_next);
    ys[static_cast<std::size_t>(t)] = reshape(h_next * on, {batch, 1, hidden});
    c = c_next * on + c * off;
    h = h_next * on + h * off;
  }
  return {ys.empty() ? Tensor::zeros({batch, 0, hidden}, x.dtype()) : concat(ys, 1), h, c};
}

struct Case {
  const char* label;
  std::int64_t batch, time, input, hidden;
  bool bias = true, state = false, reverse = false;
  std::vector<std::int32_t> lengths = {};
};

/// From a sample's inputs in order: x w_ih w_hh [b_ih b_hh] [h0 c0] [lengths].
std::pair<LstmWeights, LstmOptions> arguments(const Case& c, std::span<const Tensor> in) {
  LstmWeights w{in[1], in[2], {}, {}};
  LstmOptions o;
  std::size_t at = 3;
  if (c.bias) {
    w.b_ih = in[at++];
    w.b_hh = in[at++];
  }
  if (c.state) {
    o.h0 = in[at++];
    o.c0 = in[at++];
  }
  if (!c.lengths.empty()) o.lengths = in[at++];
  o.reverse = c.reverse;
  return {w, o};
}

std::vector<OpSample> samples(Generator& random) {
  const auto normal = [&](const Shape& s) { return random.normal(s, 0, 0.7, DType::f64); };
  std::vector<OpSample> samples;
  const Case cases[] = {
      {.label = "plain", .batch = 2, .time = 3, .input = 3, .hidden = 2},
      {.label = "odd widths", .batch = 3, .time = 2, .input = 5, .hidden = 17},
      {.label = "no bias", .batch = 2, .time = 2, .input = 2, .hidden = 3, .bias = false},
      {.label = "initial state", .batch = 2, .time = 3, .input = 2, .hidden = 3, .state = true},
      {.label = "lengths", .batch = 4, .time = 4, .input = 2, .hidden = 3, .state = true, .lengths = {2, 4, 0, 1}},
      {.label = "reverse with lengths",
       .batch = 3,
       .time = 4,
       .input = 2,
       .hidden = 3,
       .state = true,
       .reverse = true,
       .lengths = {4, 1, 3}},
      {.label = "one step", .batch = 1, .time = 1, .input = 1, .hidden = 1, .state = true},
      {.label = "no steps", .batch = 2, .time = 0, .input = 2, .hidden = 3, .state = true},
      {.label = "long", .batch = 1, .time = 33, .input = 2, .hidden = 2}};
  for (const Case& c : cases) {
    Tensors in{normal({c.batch, c.time, c.input}), normal({4 * c.hidden, c.input}), normal({4 * c.hidden, c.hidden})};
    if (c.bias) in.insert(in.end(), {normal({4 * c.hidden}), normal({4 * c.hidden})});
    if (c.state) in.insert(in.end(), {normal({c.batch, c.hidden}), normal({c.batch, c.hidden})});
    if (!c.lengths.empty()) in.push_back(Tensor::from(std::span<const std::int32_t>(c.lengths), {c.batch}));
    samples.push_back({.label = c.label,
                       .inputs = in,
                       .run =
                           [c](auto in) {
                             const auto [w, o] = arguments(c, in);
                             const LstmResult r = lstm(in[0], w, o);
                             return Tensors{r.y, r.h_n, r.c_n};
                           },
                       .reference =
                           [c](auto in) {
                             const auto [w, o] = arguments(c, in);
                             const LstmResult r = composite(in[0], w, o);
                             return Tensors{r.y, r.h_n, r.c_n};
                           },
                       .flops = 8.0 * static_cast<double>(c.batch * c.time * c.hidden * (c.input + c.hidden))});
  }
  return samples;
}

std::vector<OpSample> step_samples(Generator& random) {
  const auto normal = [&](const Shape& s) { return random.normal(s, 0, 0.7, DType::f64); };
  return {{.label = "one step",
           .inputs = {normal({3, 4}), normal({20, 4}), normal({20, 5}), normal({20}), normal({20}), normal({3, 5}),
                      normal({3, 5})},
           .run =
               [](auto in) {
                 const LstmResult r = lstm_step(in[0], {in[1], in[2], in[3], in[4]}, in[5], in[6]);
                 return Tensors{r.y, r.h_n, r.c_n};
               },
           .reference =
               [](auto in) {
                 const LstmResult r =
                     composite(reshape(in[0], {3, 1, 4}), {in[1], in[2], in[3], in[4]}, {.h0 = in[5], .c0 = in[6]});
                 return Tensors{r.y, r.h_n, r.c_n};
               }}};
}

const OpRegistration registration{{.name = "lstm", .samples = samples, .bad_inputs = [] {
                                     const auto z = [](const Shape& s) { return Tensor::zeros(s); };
                                     const LstmWeights w{z({8, 3}), z({8, 2}), z({8}), z({8})};
                                     return std::vector<BadInput>{
                                         {"rank",
                                          [=] {
                                            lstm(z({4, 3}), w);
                                          },
                                          "E-OP-013.*x has shape \\[4,3\\]; expected \\[B,T,I\\]"},
                                         {"input width",
                                          [=] {
                                            lstm(z({4, 5, 2}), w);
                                          },
                                          "E-OP-013.*w_ih has shape \\[8,3\\]; expected \\[8,2\\]"},
                                         {"gates",
                                          [=] {
                                            lstm(z({4, 5, 3}), {z({8, 3}), z({6, 2}), {}, {}});
                                          },
                                          "E-OP-013.*w_hh.*\\[6,2\\].*\\[4H,H\\]"},
                                         {"one bias",
                                          [=] {
                                            lstm(z({4, 5, 3}), {z({8, 3}), z({8, 2}), z({8}), {}});
                                          },
                                          "E-OP-013.*both or neither"},
                                         {"state",
                                          [=] {
                                            lstm(z({4, 5, 3}), w, {.h0 = z({2, 4})});
                                          },
                                          "E-OP-013.*h0.*\\[2,4\\].*\\[4,2\\]"},
                                         {"lengths",
                                          [=] {
                                            lstm(z({4, 5, 3}), w, {.lengths = z({4})});
                                          },
                                          "E-OP-006.*lengths is f32"}};
                                   }}};
const OpRegistration step_registration{{.name = "lstm_step", .samples = step_samples, .bad_inputs = [] {
                                          const auto z = [](const Shape& s) { return Tensor::zeros(s); };
                                          const LstmWeights w{z({8, 3}), z({8, 2}), z({8}), z({8})};
                                          return std::vector<BadInput>{
                                              {"rank",
                                               [=] {
                                                 lstm_step(z({4, 1, 3}), w, z({4, 2}), z({4, 2}));
                                               },
                                               "E-OP-013.*lstm_step: x.*\\[4,1,3\\].*\\[B,I\\]"},
                                              {"undefined state",
                                               [=] {
                                                 lstm_step(z({4, 3}), w, {}, {});
                                               },
                                               "E-OP-006.*h is undefined"},
                                              {"state width",
                                               [=] {
                                                 lstm_step(z({4, 3}), w, z({4, 3}), z({4, 2}));
                                               },
                                               "E-OP-013.*h0.*\\[4,3\\].*\\[4,2\\]"}};
                                        }}};

}  // namespace

LstmResult lstm(const Tensor& x, const LstmWeights& weights, const LstmOptions& options) {
  return run("lstm", x, weights, options);
}

LstmResult lstm_step(const Tensor& x, const LstmWeights& weights, const Tensor& h, const Tensor& c) {
  check_operand("lstm_step", "x", x);
  check_operand("lstm_step", "h", h, &x);
  check_operand("lstm_step", "c", c, &x);
  ADJOINT_OP_CHECK(x.rank() == 2, "E-OP-013",
                   fmt::format("lstm_step: x has shape {}; expected [B,I]", text(x.shape())));
  return run("lstm_step", reshape(x, {x.extent(0), 1, x.extent(1)}), weights, {.h0 = h, .c0 = c});
}

}  // namespace adjoint
