#include "models/classifiers.h"

namespace adjoint {
namespace {

/// What all but the transformer encoder have: word vectors at the bottom, dropout and a linear layer on top.
class WordVectorClassifier : public Classifier {
 public:
  Parameter& word_vectors() final { return embedding_.weight(); }

 protected:
  WordVectorClassifier(const Initializer& init, const ClassifierOptions& options, std::int64_t top_width)
      : options_(options),
        embedding_(init, options.vocabulary, options.embedding, 0),
        head_(init, top_width, options.classes, options.dropout) {
    add("embedding", embedding_);
    add("head", head_);
  }

  Tensor embedded(const Tensor& ids, const ForwardContext& context) const {
    return dropped_out(embedding_.forward(ids), options_.dropout, training(), context.random);
  }
  Tensor classified(const Tensor& x, const ForwardContext& context) const { return head_.forward(x, context.random); }

  ClassifierOptions options_;

 private:
  Embedding embedding_;
  ClassificationHead head_;
};

class LogisticRegression final : public WordVectorClassifier {
 public:
  LogisticRegression(const Initializer& init, const ClassifierOptions& options)
      : WordVectorClassifier(init, options, options.embedding) {}

  Tensor forward(const Tensor& ids, const ForwardContext& context) const override {
    return classified(mean_over_tokens(embedded(ids, context), context.lengths), context);
  }
};

class FeedForwardClassifier final : public WordVectorClassifier {
 public:
  FeedForwardClassifier(const Initializer& init, const ClassifierOptions& options)
      : WordVectorClassifier(init, options, options.hidden), hidden_(init, options.embedding, options.hidden) {
    add("hidden", hidden_);
  }

  Tensor forward(const Tensor& ids, const ForwardContext& context) const override {
    return classified(tanh(hidden_.forward(mean_over_tokens(embedded(ids, context), context.lengths))), context);
  }

 private:
  Linear hidden_;
};

class AttentionClassifier final : public WordVectorClassifier {
 public:
  AttentionClassifier(const Initializer& init, const ClassifierOptions& options)
      : WordVectorClassifier(init, options, options.embedding),
        attention_(init, options.embedding, options.hidden, options.hidden, options.embedding, {.bias = false}) {
    add("attention", attention_);
  }

  Tensor forward(const Tensor& ids, const ForwardContext& context) const override {
    return classified(mean_over_tokens(attention_.forward(embedded(ids, context), context), context.lengths), context);
  }

 private:
  AttentionHead attention_;
};

Tensor pooled(const Tensor& states, const Tensor& lengths, Pooling pooling) {
  if (pooling == Pooling::mean) return mean_over_tokens(states, lengths);
  if (pooling == Pooling::max) return max_over_tokens(states, lengths);
  return concat({mean_over_tokens(states, lengths), max_over_tokens(states, lengths)}, -1);
}

/// An LSTM over the word vectors, alone or below an encoder block.
class LstmClassifier final : public WordVectorClassifier {
 public:
  LstmClassifier(const Initializer& init, const ClassifierOptions& options)
      : WordVectorClassifier(init, options, width(options) * (options.pooling == Pooling::mean_max ? 2 : 1)),
        lstm_(init, options.embedding, options.hidden,
              {.layers = options.layers, .bidirectional = options.bidirectional, .dropout = options.dropout}) {
    add("lstm", lstm_);
    if (options.kind != ClassifierKind::lstm_encoder) return;
    ADJOINT_CHECK(options.pooling != Pooling::last, "E-CONF-003", Exit::usage,
                  "lstm-encoder: pooling is last; expected mean, max or mean-max, since its block sees every state");
    block_ = std::make_unique<TransformerEncoderLayer>(init, width(options), options.heads, options.intermediate,
                                                       EncoderOptions{.dropout = options.dropout,
                                                                      .activation = options.activation,
                                                                      .norm = options.norm,
                                                                      .residual = options.residual});
    add("block", *block_);
  }

  Tensor forward(const Tensor& ids, const ForwardContext& context) const override {
    const Lstm::Result r = lstm_.forward(embedded(ids, context), context.lengths, {}, context.random);
    if (options_.pooling == Pooling::last) return classified(last_state(r.state), context);
    const Tensor states = block_ ? block_->forward(r.y, context) : r.y;  // [B, T, H], or 2H in two directions
    return classified(pooled(states, context.lengths, options_.pooling), context);
  }

 private:
  static std::int64_t width(const ClassifierOptions& options) {
    return options.hidden * (options.bidirectional ? 2 : 1);
  }
  Tensor last_state(const Lstm::State& state) const {
    const std::size_t n = state.h.size();
    return options_.bidirectional ? concat({state.h[n - 2], state.h[n - 1]}, -1) : state.h[n - 1];
  }

  Lstm lstm_;
  std::unique_ptr<TransformerEncoderLayer> block_;
};

class EncoderClassifier final : public Classifier {
 public:
  EncoderClassifier(const Initializer& init, const ClassifierOptions& o)
      : model_(init, o.vocabulary, o.max_length, o.embedding, o.heads, o.intermediate, o.layers, o.classes, o.dropout,
               {.dropout = o.dropout,
                .activation = o.activation,
                .norm = o.norm,
                .residual = o.residual,
                .positions = o.positions}) {
    add("model", model_);
  }

  Tensor forward(const Tensor& ids, const ForwardContext& context) const override {
    return model_.forward(ids, context);
  }
  Parameter& word_vectors() override { return model_.embeddings().token().weight(); }

 private:
  TransformerForSequenceClassification model_;
};

}  // namespace

Tensor mean_over_tokens(const Tensor& x, const Tensor& lengths) {
  // Attention with equal scores is the mean of what it sees, and knows about lengths.
  const std::int64_t batch = x.extent(0), tokens = x.extent(1), width = x.extent(2);
  const Tensor zeros = Tensor::zeros({batch, 1, tokens, 1}, x.dtype(), x.device());
  return reshape(
      attention(slice(zeros, 2, 0, 1), zeros, reshape(x, {batch, 1, tokens, width}), {.key_lengths = lengths}),
      {batch, width});
}

Tensor max_over_tokens(const Tensor& x, const Tensor& lengths) {
  constexpr double kBelowAll = 1e30;
  // A product that skips padded rows tells which are real: 1 there, 0 elsewhere.
  const Tensor one = Tensor::full({1, 1}, 1.0, x.dtype(), x.device());
  const Tensor real = linear(Tensor::full({x.extent(0), x.extent(1), 1}, 1.0, x.dtype(), x.device()), one, {}, lengths);
  return max(x + (real - 1.0) * kBelowAll, {1});
}

std::unique_ptr<Classifier> make_classifier(const Initializer& init, const ClassifierOptions& options) {
  switch (options.kind) {
    case ClassifierKind::logreg: return std::make_unique<LogisticRegression>(init, options);
    case ClassifierKind::ffnn: return std::make_unique<FeedForwardClassifier>(init, options);
    case ClassifierKind::attention: return std::make_unique<AttentionClassifier>(init, options);
    case ClassifierKind::lstm:
    case ClassifierKind::lstm_encoder: return std::make_unique<LstmClassifier>(init, options);
    case ClassifierKind::encoder: return std::make_unique<EncoderClassifier>(init, options);
  }
  return nullptr;
}

}  // namespace adjoint
