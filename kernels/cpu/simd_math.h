#pragma once
// exp, log, tanh, sigmoid, erf on vectors. f32: polynomials, errors stated at each function (measured over all of the
// argument range by tests/kernels/simd_math_test.cpp). f64: the C library's function, lane by lane.

#include <cmath>

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
inline Vec<double> sqrt(Vec<double> x) {
  return each_lane(x, [](double v) { return std::sqrt(v); });
}
inline Vec<double> sigmoid(Vec<double> x) {
  return each_lane(x, [](double v) { return 1.0 / (1.0 + std::exp(-v)); });
}

/// e^x: reduce by multiples of ln 2 (in two parts), degree-6 polynomial on [-ln2/2, ln2/2]. 0 and inf beyond the range.
inline Vec<float> exp(Vec<float> x) {
  const Vec<float> low = broadcast(-104.0f), high = broadcast(88.8f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Vec<float> magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec<float> n = (x * 1.44269504088896341f + magic) - magic;
  Vec<float> r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Vec<float> y = p * (r * r) + (r + 1.0f);
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  return reinterpret_cast<Vec<float>>(
      _mm512_maskz_scalef_ps(0xffff, reinterpret_cast<__m512>(y), reinterpret_cast<__m512>(n)));
#else
  // 2^n in two factors, so that the ends of the range (subnormals, 2^128) are reached without an exponent overflow.
  const Vec<std::int32_t> i = __builtin_convertvector(n == n ? n : n - n, Vec<std::int32_t>);
  const Vec<std::int32_t> half = i >> 1;
  const auto power = [](Vec<std::int32_t> e) { return reinterpret_cast<Vec<float>>((e + 127) << 23); };
  return y * power(half) * power(i - half);
#endif
}

inline Vec<float> sigmoid(Vec<float> x) { return 1.0f / (1.0f + exp(-x)); }

/// Odd rational approximation of degree 13/6 on [-7.9, 7.9], ±1 beyond; NaN stays NaN.
inline Vec<float> tanh(Vec<float> x) {
  const Vec<float> limit = broadcast(7.90531110763549805f);
  x = x > limit ? limit : x;
  x = x < -limit ? -limit : x;
  const Vec<float> s = x * x;
  Vec<float> p = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
  p = p * s + -8.60467152213735e-11f;
  p = p * s + 5.12229709037114e-08f;
  p = p * s + 1.48572235717979e-05f;
  p = p * s + 6.37261928875436e-04f;
  p = p * s + 4.89352455891786e-03f;
  Vec<float> q = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
  q = q * s + 2.26843463243900e-03f;
  q = q * s + 4.89352518554385e-03f;
  return p * x / q;
}

}  // namespace adjoint::cpu
