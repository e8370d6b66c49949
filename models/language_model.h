#pragma once
// A next-word language model: what comes after each prefix of a text.

#include <cstdint>

#include "models/encoder.h"

namespace adjoint {

struct LanguageModelOptions {
  std::int64_t vocabulary = 0;  ///< id 0 is padding
  std::int64_t embedding = 64;
  std::int64_t hidden = 128;
  std::int64_t layers = 1;
  double dropout = 0.0;  ///< of word vectors, between layers, and before the last linear layer
};

/// embedding, lstm, output: the first two have the names and shapes of an LSTM classifier's.
class LanguageModel final : public Module {
 public:
  LanguageModel(const Initializer& init, const LanguageModelOptions& options);
  /// ids i32 [B, T], lengths i32 [B] in `context`: logits [B, T, vocabulary] of the token after each; zeros at padding.
  Tensor forward(const Tensor& ids, const ForwardContext& context) const;
  Parameter& word_vectors() { return embedding_.weight(); }

 private:
  double dropout_;
  Embedding embedding_;
  Lstm lstm_;
  Linear output_;
};

}  // namespace adjoint
