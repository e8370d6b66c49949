#include "models/encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/base/real_math.h"

namespace adjoint {
namespace {

/// x [B, T, heads * width] as [B, heads, T, width].
Tensor as_heads(const Tensor& x, std::int64_t heads) {
  return transpose(reshape(x, {x.extent(0), x.extent(1), heads, x.extent(2) / heads}), 1, 2);
}

AttentionOptions attention_options(const EncoderOptions& options, const ForwardContext& context, bool training) {
  const double dropout = training ? options.dropout : 0.0;
  return {.causal = options.causal,
          .key_lengths = context.lengths,
          .query_lengths = context.lengths,
          .dropout = dropout,
          .generator = context.random};
}

/// Row t is sin(t w_0), cos(t w_0), sin(t w_1) … with w_i = 10000^(-2i / d_model).
Tensor sinusoids(const Initializer& init, std::int64_t positions, std::int64_t width) {
  std::vector<double> table;
  for (std::int64_t t = 0; t < positions; ++t)
    for (std::int64_t i = 0; i < width; ++i) {
      const double exponent = static_cast<double>(i - i % 2) / static_cast<double>(width);
      const double angle = static_cast<double>(t) * real::exp(-exponent * real::log(10000.0));
      double sine, cosine;
      real::sincos_turns(angle / (2.0 * std::numbers::pi), sine, cosine);
      table.push_back(i % 2 == 0 ? sine : cosine);
    }
  return Tensor::from(std::span<const double>(table), {positions, width}, init.dtype, init.random.device());
}

}  // namespace

Tensor dropped_out(const Tensor& x, double p, bool training, Generator* random) {
  if (!training || p == 0) return x;
  ADJOINT_OP_CHECK(random != nullptr, "E-OP-009", fmt::format("dropout {} needs a generator in training", p));
  return dropout(x, p, *random);
}

AttentionHead::AttentionHead(const Initializer& init, std::int64_t d_model, std::int64_t d_k, std::int64_t d_q,
                             std::int64_t d_v, const EncoderOptions& options)
    : q_(init, d_model, d_q, options.bias),
      k_(init, d_model, d_k, options.bias),
      v_(init, d_model, d_v, options.bias),
      options_(options) {
  add("q", q_);
  add("k", k_);
  add("v", v_);
}

Tensor AttentionHead::forward(const Tensor& input, const ForwardContext& context) const {
  const auto name = scope();
  const Tensor x = input.rank() == 2 ? reshape(input, {1, input.extent(0), input.extent(1)}) : input;
  const Tensor q = as_heads(q_.forward(x, context.lengths), 1), k = as_heads(k_.forward(x, context.lengths), 1);
  const AttentionOptions options = attention_options(options_, context, training());
  if (context.weights != nullptr) context.weights->push_back(attention_weights(q, k, options));
  const Tensor y = attention(q, k, as_heads(v_.forward(x, context.lengths), 1), options);  // [B, 1, T, d_v]
  return input.rank() == 2 ? reshape(y, {y.extent(2), y.extent(3)})
                           : reshape(y, {y.extent(0), y.extent(2), y.extent(3)});
}

std::pair<Tensor, Tensor> AttentionHead::scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                                                      const Tensor& mask) {
  const bool batched = q.rank() == 3;
  const auto one_head = [&](const Tensor& x) {
    ADJOINT_OP_CHECK(
        x.defined() && x.rank() == (batched ? 3 : 2), "E-OP-012",
        fmt::format("scaled_dot_product_attention: an operand has shape {}; expected [T,D], or [B,T,D] for "
                    "all of them",
                    x.defined() ? text(x.shape()) : "none"));
    return batched ? reshape(x, {x.extent(0), 1, x.extent(1), x.extent(2)})
                   : reshape(x, {1, 1, x.extent(0), x.extent(1)});
  };
  const Tensor q4 = one_head(q), k4 = one_head(k), v4 = one_head(v);
  AttentionOptions options;
  if (mask.defined()) {
    const Tensor seen = broadcast_to(mask.dtype() == q.dtype() ? mask : cast(mask, q.dtype()),
                                     {q4.extent(0), q4.extent(2), k4.extent(2)});
    options.bias = log(reshape(seen, {q4.extent(0), 1, q4.extent(2), k4.extent(2)}));  // 1 gives 0, 0 gives -inf
  }
  const Tensor y = attention(q4, k4, v4, options);
  const Tensor w = attention_weights(q4, k4, options);
  const auto restored = [&](const Tensor& x) {
    return batched ? reshape(x, {x.extent(0), x.extent(2), x.extent(3)}) : reshape(x, {x.extent(2), x.extent(3)});
  };
  return {restored(y), restored(w)};
}

