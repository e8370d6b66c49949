#pragma once
// exp, log, tanh, sigmoid, erf and the normal distribution on vectors. f32: our own polynomials and rational functions
// (minimax fits in relative error), errors stated at each function and measured over the whole argument range by
// tests/levels/simd_math_test.cpp.
//
// "ulp" is the distance of neighbouring f32 numbers at the exact result, never less than the smallest normal's: results
// below 2^-126 are counted in absolute terms.

#include <cmath>
#include <cstdint>

#include "kernels/base/real_math.h"
#include "kernels/cpu/simd.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {

// f64: kernels/base/real_math.h, which scalar code shares. Out of line: a call is little beside them, and their copies
// in each kernel would double the time to compile all.
[[gnu::noinline]] inline Vec<double> exp(Vec<double> x) { return real::exp(x); }
[[gnu::noinline]] inline Vec<double> log(Vec<double> x) { return real::log(x); }
[[gnu::noinline]] inline Vec<double> tanh(Vec<double> x) { return real::tanh(x); }
[[gnu::noinline]] inline Vec<double> sigmoid(Vec<double> x) { return real::sigmoid(x); }
[[gnu::noinline]] inline Vec<double> erf(Vec<double> x) { return real::erf(x); }
[[gnu::noinline]] inline Vec<double> normal_cdf(Vec<double> x) { return real::normal_cdf(x); }
[[gnu::noinline]] inline Vec<double> normal_pdf(Vec<double> x) { return real::normal_pdf(x); }
[[gnu::noinline]] inline void sincos_turns(Vec<double> u, Vec<double>& sine, Vec<double>& cosine) {
  real::sincos_turns(u, sine, cosine);
}

/// c[0] x^n + c[1] x^(n-1) + … + c[n].
template <class... C>
ADJOINT_INLINE Vec<float> polynomial(Vec<float> x, float first, C... rest) {
  Vec<float> sum = first;
  ((sum = multiply_add(sum, x, rest)), ...);
  return sum;
}

/// e^(high + low), |low| small against high: reduce by multiples of ln 2 (in two parts), degree-6 polynomial on
/// [-ln2/2, ln2/2] (Cephes expf). `low` joins after the reduction, so what high's rounding lost is not lost here.
/// high + low must lie in [-104, 89] or be NaN.
ADJOINT_INLINE Vec<float> exp_of_sum(Vec<float> high, Vec<float> low) {
  const Vec<float> magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vec<float> n = multiply_add(high + low, 1.44269504088896341f, magic) - magic;
  Vec<float> r = multiply_add(n, -0.693359375f, high);
  r = multiply_add(n, 2.12194440e-4f, r) + low;
  const Vec<float> p = polynomial(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                                  1.6666665459e-1f, 5.0000001201e-1f);
  Vec<float> y = multiply_add(p, r * r, r + 1.0f);
  // Lanes at the lower end are set to 0 rather than scaled: each underflow takes the processor some 150 cycles.
#if defined(__AVX512F__) && defined(__AVX512DQ__)  // the same bits in one instruction
  const auto some = _mm512_cmp_ps_mask(__m512((high + low).r), _mm512_set1_ps(-104.0f), _CMP_NLE_UQ);
  return Vec<float>::Register(_mm512_maskz_scalef_ps(some, __m512(y.r), __m512(n.r)));
#else
  // 2^n in two factors, so that the ends of the range (subnormals, 2^128) are reached without an exponent overflow.
  y = select(high + low <= -104.0f, Vec<float>{}, y);
  const VecInt<float> i = convert_lanes<std::int32_t>(select(n == n, n, Vec<float>{})), half = i >> 1;
  const auto power = [](VecInt<float> e) { return bits_as<float>((e + 127) << 23); };
  return y * power(half) * power(i - half);
#endif
}

/// e^x. 1.3 ulp; 0 and inf beyond the range.
ADJOINT_INLINE Vec<float> exp(Vec<float> x) {
  const Vec<float> low = -104.0f, high = 88.8f;
  x = select(x < low, low, x);
  x = select(x > high, high, x);
  return exp_of_sum(x, {});
}

/// 1 / (1 + e^-x). 3 ulp; 0 below -88.8, where the exact value is less than 2.8e-39.
ADJOINT_INLINE Vec<float> sigmoid(Vec<float> x) { return 1.0f / (1.0f + exp(-x)); }

