#pragma once
// The CUDA names kernels use, on top of the executor. They live in adjoint::simt, where kernels are compiled, so they
// meet neither glibc's internal __expf nor the CUDA toolkit's declarations.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/simt/collectives.h"

#define ADJOINT_SIMT_AT detail::Location at = detail::Location::here()
// Not inlined, so that the return address is the kernel's line.
#define ADJOINT_SIMT_ATOMIC \
  template <class T>        \
  __attribute__((noinline)) ADJOINT_SIMT_RAW T

namespace adjoint::simt {

inline void __syncthreads(ADJOINT_SIMT_AT) { detail::block_barrier("__syncthreads", false, at); }
inline int __syncthreads_count(int predicate, ADJOINT_SIMT_AT) {
  return detail::block_barrier("__syncthreads_count", predicate != 0, at);
}
inline int __syncthreads_or(int predicate, ADJOINT_SIMT_AT) {
  return detail::block_barrier("__syncthreads_or", predicate != 0, at) > 0;
}
inline int __syncthreads_and(int predicate, ADJOINT_SIMT_AT) {
  return detail::block_barrier("__syncthreads_and", predicate == 0, at) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, ADJOINT_SIMT_AT) {
  detail::collective("__syncwarp", mask, at, false, {}, detail::complete_meet);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, ADJOINT_SIMT_AT) {
  return detail::shuffle("__shfl_sync", mask, value, source, width, at, detail::complete_index);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, ADJOINT_SIMT_AT) {
  return detail::shuffle("__shfl_up_sync", mask, value, static_cast<int>(delta), width, at, detail::complete_up);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, ADJOINT_SIMT_AT) {
  return detail::shuffle("__shfl_down_sync", mask, value, static_cast<int>(delta), width, at, detail::complete_down);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, ADJOINT_SIMT_AT) {
  return detail::shuffle("__shfl_xor_sync", mask, value, lane_mask, width, at, detail::complete_xor);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, ADJOINT_SIMT_AT) {
  return detail::vote("__ballot_sync", mask, predicate, at).yes;
}
inline int __any_sync(unsigned mask, int predicate, ADJOINT_SIMT_AT) {
  return detail::vote("__any_sync", mask, predicate, at).yes != 0;
}
inline int __all_sync(unsigned mask, int predicate, ADJOINT_SIMT_AT) {
  detail::Vote v = detail::vote("__all_sync", mask, predicate, at);
  return v.yes == v.arrived;
}

// One OS thread runs every block, so there is nothing to fence; ordering is the checker's subject.
inline void __threadfence() {}
inline void __threadfence_block() {}

ADJOINT_SIMT_ATOMIC atomicAdd(T* target, std::type_identity_t<T> value) {
  return detail::atomic(
      target, [value](T old) { return static_cast<T>(old + value); }, __builtin_return_address(0));
}
ADJOINT_SIMT_ATOMIC atomicMax(T* target, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA has atomicMax for integers only");
  return detail::atomic(
      target, [value](T old) { return old > value ? old : value; }, __builtin_return_address(0));
}
ADJOINT_SIMT_ATOMIC atomicMin(T* target, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA has atomicMin for integers only");
  return detail::atomic(
      target, [value](T old) { return old < value ? old : value; }, __builtin_return_address(0));
}
ADJOINT_SIMT_ATOMIC atomicExch(T* target, std::type_identity_t<T> value) {
  return detail::atomic(
      target, [value](T) { return value; }, __builtin_return_address(0));
}
ADJOINT_SIMT_ATOMIC atomicCAS(T* target, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA has atomicCAS for integers only");
  return detail::atomic(
      target, [expected, value](T old) { return old == expected ? value : old; }, __builtin_return_address(0));
}

template <class T>
T __ldg(const T* p) {
  return *p;
}

// CUDA overloads these for float and double in the global namespace; C's global ones are for double alone.
using std::abs, std::acos, std::asin, std::atan, std::atan2, std::cbrt, std::ceil, std::copysign, std::cos, std::cosh;
using std::erf, std::erfc, std::exp, std::exp2, std::expm1, std::fabs, std::floor, std::fma, std::fmax, std::fmin;
using std::fmod, std::hypot, std::isfinite, std::isinf, std::isnan, std::log, std::log10, std::log1p, std::log2;
using std::max, std::min, std::pow, std::rint, std::round, std::sin, std::sinh, std::sqrt, std::tan, std::tanh;

// The fast intrinsics: exact here. Their error on a GPU has to be covered by the tolerance of the kernel's test.
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float x) { return x > 0.0f ? std::min(x, 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }

namespace detail {
template <class To, class From>
To bits_as(From from) {
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace detail
inline int __float_as_int(float x) { return detail::bits_as<int>(x); }
inline unsigned __float_as_uint(float x) { return detail::bits_as<unsigned>(x); }
inline float __int_as_float(int x) { return detail::bits_as<float>(x); }
inline float __uint_as_float(unsigned x) { return detail::bits_as<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x != 0 ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
inline void __trap(ADJOINT_SIMT_AT) { detail::fail_at("__trap", at, "the kernel gave up"); }

}  // namespace adjoint::simt

#undef ADJOINT_SIMT_AT
#undef ADJOINT_SIMT_ATOMIC