MultiHeadAttention::MultiHeadAttention(const Initializer& init, std::int64_t d_model, std::int64_t num_attention_heads,
                                       const EncoderOptions& options)
    : d_model_(d_model), options_(options), output_(init, d_model, d_model, options.bias) {
  ADJOINT_CHECK(num_attention_heads >= 1, "E-CONF-003", Exit::usage,
                fmt::format("multi-head attention: {} heads; expected an integer of at least 1", num_attention_heads));
  const std::int64_t width = std::max<std::int64_t>(d_model / num_attention_heads, 1);
  for (std::int64_t i = 0; i < num_attention_heads; ++i) {
    heads_.push_back(std::make_unique<AttentionHead>(init, d_model, width, width, width, options));
    add(fmt::format("heads.{}", i), *heads_.back());
  }
  add("output", output_);
}

Tensor MultiHeadAttention::joined(Linear AttentionHead::*projection, bool bias) const {
  std::vector<Tensor> parts;
  for (const auto& head : heads_) {
    Linear& linear = (*head).*projection;
    parts.push_back(bias ? linear.bias().value() : linear.weight().value());
  }
  return concat(parts, 0);
}

Tensor MultiHeadAttention::forward(const Tensor& x, const ForwardContext& context) const {
  const auto name = scope();
  const std::int64_t heads = static_cast<std::int64_t>(heads_.size());
  ADJOINT_CHECK(
      d_model_ % heads == 0, "E-CONF-005", Exit::usage,
      fmt::format("multi-head attention: width {} is not a multiple of the {} heads; expected heads that divide {}",
                  d_model_, heads, d_model_));
  const auto projected = [&](Linear AttentionHead::*projection) {
    return as_heads(
        linear(x, joined(projection, false), options_.bias ? joined(projection, true) : Tensor(), context.lengths),
        heads);
  };
  const Tensor q = projected(&AttentionHead::q_), k = projected(&AttentionHead::k_);
  const AttentionOptions options = attention_options(options_, context, training());
  if (context.weights != nullptr) context.weights->push_back(attention_weights(q, k, options));
  const Tensor y = attention(q, k, projected(&AttentionHead::v_), options);  // [B, H, T, width]
  return output_.forward(reshape(transpose(y, 1, 2), {x.extent(0), x.extent(1), d_model_}), context.lengths);
}

FeedForward::FeedForward(const Initializer& init, std::int64_t d_model, std::int64_t intermediate_size,
                         const EncoderOptions& options)
    : linear_1_(init, d_model, intermediate_size, options.bias),
      linear_2_(init, intermediate_size, d_model, options.bias),
      options_(options) {
  add("linear_1", linear_1_);
  add("linear_2", linear_2_);
}

Tensor FeedForward::activated(const Tensor& x, const Tensor& lengths) const {
  const bool with_tanh = options_.activation == Activation::gelu_tanh;
  if (options_.bias && (with_tanh || options_.activation == Activation::gelu)) {  // bias and GELU are one call
    if (with_tanh && !lengths.defined()) return linear_gelu_tanh(x, linear_1_.weight(), linear_1_.bias());
    const Tensor sum = linear(x, linear_1_.weight(), {}, lengths);
    return with_tanh ? bias_gelu_tanh(sum, linear_1_.bias(), lengths) : bias_gelu(sum, linear_1_.bias(), lengths);
  }
  const Tensor y = linear_1_.forward(x, lengths);
  switch (options_.activation) {
    case Activation::gelu: return gelu(y);
    case Activation::gelu_tanh: return gelu_tanh(y);
    case Activation::relu: return relu(y);
    case Activation::tanh: return tanh(y);
  }
  return y;
}

Tensor FeedForward::forward(const Tensor& x, const ForwardContext& context) const {
  const auto name = scope();
  return linear_2_.forward(activated(x, context.lengths), context.lengths);
}

TransformerEncoderLayer::TransformerEncoderLayer(const Initializer& init, std::int64_t d_model,
                                                 std::int64_t num_attention_heads, std::int64_t intermediate_size,
                                                 const EncoderOptions& options)
    : attention_(init, d_model, num_attention_heads, options),
      feed_forward_(init, d_model, intermediate_size, options),
      norm_1_(init, d_model),
      norm_2_(init, d_model),
      options_(options) {
  add("attention", attention_);
  add("feed_forward", feed_forward_);
  add("norm_1", norm_1_);
  add("norm_2", norm_2_);
}

template <class Sublayer>
Tensor TransformerEncoderLayer::dropped(const Sublayer& sublayer, const Tensor& x,
                                        const ForwardContext& context) const {
  return dropped_out(sublayer.forward(x, context), options_.dropout, training(), context.random);
}

SumAndNorm TransformerEncoderLayer::joined(const Tensor& x, const Tensor& y, const LayerNorm& norm) const {
  return options_.residual ? norm.forward(y, x) : SumAndNorm{y, norm.forward(y)};
}

