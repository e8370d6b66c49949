// The encoder blocks: acceptance numbers, and the properties that make them what they claim to be.

#include "models/encoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/tape.h"
#include "kernels/base/error.h"
#include "models/classifiers.h"

namespace adjoint {
namespace {

Tensor values(const Shape& shape, std::vector<double> v) {
  return Tensor::from(std::span<const double>(v), shape, DType::f64);
}
Tensor ints(const Shape& shape, std::vector<std::int32_t> v) {
  return Tensor::from(std::span<const std::int32_t>(v), shape);
}

void expect_near(const Tensor& actual, const std::vector<double>& expected, double tolerance) {
  const std::vector<double> a = actual.to_vector();
  ASSERT_EQ(a.size(), expected.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], expected[i], tolerance) << "element " << i;
}

class Encoder : public ::testing::Test {
 protected:
  Tensor normal(const Shape& shape) { return random_.normal(shape, 0, 1, DType::f64); }

  Generator random_{3};
  Initializer init_{random_, DType::f64};
};

// The numbers of the exercise have four rows of width 3; their accuracy is 6 decimals.
constexpr double kPrinted = 1e-6;

TEST_F(Encoder, Attention_of_one_query_gives_the_worked_numbers) {
  const Tensor x = values({4, 3}, {-2, 1, .5, 1, 1.5, -.5, -1.5, 1, -.5, -2, -2.5, 1.5});
  const auto [y, w] = AttentionHead::scaled_dot_product_attention(values({1, 3}, {-2, 1, -1}), x, x);
  expect_near(w, {.465369, .034631, .465369, .034631}, kPrinted);
  expect_near(y, {-1.663422, .896106, .034631}, kPrinted);
}

TEST_F(Encoder, Self_attention_gives_the_worked_numbers) {
  const Tensor x = values({4, 3}, {-2, 1, .5, 1, 1.5, -.5, -1.5, 1, -.5, -2, -2.5, 1.5});
  const Tensor q = matmul(x, values({3, 2}, {1, -1.5, 0, 2, -.5, -1}));
  const Tensor k = matmul(x, values({3, 2}, {-1.5, -1, 2.5, 0, .5, -1}));
  const Tensor v = matmul(x, values({3, 2}, {1, 2.5, -.5, -2, 0, -1}));
  const Tensor z = AttentionHead::scaled_dot_product_attention(q, k, v).first;
  expect_near(z, {-.752201, -1.506687, -2.295649, -6.586861, -1.071414, -2.475955, -.748122, -1.497183}, kPrinted);
  const Tensor ones = matmul(x, Tensor::full({3, 2}, 1.0, DType::f64));
  const Tensor z2 = AttentionHead::scaled_dot_product_attention(ones, ones, ones).first;
  expect_near(matmul(concat({z, z2}, -1), values({4, 3}, {-1, 1.5, 2, 0, -1, -2, 1, -1.5, 0, 2, 0, 1})),
              {-6.046649, 3.777811, -.757311, 8.287418, .147503, 10.579681, -7.390574, 5.099828, -.011581, -8.250454,
               4.874288, -1.501403},
              kPrinted);
}

TEST_F(Encoder, Unit_rows_give_the_known_weights_with_and_without_a_causal_mask) {
  const Tensor x = values({3, 4}, {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0});
  const double a = .451863, b = .274069;
  expect_near(AttentionHead::scaled_dot_product_attention(x, x, x).second, {a, b, b, b, a, b, b, b, a}, kPrinted);
  const Tensor causal = values({3, 3}, {1, 0, 0, 1, 1, 0, 1, 1, 1});
  expect_near(AttentionHead::scaled_dot_product_attention(x, x, x, causal).second,
              {1, 0, 0, .377541, .622459, 0, b, b, a}, kPrinted);
}

TEST_F(Encoder, Weights_sum_to_one_and_are_uniform_for_zero_scores) {
  const auto [y, w] =
      AttentionHead::scaled_dot_product_attention(normal({2, 5, 3}), normal({2, 7, 3}), normal({2, 7, 4}));
  EXPECT_EQ(y.shape(), (Shape{2, 5, 4}));
  expect_near(sum(w, {-1}), std::vector<double>(10, 1.0), 1e-12);
  expect_near(
      AttentionHead::scaled_dot_product_attention(Tensor::zeros({5, 3}, DType::f64), normal({7, 3}), normal({7, 4}))
          .second,
      std::vector<double>(35, 1.0 / 7), 1e-12);
}

TEST_F(Encoder, A_fully_masked_row_gives_zeros_and_zero_gradients) {
  Tape tape;
  Tensor q, k, v, total;
  {
    const auto recording = tape.record();
    q = tape.watch(normal({2, 3}));
    k = tape.watch(normal({4, 3}));
    v = tape.watch(normal({4, 3}));
    const auto [y, w] = AttentionHead::scaled_dot_product_attention(q, k, v, values({2, 4}, {0, 0, 0, 0, 1, 1, 0, 1}));
    const std::vector<double> out = y.to_vector();
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(out[i], 0.0);
    EXPECT_NE(out[3], 0.0);
    total = sum(square(y));
  }
  tape.backward(total);
  const std::vector<double> dq = tape.gradient(q).to_vector();
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(dq[i], 0.0);
  EXPECT_NE(dq[3], 0.0);
  for (const Tensor& t : {k, v})
    for (const double g : tape.gradient(t).to_vector()) EXPECT_TRUE(std::isfinite(g));
  EXPECT_EQ(tape.gradient(v).to_vector()[6], 0.0) << "key 2 is seen by nobody";
}

TEST_F(Encoder, Joined_heads_equal_the_heads_one_by_one) {
  MultiHeadAttention attention(init_, 12, 3);
  const Tensor x = normal({2, 5, 12});
  std::vector<Tensor> parts;
  for (std::size_t i = 0; i < 3; ++i) parts.push_back(attention.head(i).forward(x));
  Tensor weight, bias;
  std::vector<std::string> names;
  for (const auto& [name, parameter] : attention.parameters()) {
    names.push_back(name);
    if (name == "output.weight") weight = parameter->value();
    if (name == "output.bias") bias = parameter->value();
  }
  EXPECT_NE(std::find(names.begin(), names.end(), "heads.2.k.weight"), names.end());
  expect_near(attention.forward(x), linear(concat(parts, -1), weight, bias).to_vector(), 1e-12);
}

TEST_F(Encoder, Heads_that_do_not_divide_the_width_are_refused_when_used) {
  MultiHeadAttention attention(init_, 30, 4);
  try {
    attention.forward(normal({1, 2, 30}));
    FAIL() << "expected an error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), "E-CONF-005");
    EXPECT_NE(std::string(e.what()).find("30"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("4 heads"), std::string::npos);
  }
}

TEST_F(Encoder, A_layer_whose_sublayers_are_zero_is_the_identity) {
  TransformerEncoderLayer layer(init_, 8, 2, 16);
  const Tensor x = normal({2, 3, 8});
  EXPECT_NE(layer.forward(x).to_vector(), x.to_vector());
  for (const auto& [name, parameter] : layer.parameters()) {
    const bool last = name.starts_with("attention.output") || name.starts_with("feed_forward.linear_2");
    if (last) parameter->value().copy_from(Tensor::zeros(parameter->shape(), DType::f64));
  }
  EXPECT_EQ(layer.forward(x).to_vector(), x.to_vector());
}

TEST_F(Encoder, Post_norm_normalises_the_output_and_residuals_can_be_off) {
  TransformerEncoderLayer post(init_, 8, 2, 16, {.norm = NormPlace::after});
  expect_near(mean(post.forward(normal({2, 3, 8})), {-1}), std::vector<double>(6, 0.0), 1e-12);
  TransformerEncoderLayer bare(init_, 8, 2, 16, {.residual = false});
  for (const auto& [name, parameter] : bare.parameters())
    if (name.starts_with("feed_forward.linear_2"))
      parameter->value().copy_from(Tensor::zeros(parameter->shape(), DType::f64));
  expect_near(bare.forward(normal({1, 2, 8})), std::vector<double>(16, 0.0), 0.0);
}

TEST_F(Encoder, Causal_positions_do_not_see_later_tokens) {
  for (const bool causal : {true, false}) {
    TransformerEncoder encoder(init_, 20, 10, 8, 2, 16, 2, {.causal = causal});
    const std::vector<double> a = encoder.forward(ints({1, 4}, {3, 7, 5, 9})).to_vector();
    const std::vector<double> b = encoder.forward(ints({1, 4}, {3, 7, 5, 11})).to_vector();
    for (std::size_t i = 0; i < 24; ++i) {
      if (causal)
        EXPECT_EQ(a[i], b[i]) << i;
      else
        EXPECT_NE(a[i], b[i]) << i;
    }
    EXPECT_NE(a[24], b[24]);
  }
}

TEST_F(Encoder, Without_positions_shuffling_the_input_shuffles_the_output) {
  for (const Positions positions : {Positions::none, Positions::learned, Positions::sinusoidal}) {
    TransformerEncoder encoder(init_, 20, 10, 8, 2, 16, 2, {.positions = positions});
    const std::vector<double> a = encoder.forward(ints({1, 3}, {3, 7, 5})).to_vector();
    const std::vector<double> b = encoder.forward(ints({1, 3}, {5, 3, 7})).to_vector();
    double difference = 0;
    for (std::size_t i = 0; i < 24; ++i) difference = std::max(difference, std::abs(a[i] - b[(i + 8) % 24]));
    if (positions == Positions::none)
      EXPECT_LT(difference, 1e-12);
    else
      EXPECT_GT(difference, 1e-3);
  }
}

TEST_F(Encoder, A_padded_batch_gives_what_each_sequence_gives_alone) {
  for (const NormPlace norm : {NormPlace::before, NormPlace::after}) {
    TransformerForSequenceClassification model(init_, 20, 10, 8, 2, 16, 2, 3, 0.0, {.norm = norm});
    const std::vector<double> both =
        model.forward(ints({2, 4}, {3, 7, 5, 9, 4, 6, 0, 0}), {.lengths = ints({2}, {4, 2})}).to_vector();
    std::vector<double> alone = model.forward(ints({1, 4}, {3, 7, 5, 9})).to_vector();
    const std::vector<double> second = model.forward(ints({1, 2}, {4, 6})).to_vector();
    alone.insert(alone.end(), second.begin(), second.end());
    ASSERT_EQ(both.size(), 6u);
    for (std::size_t i = 0; i < 6; ++i) EXPECT_NEAR(both[i], alone[i], 1e-12);
  }
}

TEST_F(Encoder, Returns_the_weights_of_each_layer_and_head) {
  TransformerEncoder encoder(init_, 20, 10, 8, 2, 16, 3);
  std::vector<Tensor> weights;
  const Tensor ids = ints({2, 4}, {3, 7, 5, 9, 4, 6, 0, 0}), lengths = ints({2}, {4, 2});
  const Tensor with = encoder.forward(ids, {.lengths = lengths, .weights = &weights});
  EXPECT_EQ(with.to_vector(), encoder.forward(ids, {.lengths = lengths}).to_vector());
  ASSERT_EQ(weights.size(), 3u);
  for (const Tensor& w : weights) {
    ASSERT_EQ(w.shape(), (Shape{2, 2, 4, 4}));
    const std::vector<double> sums = sum(w, {-1}).to_vector();
    for (std::size_t row = 0; row < 16; ++row) EXPECT_NEAR(sums[row], row % 4 < (row < 8 ? 4u : 2u) ? 1.0 : 0.0, 1e-12);
  }
}

TEST_F(Encoder, Too_long_a_sequence_is_refused_with_both_numbers) {
  TransformerEncoder encoder(init_, 20, 3, 8, 2, 16, 1);
  try {
    encoder.forward(ints({1, 4}, {3, 7, 5, 9}));
    FAIL() << "expected an error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("4 tokens, but only 3 positions"), std::string::npos) << e.what();
  }
}

TEST_F(Encoder, Dropout_acts_in_training_only_and_needs_a_generator) {
  TransformerEncoder encoder(init_, 20, 10, 8, 2, 16, 1, {.dropout = 0.5});
  const Tensor ids = ints({1, 3}, {3, 7, 5});
  const std::vector<double> calm = encoder.forward(ids).to_vector();
  EXPECT_EQ(calm, encoder.forward(ids).to_vector());
  encoder.set_training(true);
  EXPECT_THROW(encoder.forward(ids), Error);
  const std::vector<double> first = encoder.forward(ids, {.random = &random_}).to_vector();
  EXPECT_NE(first, calm);
  EXPECT_NE(first, encoder.forward(ids, {.random = &random_}).to_vector());
}

TEST_F(Encoder, The_mean_over_tokens_counts_real_ones_only) {
  expect_near(mean_over_tokens(values({3, 2, 2}, {1, 2, 3, 6, 5, 7, 100, 100, 9, 9, 9, 9}), ints({3}, {2, 1, 0})),
              {2, 4, 5, 7, 0, 0}, 1e-12);
}

class Classifiers : public ::testing::TestWithParam<ClassifierKind> {};

TEST_P(Classifiers, Give_the_same_logits_padded_and_alone_and_train_every_parameter) {
  Generator random(5);
  ClassifierOptions options{.kind = GetParam(),
                            .vocabulary = 12,
                            .classes = 3,
                            .embedding = 8,
                            .hidden = 8,
                            .heads = 2,
                            .intermediate = 16,
                            .max_length = 6};
  if (options.kind == ClassifierKind::lstm_encoder) options.pooling = Pooling::mean;
  const auto model = make_classifier({random, DType::f64}, options);
  const auto alone = [&](std::vector<std::int32_t> ids) {
    const std::int32_t n = static_cast<std::int32_t>(ids.size());
    return model->forward(ints({1, n}, ids), {.lengths = ints({1}, {n})}).to_vector();
  };
  std::vector<double> expected = alone({3, 7, 5, 9});
  const std::vector<double> second = alone({4, 6});
  expected.insert(expected.end(), second.begin(), second.end());
  Tape tape;
  Tensor loss;
  {
    const auto recording = tape.record();
    const Tensor logits = model->forward(ints({2, 4}, {3, 7, 5, 9, 4, 6, 0, 0}), {.lengths = ints({2}, {4, 2})});
    expect_near(logits, expected, 1e-12);
    loss = cross_entropy(logits, ints({2}, {0, 2}));
  }
  tape.backward(loss);
  for (const auto& [name, parameter] : model->parameters()) {
    if (name.ends_with(".k.bias")) continue;  // adds the same to all scores of a row, so its gradient is zero
    double largest = 0;
    for (const double g : parameter->gradient().to_vector()) largest = std::max(largest, std::abs(g));
    EXPECT_GT(largest, 0.0) << name;
  }
  const std::vector<double> padding = slice(model->word_vectors().value(), 0, 0, 1).to_vector();
  EXPECT_EQ(padding, std::vector<double>(8, 0.0));
}

INSTANTIATE_TEST_SUITE_P(All, Classifiers,
                         ::testing::Values(ClassifierKind::logreg, ClassifierKind::ffnn, ClassifierKind::attention,
                                           ClassifierKind::lstm, ClassifierKind::lstm_encoder,
                                           ClassifierKind::encoder));

}  // namespace
}  // namespace adjoint
