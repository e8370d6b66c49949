#pragma once
// Vectors of 64 bytes (16 f32 or 8 f64 lanes) at every level of processor: one register of AVX-512, two of AVX2, four
// of SSE2 or NEON. A kernel is written once over Vec<acc_t<T>>, serves f64, f32 and bf16, and adds in the same order
// whatever the width of the registers is.
//
// All arithmetic is stated: sources are compiled with -ffp-contract=off, so `a * b + c` rounds twice and
// multiply_add(a, b, c) once. Level x86-64-v2 has no such instruction: there multiply_add is the plain two, and results
// differ from those of all other levels.
//
// The file is compiled once for each level, in a namespace of its own (kernels/base/cpu_level.h).

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels/base/cpu_level.h"
#include "kernels/base/dtype.h"

#ifndef ADJOINT_CPU_LEVEL
#error "kernels/cpu is compiled for a level of processor: ADJOINT_CPU_LEVEL names its namespace"
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define ADJOINT_INLINE [[gnu::always_inline]] inline

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {

constexpr int kVectorBytes = 64;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX2__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;
#endif
/// Machine registers of a vector, and how many the machine has.
constexpr int kRegistersOfVec = kVectorBytes / kRegisterBytes;
#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

template <class T>
struct IntOf {
  using type = T;
};
template <>
struct IntOf<float> {
  using type = std::int32_t;
};
template <>
struct IntOf<double> {
  using type = std::int64_t;
};

/// A machine register of T, and the same at any address. (GCC takes no vector of a type that a template leaves open.)
template <class T>
struct RegisterOf;
#define ADJOINT_REGISTER(T)                                                                           \
  template <>                                                                                         \
  struct RegisterOf<T> {                                                                              \
    typedef T type __attribute__((vector_size(kRegisterBytes)));                                      \
    typedef T unaligned __attribute__((vector_size(kRegisterBytes), aligned(alignof(T)), may_alias)); \
  };
ADJOINT_REGISTER(float)
ADJOINT_REGISTER(double)
ADJOINT_REGISTER(std::int32_t)
ADJOINT_REGISTER(std::int64_t)
ADJOINT_REGISTER(std::uint32_t)
ADJOINT_REGISTER(std::uint64_t)
#undef ADJOINT_REGISTER

// The operators of vectors, for both kinds below; ADJOINT_EACH… applies one to each part.
#define ADJOINT_LANES_OPERATORS                                                                       \
  ADJOINT_INLINE friend Lanes operator+(Lanes a, Lanes b) { return {ADJOINT_EACH2(a, +, b)}; }        \
  ADJOINT_INLINE friend Lanes operator-(Lanes a, Lanes b) { return {ADJOINT_EACH2(a, -, b)}; }        \
  ADJOINT_INLINE friend Lanes operator*(Lanes a, Lanes b) { return {ADJOINT_EACH2(a, *, b)}; }        \
  ADJOINT_INLINE friend Lanes operator/(Lanes a, Lanes b) { return {ADJOINT_EACH2(a, /, b)}; }        \
  ADJOINT_INLINE friend Lanes operator&(Lanes a, Lanes b) { return {ADJOINT_EACH2(a, &, b)}; }        \
  ADJOINT_INLINE friend Lanes operator|(Lanes a, Lanes b) { return {ADJOINT_EACH2(a, |, b)}; }        \
  ADJOINT_INLINE friend Lanes operator^(Lanes a, Lanes b) { return {ADJOINT_EACH2(a, ^, b)}; }        \
  ADJOINT_INLINE friend Mask operator<(Lanes a, Lanes b) { return {ADJOINT_EACH2(a, <, b)}; }         \
  ADJOINT_INLINE friend Mask operator>(Lanes a, Lanes b) { return {ADJOINT_EACH2(a, >, b)}; }         \
  ADJOINT_INLINE friend Mask operator<=(Lanes a, Lanes b) { return {ADJOINT_EACH2(a, <=, b)}; }       \
  ADJOINT_INLINE friend Mask operator>=(Lanes a, Lanes b) { return {ADJOINT_EACH2(a, >=, b)}; }       \
  ADJOINT_INLINE friend Mask operator==(Lanes a, Lanes b) { return {ADJOINT_EACH2(a, ==, b)}; }       \
  ADJOINT_INLINE friend Mask operator!=(Lanes a, Lanes b) { return {ADJOINT_EACH2(a, !=, b)}; }       \
  ADJOINT_INLINE friend Lanes operator-(Lanes a) { return {ADJOINT_EACH1(-, a, )}; }                  \
  ADJOINT_INLINE friend Lanes operator~(Lanes a) { return {ADJOINT_EACH1(~, a, )}; }                  \
  ADJOINT_INLINE friend Lanes operator<<(Lanes a, int bits) { return {ADJOINT_EACH1(, a, << bits)}; } \
  ADJOINT_INLINE friend Lanes operator>>(Lanes a, int bits) { return {ADJOINT_EACH1(, a, >> bits)}; } \
  ADJOINT_INLINE Lanes& operator+=(Lanes b) { return *this = *this + b; }                             \
  ADJOINT_INLINE Lanes& operator*=(Lanes b) { return *this = *this * b; }

/// `bytes` / sizeof(T) lanes: two halves, or one machine register. A scalar converts to a vector that repeats it; a
/// comparison gives integers of the same size, all ones where it holds. {} is zero.
template <class T, int bytes>
struct Lanes {
  using Half = Lanes<T, bytes / 2>;
  using Mask = Lanes<typename IntOf<T>::type, bytes>;
  Half low, high;

  Lanes() = default;
  ADJOINT_INLINE Lanes(T all) : low(all), high(all) {}
  ADJOINT_INLINE Lanes(Half l, Half h) : low(l), high(h) {}

  ADJOINT_INLINE T first() const { return low.first(); }

#define ADJOINT_EACH1(before, a, after) (before a.low after), (before a.high after)
#define ADJOINT_EACH2(a, op, b) (a.low op b.low), (a.high op b.high)
  ADJOINT_LANES_OPERATORS
#undef ADJOINT_EACH1
#undef ADJOINT_EACH2
};

template <class T>
struct Lanes<T, kRegisterBytes> {
  using Register = typename RegisterOf<T>::type;
  using Mask = Lanes<typename IntOf<T>::type, kRegisterBytes>;
  Register r;

  Lanes() = default;
  ADJOINT_INLINE Lanes(T all) : r(all - Register{}) {}  // a scalar is repeated; - +0 keeps -0 and NaN too
  ADJOINT_INLINE Lanes(Register v) : r(v) {}

  ADJOINT_INLINE T first() const { return r[0]; }

#define ADJOINT_EACH1(before, a, after) (before a.r after)
#define ADJOINT_EACH2(a, op, b) (a.r op b.r)
  ADJOINT_LANES_OPERATORS
#undef ADJOINT_EACH1
#undef ADJOINT_EACH2
};
#undef ADJOINT_LANES_OPERATORS

/// A vector of acc types (float or double), or of integers.
template <class T>
using Vec = Lanes<T, kVectorBytes>;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
/// The integer vector that a comparison of Vec<T> gives.
template <class T>
using VecInt = typename Vec<T>::Mask;

template <class T>
ADJOINT_INLINE Vec<T> broadcast(T value) {
  return value;
}

/// a b + c with one rounding (see above for level x86-64-v2).
template <class T, int bytes>
ADJOINT_INLINE Lanes<T, bytes> multiply_add(Lanes<T, bytes> a, Lanes<T, bytes> b, Lanes<T, bytes> c) {
  if constexpr (bytes > kRegisterBytes) {
    return {multiply_add(a.low, b.low, c.low), multiply_add(a.high, b.high, c.high)};
  } else {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    if constexpr (std::is_same_v<T, float>) {
      return typename Lanes<T, bytes>::Register(_mm512_fmadd_ps(__m512(a.r), __m512(b.r), __m512(c.r)));
    } else {
      return typename Lanes<T, bytes>::Register(_mm512_fmadd_pd(__m512d(a.r), __m512d(b.r), __m512d(c.r)));
    }
#elif defined(__FMA__)
    if constexpr (std::is_same_v<T, float>) {
      return typename Lanes<T, bytes>::Register(_mm256_fmadd_ps(__m256(a.r), __m256(b.r), __m256(c.r)));
    } else {
      return typename Lanes<T, bytes>::Register(_mm256_fmadd_pd(__m256d(a.r), __m256d(b.r), __m256d(c.r)));
    }
#elif defined(__ARM_NEON)
    if constexpr (std::is_same_v<T, float>) {
      return typename Lanes<T, bytes>::Register(vfmaq_f32(float32x4_t(c.r), float32x4_t(a.r), float32x4_t(b.r)));
    } else {
      return typename Lanes<T, bytes>::Register(vfmaq_f64(float64x2_t(c.r), float64x2_t(a.r), float64x2_t(b.r)));
    }
#else
    return a * b + c;
#endif
  }
}
template <class T, int bytes>
ADJOINT_INLINE Lanes<T, bytes> multiply_add(Lanes<T, bytes> a, Lanes<T, bytes> b, std::type_identity_t<T> c) {
  return multiply_add(a, b, Lanes<T, bytes>(c));
}
template <class T, int bytes>
ADJOINT_INLINE Lanes<T, bytes> multiply_add(Lanes<T, bytes> a, std::type_identity_t<T> b, Lanes<T, bytes> c) {
  return multiply_add(a, Lanes<T, bytes>(b), c);
}
template <class T, int bytes>
ADJOINT_INLINE Lanes<T, bytes> multiply_add(std::type_identity_t<T> a, Lanes<T, bytes> b, Lanes<T, bytes> c) {
  return multiply_add(Lanes<T, bytes>(a), b, c);
}
template <class T, int bytes>
ADJOINT_INLINE Lanes<T, bytes> multiply_add(Lanes<T, bytes> a, std::type_identity_t<T> b, std::type_identity_t<T> c) {
  return multiply_add(a, Lanes<T, bytes>(b), Lanes<T, bytes>(c));
}

/// Lane by lane a where the mask has ones, else b.
template <class T, int bytes>
ADJOINT_INLINE Lanes<T, bytes> select(typename Lanes<T, bytes>::Mask mask, Lanes<T, bytes> a, Lanes<T, bytes> b) {
  if constexpr (bytes > kRegisterBytes) {
    return {select(mask.low, a.low, b.low), select(mask.high, a.high, b.high)};
  } else {
    return mask.r ? a.r : b.r;
  }
}

/// The same bits as lanes of another type.
template <class To, class T, int bytes>
ADJOINT_INLINE Lanes<To, bytes> bits_as(Lanes<T, bytes> v) {
  if constexpr (bytes > kRegisterBytes) {
    return {bits_as<To>(v.low), bits_as<To>(v.high)};
  } else {
    return reinterpret_cast<typename Lanes<To, bytes>::Register>(v.r);
  }
}
/// The same values as lanes of another type of the same size.
template <class To, class T, int bytes>
ADJOINT_INLINE Lanes<To, bytes> convert_lanes(Lanes<T, bytes> v) {
  if constexpr (bytes > kRegisterBytes) {
    return {convert_lanes<To>(v.low), convert_lanes<To>(v.high)};
  } else {
    return __builtin_convertvector(v.r, typename Lanes<To, bytes>::Register);
  }
}

// What kernels/base/real_math.h asks of a register of doubles.
ADJOINT_INLINE VecInt<double> bits_of(Vec<double> v) { return bits_as<std::int64_t>(v); }
ADJOINT_INLINE Vec<double> from_bits(VecInt<double> v) { return bits_as<double>(v); }

/// Correctly rounded.
template <class T, int bytes>
ADJOINT_INLINE Lanes<T, bytes> sqrt(Lanes<T, bytes> v) {
  if constexpr (bytes > kRegisterBytes) {
    return {sqrt(v.low), sqrt(v.high)};
  } else {
    using Register = typename Lanes<T, bytes>::Register;
#if defined(__AVX512F__) && defined(__AVX512DQ__)  // with a mask: without one, GCC 12 takes an operand of zeros along
    if constexpr (sizeof(T) == 4) return Register(_mm512_maskz_sqrt_ps(0xffff, __m512(v.r)));
    if constexpr (sizeof(T) == 8) return Register(_mm512_maskz_sqrt_pd(0xff, __m512d(v.r)));
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return Register(_mm256_sqrt_ps(__m256(v.r)));
    if constexpr (sizeof(T) == 8) return Register(_mm256_sqrt_pd(__m256d(v.r)));
#elif defined(__x86_64__)
    if constexpr (sizeof(T) == 4) return Register(_mm_sqrt_ps(__m128(v.r)));
    if constexpr (sizeof(T) == 8) return Register(_mm_sqrt_pd(__m128d(v.r)));
#else
    Register root;
    for (int i = 0; i < bytes / static_cast<int>(sizeof(T)); ++i)
      root[i] = sizeof(T) == 4 ? static_cast<T>(__builtin_sqrtf(static_cast<float>(v.r[i])))
                               : static_cast<T>(__builtin_sqrt(v.r[i]));
    return root;
#endif
  }
}

namespace detail {

template <class T, int bytes>
ADJOINT_INLINE Lanes<T, bytes> load_lanes(const T* p) {
  if constexpr (bytes > kRegisterBytes) {
    return {load_lanes<T, bytes / 2>(p), load_lanes<T, bytes / 2>(p + bytes / 2 / sizeof(T))};
  } else {
    return *reinterpret_cast<const typename RegisterOf<T>::unaligned*>(p);
  }
}
template <class T, int bytes>
ADJOINT_INLINE void store_lanes(T* p, Lanes<T, bytes> v) {
  if constexpr (bytes > kRegisterBytes) {
    store_lanes(p, v.low);
    store_lanes(p + bytes / 2 / sizeof(T), v.high);
  } else {
    *reinterpret_cast<typename RegisterOf<T>::unaligned*>(p) = v.r;
  }
}

// bf16 is the upper half of an f32.
typedef std::uint16_t Half __attribute__((vector_size(kRegisterBytes / 2)));
typedef std::uint32_t Word __attribute__((vector_size(kRegisterBytes)));

template <int bytes>
ADJOINT_INLINE Lanes<float, bytes> load_lanes(const bf16* p) {
  if constexpr (bytes > kRegisterBytes) {
    return {load_lanes<bytes / 2>(p), load_lanes<bytes / 2>(p + bytes / 8)};
  } else {
    Half h;
    std::memcpy(&h, p, sizeof h);
    const Word w = __builtin_convertvector(h, Word) << 16;
    return reinterpret_cast<typename Lanes<float, bytes>::Register>(w);
  }
}
template <int bytes>
ADJOINT_INLINE void store_lanes(bf16* p, Lanes<float, bytes> v) {
  if constexpr (bytes > kRegisterBytes) {
    store_lanes(p, v.low);
    store_lanes(p + bytes / 8, v.high);
  } else {
    const Word u = reinterpret_cast<Word>(v.r);
    const Word rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const Word nan = (u >> 16) | 0x40u;
    const Half h = __builtin_convertvector((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded, Half);
    std::memcpy(p, &h, sizeof h);
  }
}

/// first, first + 1, … as constants: filled lane by lane in a loop, they would be computed so.
template <class T, int first, int... i>
ADJOINT_INLINE Lanes<T, kRegisterBytes> count_from(std::integer_sequence<int, i...>) {
  return typename Lanes<T, kRegisterBytes>::Register{static_cast<T>(i + first)...};
}
template <class T, int bytes, int first = 0>
ADJOINT_INLINE Lanes<T, bytes> count_lanes() {
  constexpr int lanes = bytes / static_cast<int>(sizeof(T));
  if constexpr (bytes > kRegisterBytes) {
    return {count_lanes<T, bytes / 2, first>(), count_lanes<T, bytes / 2, first + lanes / 2>()};
  } else {
    return count_from<T, first>(std::make_integer_sequence<int, lanes>());
  }
}

template <class T, int bytes>
ADJOINT_INLINE Lanes<T, bytes> in_first_lane(T value) {
  if constexpr (bytes > kRegisterBytes) {
    return {in_first_lane<T, bytes / 2>(value), {}};
  } else {
    return typename Lanes<T, bytes>::Register{value};
  }
}

}  // namespace detail

/// Loads kLanes<acc_t<S>> elements of storage type S (any alignment) and widens them.
template <class S>
ADJOINT_INLINE Vec<acc_t<S>> load(const S* p) {
  if constexpr (std::is_same_v<S, bf16>) {
    return detail::load_lanes<kVectorBytes>(p);
  } else {
    return detail::load_lanes<S, kVectorBytes>(p);
  }
}
template <class S>
ADJOINT_INLINE void store(S* p, Vec<acc_t<S>> v) {
  detail::store_lanes(p, v);
}

/// 0, 1, 2, …
template <class T>
ADJOINT_INLINE VecInt<T> lane_numbers() {
  return detail::count_lanes<typename IntOf<T>::type, kVectorBytes>();
}
/// Lanes below n are all ones, the others 0.
template <class T>
ADJOINT_INLINE VecInt<T> first_lanes(int n) {
  return lane_numbers<T>() < VecInt<T>(static_cast<typename IntOf<T>::type>(n));
}

namespace detail {

#if defined(__AVX2__)
/// Elements whose mask is all ones; the others are not read, and 0.
template <class T, int bytes>
ADJOINT_INLINE Lanes<T, bytes> load_masked(const T* p, typename Lanes<T, bytes>::Mask mask) {
  if constexpr (bytes > 32) {
    return {load_masked<T, bytes / 2>(p, mask.low), load_masked<T, bytes / 2>(p + bytes / 2 / sizeof(T), mask.high)};
  } else {
    using Register = typename Lanes<T, bytes>::Register;
    if constexpr (std::is_same_v<T, float>) return Register(_mm256_maskload_ps(p, __m256i(mask.r)));
    if constexpr (std::is_same_v<T, double>) return Register(_mm256_maskload_pd(p, __m256i(mask.r)));
  }
}
#endif

/// The first n elements of an array of lanes, 0 < n < lanes, in pieces of 8, 4, 2, 1: masked stores of AVX2 take some
/// processors 40 operations. Out of line, because it is for the end of a row.
template <class S, int lanes>
[[gnu::noinline]] void copy_first(S* to, const S* from, int n) {
#pragma GCC unroll 4
  for (int piece = lanes / 2; piece > 0; piece /= 2) {
    if ((n & piece) == 0) continue;
    std::memcpy(to, from, static_cast<std::size_t>(piece) * sizeof(S));
    to += piece;
    from += piece;
  }
}

}  // namespace detail

/// The first n (0..lanes) elements; the other lanes are 0.
template <class S>
ADJOINT_INLINE Vec<acc_t<S>> load_first(const S* p, int n) {
  if constexpr (!std::is_same_v<S, bf16>) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    using Register = typename Vec<S>::Register;
    if constexpr (std::is_same_v<S, float>)
      return Register(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p));
    if constexpr (std::is_same_v<S, double>)
      return Register(_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1u), p));
