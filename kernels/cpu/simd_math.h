#pragma once
// exp, log, tanh, sigmoid, erf and the normal distribution on vectors. f32: our own polynomials and rational functions
// (minimax fits in relative error), errors stated at each function and measured over the whole argument range by
// tests/kernels/simd_math_test.cpp. f64: the C library's function, lane by lane.
//
// "ulp" is the distance of neighbouring f32 numbers at the exact result, never less than the smallest normal's: results
// below 2^-126 are counted in absolute terms.

#include <cmath>
#include <cstdint>

#include "kernels/cpu/simd.h"

namespace adjoint::cpu {

template <class F>
inline Vec<double> each_lane(Vec<double> x, F f) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = f(x[i]);
  return x;
}

inline Vec<double> exp(Vec<double> x) {
  return each_lane(x, [](double v) { return std::exp(v); });
}
inline Vec<double> log(Vec<double> x) {
  return each_lane(x, [](double v) { return std::log(v); });
}
inline Vec<double> tanh(Vec<double> x) {
  return each_lane(x, [](double v) { return std::tanh(v); });
}
inline Vec<double> erf(Vec<double> x) {
  return each_lane(x, [](double v) { return std::erf(v); });
}
inline Vec<double> sigmoid(Vec<double> x) {
  return each_lane(x, [](double v) { return 1.0 / (1.0 + std::exp(-v)); });
}
inline Vec<double> normal_cdf(Vec<double> x) {
  return each_lane(x, [](double v) { return 0.5 * std::erfc(v * -0.70710678118654752440); });
}
inline Vec<double> normal_pdf(Vec<double> x) {
  return each_lane(x, [](double v) { return 0.39894228040143267794 * std::exp(-0.5 * v * v); });
}
/// sin and cos of 2 pi u, u in [0, 1].
inline void sincos_turns(Vec<double> u, Vec<double>& sine, Vec<double>& cosine) {
  sine = each_lane(u, [](double v) { return std::sin(6.28318530717958647692 * v); });
  cosine = each_lane(u, [](double v) { return std::cos(6.28318530717958647692 * v); });
}

