#include "engine/op_support.h"

namespace adjoint {

void check_operand(const char* op, const char* operand, const Tensor& x, const Tensor* like) {
  ADJOINT_OP_CHECK(x.defined(), "E-OP-006", fmt::format("{}: {} is undefined; expected a tensor", op, operand));
  ADJOINT_OP_CHECK(is_float(x.dtype()), "E-OP-006",
                   fmt::format("{}: {} is {}; expected f64, f32 or bf16", op, operand, name(x.dtype())));
  if (like == nullptr) return;
  ADJOINT_OP_CHECK(x.dtype() == like->dtype(), "E-OP-006",
                   fmt::format("{}: {} is {}; expected {} like the first operand", op, operand, name(x.dtype()),
                               name(like->dtype())));
  ADJOINT_OP_CHECK(x.device() == like->device(), "E-OP-006",
                   fmt::format("{}: {} is on {}; expected {} like the first operand", op, operand, text(x.device()),
                               text(like->device())));
}

void check_ints(const char* op, const char* operand, const Tensor& x, const Tensor& like) {
  ADJOINT_OP_CHECK(x.defined() && x.dtype() == DType::i32, "E-OP-006",
                   fmt::format("{}: {} is {}; expected i32", op, operand, x.defined() ? name(x.dtype()) : "undefined"));
  ADJOINT_OP_CHECK(x.device() == like.device(), "E-OP-006",
                   fmt::format("{}: {} is on {}; expected {}", op, operand, text(x.device()), text(like.device())));
}

void check_shape(const char* op, const char* operand, const Tensor& x, const Shape& expected, const char* code) {
  ADJOINT_OP_CHECK(x.shape() == expected, code,
                   fmt::format("{}: {} has shape {}; expected {}", op, operand, text(x.shape()), text(expected)));
}

}  // namespace adjoint
