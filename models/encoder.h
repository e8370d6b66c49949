#pragma once
// The transformer encoder (Vaswani et al., arXiv:1706.03762) and a classifier on top of it.

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "models/layers.h"

namespace adjoint {

enum class Activation { gelu, gelu_tanh, relu, tanh };
enum class NormPlace { before, after };  ///< of each sublayer: pre-norm or post-norm
enum class Positions { learned, sinusoidal, none };

struct EncoderOptions {
  double dropout = 0.0;  ///< after the embeddings, of the attention weights, and of each sublayer's output
  bool causal = false;   ///< position t sees positions up to t
  bool bias = true;      ///< of the linear layers
  Activation activation = Activation::gelu;
  NormPlace norm = NormPlace::before;
  bool residual = true;  ///< add each sublayer's input to its output
  Positions positions = Positions::learned;
  bool final_norm = false;  ///< one more LayerNorm after the last layer
};

/// What a forward pass is given beside its input.
struct ForwardContext {
  Tensor lengths = {};                     ///< i32 [B]: what is real of each sequence; undefined: all of it
  Generator* random = nullptr;             ///< needed for dropout in training
  std::vector<Tensor>* weights = nullptr;  ///< if set, receives the attention weights [B, H, T, T] of each layer
};

/// Drops out in training; throws E-OP-009 if that needs a generator and there is none.
Tensor dropped_out(const Tensor& x, double p, bool training, Generator* random);

/// One head: the projections q [d_q, d_model], k [d_k, d_model] and v [d_v, d_model] and their dot-product attention.
class AttentionHead final : public Module {
 public:
  AttentionHead(const Initializer& init, std::int64_t d_model, std::int64_t d_k, std::int64_t d_q, std::int64_t d_v,
                const EncoderOptions& options = {});
  /// x [B, T, d_model] or [T, d_model]: [..., d_v]. Throws E-OP-012 if d_k and d_q differ.
  Tensor forward(const Tensor& x, const ForwardContext& context = {}) const;
  /// {softmax(q k' / sqrt(width of k)) v, the weights}. q [..., T, D], k [..., S, D], v [..., S, V], of rank 2 or 3;
  /// mask (optional) broadcasts to [B, T, S]: 1 where a key is seen, 0 where not. A query that sees no key gives zeros.
  static std::pair<Tensor, Tensor> scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                                                const Tensor& mask = {});

 private:
  friend class MultiHeadAttention;
  Linear q_;
  Linear k_;
  Linear v_;
  EncoderOptions options_;
};

/// Heads of width d_model / heads side by side, then a linear layer. heads.0.q.weight … heads.0.v.bias, heads.1 …,
/// output. The heads' weights are joined at each pass, so that all heads are one product and one attention call.
class MultiHeadAttention final : public Module {
 public:
  MultiHeadAttention(const Initializer& init, std::int64_t d_model, std::int64_t num_attention_heads,
                     const EncoderOptions& options = {});
  /// x [B, T, d_model]: like x, zeros at padded positions. Throws E-CONF-005 if the heads do not divide the width.
  Tensor forward(const Tensor& x, const ForwardContext& context = {}) const;
  AttentionHead& head(std::size_t i) { return *heads_.at(i); }

 private:
  Tensor joined(Linear AttentionHead::*projection, bool bias) const;

  std::int64_t d_model_;
  EncoderOptions options_;
  std::vector<std::unique_ptr<AttentionHead>> heads_;
  Linear output_;
};

/// linear_2(activation(linear_1(x))).
class FeedForward final : public Module {
 public:
  FeedForward(const Initializer& init, std::int64_t d_model, std::int64_t intermediate_size,
              const EncoderOptions& options = {});
  Tensor forward(const Tensor& x, const ForwardContext& context = {}) const;

 private:
  Tensor activated(const Tensor& x, const Tensor& lengths) const;  // what linear_2 is given

  Linear linear_1_;
  Linear linear_2_;
  EncoderOptions options_;
};

/// x += attention(norm_1(x)); x += feed_forward(norm_2(x)); with post-norm: x = norm_1(x + attention(x)) and so on.
class TransformerEncoderLayer final : public Module {
 public:
  TransformerEncoderLayer(const Initializer& init, std::int64_t d_model, std::int64_t num_attention_heads,
                          std::int64_t intermediate_size, const EncoderOptions& options = {});
  /// x [B, T, d_model]: like x.
  Tensor forward(const Tensor& x, const ForwardContext& context = {}) const;

 private:
  template <class Sublayer>
  Tensor dropped(const Sublayer& sublayer, const Tensor& x, const ForwardContext& context) const;
  /// x + y, or y without the residual, and its norm.
  SumAndNorm joined(const Tensor& x, const Tensor& y, const LayerNorm& norm) const;

  MultiHeadAttention attention_;
  FeedForward feed_forward_;
  LayerNorm norm_1_;
  LayerNorm norm_2_;
  EncoderOptions options_;
};

/// norm(token + position), then dropout. Token 0 is padding: its row stays zero.
class Embeddings final : public Module {
 public:
  Embeddings(const Initializer& init, std::int64_t vocab_size, std::int64_t max_position_embeddings,
             std::int64_t d_model, const EncoderOptions& options = {});
  /// ids i32 [B, T]: [B, T, d_model]. Throws E-OP-014 if T is over max_position_embeddings, unless positions are off.
  Tensor forward(const Tensor& ids, const ForwardContext& context = {}) const;
  Embedding& token() { return token_; }

 private:
  std::int64_t max_positions_;
  EncoderOptions options_;
  Embedding token_;
  Parameter position_;  // [max positions, d_model]; frozen, and not part of the model's files, if sinusoidal
  LayerNorm norm_;
};

class TransformerEncoder final : public Module {
 public:
  TransformerEncoder(const Initializer& init, std::int64_t vocab_size, std::int64_t max_position_embeddings,
                     std::int64_t d_model, std::int64_t num_attention_heads, std::int64_t intermediate_size,
                     std::int64_t num_hidden_layers, const EncoderOptions& options = {});
  /// ids i32 [B, T]: [B, T, d_model].
  Tensor forward(const Tensor& ids, const ForwardContext& context = {}) const;
  Embeddings& embeddings() { return embeddings_; }

 private:
  Embeddings embeddings_;
  std::vector<std::unique_ptr<TransformerEncoderLayer>> layers_;
  std::unique_ptr<LayerNorm> final_norm_;
};

/// Dropout, then linear.
class ClassificationHead final : public Module {
 public:
  ClassificationHead(const Initializer& init, std::int64_t d_model, std::int64_t num_classes, double dropout_prob);
  /// x [B, d_model]: [B, classes].
  Tensor forward(const Tensor& x, Generator* random = nullptr) const;

 private:
  Linear output_;
  double dropout_;
};

/// Classifies the hidden state of token 0.
class TransformerForSequenceClassification final : public Module {
 public:
  TransformerForSequenceClassification(const Initializer& init, std::int64_t vocab_size,
                                       std::int64_t max_position_embeddings, std::int64_t d_model,
                                       std::int64_t num_attention_heads, std::int64_t intermediate_size,
                                       std::int64_t num_hidden_layers, std::int64_t num_classes, double dropout_prob,
                                       const EncoderOptions& options = {});
  /// ids i32 [B, T]: logits [B, classes].
  Tensor forward(const Tensor& ids, const ForwardContext& context = {}) const;
  Embeddings& embeddings() { return encoder_.embeddings(); }

 private:
  TransformerEncoder encoder_;
  ClassificationHead head_;
};

}  // namespace adjoint
