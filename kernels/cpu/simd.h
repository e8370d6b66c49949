#pragma once
// Vectors of one machine register, in the compilers' own vector extension: + - * / and comparisons work on them
// directly, and `mask ? a : b` selects. A kernel is written once over Vec<acc_t<T>> and serves f64, f32 and bf16.

#include <cstdint>
#include <cstring>

#include "kernels/base/dtype.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace adjoint::cpu {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct VecOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};
/// A register of acc types (float or double), or of the integers of the same width.
template <class T>
using Vec = typename VecOf<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
struct IntOf;
template <>
struct IntOf<float> {
  using type = std::int32_t;
};
template <>
struct IntOf<double> {
  using type = std::int64_t;
};
/// The integer vector that a comparison of Vec<T> gives.
template <class T>
using VecInt = Vec<typename IntOf<T>::type>;

template <class T>
inline Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // a scalar operand is repeated; subtracting +0 keeps every value, -0 and NaN included
}

/// Loads kLanes<acc_t<S>> elements of storage type S (any alignment) and widens them.
template <class S>
inline Vec<acc_t<S>> load(const S* p) {
  return *reinterpret_cast<const typename VecOf<S>::unaligned*>(p);
}
template <class S>
inline void store(S* p, Vec<acc_t<S>> v) {
  *reinterpret_cast<typename VecOf<S>::unaligned*>(p) = v;
}

template <>
inline Vec<float> load<bf16>(const bf16* p) {
  typedef std::uint16_t Half __attribute__((vector_size(kVectorBytes / 2)));
  typedef std::uint32_t Word __attribute__((vector_size(kVectorBytes)));
  Half h;
  std::memcpy(&h, p, sizeof h);
  const Word w = __builtin_convertvector(h, Word) << 16;
  return reinterpret_cast<Vec<float>>(w);
}
template <>
inline void store<bf16>(bf16* p, Vec<float> v) {
  typedef std::uint16_t Half __attribute__((vector_size(kVectorBytes / 2)));
  typedef std::uint32_t Word __attribute__((vector_size(kVectorBytes)));
  const Word u = reinterpret_cast<Word>(v);
  const Word rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const Word nan = (u >> 16) | 0x40u;
  const Half h = __builtin_convertvector((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded, Half);
  std::memcpy(p, &h, sizeof h);
}

/// The first n (0..lanes) elements; the other lanes are 0.
template <class S>
inline Vec<acc_t<S>> load_first(const S* p, int n) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (sizeof(S) == 4 && sizeof(acc_t<S>) == 4) {
    return reinterpret_cast<Vec<acc_t<S>>>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p));
  } else if constexpr (sizeof(S) == 8) {
    return reinterpret_cast<Vec<acc_t<S>>>(_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1u), p));
  }
#endif
  S buffer[kLanes<acc_t<S>>] = {};
  std::memcpy(buffer, p, static_cast<std::size_t>(n) * sizeof(S));
  return load(buffer);
}
template <class S>
inline void store_first(S* p, Vec<acc_t<S>> v, int n) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (sizeof(S) == 4 && sizeof(acc_t<S>) == 4) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), reinterpret_cast<__m512>(v));
    return;
  } else if constexpr (sizeof(S) == 8) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1u), reinterpret_cast<__m512d>(v));
    return;
  }
#endif
  S buffer[kLanes<acc_t<S>>];
  store(buffer, v);
  std::memcpy(p, buffer, static_cast<std::size_t>(n) * sizeof(S));
}

/// Lanes below n are all ones, the others 0.
template <class T>
inline VecInt<T> first_lanes(int n) {
  VecInt<T> lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return lane < static_cast<typename IntOf<T>::type>(n);
}

/// Sum and maximum over the lanes, halving the register each time (a fixed order).
template <class T>
inline T sum_lanes(Vec<T> v) {
  T a[kLanes<T>];
  std::memcpy(a, &v, sizeof v);
  for (int half = kLanes<T> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a[i] += a[i + half];
  return a[0];
}
template <class T>
inline T max_lanes(Vec<T> v) {
  T a[kLanes<T>];
  std::memcpy(a, &v, sizeof v);
  for (int half = kLanes<T> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a[i] = a[i] > a[i + half] || a[i] != a[i] ? a[i] : a[i + half];
  return a[0];
}

template <class T>
inline Vec<T> max(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}
template <class T>
inline Vec<T> min(Vec<T> a, Vec<T> b) {
  return a < b ? a : b;
}

/// Adds or assigns: what every gradient store does.
template <class S>
inline void put(S* p, Vec<acc_t<S>> v, bool accumulate) {
  store(p, accumulate ? load(p) + v : v);
}
template <class S>
inline void put_first(S* p, Vec<acc_t<S>> v, int n, bool accumulate) {
  store_first(p, accumulate ? load_first(p, n) + v : v, n);
}

}  // namespace adjoint::cpu
