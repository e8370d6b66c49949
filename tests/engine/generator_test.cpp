// Random numbers: the same for everybody, and never the same twice.

#include "engine/generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/launch.h"
#include "engine/ops.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

std::uint64_t counter(const Generator& generator) { return generator.state().data_as<PhiloxState>()->counter; }

TEST(Generator, Gives_the_same_numbers_for_the_same_seed) {
  const int before = threads();
  std::string uniform, normal;
  for (const int n : {1, 2, 4}) {
    set_threads(n);
    Generator a(42);
    const std::string u = bits(a.uniform({1000, 101}, -1, 3)), z = bits(a.normal({1000, 101}, 1, 2));
    if (n == 1) uniform = u, normal = z;
    EXPECT_EQ(u, uniform) << n << " threads";
    EXPECT_EQ(z, normal) << n << " threads";
  }
  set_threads(before);
  Generator other(43);
  EXPECT_NE(bits(other.uniform({1000, 101}, -1, 3)), uniform);
}

TEST(Generator, Continues_where_the_last_draw_ended) {
  Generator pieces(7), whole(7);
  std::vector<double> joined;
  for (const std::int64_t n : {4, 12, 0, 8}) {
    const std::vector<double> part = pieces.uniform({n}, 0, 1).to_vector();
    joined.insert(joined.end(), part.begin(), part.end());
  }
  EXPECT_EQ(joined, whole.uniform({24}, 0, 1).to_vector());
}

TEST(Generator, Reserves_as_many_numbers_as_a_draw_uses) {
  // A block has 4 words; normal numbers come in pairs, so an odd count uses one word more than its elements.
  for (const std::int64_t n : {1, 2, 3, 4, 5, 7, 8, 9, 4001}) {
    Generator generator(1);
    (void)generator.uniform({n}, 0, 1);
    EXPECT_EQ(counter(generator), static_cast<std::uint64_t>((n + 3) / 4)) << n;
    const std::uint64_t before = counter(generator);
    (void)generator.normal({n}, 0, 1);
    EXPECT_GE(4 * (counter(generator) - before), static_cast<std::uint64_t>(n + n % 2)) << n;
    const std::uint64_t drawn = counter(generator);
    (void)dropout(Tensor::zeros({n}), 0.5, generator);
    EXPECT_GE(4 * (counter(generator) - drawn), static_cast<std::uint64_t>(n)) << n;
  }
}

TEST(Generator, Gives_other_numbers_at_each_draw) {
  Generator generator(9);
  const std::vector<double> a = generator.uniform({999}, 0, 1).to_vector();
  const std::vector<double> b = generator.uniform({999}, 0, 1).to_vector();
  int equal = 0;
  for (const double x : a)
    for (const double y : b) equal += x == y;
  EXPECT_LE(equal, 3) << "999 x 999 pairs of 24-bit numbers: 0.06 coincidences are expected";
}

/// Mean and variance of a sample.
std::pair<double, double> moments(const std::vector<double>& x) {
  double mean = 0, variance = 0;
  for (const double v : x) mean += v / static_cast<double>(x.size());
  for (const double v : x) variance += (v - mean) * (v - mean) / static_cast<double>(x.size());
  return {mean, variance};
}

TEST(Generator, Draws_normal_numbers_of_the_right_mean_and_variance) {
  constexpr double kN = 1e6;
  for (const DType dtype : {DType::f64, DType::f32}) {
    Generator generator(11);
    const auto [mean, variance] = moments(generator.normal({1'000'000}, 2.0, 3.0, dtype).to_vector());
    EXPECT_NEAR(mean, 2.0, 5 * 3.0 / std::sqrt(kN));            // sd of the mean
    EXPECT_NEAR(variance, 9.0, 5 * 9.0 * std::sqrt(2.0 / kN));  // sd of the variance of a normal sample
    const std::vector<double> z = generator.normal({1'000'000}, 0, 1, dtype).to_vector();
    double fourth = 0, neighbours = 0;
    for (std::size_t i = 0; i + 1 < z.size(); ++i) {
      fourth += z[i] * z[i] * z[i] * z[i] / kN;
      neighbours += z[i] * z[i + 1] / kN;
    }
    EXPECT_NEAR(fourth, 3.0, 5 * std::sqrt(96.0 / kN));  // var(z^4) = 105 - 9
    EXPECT_NEAR(neighbours, 0.0, 5 / std::sqrt(kN));     // the halves of a Box-Muller pair
  }
}

TEST(Generator, Draws_uniform_numbers_within_their_bounds) {
  constexpr double kN = 1e6;
  Generator generator(12);
  const std::vector<double> u = generator.uniform({1'000'000}, -1, 3, DType::f32).to_vector();
  const auto [low, high] = std::minmax_element(u.begin(), u.end());
  EXPECT_GE(*low, -1.0);
  EXPECT_LT(*high, 3.0);
  const auto [mean, variance] = moments(u);
  EXPECT_NEAR(mean, 1.0, 5 * 4 / std::sqrt(12 * kN));
  EXPECT_NEAR(variance, 16.0 / 12, 5 * 16 * std::sqrt(1.0 / 180 / kN));  // var((u - 1/2)^2) = 1/180
}

TEST(Generator, Resumes_from_a_copy_of_its_state) {
  Generator original(5);
  (void)original.normal({77}, 0, 1);
  Generator resumed(0);
  Tensor state = resumed.state();
  state.copy_from(original.state());
  EXPECT_EQ(bits(resumed.normal({33}, 0, 1)), bits(original.normal({33}, 0, 1)));
  EXPECT_EQ(bits(dropout(Tensor::full({100}, 1), 0.5, resumed)), bits(dropout(Tensor::full({100}, 1), 0.5, original)));
  EXPECT_EQ(bits(resumed.state()), bits(original.state()));
}

TEST(Generator, Draws_one_dropout_mask_for_all_dtypes) {
  Generator a(6), b(6);
  EXPECT_EQ(dropout(Tensor::full({1000}, 1, DType::f64), 0.5, a).to_vector(),
            dropout(Tensor::full({1000}, 1, DType::f32), 0.5, b).to_vector());
}

}  // namespace
}  // namespace adjoint::testing
