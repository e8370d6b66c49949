#pragma once
// exp, log, tanh, erf, the normal distribution, sine and cosine in f64, the same bits on every machine: only operations
// that IEEE 754 fixes are used, where the C library's functions differ from version to version and between processors.
//
// Written once over V: double, or a register of doubles (kernels/cpu/simd.h), whose overloads of multiply_add, select,
// bits_of and from_bits are found by argument. A scalar's multiply_add rounds twice, at every level of processor, so
// scalars and registers differ in the last bit. Results below 2^-1022 are rounded once. NaN gives NaN.
//
// Coefficients: tools/real_math_coefficients.py. Errors: tests/kernels/real_math_test.cpp, against wider arithmetic.

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace adjoint::real {

inline double multiply_add(double a, double b, double c) { return a * b + c; }
inline double select(bool mask, double a, double b) { return mask ? a : b; }
inline std::int64_t bits_of(double x) { return std::bit_cast<std::int64_t>(x); }
inline double from_bits(std::int64_t bits) { return std::bit_cast<double>(bits); }

namespace detail {

constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer, in the last bits
constexpr double kLn2Head = 0.69314718036912382, kLn2Tail = 1.9082149292705877e-10;  // 32 bits, and the rest
constexpr std::int64_t kSignBit = std::numeric_limits<std::int64_t>::min();

/// c[0] x^n + c[1] x^(n-1) + … + c[n].
template <class V, class... C>
inline V polynomial(V x, double first, C... rest) {
  V sum = V(first);
  ((sum = multiply_add(sum, x, V(rest))), ...);
  return sum;
}

template <class V>
inline V magnitude(V x) {
  return from_bits(bits_of(x) & ~kSignBit);
}
template <class V>
inline V with_sign_of(V sign, V x) {
  return from_bits(bits_of(x) | (bits_of(sign) & kSignBit));
}

/// What exp and its kin start from: x + low = n ln 2 + r, |r| <= ln 2 / 2 (Cody and Waite's reduction); e = e^r - 1 by
/// its series, whose next term is 4e-18.
template <class V>
struct Reduced {
  V n, e;
  decltype(bits_of(V{})) exponent;

  explicit Reduced(V x, V low = V(0.0)) {
    const V shifted = multiply_add(x, V(1.4426950408889634), V(kMagic));
    n = shifted - V(kMagic);
    exponent = bits_of(shifted) - std::bit_cast<std::int64_t>(kMagic);
    V r = multiply_add(n, V(-kLn2Head), x);
    r = multiply_add(n, V(-kLn2Tail), r) + low;
    const V q =
        polynomial(r, 1.6059043836821613e-10, 2.08767569878681e-09, 2.505210838544172e-08, 2.7557319223985888e-07,
                   2.7557319223985893e-06, 2.4801587301587302e-05, 1.9841269841269841e-04, 1.3888888888888889e-03,
                   8.3333333333333332e-03, 4.1666666666666664e-02, 1.6666666666666666e-01, 0.5);
    e = multiply_add(r * r, q, r);
  }
};
template <class I>
inline auto power_of_two(I exponent) {
  return from_bits((exponent + 1023) << 52);
}

/// e^(x + low), |low| small against x; both in [-750, 710].
template <class V>
inline V exp_of_sum(V x, V low) {
  const Reduced<V> reduced(x, low);
  // In two factors, so that the ends of the range are reached without an exponent overflow.
  const auto half = reduced.exponent >> 1;
  return (V(1.0) + reduced.e) * power_of_two(half) * power_of_two(reduced.exponent - half);
}

/// e^(-t^2 scale), scale 1 or 1/2, 0 <= t <= 40. The square is taken in two parts: its rounding would cost t^2/2 ulp.
template <class V>
inline V bell(V t, double scale) {
  const V head = from_bits(bits_of(t) & ~std::int64_t{0x7ffffff});
  return exp_of_sum(head * head * V(-scale), (t - head) * (t + head) * V(-scale));
}

/// e^(x^2) erfc x, x >= 0: a Chebyshev series in (x - k) / (x + k) of its product with 1 + 2x (Shepherd and
/// Laframboise, Math. Comp. 36, 1981), by Clenshaw's recurrence.
template <class V>
inline V scaled_erfc(V x) {
  constexpr double kSeries[] = {
      5.068148904796111e-17,   7.4182352566240441e-17,  -1.2507950530688648e-15, -1.864562880419313e-15,
      3.3478119482868056e-14,  3.2525481481487401e-14,  -9.6546967484334393e-13, 1.9455868545777347e-13,
      2.8687950109306699e-11,  -6.3180883408866841e-11, -7.7544002088313509e-10, 4.5219598112182866e-09,
      1.076499946567091e-08,   -2.1886401049234397e-07, 7.7403830661984903e-07,  4.1390279860730102e-06,
      -6.916973302501207e-05,  4.9077583652580863e-04,  -2.4131635404176081e-03, 9.0749976707052652e-03,
      -2.6658668435305753e-02, 5.9209939998191893e-02,  -8.4249133366517917e-02, -4.5900545806464776e-03,
  };
  const V t = (x - V(3.75)) / (x + V(3.75)), twice = t + t;
  V b = V(0.0), before = V(0.0);
  for (const double c : kSeries) {
    const V next = multiply_add(twice, b, V(c) - before);
    before = b;
    b = next;
  }
  return multiply_add(t, b, V(1.1775789345674017) - before) / multiply_add(V(2.0), x, V(1.0));
}

}  // namespace detail

/// e^x. 1 ulp; 0 and inf beyond the range.
template <class V>
inline V exp(V x) {
  const V low = V(-746.0), high = V(710.0);
  x = select(x < low, low, x);
  x = select(x > high, high, x);
  return detail::exp_of_sum(x, V(0.0));
}

/// 1 / (1 + e^-x). 2 ulp; 0 below -709.8, where the exact value is subnormal.
template <class V>
inline V sigmoid(V x) {
  return V(1.0) / (V(1.0) + exp(-x));
}

/// ln x. 1 ulp; -inf at 0, NaN below. x = 2^e m with m in [sqrt(1/2), sqrt(2)); with f = m - 1 and s = f / (2 + f),
/// ln m = f - f^2/2 + s (f^2/2 + R(s^2)), from the series of the inverse hyperbolic tangent.
template <class V>
inline V log(V x) {
  using namespace detail;
  constexpr std::int64_t kRootHalf = std::bit_cast<std::int64_t>(0.70710678118654752);
  const auto tiny = x < V(std::numeric_limits<double>::min());
  const V scaled = select(tiny, x * V(0x1p54), x);
  // Of a negative number or NaN anything, which is replaced below.
  const auto u = bits_of(magnitude(scaled)) - kRootHalf;
  const V exponent = from_bits((u >> 52) + std::bit_cast<std::int64_t>(kMagic)) - V(kMagic);
  const V e = exponent - select(tiny, V(54.0), V(0.0));
  const V f = from_bits((u & 0x000fffffffffffff) + kRootHalf) - V(1.0);
  const V s = f / (V(2.0) + f), z = s * s, half_square = V(0.5) * f * f;
  const V r =
      z * polynomial(z, 8.6956521739130432e-02, 9.5238095238095233e-02, 1.0526315789473684e-01, 1.1764705882352941e-01,
                     1.3333333333333333e-01, 1.5384615384615385e-01, 1.8181818181818182e-01, 2.2222222222222221e-01,
                     2.8571428571428571e-01, 0.4, 6.6666666666666663e-01);
  const V small = multiply_add(s, half_square + r, e * V(kLn2Tail));
  const V y = multiply_add(e, V(kLn2Head), f - (half_square - small));
  const V infinity = V(std::numeric_limits<double>::infinity()), nan = V(std::numeric_limits<double>::quiet_NaN());
  const V special = select(x == V(0.0), -infinity, select(x < V(0.0), nan, x + x));
  return select(x > V(0.0), select(x < infinity, y, special), special);
}

/// tanh x. 2.5 ulp; (e^2x - 1) / (e^2x + 1), without cancellation at 0.
template <class V>
inline V tanh(V x) {
  using namespace detail;
  V a = magnitude(x);
  a = select(a > V(20.0), V(20.0), a);  // beyond it 1 to the last bit
  const Reduced<V> reduced(a + a);
  const V scale = power_of_two(reduced.exponent);
  const V less_one = multiply_add(scale, reduced.e, scale - V(1.0));  // e^2a - 1
  return with_sign_of(x, less_one / (less_one + V(2.0)));
}

/// P(X <= x) of a standard normal X. 7 ulp, of the tail at large negative x too, down to the subnormals.
template <class V>
inline V normal_cdf(V x) {
  V t = detail::magnitude(x);
  t = select(t > V(38.7), V(38.7), t);
  const V tail = V(0.5) * detail::scaled_erfc(t * V(0.70710678118654752)) * detail::bell(t, 0.5);
  return select(x < V(0.0), tail, V(1.0) - tail);
}

/// e^(-x^2/2) / sqrt(2 pi). 3 ulp.
template <class V>
inline V normal_pdf(V x) {
  V t = detail::magnitude(x);
  t = select(t > V(38.7), V(38.7), t);
  return V(0.39894228040143267794) * detail::bell(t, 0.5);
}

/// erf x. 2 ulp. Its series below 1, from scaled_erfc above.
template <class V>
inline V erf(V x) {
  using namespace detail;
  const V t = magnitude(x);
  const V series =
      t * polynomial(t * t, 4.7633480405150683e-18, -9.0639708428086728e-17, 1.6342614095367152e-15,
                     -2.7835162072109215e-14, 4.4632242632864775e-13, -6.7113668551641105e-12, 9.4227590646504113e-11,
                     -1.2290555301717928e-09, 1.4807192815879218e-08, -1.6365844691234924e-07, 1.6462114365889248e-06,
                     -1.492565035840625e-05, 1.2055332981789664e-04, -8.5483270234508533e-04, 5.2239776254421879e-03,
                     -2.6866170645131252e-02, 1.1283791670955126e-01, -3.7612638903183754e-01, 1.1283791670955126);
  const V far_t = select(t > V(6.0), V(6.0), t);  // where erfc is below half an ulp of 1
  const V far = V(1.0) - scaled_erfc(far_t) * bell(far_t, 1.0);
  return with_sign_of(x, select(t < V(1.0), series, far));
}

/// sin and cos of 2 pi u, |u| <= 2^49. 1.5 ulp. Reduced to an eighth of a turn, exactly.
template <class V>
inline void sincos_turns(V u, V& sine, V& cosine) {
  using namespace detail;
  const V v = u * V(4.0), shifted = v + V(kMagic);
  const V r = v - (shifted - V(kMagic)), s = r * r;
  const V a =
      r * polynomial(s, -4.3770654673137423e-14, 6.0669357311061955e-12, -6.6880351098114677e-10,
                     5.6921729219679267e-08, -3.5988432352120852e-06, 1.6044118478735983e-04, -4.6817541353186883e-03,
                     7.9692626246167048e-02, -6.4596409750624628e-01, 1.5707963267948966);
  const V b = polynomial(s, -5.2944002007346235e-13, 6.5659631149794728e-11, -6.3866030837918521e-09,
                         4.7108747788181717e-07, -2.5202042373060607e-05, 9.1926027483942659e-04,
                         -2.0863480763352961e-02, 2.5366950790104803e-01, -1.2337005501361697, 1.0);
  const auto quarter = bits_of(shifted);
  const auto odd = (quarter & 1) != 0;
  const V sine_abs = select(odd, b, a), cosine_abs = select(odd, a, b);
  sine = select((quarter & 2) != 0, -sine_abs, sine_abs);
  cosine = select(((quarter + 1) & 2) != 0, -cosine_abs, cosine_abs);
}

/// base^n, n >= 0, by squaring. Relative error n 2^-53.
inline double power(double base, std::int64_t n) {
  double result = 1.0;
  for (; n > 0; n >>= 1, base *= base)
    if ((n & 1) != 0) result *= base;
  return result;
}

}  // namespace adjoint::real
