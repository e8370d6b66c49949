#pragma once
// The list of pointwise functions. One line here is a kernel on every backend, an op of the same name, its record and
// its tests. V is a float or double, or (on the CPU) a register of them: only operators, `select` and the functions of
// the math argument M may be used.
//
// X(name, forward, derivative): x is the argument, y the value, `one` the constant 1 in V.
// The derivative may use x and y; what it does not use is not kept alive by the tape.

#include <cstdint>

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

}  // namespace adjoint
