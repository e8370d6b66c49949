#pragma once
// Text classifiers behind one interface: from token ids to logits.

#include <cstdint>
#include <memory>

#include "models/encoder.h"

namespace adjoint {

enum class ClassifierKind {
  logreg,        ///< linear, of the mean of the word vectors
  ffnn,          ///< linear, tanh, linear, of the mean of the word vectors
  attention,     ///< one attention head over the word vectors, mean over the tokens, linear
  lstm,          ///< linear, of the LSTM's states, pooled
  lstm_encoder,  ///< one encoder block attending over every LSTM state, pooled, linear
  encoder,       ///< transformer encoder, linear, of the hidden state of token 0
};

/// What becomes of an LSTM's states: those after the last token, or the mean and the maximum over the tokens.
enum class Pooling { last, mean, max, mean_max };

struct ClassifierOptions {
  ClassifierKind kind = ClassifierKind::lstm;
  std::int64_t vocabulary = 0;  ///< id 0 is padding
  std::int64_t classes = 2;
  std::int64_t embedding = 64;      ///< width of the word vectors; also of the transformer encoder
  std::int64_t hidden = 128;        ///< of the LSTM; of ffnn; width of queries and keys of attention
  std::int64_t layers = 1;          ///< of the LSTM or the transformer encoder
  bool bidirectional = false;       ///< the LSTM, with `hidden` in each direction
  Pooling pooling = Pooling::last;  ///< of the LSTM's states; of a block's, `last` is none
  std::int64_t heads = 4;           ///< of encoder blocks
  std::int64_t intermediate = 256;  ///< of encoder blocks
  std::int64_t max_length = 64;     ///< positions of the transformer encoder
  double dropout = 0.0;             ///< of word vectors, between layers, and before the last linear layer
  Activation activation = Activation::gelu;
  NormPlace norm = NormPlace::before;
  bool residual = true;
  Positions positions = Positions::learned;
};

class Classifier : public Module {
 public:
  /// ids i32 [B, T], lengths i32 [B] in `context`: logits [B, classes].
  virtual Tensor forward(const Tensor& ids, const ForwardContext& context) const = 0;
  /// The word vectors [vocabulary, embedding].
  virtual Parameter& word_vectors() = 0;
};

/// Throws E-CONF-003 for a size below 1, and for lstm_encoder with Pooling::last.
std::unique_ptr<Classifier> make_classifier(const Initializer& init, const ClassifierOptions& options);

/// x [B, T, D], lengths i32 [B]: the mean of the real rows of each sequence, [B, D]; zeros if there is none.
Tensor mean_over_tokens(const Tensor& x, const Tensor& lengths);
/// The largest element of each column of the real rows, [B, D]; of a sequence without rows a huge negative number.
Tensor max_over_tokens(const Tensor& x, const Tensor& lengths);

}  // namespace adjoint
