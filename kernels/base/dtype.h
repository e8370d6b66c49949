#pragma once
// Element types, and the way from a run-time DType to a compile-time type.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

#ifdef __CUDACC__
#define ADJOINT_HD __host__ __device__
#else
#define ADJOINT_HD
#endif

namespace adjoint {

enum class DType : std::uint8_t { f64, f32, bf16, i32, u8 };

constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return 8;
    case DType::f32: return 4;
    case DType::bf16: return 2;
    case DType::i32: return 4;
    case DType::u8: return 1;
  }
  return 0;
}

constexpr const char* name(DType dtype) {
  switch (dtype) {
    case DType::f64: return "f64";
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::i32: return "i32";
    case DType::u8: return "u8";
  }
  return "?";
}

constexpr bool is_float(DType dtype) { return dtype == DType::f64 || dtype == DType::f32 || dtype == DType::bf16; }

/// Storage for bfloat16: the upper half of an f32, rounded to nearest even. Arithmetic is done in f32.
struct bf16 {
  std::uint16_t bits;

  bf16() = default;
  ADJOINT_HD explicit bf16(float value) {
    std::uint32_t u = __builtin_bit_cast(std::uint32_t, value);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<std::uint16_t>((u >> 16) | 0x40u);  // keep NaN a NaN: rounding could carry it into infinity
    } else {
      bits = static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
  }
  ADJOINT_HD operator float() const { return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16); }
};

/// The type a kernel computes in for a storage type: f64 for f64, else f32.
template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <class T>
using acc_t = typename Accumulator<T>::type;

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<std::uint8_t> {
  static constexpr DType value = DType::u8;
};
template <class T>
constexpr DType dtype_of = DTypeOf<T>::value;

/// The dtype statistics and losses are kept in: f64 for f64, else f32.
constexpr DType accumulator_of(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

template <class T>
struct Type {
  using type = T;
};

/// Calls f(Type<T>{}) for a floating dtype. Ops check dtypes before they launch, so another one is our bug.
template <class F>
decltype(auto) visit_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64: return f(Type<double>{});
    case DType::f32: return f(Type<float>{});
    case DType::bf16: return f(Type<bf16>{});
    default: throw std::logic_error("visit_float: not a floating dtype");
  }
}

/// Calls f(Type<T>{}) for any dtype.
template <class F>
decltype(auto) visit_any(DType dtype, F&& f) {
  switch (dtype) {
    case DType::i32: return f(Type<std::int32_t>{});
    case DType::u8: return f(Type<std::uint8_t>{});
    default: return visit_float(dtype, static_cast<F&&>(f));
  }
}

}  // namespace adjoint
