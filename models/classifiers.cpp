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

class LstmClassifier final : public WordVectorClassifier {
 public:
  LstmClassifier(const Initializer& init, const ClassifierOptions& options)
      : WordVectorClassifier(init, options, options.hidden),
        lstm_(init, options.embedding, options.hidden, {.layers = options.layers, .dropout = options.dropout}) {
    add("lstm", lstm_);
  }

  Tensor forward(const Tensor& ids, const ForwardContext& context) const override {
    return classified(lstm_.forward(embedded(ids, context), context.lengths, {}, context.random).state.h.back(),
                      context);
  }

 private:
  Lstm lstm_;
};

class LstmEncoderClassifier final : public WordVectorClassifier {
 public:
  LstmEncoderClassifier(const Initializer& init, const ClassifierOptions& options)
      : WordVectorClassifier(init, options, options.hidden),
        lstm_(init, options.embedding, options.hidden, {.layers = options.layers, .dropout = options.dropout}),
        block_(init, options.hidden, options.heads, options.intermediate,
               {.dropout = options.dropout,
                .activation = options.activation,
                .norm = options.norm,
                .residual = options.residual}) {
    add("lstm", lstm_);
    add("block", block_);
  }

  Tensor forward(const Tensor& ids, const ForwardContext& context) const override {
    const Tensor states = lstm_.forward(embedded(ids, context), context.lengths, {}, context.random).y;  // [B, T, H]
    return classified(mean_over_tokens(block_.forward(states, context), context.lengths), context);
  }

 private:
  Lstm lstm_;
  TransformerEncoderLayer block_;
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

std::unique_ptr<Classifier> make_classifier(const Initializer& init, const ClassifierOptions& options) {
  switch (options.kind) {
    case ClassifierKind::logreg: return std::make_unique<LogisticRegression>(init, options);
    case ClassifierKind::ffnn: return std::make_unique<FeedForwardClassifier>(init, options);
    case ClassifierKind::attention: return std::make_unique<AttentionClassifier>(init, options);
    case ClassifierKind::lstm: return std::make_unique<LstmClassifier>(init, options);
    case ClassifierKind::lstm_encoder: return std::make_unique<LstmEncoderClassifier>(init, options);
    case ClassifierKind::encoder: return std::make_unique<EncoderClassifier>(init, options);
  }
  return nullptr;
}

}  // namespace adjoint
