// Errors of the vector functions against the C library's f64 ones, over all of the f32 argument range.

#include "kernels/cpu/simd_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Every 4093rd bit pattern (a prime, so that all mantissas and exponents are met), the neighbourhood of the points
/// where the functions change their branch, and the special values.
std::vector<float> arguments() {
  std::vector<float> x;
  for (std::uint64_t bits = 0; bits < (1ull << 32); bits += 4093)
    x.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  for (float centre :
       {0.0f, 0.5f, 0.70710678f, 1.0f, 1.41421356f, 7.9f, 9.1f, 14.2f, 15.0f, 87.3f, 88.72f, 88.8f, 103.97f, 104.0f}) {
    for (float sign : {-1.0f, 1.0f}) {
      float up = sign * centre, down = up;
      for (int i = 0; i < 2000; ++i) {
        x.push_back(up = std::nextafter(up, kInf));
        x.push_back(down = std::nextafter(down, -kInf));
      }
    }
  }
  for (float v : {0.0f, 1e-45f, 1e-40f, 1.17549435e-38f, 1.0f, 1e38f, 3.4028235e38f, kInf, kNan}) {
    x.push_back(v);
    x.push_back(-v);
  }
  while (x.size() % kLanes<float>) x.push_back(1.0f);
  return x;
}

double ulp_at(double exact) {
  const double magnitude = std::max(std::abs(exact), 1.17549435082229e-38);
  return std::ldexp(1.0, std::max(std::ilogb(magnitude), -126) - 23);
}

/// Largest error in ulp over all arguments in [low, high] (and NaN); a wrong NaN or infinity fails at once.
template <class F, class R>
double worst_ulp(F f, R reference, float low = -kInf, float high = kInf) {
  static const std::vector<float> all = arguments();
  double worst = 0;
  for (std::size_t i = 0; i < all.size(); i += kLanes<float>) {
    float y[kLanes<float>];
    store(y, f(load(all.data() + i)));
    for (int lane = 0; lane < kLanes<float>; ++lane) {
      const float x = all[i + lane];
      if (x < low || x > high) continue;
      const double exact = reference(static_cast<double>(x));
      const float rounded = static_cast<float>(exact);
      if (std::isnan(rounded) || std::isinf(rounded)) {
        const bool same = std::isnan(rounded) ? std::isnan(y[lane]) : y[lane] == rounded;
        EXPECT_TRUE(same) << "argument " << x << " gives " << y[lane] << " instead of " << rounded;
        if (!same) return kInf;
        continue;
      }
      const double error = std::abs(y[lane] - exact) / ulp_at(exact);
      if (!(error <= worst)) {
        worst = error;
        if (!(error < 1e6)) {
          ADD_FAILURE() << "argument " << x << " gives " << y[lane] << " instead of " << rounded;
          return kInf;
        }
      }
    }
  }
  ::testing::Test::RecordProperty("worst_ulp", std::to_string(worst));
  return worst;
}

constexpr double kRootHalf = 0.70710678118654752440;

TEST(SimdMath, Exp_is_within_its_bound) {
  EXPECT_LE(worst_ulp([](Vec<float> x) { return exp(x); }, [](double x) { return std::exp(x); }), 1.3);
}

TEST(SimdMath, Log_is_within_its_bound) {
  EXPECT_LE(worst_ulp([](Vec<float> x) { return log(x); }, [](double x) { return std::log(x); }), 1.0);
}

TEST(SimdMath, Tanh_is_within_its_bound_and_never_beyond_one) {
  EXPECT_LE(worst_ulp([](Vec<float> x) { return tanh(x); }, [](double x) { return std::tanh(x); }), 5.5);
  double largest = 0;
  for (float x = 4.0f; x < 12.0f; x = std::nextafter(x, kInf)) {
    const double up = tanh(broadcast(x)).first(), down = tanh(broadcast(-x)).first();
    largest = std::max({largest, up, -down});
  }
  EXPECT_EQ(largest, 1.0);
}

TEST(SimdMath, Sigmoid_is_within_its_bound) {
  EXPECT_LE(worst_ulp([](Vec<float> x) { return sigmoid(x); }, [](double x) { return 1 / (1 + std::exp(-x)); }, -87.0f),
            3.0);
  EXPECT_EQ(sigmoid(broadcast(-100.0f)).first(), 0.0f);
  EXPECT_EQ(sigmoid(broadcast(-kInf)).first(), 0.0f);
}

TEST(SimdMath, Square_root_is_correctly_rounded) {
  EXPECT_LE(worst_ulp([](Vec<float> x) { return sqrt(x); }, [](double x) { return std::sqrt(x); }), 0.5);
}

TEST(SimdMath, Normal_cdf_is_within_its_bound_relative_to_small_tails_too) {
  EXPECT_LE(
      worst_ulp([](Vec<float> x) { return normal_cdf(x); }, [](double x) { return 0.5 * std::erfc(-x * kRootHalf); }),
      6.0);
}