#elif defined(__AVX2__)
    return detail::load_masked<S, kVectorBytes>(p, first_lanes<S>(n));
#endif
  }
  S buffer[kLanes<acc_t<S>>] = {};
  std::memcpy(buffer, p, static_cast<std::size_t>(n) * sizeof(S));
  return load(buffer);
}
template <class S>
ADJOINT_INLINE void store_first(S* p, Vec<acc_t<S>> v, int n) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (std::is_same_v<S, float>)
    return _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), __m512(v.r));
  if constexpr (std::is_same_v<S, double>)
    return _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1u), __m512d(v.r));
#endif
  constexpr int lanes = kLanes<acc_t<S>>;
  if (n == lanes) return store(p, v);
  S buffer[lanes];
  store(buffer, v);
  detail::copy_first<S, lanes>(p, buffer, n);
}

/// Combines the lanes, halving their number each time: lane i with lane i + half (a fixed order).
template <int half, class T, class F>
ADJOINT_INLINE T fold_lanes(Lanes<T, kRegisterBytes> v, F combine) {
  if constexpr (half == 0) {
    return v.first();
  } else {  // what the upper half becomes is of no interest, but costs nothing either
    using V = Lanes<T, kRegisterBytes>;
    constexpr auto lanes = [] {
      return std::make_integer_sequence<int, kRegisterBytes / static_cast<int>(sizeof(T))>();
    };
    const auto shifted = [&]<int... i>(std::integer_sequence<int, i...>) {
      return V(__builtin_shufflevector(v.r, v.r, ((i + half) % static_cast<int>(sizeof...(i)))...));
    };
    return fold_lanes<half / 2>(combine(v, shifted(lanes())), combine);
  }
}
template <class T, int bytes, class F>
ADJOINT_INLINE T fold_lanes(Lanes<T, bytes> v, F combine) {
  if constexpr (bytes > kRegisterBytes) {
    return fold_lanes(combine(v.low, v.high), combine);
  } else {
    return fold_lanes<bytes / 2 / static_cast<int>(sizeof(T))>(v, combine);
  }
}
/// Sum and maximum over the lanes; NaN propagates through both.
template <class T>
ADJOINT_INLINE T sum_lanes(Vec<T> v) {
  return fold_lanes(v, [](auto a, auto b) { return a + b; });
}
template <class T>
ADJOINT_INLINE T max_lanes(Vec<T> v) {
  return fold_lanes(v, [](auto a, auto b) { return select((a > b) | (a != a), a, b); });
}

template <class T>
ADJOINT_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return select(a > b, a, b);
}

/// Adds or assigns: what every gradient store does.
template <class S>
ADJOINT_INLINE void put(S* p, Vec<acc_t<S>> v, bool accumulate) {
  store(p, accumulate ? load(p) + v : v);
}
template <class S>
ADJOINT_INLINE void put_first(S* p, Vec<acc_t<S>> v, int n, bool accumulate) {
  store_first(p, accumulate ? load_first(p, n) + v : v, n);
}

/// One element in lane 0, the other lanes 0; and back.
template <class S>
ADJOINT_INLINE Vec<acc_t<S>> load_one(const S* p) {
  return detail::in_first_lane<acc_t<S>, kVectorBytes>(static_cast<acc_t<S>>(*p));
}
template <class S>
ADJOINT_INLINE void store_one(S* p, Vec<acc_t<S>> v) {
  *p = static_cast<S>(v.first());
}

/// out[i] (+)= f(i, get), with get(p) for the loads at p: whole vectors, then the rest. A single element goes through
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

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