Tensor TransformerEncoderLayer::forward(const Tensor& x, const ForwardContext& context) const {
  const auto name = scope();
  if (options_.norm == NormPlace::after) {
    const Tensor h = joined(x, dropped(attention_, x, context), norm_1_).y;
    return joined(h, dropped(feed_forward_, h, context), norm_2_).y;
  }
  const auto [h, normal] = joined(x, dropped(attention_, norm_1_.forward(x), context), norm_2_);
  const Tensor y = dropped(feed_forward_, normal, context);
  return options_.residual ? h + y : y;
}

Embeddings::Embeddings(const Initializer& init, std::int64_t vocab_size, std::int64_t max_position_embeddings,
                       std::int64_t d_model, const EncoderOptions& options)
    : max_positions_(max_position_embeddings),
      options_(options),
      token_(init, vocab_size, d_model, 0),
      norm_(init, d_model) {
  ADJOINT_CHECK(max_position_embeddings >= 1, "E-CONF-003", Exit::usage,
                fmt::format("embeddings: {} positions; expected an integer of at least 1", max_position_embeddings));
  add("token", token_);
  if (options.positions == Positions::learned) {
    position_.set(init.random.normal({max_position_embeddings, d_model}, 0.0, 1.0, init.dtype));
    add("position.weight", position_);
  } else if (options.positions == Positions::sinusoidal) {
    position_.set(sinusoids(init, max_position_embeddings, d_model));
    position_.set_trainable(false);
  }
  add("norm", norm_);
}

Tensor Embeddings::forward(const Tensor& ids, const ForwardContext& context) const {
  const auto name = scope();
  ADJOINT_OP_CHECK(ids.rank() == 2, "E-OP-014",
                   fmt::format("embeddings: ids have shape {}; expected [B,T]", text(ids.shape())));
  Tensor x = token_.forward(ids);
  if (options_.positions != Positions::none) {
    const std::int64_t length = ids.extent(1);
    ADJOINT_OP_CHECK(length <= max_positions_, "E-OP-014",
                     fmt::format("embeddings: {} tokens, but only {} positions; expected shorter sequences or a larger "
                                 "max_position_embeddings",
                                 length, max_positions_));
    x = x + slice(position_, 0, 0, length);
  }
  return dropped_out(norm_.forward(x), options_.dropout, training(), context.random);
}

TransformerEncoder::TransformerEncoder(const Initializer& init, std::int64_t vocab_size,
                                       std::int64_t max_position_embeddings, std::int64_t d_model,
                                       std::int64_t num_attention_heads, std::int64_t intermediate_size,
                                       std::int64_t num_hidden_layers, const EncoderOptions& options)
    : embeddings_(init, vocab_size, max_position_embeddings, d_model, options) {
  add("embeddings", embeddings_);
  for (std::int64_t i = 0; i < num_hidden_layers; ++i) {
    layers_.push_back(
        std::make_unique<TransformerEncoderLayer>(init, d_model, num_attention_heads, intermediate_size, options));
    add(fmt::format("layers.{}", i), *layers_.back());
  }
  if (options.final_norm) {
    final_norm_ = std::make_unique<LayerNorm>(init, d_model);
    add("final_norm", *final_norm_);
  }
}

Tensor TransformerEncoder::forward(const Tensor& ids, const ForwardContext& context) const {
  const auto name = scope();
  Tensor x = embeddings_.forward(ids, context);
  for (const auto& layer : layers_) x = layer->forward(x, context);
  return final_norm_ ? final_norm_->forward(x) : x;
}

ClassificationHead::ClassificationHead(const Initializer& init, std::int64_t d_model, std::int64_t num_classes,
                                       double dropout_prob)
    : output_(init, d_model, num_classes), dropout_(dropout_prob) {
  add("output", output_);
}

Tensor ClassificationHead::forward(const Tensor& x, Generator* random) const {
  const auto name = scope();
  return output_.forward(dropped_out(x, dropout_, training(), random));
}

TransformerForSequenceClassification::TransformerForSequenceClassification(
    const Initializer& init, std::int64_t vocab_size, std::int64_t max_position_embeddings, std::int64_t d_model,
    std::int64_t num_attention_heads, std::int64_t intermediate_size, std::int64_t num_hidden_layers,
    std::int64_t num_classes, double dropout_prob, const EncoderOptions& options)
    : encoder_(init, vocab_size, max_position_embeddings, d_model, num_attention_heads, intermediate_size,
               num_hidden_layers, options),
      head_(init, d_model, num_classes, dropout_prob) {
  add("encoder", encoder_);
  add("head", head_);
}

Tensor TransformerForSequenceClassification::forward(const Tensor& ids, const ForwardContext& context) const {
  const auto name = scope();
  const Tensor hidden = encoder_.forward(ids, context);  // [B, T, D]
  return head_.forward(reshape(slice(hidden, 1, 0, 1), {hidden.extent(0), hidden.extent(2)}), context.random);
}

}  // namespace adjoint
