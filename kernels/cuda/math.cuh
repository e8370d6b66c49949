#pragma once
// The argument M of kernels/pointwise_functions.h for one element, and what its functions are made of.
//
// f64: the CUDA library's functions. f32: the library's where there is one (exp and tanh 2 ulp, log 1 ulp), the normal
// distribution by the approximations of kernels/cpu/simd_math.h, errors stated there. bf16: the f32 code with the
// hardware's exponential and quotient; relative error below 2^-16 wherever the result is not subnormal, against bf16's
// rounding of 2^-8.

#include <type_traits>

#include "kernels/cuda/compat.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE {

// The library's functions under names that Math's own do not hide.
template <class A>
__device__ __forceinline__ A library_exp(A x) {
  return exp(x);
}
template <class A>
__device__ __forceinline__ A library_log(A x) {
  return log(x);
}
template <class A>
__device__ __forceinline__ A library_tanh(A x) {
  return tanh(x);
}
template <class A>
__device__ __forceinline__ A library_sqrt(A x) {
  return sqrt(x);
}

/// Functions of one element for storage type S, in A = acc_t<S>.
template <class S>
struct Math {
  using A = acc_t<S>;
  static constexpr bool kDouble = std::is_same_v<S, double>;
  static constexpr bool kHardware = std::is_same_v<S, bf16>;

  static __device__ __forceinline__ A select(bool condition, A a, A b) { return condition ? a : b; }
  static __device__ __forceinline__ A sqrt(A x) { return library_sqrt(x); }
  static __device__ __forceinline__ A log(A x) { return library_log(x); }
  static __device__ __forceinline__ A tanh(A x) { return library_tanh(x); }

  static __device__ __forceinline__ A exp(A x) {
    if constexpr (kHardware) {
      return __expf(x);
    } else {
      return library_exp(x);
    }
  }
  static __device__ __forceinline__ A divide(A a, A b) {
    if constexpr (kHardware) {
      return __fdividef(a, b);
    } else {
      return a / b;
    }
  }

  /// 1 / (1 + e^-x). 3 ulp in f32.
  static __device__ __forceinline__ A sigmoid(A x) {
    return divide(A(1), A(1) + exp(-x));  // __fdividef gives 0 for divisors beyond 2^126
  }

  /// P(X <= x) of a standard normal X. 6 ulp in f32, for large negative x too.
  static __device__ __forceinline__ A normal_cdf(A x) {
    if constexpr (kDouble) {
      return 0.5 * erfc(x * -0.70710678118654752440);
    } else {
      const float tail = normal_tail(magnitude(x));
      return x < 0.0f ? tail : 1.0f - tail;
    }
  }
  /// e^(-x^2/2) / sqrt(2 pi). 3 ulp in f32.
  static __device__ __forceinline__ A normal_pdf(A x) {
    if constexpr (kDouble) {
      return 0.39894228040143267794 * library_exp(-0.5 * x * x);
    } else {
      const float t = magnitude(x);
      return normal_bell(t > 15.0f ? 15.0f : t) * 0.39894228040143267794f;
    }
  }

  /// x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3), as x sigmoid(2u), which does not cancel for x < 0.
  static __device__ __forceinline__ A gelu_tanh(A x) { return x * sigmoid(x * (kTwice * kCubic * (x * x) + kTwice)); }
  /// Its derivative, s + x s (1 - s) 2u', s = sigmoid(2u). 5e-7 absolute in f32.
  static __device__ __forceinline__ A gelu_tanh_slope(A x) {
    const A limit = A(20);  // beyond it s (1 - s) is 0, and the product must not become 0 * inf
    const A c = x > limit ? limit : (x < -limit ? -limit : x);
    const A u = c * (kTwice * kCubic * (c * c) + kTwice);
    const A e = exp(u > A(0) ? -u : u);
    const A larger = divide(A(1), A(1) + e), smaller = e * larger;
    return (u > A(0) ? larger : smaller) + c * (larger * smaller) * (A(3) * kTwice * kCubic * (c * c) + kTwice);
  }

 private:
  static constexpr A kTwice = A(1.59576912160573071176);  // 2 sqrt(2/pi)
  static constexpr A kCubic = A(0.044715);

  static __device__ __forceinline__ float magnitude(float x) { return x < 0.0f ? -x : x; }

  /// e^(-t^2/2), 0 <= t <= 15. The square is taken in two parts: in one, its rounding alone would cost t^2/2 ulp.
  static __device__ __forceinline__ float normal_bell(float t) {
    if constexpr (kHardware) {
      return __expf(-0.5f * t * t);
    } else {
      const float head = __uint_as_float(__float_as_uint(t) & 0xfffff000u);
      const float rest = (t - head) * (t + head) * -0.5f;  // below 0.06: e^rest is 1 + rest + ... to f32's precision
      const float e = library_exp(head * head * -0.5f);
      return e + e * (rest + rest * rest * (0.5f + rest * (0.16666667f + rest * 0.041666667f)));
    }
  }
  /// P(X > t), t >= 0: the bell times a rational function, all of whose coefficients are positive.
  static __device__ __forceinline__ float normal_tail(float t) {
    t = t > 15.0f ? 15.0f : t;
    float p = t * 0.00411628466f + 0.0406330712f;
    p = p * t + 0.183234677f;
    p = p * t + 0.438294351f;
    p = p * t + 0.5f;
    float q = t * 0.010317876f + 0.101858452f;
    q = q * t + 0.469469428f;
    q = q * t + 1.2025013f;
    q = q * t + 1.67447364f;
    q = q * t + 1.0f;
    return normal_bell(t) * divide(p, q);
  }
};

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
