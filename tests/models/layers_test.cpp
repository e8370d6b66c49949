// Layers: what their parameters are called and start from, and what they compute.

#include "models/layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

using ::testing::ElementsAre;

/// "weight[3,5]" for each parameter.
std::vector<std::string> listed(const Module& module) {
  std::vector<std::string> all;
  for (const NamedParameter& p : module.parameters()) all.push_back(p.name + text(p.parameter->shape()));
  return all;
}

Tensor parameter(const Module& module, const std::string& name) {
  for (const NamedParameter& p : module.parameters())
    if (p.name == name) return p.parameter->value();
  throw std::runtime_error("no parameter " + name);
}

TEST(Layers, Have_names_and_shapes_that_pytorch_can_load) {
  Generator random(1);
  const Initializer init{random};
  EXPECT_THAT(listed(Linear(init, 5, 3)), ElementsAre("weight[3,5]", "bias[3]"));
  EXPECT_THAT(listed(Linear(init, 5, 3, false)), ElementsAre("weight[3,5]"));
  EXPECT_THAT(listed(Embedding(init, 7, 4)), ElementsAre("weight[7,4]"));
  EXPECT_THAT(listed(LayerNorm(init, 6)), ElementsAre("weight[6]", "bias[6]"));
  EXPECT_THAT(listed(Lstm(init, 5, 3)),
              ElementsAre("weight_ih_l0[12,5]", "weight_hh_l0[12,3]", "bias_ih_l0[12]", "bias_hh_l0[12]"));
  EXPECT_THAT(listed(Lstm(init, 5, 3, {.layers = 2, .bidirectional = true})),
              ElementsAre("weight_ih_l0[12,5]", "weight_hh_l0[12,3]", "bias_ih_l0[12]", "bias_hh_l0[12]",
                          "weight_ih_l0_reverse[12,5]", "weight_hh_l0_reverse[12,3]", "bias_ih_l0_reverse[12]",
                          "bias_hh_l0_reverse[12]", "weight_ih_l1[12,6]", "weight_hh_l1[12,3]", "bias_ih_l1[12]",
                          "bias_hh_l1[12]", "weight_ih_l1_reverse[12,6]", "weight_hh_l1_reverse[12,3]",
                          "bias_ih_l1_reverse[12]", "bias_hh_l1_reverse[12]"));
}

/// Uniform in ±bound: within it, near it, and of its variance.
void expect_uniform(const Tensor& x, double bound) {
  double largest = 0, square = 0;
  for (const double v : x.to_vector()) {
    largest = std::max(largest, std::abs(v));
    square += v * v / static_cast<double>(x.count());
  }
  EXPECT_LE(largest, bound);
  EXPECT_GE(largest, 0.95 * bound);
  EXPECT_NEAR(square, bound * bound / 3, 5 * bound * bound * std::sqrt(4.0 / 45 / static_cast<double>(x.count())));
}

TEST(Layers, Start_within_their_ranges) {
  Generator random(2);
  const Initializer init{random};
  const Linear linear(init, 64, 100);
  expect_uniform(parameter(linear, "weight"), 1.0 / 8);
  expect_uniform(parameter(linear, "bias"), 1.0 / 8);
  const Lstm lstm(init, 100, 25);
  for (const NamedParameter& p : lstm.parameters()) expect_uniform(p.parameter->value(), 1.0 / 5);
  const LayerNorm norm(init, 3);
  EXPECT_THAT(parameter(norm, "weight").to_vector(), ElementsAre(1, 1, 1));
  EXPECT_THAT(parameter(norm, "bias").to_vector(), ElementsAre(0, 0, 0));
  const Embedding table(init, 200, 50);
  double mean = 0, square = 0;
  for (const double v : parameter(table, "weight").to_vector()) mean += v / 10'000, square += v * v / 10'000;
  EXPECT_NEAR(mean, 0, 5.0 / 100);
  EXPECT_NEAR(square, 1, 5 * std::sqrt(2.0) / 100);
}

TEST(Layers, Are_made_in_the_dtype_asked_for) {
  Generator random(2);
  const Initializer init{random, DType::f64};
  const Lstm lstm(init, 2, 3);
  for (const NamedParameter& p : lstm.parameters()) EXPECT_EQ(p.parameter->value().dtype(), DType::f64);
  EXPECT_EQ(parameter(LayerNorm(init, 2), "bias").dtype(), DType::f64);
  EXPECT_EQ(Embedding::one_hot(init, 3)->weight().value().dtype(), DType::f64);
}

TEST(Linear, Is_its_op) {
  Generator random(3);
  const Linear layer({random, DType::f64}, 3, 2);
  const Tensor x = random.normal({2, 4, 3}, 0, 1, DType::f64), lengths = ints({4, 1}, {2});
  EXPECT_EQ(bits(layer.forward(x)), bits(linear(x, parameter(layer, "weight"), parameter(layer, "bias"))));
  const std::vector<double> y = layer.forward(x, lengths).to_vector(), whole = layer.forward(x).to_vector();
  for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], i < 10 ? whole[i] : 0.0) << i;
}

TEST(Embedding, Of_unit_vectors_is_frozen) {
  Generator random(3);
  const auto table = Embedding::one_hot({random}, 3);
  EXPECT_THAT(table->forward(ints({2, 0}, {2})).to_vector(), ElementsAre(0, 0, 1, 1, 0, 0));
  EXPECT_FALSE(table->weight().trainable());
  EXPECT_THAT(listed(*table), ElementsAre("weight[3,3]"));
}

