#include "models/language_model.h"

namespace adjoint {

LanguageModel::LanguageModel(const Initializer& init, const LanguageModelOptions& o)
    : dropout_(o.dropout),
      embedding_(init, o.vocabulary, o.embedding, 0),
      lstm_(init, o.embedding, o.hidden, {.layers = o.layers, .dropout = o.dropout}),
      output_(init, o.hidden, o.vocabulary) {
  add("embedding", embedding_);
  add("lstm", lstm_);
  add("output", output_);
}

Tensor LanguageModel::forward(const Tensor& ids, const ForwardContext& context) const {
  const auto drop = [&](const Tensor& x) { return dropped_out(x, dropout_, training(), context.random); };
  const Tensor states = lstm_.forward(drop(embedding_.forward(ids)), context.lengths, {}, context.random).y;
  return output_.forward(drop(states), context.lengths);
}

}  // namespace adjoint