/// Correctly rounded.
inline Vec<double> sqrt(Vec<double> x) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  return reinterpret_cast<Vec<double>>(_mm512_maskz_sqrt_pd(0xff, reinterpret_cast<__m512d>(x)));
#else
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}
inline Vec<float> sqrt(Vec<float> x) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  return reinterpret_cast<Vec<float>>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(x)));
#else
  for (int i = 0; i < kLanes<float>; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

/// e^(high + low), |low| small against high: reduce by multiples of ln 2 (in two parts), degree-6 polynomial on
/// [-ln2/2, ln2/2] (Cephes expf). `low` joins after the reduction, so what high's rounding lost is not lost here.
/// high + low must lie in [-104, 89] or be NaN.
inline Vec<float> exp_of_sum(Vec<float> high, Vec<float> low) {
  const Vec<float> magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec<float> n = ((high + low) * 1.44269504088896341f + magic) - magic;
  Vec<float> r = high - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  r = r + low;
  Vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Vec<float> y = p * (r * r) + (r + 1.0f);
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  // Lanes at the lower end are set to 0 rather than scaled: each underflow takes the processor some 150 cycles.
  const __mmask16 not_zero =
      _mm512_cmp_ps_mask(reinterpret_cast<__m512>(high + low), _mm512_set1_ps(-104.0f), _CMP_NLE_UQ);
  return reinterpret_cast<Vec<float>>(
      _mm512_maskz_scalef_ps(not_zero, reinterpret_cast<__m512>(y), reinterpret_cast<__m512>(n)));
#else
  // 2^n in two factors, so that the ends of the range (subnormals, 2^128) are reached without an exponent overflow.
  const Vec<std::int32_t> i = __builtin_convertvector(n == n ? n : n - n, Vec<std::int32_t>);
  const Vec<std::int32_t> half = i >> 1;
  const auto power = [](Vec<std::int32_t> e) { return reinterpret_cast<Vec<float>>((e + 127) << 23); };
  return y * power(half) * power(i - half);
#endif
}

/// e^x. 1.3 ulp; 0 and inf beyond the range.
inline Vec<float> exp(Vec<float> x) {
  const Vec<float> low = broadcast(-104.0f), high = broadcast(88.8f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  return exp_of_sum(x, Vec<float>{});
}

/// 1 / (1 + e^-x). 3 ulp; 0 below -88.8, where the exact value is less than 2.8e-39.
inline Vec<float> sigmoid(Vec<float> x) { return 1.0f / (1.0f + exp(-x)); }

/// ln x. 1 ulp; -inf at 0, NaN below. x = 2^e m with m in [sqrt(1/2), sqrt(2)), so that e is 0 around 1;
/// ln m = f - f^2/2 + f^3 P(f), f = m - 1.
inline Vec<float> log(Vec<float> x) {
  using Word = Vec<std::int32_t>;
  const Vec<float> zero{};
  const auto tiny = x < 1.17549435e-38f;
  const Vec<float> scaled = tiny ? x * 8388608.0f : x;
  // The bits of sqrt(1/2) taken off, in unsigned arithmetic: signs may make it wrap.
  const Word u = reinterpret_cast<Word>(reinterpret_cast<Vec<std::uint32_t>>(scaled) - 0x3f3504f3u);
  const Vec<float> e = __builtin_convertvector((u >> 23) - (tiny & 23), Vec<float>);
  const Vec<float> f = reinterpret_cast<Vec<float>>((u & 0x007fffff) + 0x3f3504f3) - 1.0f;
  Vec<float> p = f * -0.0763449296f + 0.12761575f;
  p = p * f - 0.131601825f;
  p = p * f + 0.142017588f;
  p = p * f - 0.166233569f;
  p = p * f + 0.200012267f;
  p = p * f - 0.250008196f;
  p = p * f + 0.333333313f;
  const Vec<float> s = f * f;
  Vec<float> y = p * f * s + e * -2.12194440e-4f;
  y = y - s * 0.5f;
  y = (f + y) + e * 0.693359375f;
  y = x > zero ? y : (x == zero ? broadcast(-INFINITY) : broadcast(NAN));
  return x < INFINITY ? y : (x == x && x > zero ? x : y);
}

/// tanh x. 5.5 ulp (4.5 with FMA); never beyond ±1. x P(x^2) / Q(x^2) of degrees 4 and 4 on [-9.1, 9.1], fit
/// error 2.4e-8.
inline Vec<float> tanh(Vec<float> x) {
  const Vec<float> limit = broadcast(9.1f);
  x = x > limit ? limit : x;
  x = x < -limit ? -limit : x;
  const Vec<float> s = x * x;
  Vec<float> p = s * 1.32428424e-08f + 2.05340712e-05f;
  p = p * s + 0.00349128875f;
  p = p * s + 0.133774981f;
  p = p * s + 1.0f;
  Vec<float> q = s * 7.73245404e-07f + 0.000327841844f;
  q = q * s + 0.0258609075f;
  q = q * s + 0.46710819f;
  q = q * s + 1.0f;
  const Vec<float> y = p * x / q, one = broadcast(1.0f);
  return y > one ? one : (y < -one ? -one : y);
}

/// e^(-t^2/2), 0 <= t <= 15. The square is taken in two parts: in one, its rounding alone would cost t^2/2 ulp.
[[gnu::always_inline]] inline Vec<float> normal_bell(Vec<float> t) {
  const Vec<float> head = reinterpret_cast<Vec<float>>(reinterpret_cast<Vec<std::int32_t>>(t) & ~0xfff);
  return exp_of_sum(head * head * -0.5f, (t - head) * (t + head) * -0.5f);
}

/// The smaller tail of the standard normal distribution beyond t >= 0: the bell times Mills' ratio / sqrt(2 pi), which
/// is rational of degrees 4 and 5 to 5.9e-9; all its coefficients are positive, so nothing cancels.
[[gnu::always_inline]] inline Vec<float> normal_tail(Vec<float> t) {
  const Vec<float> limit = broadcast(15.0f);
  t = t > limit ? limit : t;
  Vec<float> p = t * 0.00411628466f + 0.0406330712f;
  p = p * t + 0.183234677f;
  p = p * t + 0.438294351f;
  p = p * t + 0.5f;
  Vec<float> q = t * 0.010317876f + 0.101858452f;
  q = q * t + 0.469469428f;
  q = q * t + 1.2025013f;
  q = q * t + 1.67447364f;
  q = q * t + 1.0f;
  return normal_bell(t) * (p / q);
}

/// P(X <= x) of a standard normal X. 6 ulp (5 with FMA), for large negative x too (so x normal_cdf(x), the GELU, is
/// within 7 down to x = -13, where the tail becomes subnormal).
[[gnu::always_inline]] inline Vec<float> normal_cdf(Vec<float> x) {
  const Vec<float> zero{};
  const Vec<float> tail = normal_tail(x < zero ? -x : x);
  return x < zero ? tail : 1.0f - tail;
}

/// e^(-x^2/2) / sqrt(2 pi). 3 ulp.
[[gnu::always_inline]] inline Vec<float> normal_pdf(Vec<float> x) {
  const Vec<float> zero{}, limit = broadcast(15.0f);
  x = x < zero ? -x : x;
  return normal_bell(x > limit ? limit : x) * 0.39894228040143267794f;
}

/// erf x. 3 ulp. x P(x^2) below 1, from the tail above.
inline Vec<float> erf(Vec<float> x) {
  const Vec<float> zero{};
  const Vec<float> t = x < zero ? -x : x;
  const Vec<float> s = x * x;
  Vec<float> p = s * 7.85386073e-05f - 0.000801019371f;
  p = p * s + 0.00518832775f;
  p = p * s - 0.0268538129f;
  p = p * s + 0.112835854f;
  p = p * s - 0.37612626f;
  p = p * s + 1.12837911f;
  const Vec<float> far = 1.0f - 2.0f * normal_tail(t * 1.41421356237309505f);
  return t < 1.0f ? x * p : (x < zero ? -far : far);
}

/// sin and cos of 2 pi u, u in [0, 1]. 2e-7 absolute. Reduced to an eighth of a turn, exactly.
inline void sincos_turns(Vec<float> u, Vec<float>& sine, Vec<float>& cosine) {
  const Vec<float> magic = broadcast(12582912.0f);
  const Vec<float> v = u * 4.0f;
  const Vec<float> n = (v + magic) - magic;
  const Vec<float> r = v - n;
  const Vec<float> s = r * r;
  Vec<float> a = s * -0.00460217707f + 0.0796802267f;
  a = a * s - 0.64596349f;
  a = (a * s + 1.57079637f) * r;
  Vec<float> b = s * 0.000904021668f - 0.0208602883f;
  b = b * s + 0.253669232f;
  b = b * s - 1.23370051f;
  b = b * s + 1.0f;
  const Vec<std::int32_t> quarter = __builtin_convertvector(n, Vec<std::int32_t>);
  const Vec<float> sine_abs = (quarter & 1) != 0 ? b : a, cosine_abs = (quarter & 1) != 0 ? a : b;
  sine = (quarter & 2) != 0 ? -sine_abs : sine_abs;
  cosine = ((quarter + 1) & 2) != 0 ? -cosine_abs : cosine_abs;
}

/// The argument M of kernels/pointwise_functions.h, for registers.
template <class T>
struct VectorMath {
  using V = Vec<T>;

  static V select(VecInt<T> mask, V a, V b) { return mask ? a : b; }
  static V sqrt(V x) { return cpu::sqrt(x); }
  static V exp(V x) { return cpu::exp(x); }
  static V log(V x) { return cpu::log(x); }
  static V tanh(V x) { return cpu::tanh(x); }
  static V sigmoid(V x) { return cpu::sigmoid(x); }
  static V normal_cdf(V x) { return cpu::normal_cdf(x); }
  static V normal_pdf(V x) { return cpu::normal_pdf(x); }

  /// x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3), written as x sigmoid(2u), which does not cancel for x < 0.
  /// Relative error (f32) about |2u| + 4 roundings, for the rounding of u.
  static V gelu_tanh(V x) { return x * sigmoid(x * (kTwice * kCubic * (x * x) + kTwice)); }
  /// d gelu_tanh / dx = s + x s (1 - s) 2u', s = sigmoid(2u). 1 - s is not formed by subtraction. 5e-7 absolute (f32).
  static V gelu_tanh_slope(V x) {
    const V limit = broadcast(T(20)), zero{};  // beyond it s (1 - s) is 0, and the product must not become 0 * inf
    const V c = x > limit ? limit : (x < -limit ? -limit : x);
    const V u = c * (kTwice * kCubic * (c * c) + kTwice);
    const V e = exp(u > zero ? -u : u);
    const V larger = 1 / (1 + e), smaller = e * larger;
    return (u > zero ? larger : smaller) + c * (larger * smaller) * (3 * kTwice * kCubic * (c * c) + kTwice);
  }

 private:
  static constexpr T kTwice = T(1.59576912160573071176);  // 2 sqrt(2/pi)
  static constexpr T kCubic = T(0.044715);
};

}  // namespace adjoint::cpu