/// ln x. 1 ulp; -inf at 0, NaN below. x = 2^e m with m in [sqrt(1/2), sqrt(2)), so that e is 0 around 1;
/// ln m = f - f^2/2 + f^3 P(f), f = m - 1.
ADJOINT_INLINE Vec<float> log(Vec<float> x) {
  const Vec<float> zero{}, infinity = INFINITY;
  const auto tiny = x < 1.17549435e-38f;
  const Vec<float> scaled = select(tiny, x * 8388608.0f, x);
  // The bits of sqrt(1/2) taken off, in unsigned arithmetic: signs may make it wrap.
  const auto u = bits_as<std::int32_t>(bits_as<std::uint32_t>(scaled) - 0x3f3504f3u);
  const Vec<float> e = convert_lanes<float>((u >> 23) - (tiny & 23));
  const Vec<float> f = bits_as<float>((u & 0x007fffff) + 0x3f3504f3) - 1.0f;
  const Vec<float> p = polynomial(f, -0.0763449296f, 0.12761575f, -0.131601825f, 0.142017588f, -0.166233569f,
                                  0.200012267f, -0.250008196f, 0.333333313f);
  const Vec<float> s = f * f;
  Vec<float> y = multiply_add(p * f, s, e * -2.12194440e-4f);
  y = multiply_add(s, -0.5f, y);
  y = multiply_add(e, 0.693359375f, f + y);
  y = select(x > zero, y, select(x == zero, -infinity, Vec<float>(NAN)));
  return select(x < infinity, y, select((x == x) & (x > zero), x, y));
}

/// tanh x. 5.5 ulp (4.5 with FMA); never beyond ±1. x P(x^2) / Q(x^2) of degrees 4 and 4 on [-9.1, 9.1], fit
/// error 2.4e-8.
ADJOINT_INLINE Vec<float> tanh(Vec<float> x) {
  const Vec<float> limit = 9.1f, one = 1.0f;
  x = select(x > limit, limit, x);
  x = select(x < -limit, -limit, x);
  const Vec<float> s = x * x;
  const Vec<float> p = polynomial(s, 1.32428424e-08f, 2.05340712e-05f, 0.00349128875f, 0.133774981f, 1.0f);
  const Vec<float> q = polynomial(s, 7.73245404e-07f, 0.000327841844f, 0.0258609075f, 0.46710819f, 1.0f);
  const Vec<float> y = p * x / q;
  return select(y > one, one, select(y < -one, -one, y));
}

/// e^(-t^2/2), 0 <= t <= 15. The square is taken in two parts: in one, its rounding alone would cost t^2/2 ulp.
ADJOINT_INLINE Vec<float> normal_bell(Vec<float> t) {
  const Vec<float> head = bits_as<float>(bits_as<std::int32_t>(t) & ~0xfff);
  return exp_of_sum(head * head * -0.5f, (t - head) * (t + head) * -0.5f);
}

/// The smaller tail of the standard normal distribution beyond t >= 0: the bell times Mills' ratio / sqrt(2 pi), which
/// is rational of degrees 4 and 5 to 5.9e-9; all its coefficients are positive, so nothing cancels.
ADJOINT_INLINE Vec<float> normal_tail(Vec<float> t) {
  const Vec<float> limit = 15.0f;
  t = select(t > limit, limit, t);
  const Vec<float> p = polynomial(t, 0.00411628466f, 0.0406330712f, 0.183234677f, 0.438294351f, 0.5f);
  const Vec<float> q = polynomial(t, 0.010317876f, 0.101858452f, 0.469469428f, 1.2025013f, 1.67447364f, 1.0f);
  return normal_bell(t) * (p / q);
}

/// P(X <= x) of a standard normal X. 6 ulp (5 with FMA), for large negative x too (so x normal_cdf(x), the GELU, is
/// within 7 down to x = -13, where the tail becomes subnormal).
ADJOINT_INLINE Vec<float> normal_cdf(Vec<float> x) {
  const Vec<float> zero{};
  const Vec<float> tail = normal_tail(select(x < zero, -x, x));
  return select(x < zero, tail, 1.0f - tail);
}

/// e^(-x^2/2) / sqrt(2 pi). 3 ulp.
ADJOINT_INLINE Vec<float> normal_pdf(Vec<float> x) {
  const Vec<float> zero{}, limit = 15.0f;
  x = select(x < zero, -x, x);
  return normal_bell(select(x > limit, limit, x)) * 0.39894228040143267794f;
}

