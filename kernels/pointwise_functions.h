#pragma once
// The list of pointwise functions. One line here is a kernel on every backend, an op of the same name, its record and
// its tests. V is a float or double, or (on the CPU) a register of them: only operators, `select` and the functions of
// the math argument M may be used.
//
// X(name, forward, derivative): x is the argument, y the value, `one` the constant 1 in V.
// The derivative may use x and y; what it does not use is not kept alive by the tape.

#include <cstddef>
#include <cstdint>
#include <string_view>

// clang-format off
#define ADJOINT_UNARY_FUNCTIONS(X)                                                                              \
  X(neg,       -x,                                            -one)                                             \
  X(abs,       M::select(x < zero, -x, x),                    M::select(x < zero, -one, M::select(x > zero, one, x * zero))) \
  X(square,    x * x,                                         x + x)                                            \
  X(sqrt,      M::sqrt(x),                                    one / (y + y))                                    \
  X(rsqrt,     one / M::sqrt(x),                              -(y / (x + x)))                                   \
  X(reciprocal, one / x,                                      -(y * y))                                         \
  X(exp,       M::exp(x),                                     y)                                                \
  X(log,       M::log(x),                                     one / x)                                          \
  X(tanh,      M::tanh(x),                                    one - y * y)                                      \
  X(sigmoid,   M::sigmoid(x),                                 y * (one - y))                                    \
  X(relu,      M::select(x > zero, x, M::select(x == x, zero, x)), M::select(x > zero, one, zero))              \
  X(gelu,      x * M::normal_cdf(x),                          M::normal_cdf(x) + x * M::normal_pdf(x))          \
  X(gelu_tanh, M::gelu_tanh(x),                               M::gelu_tanh_slope(x))

// X(name, forward, derivative by a, derivative by b): operands a, b.
#define ADJOINT_BINARY_FUNCTIONS(X)                                                                             \
  X(add,     a + b,                    one,                                   one)                              \
  X(sub,     a - b,                    one,                                   -one)                             \
  X(mul,     a * b,                    b,                                     a)                                \
  X(div,     a / b,                    one / b,                               -(a / (b * b)))                   \
  X(maximum, M::select(a >= b, a, M::select(a == a, b, a)), M::select(a >= b, one, zero), M::select(a >= b, zero, one)) \
  X(minimum, M::select(a <= b, a, M::select(a == a, b, a)), M::select(a <= b, one, zero), M::select(a <= b, zero, one))
// clang-format on

namespace adjoint {

enum class UnaryKind : std::uint8_t {
#define ADJOINT_KIND(name, ...) name,
  ADJOINT_UNARY_FUNCTIONS(ADJOINT_KIND)
};
enum class BinaryKind : std::uint8_t {
  ADJOINT_BINARY_FUNCTIONS(ADJOINT_KIND)
#undef ADJOINT_KIND
};

/// What a derivative reads, found in its text: what it does not read need be neither kept nor loaded.
struct DerivativeReads {
  bool first;   ///< x, or a
  bool second;  ///< y, or b
};

namespace detail {
constexpr bool mentions(std::string_view text, char name) {
  const auto part_of_word = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == name && (i == 0 || !part_of_word(text[i - 1])) &&
        (i + 1 == text.size() || !part_of_word(text[i + 1]))) {
      return true;
    }
  }
  return false;
}
}  // namespace detail

constexpr DerivativeReads kUnaryReads[] = {
#define ADJOINT_READS(name, forward, slope) {detail::mentions(#slope, 'x'), detail::mentions(#slope, 'y')},
    ADJOINT_UNARY_FUNCTIONS(ADJOINT_READS)
#undef ADJOINT_READS
};
/// By the operand whose gradient it is.
constexpr DerivativeReads kBinaryReads[][2] = {
#define ADJOINT_READS(name, forward, by_a, by_b)                 \
  {{detail::mentions(#by_a, 'a'), detail::mentions(#by_a, 'b')}, \
   {detail::mentions(#by_b, 'a'), detail::mentions(#by_b, 'b')}},
    ADJOINT_BINARY_FUNCTIONS(ADJOINT_READS)
#undef ADJOINT_READS
};

}  // namespace adjoint
