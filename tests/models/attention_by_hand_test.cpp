// Attention worked out by hand: numbers that anybody can follow with pen and paper.

#include <gtest/gtest.h>

#include <cmath>

#include "engine/ops.h"
#include "models/attention.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

constexpr double kSixDecimals = 5.0001e-7;

void expect_near(const Tensor& actual, const Shape& shape, const std::vector<double>& expected, const char* what,
                 double tolerance = kSixDecimals) {
  ASSERT_EQ(actual.shape(), shape) << what;
  const std::vector<double> a = actual.to_vector();
  ASSERT_EQ(a.size(), expected.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], expected[i], tolerance) << what << ", element " << i;
}

Tensor sentence() { return tensor({-2, 1, .5, 1, 1.5, -.5, -1.5, 1, -.5, -2, -2.5, 1.5}, {4, 3}); }
Tensor w_q() { return tensor({1, -1.5, 0, 2, -.5, -1}, {3, 2}); }
Tensor w_k() { return tensor({-1.5, -1, 2.5, 0, .5, -1}, {3, 2}); }
Tensor w_v() { return tensor({1, 2.5, -.5, -2, 0, -1}, {3, 2}); }

/// [n, D] as a batch of one.
Tensor one(const Tensor& x) { return reshape(x, {1, x.extent(0), x.extent(1)}); }
Tensor rows(const Tensor& x) { return reshape(x, {x.extent(1), x.extent(2)}); }

/// softmax(Q K' / sqrt(width)) V for one sentence x [n, D]: [n, columns of W_V].
Tensor self_attention(const Tensor& x, const Tensor& q, const Tensor& k, const Tensor& v) {
  return rows(dot_attention(one(matmul(x, q)), one(matmul(x, k)), one(matmul(x, v)), 0.0));
}

TEST(AttentionByHand, One_query_over_four_words) {
  const Tensor q = tensor({-2, 1, -1}, {1, 1, 3}), x = one(sentence());
  expect_near(dot_attention_weights(q, x, 0.0), {1, 1, 4}, {.465369, .034631, .465369, .034631}, "probabilities");
  expect_near(dot_attention(q, x, x, 0.0), {1, 1, 3}, {-1.663422, .896106, .034631}, "output");
}

TEST(AttentionByHand, Self_attention_of_one_head) {
  const Tensor x = sentence();
  expect_near(matmul(x, w_q()), {4, 2}, {-2.25, 4.5, 1.25, 2, -1.25, 4.75, -2.75, -3.5}, "Q", 1e-15);
  expect_near(matmul(x, w_k()), {4, 2}, {5.75, 1.5, 2, -.5, 4.5, 2, -2.5, .5}, "K", 1e-15);
  expect_near(matmul(x, w_v()), {4, 2}, {-2.5, -7.5, .25, 0, -2, -5.25, -.75, -1.5}, "V", 1e-15);
  expect_near(self_attention(x, w_q(), w_k(), w_v()), {4, 2},
              {-.752201, -1.506687, -2.295649, -6.586861, -1.071414, -2.475955, -.748122, -1.497183}, "Z");
}

TEST(AttentionByHand, Self_attention_of_two_heads) {
  const Tensor x = sentence(), ones = Tensor::full({3, 2}, 1.0, DType::f64);
  const Tensor w_o = tensor({-1, 1.5, 2, 0, -1, -2, 1, -1.5, 0, 2, 0, 1}, {4, 3});
  const Tensor heads = concat({self_attention(x, w_q(), w_k(), w_v()), self_attention(x, ones, ones, ones)}, -1);
  expect_near(matmul(heads, w_o), {4, 3},
              {-6.046649, 3.777811, -.757311, 8.287418, .147503, 10.579681, -7.390574, 5.099828, -.011581, -8.250454,
               4.874288, -1.501403},
              "Z");

  // The same by one call with two heads: weights side by side, and the heads as an axis.
  const auto two_heads = [&](const Tensor& w) {
    return transpose(reshape(matmul(x, concat({w, ones}, -1)), {1, 4, 2, 2}), 1, 2);  // [1, 2, 4, 2]
  };
  const Tensor y = attention(two_heads(w_q()), two_heads(w_k()), two_heads(w_v()));
  const std::vector<double> expected = matmul(heads, w_o).to_vector();
  expect_near(matmul(reshape(transpose(y, 1, 2), {4, 4}), w_o), {4, 3}, expected, "heads as an axis", 1e-13);
}

TEST(AttentionByHand, Any_sentence_with_queries_of_width_37) {
  Generator random(37);
  const auto normal = [&](const Shape& shape) { return random.normal(shape, 0, 1, DType::f64); };
  const Tensor q = normal({2, 37}), k = normal({2, 37}), v = normal({2, 2});
  for (const std::int64_t n : {1, 2, 7, 40}) {
    const Tensor x = normal({n, 2});
    const Tensor z = self_attention(x, q, k, v);
    // The definition, in plain loops.
    const auto xs = x.to_vector(), qs = q.to_vector(), ks = k.to_vector(), vs = v.to_vector();
    const auto project = [&](const std::vector<double>& w, std::int64_t row, std::int64_t column, std::int64_t width) {
      return xs[static_cast<std::size_t>(2 * row)] * w[static_cast<std::size_t>(column)] +
             xs[static_cast<std::size_t>(2 * row + 1)] * w[static_cast<std::size_t>(width + column)];
    };
    std::vector<double> expected;
    for (std::int64_t i = 0; i < n; ++i) {
      double total = 0, out[2] = {0, 0};
      for (std::int64_t j = 0; j < n; ++j) {
        double score = 0;
        for (std::int64_t d = 0; d < 37; ++d) score += project(qs, i, d, 37) * project(ks, j, d, 37);
        const double weight = std::exp(score / std::sqrt(37.0));
        total += weight;
        for (std::int64_t d = 0; d < 2; ++d) out[d] += weight * project(vs, j, d, 2);
      }
      expected.insert(expected.end(), {out[0] / total, out[1] / total});
    }
    expect_near(z, {n, 2}, expected, "Z", 1e-11);
  }
}

TEST(DotAttention, Names_operands_that_are_no_sequences) {
  const Tensor x = Tensor::zeros({2, 3, 4});
  expect_error(
      [&] {
        (void)dot_attention(Tensor::zeros({3, 4}), x, x, 1.0);
      },
      "E-OP-012", "dot_attention: q has shape \\[3,4\\]; expected \\[B,T,D\\]");
  expect_error([&] { (void)dot_attention(x, x, Tensor(), 1.0); }, "E-OP-012", "dot_attention: v has shape");
  expect_error([&] { (void)dot_attention(x, Tensor::zeros({2, 3, 5}), x, 1.0); }, "E-OP-012", "widths 4 and 5 differ");
}

}  // namespace
}  // namespace adjoint::testing