/// Two bidirectional layers built from single lstm() calls.
struct Composite {
  Tensor y;
  std::vector<Tensor> h, c;
};
Composite composite(const Lstm& layer, Tensor x, const Tensor& lengths, const Lstm::State& initial) {
  Composite result;
  for (int k = 0; k < 2; ++k) {
    std::vector<Tensor> y;
    for (int d = 0; d < 2; ++d) {
      const std::string suffix = "_l" + std::to_string(k) + (d == 1 ? "_reverse" : "");
      const auto at = static_cast<std::size_t>(2 * k + d);
      const LstmResult r = lstm(x,
                                {parameter(layer, "weight_ih" + suffix), parameter(layer, "weight_hh" + suffix),
                                 parameter(layer, "bias_ih" + suffix), parameter(layer, "bias_hh" + suffix)},
                                {.h0 = initial.h.empty() ? Tensor() : initial.h[at],
                                 .c0 = initial.c.empty() ? Tensor() : initial.c[at],
                                 .lengths = lengths,
                                 .reverse = d == 1});
      y.push_back(r.y);
      result.h.push_back(r.h_n);
      result.c.push_back(r.c_n);
    }
    x = concat(y, -1);
  }
  result.y = x;
  return result;
}

TEST(Lstm, Stacks_directions_and_layers) {
  Generator random(4);
  const Lstm layer({random, DType::f64}, 3, 4, {.layers = 2, .bidirectional = true, .dropout = 0.5});
  EXPECT_EQ(layer.output_width(), 8);
  const Tensor x = random.normal({3, 5, 3}, 0, 1, DType::f64);
  Lstm::State state;
  for (int i = 0; i < 4; ++i) {
    state.h.push_back(random.normal({3, 4}, 0, 1, DType::f64));
    state.c.push_back(random.normal({3, 4}, 0, 1, DType::f64));
  }
  for (const Tensor& lengths : {Tensor(), ints({5, 2, 1}, {3})}) {
    for (const Lstm::State& initial : {Lstm::State{}, state}) {
      const Lstm::Result r = layer.forward(x, lengths, initial);  // not in training: no dropout
      const Composite expected = composite(layer, x, lengths, initial);
      EXPECT_EQ(r.y.shape(), (Shape{3, 5, 8}));
      EXPECT_EQ(bits(r.y), bits(expected.y));
      ASSERT_EQ(r.state.h.size(), 4u);
      for (std::size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(bits(r.state.h[i]), bits(expected.h[i])) << i;
        EXPECT_EQ(bits(r.state.c[i]), bits(expected.c[i])) << i;
      }
    }
  }
}

TEST(Lstm, Drops_between_layers_in_training_only) {
  Generator random(5), draws(6);
  Lstm two({random}, 3, 16, {.layers = 2, .dropout = 0.5}), one({random}, 3, 16, {.dropout = 0.5});
  const Tensor x = random.normal({2, 5, 3}, 0, 1);
  const std::string plain = bits(two.forward(x).y);
  two.set_training(true);
  EXPECT_NE(bits(two.forward(x, {}, {}, &draws).y), plain);
  expect_error([&] { (void)two.forward(x); }, "E-OP-009", "^lstm: dropout 0\\.5 needs a generator in training");
  two.set_training(false);
  EXPECT_EQ(bits(two.forward(x).y), plain);
  one.set_training(true);
  EXPECT_NO_THROW((void)one.forward(x)) << "one layer has nothing between layers";
}

TEST(Layers, Refuse_widths_below_one) {
  Generator random(1);
  const Initializer init{random};
  const auto refuses = [](const std::function<void()>& make, const char* pattern) {
    expect_error(make, "E-CONF-003", pattern, Exit::usage);
  };
  refuses([&] { Linear(init, 0, 3); }, "^linear: input width is 0; expected an integer of at least 1");
  refuses([&] { Linear(init, 3, -1); }, "^linear: output width is -1");
  refuses([&] { Embedding(init, 0, 3); }, "^embedding: number of rows is 0");
  refuses([&] { Embedding(init, 3, 0); }, "^embedding: width is 0");
  refuses([&] { LayerNorm(init, 0); }, "^layer norm: width is 0");
  refuses([&] { Lstm(init, 0, 3); }, "^lstm: input width is 0");
  refuses([&] { Lstm(init, 3, 0); }, "^lstm: hidden width is 0");
  refuses([&] { Lstm(init, 3, 3, {.layers = 0}); }, "^lstm: number of layers is 0");
}

TEST(Layers, Say_what_does_not_fit) {
  Generator random(1);
  const Initializer init{random};
  expect_error([&] { (void)Linear(init, 3, 2).forward(Tensor::zeros({2, 4})); }, "E-OP-001", "^linear: .*\\[2,4\\]");
  expect_error(
      [&] {
        (void)Embedding(init, 10, 2).forward(ints({3, 11}, {2}));
      },
      "E-OP-010", "^embedding: .*index 11.*10 rows");
  expect_error([&] { (void)LayerNorm(init, 3).forward(Tensor::zeros({2, 4})); }, "E-OP-003", "^layer_norm: .*3.*4");
  const Lstm lstm(init, 3, 2);
  expect_error([&] { (void)lstm.forward(Tensor::zeros({2, 5, 4})); }, "E-OP-013", "^lstm: w_ih has shape \\[8,3\\]");
  expect_error(
      [&] {
        (void)lstm.forward(Tensor::zeros({2, 5, 3}), {}, {{Tensor::zeros({2, 2})}, {}});
      },
      "E-OP-013", "^lstm: initial state has 1 and 0 tensors; expected 1");
}

}  // namespace
}  // namespace adjoint::testing
