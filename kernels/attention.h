#pragma once
// Fused attention: softmax(scale * q k' + bias) v without the queries x keys matrix in memory.
// Source: Vaswani et al., arXiv:1706.03762; the online softmax and its backward: Dao et al., arXiv:2205.14135.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

/// What forward, backward and the weights kernel share. Extents: B batch, H heads, Q queries, K keys, D width of q and
/// k, V width of v. Rows of the last dimension are contiguous; the other strides count elements.
struct AttentionShape {
  DType dtype;
  std::int64_t batch, heads, queries, keys, width, value_width;
  /// Strides of (batch, head, position) of q, k and v: element (b, h, t, i) lies at b*s[0] + h*s[1] + t*s[2] + i.
  std::int64_t q_stride[3], k_stride[3], v_stride[3];
  double scale;
  bool causal;                                  ///< query t sees keys s <= t + (keys - queries)
  const std::int32_t* key_lengths = nullptr;    ///< i32 [B] or null: keys at and after it are not seen
  const std::int32_t* query_lengths = nullptr;  ///< i32 [B] or null: later queries give 0 and take no part
  const void* bias = nullptr;                   ///< added to the scaled scores; null, or strided as below
  std::int64_t bias_stride[4] = {0, 0, 0, 0};   ///< (batch, head, query, key), 0 where repeated
  double dropout = 0.0;                         ///< probability of dropping a weight after the softmax
  const PhiloxState* random = nullptr;          ///< state saved for this draw; needed if dropout > 0
  /// On a GPU: by cuDNN, in f32 and f64, without bias and dropout; the rest of the contract stays with our own kernels.
  /// Forward and backward alike.
  bool by_library = false;
};
// A query that sees no key (empty, fully masked, or all scores -inf) gives zeros, a log-sum-exp of -inf and no
// gradient. Dropout: weight (b, h, t, s) is kept if philox_uniform(word of element ((b*H + h)*Q + t)*K + s) >= p, and
// divided by 1-p.

/// y [B,H,Q,V] dense; log_sum_exp [B,H,Q] dense in the accumulator dtype. saved: of a library's saved_bytes, for its
/// backward, or null when none will follow; where those are not 0, log_sum_exp is left alone.
struct AttentionForward {
  AttentionShape shape;
  const void* q;
  const void* k;
  const void* v;
  void* y;
  void* log_sum_exp;
  void* saved = nullptr;
  void* scratch = nullptr;
};

/// Gradients of q, k, v, bias from dy. y, dy and all gradients are dense: dq [B,H,Q,D], dk [B,H,K,D], dv [B,H,K,V],
/// dbias [B,H,Q,K] (by a library only with a bias); every element is assigned or added. Each may be unwanted.
/// Deterministic: each gradient element is summed in a fixed order by one worker.
struct AttentionBackward {
  AttentionShape shape;
  const void* q;
  const void* k;
  const void* v;
  const void* y;
  const void* log_sum_exp;
  const void* saved = nullptr;
  const void* dy;
  GradOut dq;
  GradOut dk;
  GradOut dv;
  GradOut dbias;
  void* scratch = nullptr;
};

/// weights[b,h,t,s] = softmax over s of the scaled, biased, masked scores, dense [B,H,Q,K], before dropout; masked
/// positions are 0.
struct AttentionWeights {
  AttentionShape shape;
  const void* q;
  const void* k;
  void* weights;
};

}  // namespace adjoint

ADJOINT_CPU_KERNEL(AttentionForward)
ADJOINT_CPU_KERNEL(AttentionBackward)
ADJOINT_CPU_KERNEL(AttentionWeights)
ADJOINT_CPU_SCRATCH(AttentionForward)
ADJOINT_CPU_SCRATCH(AttentionBackward)