/// erf x. 3 ulp. x P(x^2) below 1, from the tail above.
ADJOINT_INLINE Vec<float> erf(Vec<float> x) {
  const Vec<float> zero{};
  const Vec<float> t = select(x < zero, -x, x);
  const Vec<float> p = polynomial(x * x, 7.85386073e-05f, -0.000801019371f, 0.00518832775f, -0.0268538129f,
                                  0.112835854f, -0.37612626f, 1.12837911f);
  const Vec<float> far = 1.0f - 2.0f * normal_tail(t * 1.41421356237309505f);
  return select(t < 1.0f, x * p, select(x < zero, -far, far));
}

/// sin and cos of 2 pi u, u in [0, 1]. 2e-7 absolute. Reduced to an eighth of a turn, exactly.
ADJOINT_INLINE void sincos_turns(Vec<float> u, Vec<float>& sine, Vec<float>& cosine) {
  const Vec<float> magic = 12582912.0f;
  const Vec<float> v = u * 4.0f;
  const Vec<float> n = (v + magic) - magic;
  const Vec<float> r = v - n;
  const Vec<float> s = r * r;
  const Vec<float> a = polynomial(s, -0.00460217707f, 0.0796802267f, -0.64596349f, 1.57079637f) * r;
  const Vec<float> b = polynomial(s, 0.000904021668f, -0.0208602883f, 0.253669232f, -1.23370051f, 1.0f);
  const VecInt<float> quarter = convert_lanes<std::int32_t>(n);
  const auto odd = (quarter & 1) != 0;
  const Vec<float> sine_abs = select(odd, b, a), cosine_abs = select(odd, a, b);
  sine = select((quarter & 2) != 0, -sine_abs, sine_abs);
  cosine = select(((quarter + 1) & 2) != 0, -cosine_abs, cosine_abs);
}

/// A function of vectors for one number: the same bits as among others.
template <class T, class F>
ADJOINT_INLINE T of_one(T x, F f) {
  return f(Vec<T>(x)).first();
}

/// The argument M of kernels/pointwise_functions.h, for registers.
template <class T>
struct VectorMath {
  using V = Vec<T>;

  ADJOINT_INLINE static V select(VecInt<T> mask, V a, V b) { return ADJOINT_CPU_LEVEL::select(mask, a, b); }
  ADJOINT_INLINE static V sqrt(V x) { return ADJOINT_CPU_LEVEL::sqrt(x); }
  ADJOINT_INLINE static V exp(V x) { return ADJOINT_CPU_LEVEL::exp(x); }
  ADJOINT_INLINE static V log(V x) { return ADJOINT_CPU_LEVEL::log(x); }
  ADJOINT_INLINE static V tanh(V x) { return ADJOINT_CPU_LEVEL::tanh(x); }
  ADJOINT_INLINE static V sigmoid(V x) { return ADJOINT_CPU_LEVEL::sigmoid(x); }
  ADJOINT_INLINE static V normal_cdf(V x) { return ADJOINT_CPU_LEVEL::normal_cdf(x); }
  ADJOINT_INLINE static V normal_pdf(V x) { return ADJOINT_CPU_LEVEL::normal_pdf(x); }

  /// x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3), written as x sigmoid(2u), which does not cancel for x < 0.
  /// Relative error (f32) about |2u| + 4 roundings, for the rounding of u.
  ADJOINT_INLINE static V gelu_tanh(V x) { return x * sigmoid(x * multiply_add(x * x, kTwice * kCubic, kTwice)); }
  /// d gelu_tanh / dx = s + x s (1 - s) 2u', s = sigmoid(2u). 1 - s is not formed by subtraction. 5e-7 absolute (f32).
  ADJOINT_INLINE static V gelu_tanh_slope(V x) {
    const V limit = T(20), zero{};  // beyond it s (1 - s) is 0, and the product must not become 0 * inf
    const V c = select(x > limit, limit, select(x < -limit, -limit, x));
    const V u = c * multiply_add(c * c, kTwice * kCubic, kTwice);
    const V e = exp(select(u > zero, -u, u));
    const V larger = T(1) / (T(1) + e), smaller = e * larger;
    return multiply_add(c * (larger * smaller), multiply_add(c * c, 3 * kTwice * kCubic, kTwice),
                        select(u > zero, larger, smaller));
  }

 private:
  static constexpr T kTwice = T(1.59576912160573071176);  // 2 sqrt(2/pi)
  static constexpr T kCubic = T(0.044715);
};

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
