// Errors of the f64 functions on plain doubles against the C library's in wider arithmetic, and their bits.

#include "kernels/base/real_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

namespace adjoint::real {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr long double kPi = 3.14159265358979323846264338327950288L;

/// Bit patterns a prime apart over all doubles, and a fine walk of each binade from 2^-30 to 2^11 where functions bend.
const std::vector<double>& arguments() {
  static const std::vector<double> all = [] {
    std::vector<double> x;
    for (std::uint64_t bits = 0; bits < ~std::uint64_t{0} - 92233720368547ull; bits += 92233720368547ull)
      x.push_back(std::bit_cast<double>(bits));
    for (int e = -30; e <= 10; ++e)
      for (int i = 0; i < 4000; ++i) {
        const double v = std::ldexp(1.0 + i / 4000.0 + 1e-9 * i, e);
        x.push_back(v);
        x.push_back(-v);
      }
    return x;
  }();
  return all;
}

double ulp_at(long double exact) {
  const long double magnitude =
      std::max(std::fabs(exact), static_cast<long double>(std::numeric_limits<double>::min()));
  return static_cast<double>(std::ldexp(1.0L, std::max(std::ilogb(magnitude), -1022) - 52));
}

double worst_ulp(const std::function<double(double)>& f, const std::function<long double(long double)>& reference,
                 double low = -kInf, double high = kInf) {
  double worst = 0;
  for (const double x : arguments()) {
    if (!(x >= low && x <= high)) continue;
    const long double exact = reference(static_cast<long double>(x));
    const double rounded = static_cast<double>(exact), y = f(x);
    if (std::isnan(rounded) || std::isinf(rounded)) {
      EXPECT_TRUE(std::isnan(rounded) ? std::isnan(y) : y == rounded) << "argument " << x << " gives " << y;
      continue;
    }
    const double error = static_cast<double>(std::fabs(static_cast<long double>(y) - exact)) / ulp_at(exact);
    if (!(error <= worst)) worst = error;
    if (!(error < 1e6)) {
      ADD_FAILURE() << "argument " << x << " gives " << y << " instead of " << rounded;
      return kInf;
    }
  }
  ::testing::Test::RecordProperty("worst_ulp", std::to_string(worst));
  return worst;
}

TEST(RealMath, Exp_is_within_its_bound) {
  EXPECT_LE(worst_ulp([](double x) { return exp(x); }, [](long double x) { return std::exp(x); }), 1.0);
}
TEST(RealMath, Log_is_within_its_bound) {
  EXPECT_LE(worst_ulp([](double x) { return log(x); }, [](long double x) { return std::log(x); }), 1.0);
}
TEST(RealMath, Tanh_is_within_its_bound) {
  EXPECT_LE(worst_ulp([](double x) { return tanh(x); }, [](long double x) { return std::tanh(x); }), 2.5);
}
TEST(RealMath, Sigmoid_is_within_its_bound) {
  EXPECT_LE(worst_ulp([](double x) { return sigmoid(x); }, [](long double x) { return 1 / (1 + std::exp(-x)); }, -708),
            2.0);
  EXPECT_EQ(sigmoid(-800.0), 0.0);
}
TEST(RealMath, Erf_is_within_its_bound) {
  EXPECT_LE(worst_ulp([](double x) { return erf(x); }, [](long double x) { return std::erf(x); }), 2.0);
}
TEST(RealMath, Normal_cdf_is_within_its_bound_relative_to_small_tails_too) {
  EXPECT_LE(worst_ulp([](double x) { return normal_cdf(x); },
                      [](long double x) { return 0.5L * std::erfc(-x * std::sqrt(0.5L)); }),
            7.0);
}
TEST(RealMath, Normal_pdf_is_within_its_bound) {
  EXPECT_LE(worst_ulp([](double x) { return normal_pdf(x); },
                      [](long double x) { return std::exp(-0.5L * x * x) / std::sqrt(2 * kPi); }),
            3.0);
}
TEST(RealMath, Sine_and_cosine_of_turns_are_within_their_bound) {
  const auto part = [](long double u) { return u - std::floor(u); };
  const auto sine = [](double u) {
    double s, c;
    sincos_turns(u, s, c);
    return s;
  };
  const auto cosine = [](double u) {
    double s, c;
    sincos_turns(u, s, c);
    return c;
  };
  // Absolute near the zeros inside, where wider arithmetic has no more bits than needed.
  double worst = 0;
  for (const double u : arguments()) {
    if (!(std::fabs(u) <= 1e6)) continue;
    worst = std::max(worst, std::fabs(sine(u) - static_cast<double>(std::sin(2 * kPi * part(u)))));
    worst = std::max(worst, std::fabs(cosine(u) - static_cast<double>(std::cos(2 * kPi * part(u)))));
  }
  EXPECT_LE(worst, 2.3e-16);
  EXPECT_LE(worst_ulp(
                sine, [](long double u) { return std::sin(2 * kPi * u); }, 1e-300, 0.25),
            1.5);
}

TEST(RealMath, Takes_special_values_as_the_c_library_does) {
  EXPECT_TRUE(std::isnan(exp(kNan)) && std::isnan(log(kNan)) && std::isnan(tanh(kNan)) && std::isnan(erf(kNan)));
  EXPECT_TRUE(std::isnan(normal_cdf(kNan)) && std::isnan(normal_pdf(kNan)) && std::isnan(sigmoid(kNan)));
  EXPECT_EQ(exp(kInf), kInf);
  EXPECT_EQ(exp(-kInf), 0.0);
  EXPECT_EQ(log(0.0), -kInf);
  EXPECT_EQ(log(kInf), kInf);
  EXPECT_TRUE(std::isnan(log(-1.0)) && std::isnan(log(-kInf)));
  EXPECT_EQ(exp(0.0), 1.0);
  EXPECT_EQ(log(1.0), 0.0);
  EXPECT_EQ(tanh(kInf), 1.0);
  EXPECT_EQ(tanh(-kInf), -1.0);
  EXPECT_TRUE(std::signbit(tanh(-0.0)) && std::signbit(erf(-0.0)));
  EXPECT_EQ(normal_cdf(-kInf), 0.0);
  EXPECT_EQ(normal_cdf(kInf), 1.0);
}

TEST(RealMath, Power_multiplies) {
  EXPECT_EQ(power(0.9, 0), 1.0);
  EXPECT_EQ(power(2.0, 62), 0x1p62);
  EXPECT_NEAR(power(0.999, 100000) / std::pow(0.999, 100000), 1.0, 1e-11);
}

/// FNV-1a over the bits of a function's results.
std::uint64_t digest(const std::function<double(double)>& f) {
  std::uint64_t h = 0xCBF29CE484222325;
  for (const double x : arguments()) {
    const double y = f(x);
    h = (h ^ (std::isnan(y) ? 0 : std::bit_cast<std::uint64_t>(y))) * 0x100000001B3;
  }
  return h;
}

/// A compiler or a machine that computes other bits shows here.
TEST(RealMath, Gives_the_recorded_bits) {
  EXPECT_EQ(digest([](double x) { return exp(x); }), 9047266770131503241u);
  EXPECT_EQ(digest([](double x) { return log(x); }), 6123650668627652001u);
  EXPECT_EQ(digest([](double x) { return tanh(x); }), 14893973948434915340u);
  EXPECT_EQ(digest([](double x) { return erf(x); }), 7995757152724117351u);
  EXPECT_EQ(digest([](double x) { return normal_cdf(x); }), 11796754775841139857u);
  EXPECT_EQ(digest([](double x) {
              double s, c;
              sincos_turns(std::fabs(x) < 1e6 ? x : 0.0, s, c);
              return s + 2 * c;
            }),
            7153967473460759887u);
}

}  // namespace
}  // namespace adjoint::real
