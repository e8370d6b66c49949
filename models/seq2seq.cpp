#include "models/seq2seq.h"

#include <fmt/format.h>

namespace adjoint {

Seq2Seq::Seq2Seq(const Initializer& init, const Seq2SeqOptions& options) : options_(options) {
  ADJOINT_CHECK(options.symbols >= 1, "E-CONF-003", Exit::usage,
                fmt::format("seq2seq: alphabet of {} symbols; expected at least 1", options.symbols));
  ADJOINT_CHECK(
      !options.bidirectional || options.hidden % 2 == 0, "E-CONF-005", Exit::usage,
      fmt::format("seq2seq: hidden width {} is odd; a bidirectional encoder has half of it for each direction; "
                  "try {}",
                  options.hidden, options.hidden + 1));
  const auto embedding = [&] {
    return options.embedding == 0 ? Embedding::one_hot(init, options.symbols)
                                  : std::make_unique<Embedding>(init, options.symbols, options.embedding);
  };
  const std::int64_t width = options.embedding == 0 ? options.symbols : options.embedding;
  source_embedding_ = embedding();
  target_embedding_ = embedding();
  encoder_ = std::make_unique<Lstm>(init, width, options.bidirectional ? options.hidden / 2 : options.hidden,
                                    Lstm::Options{.bidirectional = options.bidirectional});
  decoder_ = std::make_unique<Lstm>(init, width, options.hidden);
  add("source_embedding", *source_embedding_);
  add("target_embedding", *target_embedding_);
  add("encoder", *encoder_);
  add("decoder", *decoder_);
  if (options.attention == Seq2SeqAttention::dot) {
    combine_ = std::make_unique<Linear>(init, 2 * options.hidden, options.hidden);
    add("combine", *combine_);
  }
  output_ = std::make_unique<Linear>(init, options.hidden, options.symbols);
  add("output", *output_);
}

Seq2Seq::Encoded Seq2Seq::encode(const Source& source) const {
  Lstm::Result r = encoder_->forward(source_embedding_->forward(source.ids), source.lengths);
  if (!options_.bidirectional) return {r.y, std::move(r.state)};
  return {r.y, {{concat(r.state.h, -1)}, {concat(r.state.c, -1)}}};
}

Tensor Seq2Seq::logits(const Encoded& encoded, const Source& source, const Tensor& decoded,
                       const Tensor& lengths) const {
  if (options_.attention == Seq2SeqAttention::none) return output_->forward(decoded, lengths);
  const Tensor context = dot_attention(decoded, encoded.states, encoded.states, scale(), source.lengths, lengths);
  return output_->forward(tanh(combine_->forward(concat({context, decoded}, -1), lengths)), lengths);
}

Tensor Seq2Seq::forward(const Source& source, const Target& target) const {
  const Encoded encoded = encode(source);
  const Tensor decoded = decoder_->forward(target_embedding_->forward(target.ids), target.lengths, encoded.final).y;
  return logits(encoded, source, decoded, target.lengths);
}

Tensor Seq2Seq::alignment(const Source& source, const Target& target) const {
  ADJOINT_CHECK(
      options_.attention == Seq2SeqAttention::dot, "E-CONF-007", Exit::usage,
      "seq2seq: the model has no attention, so it has no alignment; expected one trained with --attention dot");
  const Encoded encoded = encode(source);
  const Tensor decoded = decoder_->forward(target_embedding_->forward(target.ids), target.lengths, encoded.final).y;
  return dot_attention_weights(decoded, encoded.states, scale(), source.lengths);
}

std::vector<std::vector<std::int32_t>> Seq2Seq::greedy(const Source& source, std::int32_t begin, std::int32_t end,
                                                       std::int64_t max_length) const {
  const std::int64_t batch = source.ids.extent(0);
  const Encoded encoded = encode(source);
  Lstm::State state = encoded.final;
  std::vector<std::vector<std::int32_t>> result(static_cast<std::size_t>(batch));
  std::vector<bool> done(result.size(), false);
  Tensor symbol = Tensor::from(std::span<const std::int32_t>(std::vector<std::int32_t>(result.size(), begin)),
                               {batch, 1}, source.ids.device());
  std::size_t open = result.size();
  for (std::int64_t t = 0; t < max_length && open > 0; ++t) {
    const Lstm::Result step = decoder_->forward(target_embedding_->forward(symbol), {}, state);
    state = step.state;
    symbol = argmax(logits(encoded, source, step.y, {}));  // [B, 1]
    const std::vector<std::int32_t> chosen = symbol.to_ints();
    for (std::size_t b = 0; b < result.size(); ++b) {
      if (done[b]) continue;
      if (chosen[b] == end) {
        done[b] = true;
        --open;
      } else {
        result[b].push_back(chosen[b]);
      }
    }
  }
  return result;
}

}  // namespace adjoint
