#include "models/attention.h"

#include <fmt/format.h>

#include "engine/scope.h"

namespace adjoint {
namespace {

/// [B, T, D] as one head: [B, 1, T, D].
Tensor one_head(const char* what, const Tensor& x) {
  ADJOINT_OP_CHECK(x.defined() && x.rank() == 3, "E-OP-012",
                   fmt::format("dot_attention: {} has shape {}; expected [B,T,D]", what, text(x.shape())));
  return reshape(x, {x.extent(0), 1, x.extent(1), x.extent(2)});
}

}  // namespace

Tensor dot_attention(const Tensor& q, const Tensor& k, const Tensor& v, double scale, const Tensor& key_lengths,
                     const Tensor& query_lengths) {
  const Tensor y = attention(one_head("q", q), one_head("k", k), one_head("v", v),
                             {.scale = scale, .key_lengths = key_lengths, .query_lengths = query_lengths});
  return reshape(y, {y.extent(0), y.extent(2), y.extent(3)});
}

Tensor dot_attention_weights(const Tensor& q, const Tensor& k, double scale, const Tensor& key_lengths) {
  const Tensor w = attention_weights(one_head("q", q), one_head("k", k), {.scale = scale, .key_lengths = key_lengths});
  return reshape(w, {w.extent(0), w.extent(2), w.extent(3)});
}

}  // namespace adjoint
