#pragma once
// Dot-product attention of one sequence over another, as a layer without parameters.

#include "engine/ops.h"

namespace adjoint {

/// context_t = sum over s of softmax_s(scale q_t·k_s) v_s. q [B, T, D], k [B, S, D], v [B, S, V]: [B, T, V].
/// scale 1: unscaled; 0: 1 / sqrt(D). key_lengths, query_lengths: i32 [B] or undefined.
Tensor dot_attention(const Tensor& q, const Tensor& k, const Tensor& v, double scale, const Tensor& key_lengths = {},
                     const Tensor& query_lengths = {});

/// The weights [B, T, S] of the same call.
Tensor dot_attention_weights(const Tensor& q, const Tensor& k, double scale, const Tensor& key_lengths = {});

}  // namespace adjoint
