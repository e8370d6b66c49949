#pragma once
// Every public op on one page. Tensors of one op share device and float dtype unless it says otherwise; a mismatch
// throws E-OP-006. Any layout is taken; results are dense. Shapes are checked before anything is allocated or launched.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/generator.h"
#include "engine/tensor.h"
#include "kernels/pointwise_functions.h"

namespace adjoint {

// ---- Pointwise (engine/ops/pointwise.cpp; the formulas: kernels/pointwise_functions.h) ----

/// neg abs square sqrt rsqrt reciprocal exp log tanh sigmoid relu gelu (erf) gelu_tanh: y like x.
#define ADJOINT_DECLARE(name, ...) Tensor name(const Tensor& x);
ADJOINT_UNARY_FUNCTIONS(ADJOINT_DECLARE)
#undef ADJOINT_DECLARE
/// add sub mul div maximum minimum: operands are broadcast. Throws E-OP-002 if their shapes do not fit.
#define ADJOINT_DECLARE(name, ...) Tensor name(const Tensor& a, const Tensor& b);
ADJOINT_BINARY_FUNCTIONS(ADJOINT_DECLARE)
#undef ADJOINT_DECLARE
/// factor * x + offset.
Tensor scale_shift(const Tensor& x, double factor, double offset);

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator-(const Tensor& x) { return neg(x); }
inline Tensor operator*(const Tensor& x, double factor) { return scale_shift(x, factor, 0.0); }
inline Tensor operator*(double factor, const Tensor& x) { return scale_shift(x, factor, 0.0); }
inline Tensor operator/(const Tensor& x, double divisor) { return scale_shift(x, 1.0 / divisor, 0.0); }
inline Tensor operator+(const Tensor& x, double offset) { return scale_shift(x, 1.0, offset); }
inline Tensor operator-(const Tensor& x, double offset) { return scale_shift(x, 1.0, -offset); }

// ---- Shape (engine/ops/views.cpp): results share x's memory where they can ----

/// The same elements in another shape of the same count; one extent may be -1. Copies if x is not dense.
Tensor reshape(const Tensor& x, const std::vector<std::int64_t>& shape);
/// Swaps two axes (negative: from the end).
Tensor transpose(const Tensor& x, std::int64_t axis_a, std::int64_t axis_b);
/// Elements begin..end-1 along an axis. Throws E-OP-007 unless 0 <= begin <= end <= extent.
Tensor slice(const Tensor& x, std::int64_t axis, std::int64_t begin, std::int64_t end);
/// x repeated to `shape` by the rules of broadcasting.
Tensor broadcast_to(const Tensor& x, const Shape& shape);
/// x if it is dense, else a dense copy.
Tensor contiguous(const Tensor& x);
/// Joins tensors along an axis; their other extents are equal. At least one.
Tensor concat(const std::vector<Tensor>& xs, std::int64_t axis);
/// x in another dtype. Between float dtypes it is differentiable; to or from i32 and u8 it is a constant.
Tensor cast(const Tensor& x, DType dtype);

// ---- Reductions (engine/ops/reduce.cpp) ----

/// Sum, mean or maximum over `axes` (all if empty), which are dropped, or kept as extent 1.
/// max throws E-OP-004 over an empty axis; its gradient goes to the first of equal elements. mean of nothing is
/// E-OP-004.
Tensor sum(const Tensor& x, const std::vector<std::int64_t>& axes = {}, bool keep = false);
Tensor mean(const Tensor& x, const std::vector<std::int64_t>& axes = {}, bool keep = false);
Tensor max(const Tensor& x, const std::vector<std::int64_t>& axes = {}, bool keep = false);
/// i32 index of the largest element of each row (last axis, dropped); the first of equals. Not differentiable.
Tensor argmax(const Tensor& x);

// ---- Products (engine/ops/matmul.cpp) ----

/// a [..., m, k] times b [..., k, n]: [..., m, n]; the leading dimensions are broadcast. Vectors are not promoted.
/// Throws E-OP-001 if the inner sizes differ.
Tensor matmul(const Tensor& a, const Tensor& b);
/// x [..., in] times weight' [out, in], plus bias [out] if defined: [..., out].
/// lengths (i32 [B], optional): x is [B, T, in] and rows at t >= lengths[b] give 0, cost nothing and get no gradient.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const Tensor& lengths = {});

/// gelu_tanh(x times weight' + bias), as a feed-forward layer has it: x [..., in], weight [out, in], bias [out]. Where
/// cuBLASLt multiplies, in one call.
Tensor linear_gelu_tanh(const Tensor& x, const Tensor& weight, const Tensor& bias);

// ---- Activations with a bias (engine/ops/bias_gelu.cpp) ----

/// gelu(x + bias), gelu_tanh(x + bias) in one pass: x [..., D], bias [D]. lengths as for linear.
/// Throws E-OP-002 if bias is not [D].
Tensor bias_gelu(const Tensor& x, const Tensor& bias, const Tensor& lengths = {});
Tensor bias_gelu_tanh(const Tensor& x, const Tensor& bias, const Tensor& lengths = {});

// ---- Normalisation (engine/ops/softmax.cpp, layer_norm.cpp) ----

/// Over the last axis. A row of only -inf gives zeros (log_softmax: -inf).
Tensor softmax(const Tensor& x);
Tensor log_softmax(const Tensor& x);
/// (x - mean) / sqrt(var + eps) * gamma + beta over the last axis; gamma, beta [D], either may be undefined.
/// Throws E-OP-003 if gamma or beta is not [D].
Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps = 1e-5);
/// The sum x + residual and its layer norm, in one pass: {sum, y}.
struct SumAndNorm {
  Tensor sum;
  Tensor y;
};
SumAndNorm add_layer_norm(const Tensor& x, const Tensor& residual, const Tensor& gamma, const Tensor& beta,
                          double eps = 1e-5);

