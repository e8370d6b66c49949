#pragma once
// Vectors of one machine register, in the compilers' own vector extension: + - * / and comparisons work on them
// directly, and `mask ? a : b` selects. A kernel is written once over Vec<acc_t<T>> and serves f64, f32 and bf16.

#include <cstdint>
#include <cstring>
#include <utility>

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

/// 0, 1, 2, … from `first`. A constant: filled lane by lane in a loop, it would be computed so.
template <class T, int first, int... i>
inline VecInt<T> count_from(std::integer_sequence<int, i...>) {
  return VecInt<T>{(i + first)...};
}
template <class T, int first = 0>
inline VecInt<T> lane_numbers() {
  return count_from<T, first>(std::make_integer_sequence<int, kLanes<T>>());
}

/// Lanes below n are all ones, the others 0.
template <class T>
inline VecInt<T> first_lanes(int n) {
  return lane_numbers<T>() < static_cast<typename IntOf<T>::type>(n);
}

/// Combines the lanes, halving the register each time: lane i with lane i + half (a fixed order).
template <class T, int half = kLanes<T> / 2, class F>
inline T fold_lanes(Vec<T> v, F combine) {
  if constexpr (half == 0) {
    return v[0];
  } else {  // what the upper half becomes is of no interest, but costs nothing either
    return fold_lanes<T, half / 2>(combine(v, __builtin_shuffle(v, lane_numbers<T, half>())), combine);
  }
}
/// Sum and maximum over the lanes; NaN propagates through both.
template <class T>
inline T sum_lanes(Vec<T> v) {
  return fold_lanes<T>(v, [](Vec<T> a, Vec<T> b) { return a + b; });
}
template <class T>
inline T max_lanes(Vec<T> v) {
  return fold_lanes<T>(v, [](Vec<T> a, Vec<T> b) { return (a > b) | (a != a) ? a : b; });
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

/// One element in lane 0, the other lanes 0; and back.
template <class S>
inline Vec<acc_t<S>> load_one(const S* p) {
  Vec<acc_t<S>> v{};
  v[0] = static_cast<acc_t<S>>(*p);
  return v;
}
template <class S>
inline void store_one(S* p, Vec<acc_t<S>> v) {
  *p = static_cast<S>(v[0]);
}

/// out[i] (+)= f(i, get), with get(p) for the loads at p: whole registers, then the rest. A single element goes through
/// plain moves: the next kernel's load would have to wait for a masked store.
template <bool accumulate, class Out, class F>
inline void for_registers(Out* out, std::int64_t n, F f) {
  using A = acc_t<Out>;
  constexpr int lanes = kLanes<A>;
  if (n == 1) {
    const Vec<A> v = f(0, [](auto* p) { return load_one(p); });
    store_one<Out>(out, accumulate ? load_one(out) + v : v);
    return;
  }
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) put(out + i, f(i, [](auto* p) { return load(p); }), accumulate);
  if (const int rest = static_cast<int>(n - i); rest > 0)
    put_first(out + i, f(i, [rest](auto* p) { return load_first(p, rest); }), rest, accumulate);
}

}  // namespace adjoint::cpu