TEST(SimdMath, Normal_pdf_is_within_its_bound) {
  EXPECT_LE(worst_ulp([](Vec<float> x) { return normal_pdf(x); },
                      [](double x) { return 0.39894228040143267794 * std::exp(-0.5 * x * x); }),
            3.0);
}

TEST(SimdMath, Erf_is_within_its_bound) {
  EXPECT_LE(worst_ulp([](Vec<float> x) { return erf(x); }, [](double x) { return std::erf(x); }), 3.0);
}

TEST(SimdMath, Gelu_is_accurate_relative_to_its_value) {
  const auto gelu = [](Vec<float> x) { return x * normal_cdf(x); };
  EXPECT_LE(worst_ulp(
                gelu, [](double x) { return x * 0.5 * std::erfc(-x * kRootHalf); }, -13.0f, 3.4e38f),
            7.0);
}

double gelu_tanh_argument(double x) { return 1.59576912160573071176 * (x + 0.044715 * x * x * x); }

TEST(SimdMath, Gelu_by_tanh_and_its_slope_are_within_their_bounds) {
  using M = VectorMath<float>;
  const auto exact = [](double x) { return x / (1 + std::exp(-gelu_tanh_argument(x))); };
  EXPECT_LE(worst_ulp([](Vec<float> x) { return M::gelu_tanh(x); }, exact, -3.0f), 16.0);
  EXPECT_LE(worst_ulp([](Vec<float> x) { return M::gelu_tanh(x); }, exact, -9.0f), 150.0);
  const auto slope = [](double x) {
    if (std::abs(x) > 30) return x > 0 ? 1.0 : 0.0;
    const double s = 1 / (1 + std::exp(-gelu_tanh_argument(x)));
    return s + x * s * (1 - s) * 1.59576912160573071176 * (1 + 3 * 0.044715 * x * x);
  };
  double worst = 0;
  for (float x = -40; x < 40; x += 1.0f / 4096)
    worst = std::max(worst, std::abs(M::gelu_tanh_slope(broadcast(x)).first() - slope(x)));
  EXPECT_LE(worst, 5e-7);
  EXPECT_EQ(M::gelu_tanh_slope(broadcast(kInf)).first(), 1.0f);
  EXPECT_EQ(M::gelu_tanh_slope(broadcast(-1e38f)).first(), 0.0f);
  EXPECT_TRUE(std::isnan(M::gelu_tanh_slope(broadcast(kNan)).first()));
}

TEST(SimdMath, Sine_and_cosine_of_turns_are_within_their_bound) {
  double worst = 0;
  for (int i = 0; i <= (1 << 24); i += 7) {
    const float u = static_cast<float>(i) / (1 << 24);
    Vec<float> sine, cosine;
    sincos_turns(broadcast(u), sine, cosine);
    worst = std::max(
        {worst, std::abs(sine.first() - std::sin(2 * M_PI * u)), std::abs(cosine.first() - std::cos(2 * M_PI * u))});
  }
  EXPECT_LE(worst, 2e-7);
}

/// FNV-1a over the bits of a function's results.
template <class F>
std::uint64_t digest(F f) {
  std::uint64_t h = 0xCBF29CE484222325;
  const std::vector<float> x = arguments();
  for (std::size_t i = 0; i < x.size(); i += kLanes<float>) {
    float y[kLanes<float>];
    store(y, f(load(x.data() + i)));
    for (const float v : y) h = (h ^ (std::isnan(v) ? 0u : std::bit_cast<std::uint32_t>(v))) * 0x100000001B3;
  }
  return h;
}

/// Equal on all levels with a fused multiply-add; x86-64-v2 has its own.
TEST(SimdMath, Gives_the_recorded_bits) {
#if defined(__x86_64__) && !defined(__FMA__)
  constexpr bool kFused = false;
#else
  constexpr bool kFused = true;
#endif
  using M = VectorMath<float>;
  EXPECT_EQ(digest([](Vec<float> x) { return exp(x); }), kFused ? 15003475153578824982u : 6445284049162404681u);
  EXPECT_EQ(digest([](Vec<float> x) { return log(x); }), kFused ? 12617915021270080821u : 11391598492050541301u);
  EXPECT_EQ(digest([](Vec<float> x) { return tanh(x); }), kFused ? 10541852302989320112u : 3245490263922900215u);
  EXPECT_EQ(digest([](Vec<float> x) { return sigmoid(x); }), kFused ? 4137892463337899962u : 10229589565031929840u);
  EXPECT_EQ(digest([](Vec<float> x) { return erf(x); }), kFused ? 11347454654735928926u : 13908228330215427280u);
  EXPECT_EQ(digest([](Vec<float> x) { return M::gelu_tanh_slope(x); }),
            kFused ? 17478022770367762546u : 8073547187967728671u);
  EXPECT_EQ(digest([](Vec<float> x) { return normal_cdf(x) + normal_pdf(x); }),
            kFused ? 6047099476257479126u : 7819360704778523700u);
}

}  // namespace
}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