// ---- Attention (engine/ops/attention.cpp) ----

struct AttentionOptions {
  double scale = 0.0;    ///< 0: 1 / sqrt(width of k)
  bool causal = false;   ///< query t sees keys up to t + (S - T)
  Tensor key_lengths;    ///< i32 [B]: later keys are not seen
  Tensor query_lengths;  ///< i32 [B]: later queries give zeros
  Tensor bias;           ///< added to the scaled scores; broadcast to [B, H, T, S]
  double dropout = 0.0;  ///< needs `generator` if > 0
  Generator* generator = nullptr;
};
/// softmax(scale q k' + bias) v. q [B, H, T, D], k [B, H, S, D], v [B, H, S, V]: [B, H, T, V].
/// Without the T x S matrix in memory. A query that sees no key gives zeros and has no gradient.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options = {});
/// The weights [B, H, T, S] of the same call, before dropout. Not differentiable.
Tensor attention_weights(const Tensor& q, const Tensor& k, const AttentionOptions& options = {});

// ---- Recurrence (engine/ops/lstm.cpp) ----

struct LstmWeights {
  Tensor w_ih;  ///< [4H, I], gates i, f, g, o
  Tensor w_hh;  ///< [4H, H]
  Tensor b_ih;  ///< [4H]
  Tensor b_hh;  ///< [4H]
};
struct LstmResult {
  Tensor y;    ///< [B, T, H], zeros at padded steps
  Tensor h_n;  ///< [B, H] after the last real step
  Tensor c_n;  ///< [B, H]
};
struct LstmOptions {
  Tensor h0;             ///< [B, H] or undefined (zeros)
  Tensor c0;             ///< [B, H] or undefined (zeros)
  Tensor lengths;        ///< i32 [B] or undefined (T each)
  bool reverse = false;  ///< from the last real step to the first
};
/// One direction of one layer over x [B, T, I].
LstmResult lstm(const Tensor& x, const LstmWeights& weights, const LstmOptions& options = {});
/// One step: x [B, I], state (h, c) [B, H] each. The y of the result is [B, 1, H].
LstmResult lstm_step(const Tensor& x, const LstmWeights& weights, const Tensor& h, const Tensor& c);

// ---- Tokens and losses (engine/ops/embedding.cpp, cross_entropy.cpp, dropout.cpp) ----

/// Rows of table [V, D] for ids (i32 [...]): [..., D]. Throws E-OP-010 for an id outside the table.
/// The row `padding` (-1: none) gets no gradient.
Tensor embedding(const Tensor& ids, const Tensor& table, std::int64_t padding = -1);
/// Mean over counted rows of -log softmax(logits)[target]. logits [..., C], targets i32 [...]; target `ignore` is not
/// counted. A scalar of the accumulator dtype (f64 for f64, else f32); 0 if nothing counts. Throws E-OP-011 for a bad
/// target.
Tensor cross_entropy(const Tensor& logits, const Tensor& targets, std::int32_t ignore = -100);
/// x with each element set to 0 with probability p, the others divided by 1 - p. p in [0, 1).
Tensor dropout(const Tensor& x, double p, Generator& generator);

}  // namespace adjoint
