#pragma once
// What op files share: the checks every op makes, and dense operands.

#include <fmt/format.h>

#include "engine/launch.h"
#include "engine/op_record.h"
#include "engine/ops.h"
#include "engine/scope.h"
#include "engine/tape.h"

namespace adjoint {

/// Throws E-OP-006 unless x is defined, of a float dtype, and (if `like` is given) of like's dtype and device.
void check_operand(const char* op, const char* operand, const Tensor& x, const Tensor* like = nullptr);
/// Throws E-OP-006 unless x is i32, on like's device.
void check_ints(const char* op, const char* operand, const Tensor& x, const Tensor& like);
/// Throws `code` unless x has this shape.
void check_shape(const char* op, const char* operand, const Tensor& x, const Shape& expected,
                 const char* code = "E-OP-002");

/// x, or a dense copy on the tape, as kernels with dense operands need it.
inline Tensor dense(const Tensor& x) { return x.dense() ? x : contiguous(x); }

/// Notes on the tape that y is gelu_tanh(sum), which a library has computed, and that bias [D] is added in sum [...,
/// D].
void note_gelu_tanh(const Tensor& sum, const Tensor& bias, Tensor& y);

}  // namespace adjoint
