#pragma once
// The sequence-to-sequence model of the string-reversal task: LSTM encoder, LSTM decoder, and attention after the
// decoder (Luong, Pham, Manning, arXiv:1508.04025, "dot", without input feeding).

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "models/attention.h"
#include "models/layers.h"

namespace adjoint {

enum class Seq2SeqAttention { none, dot };

struct Seq2SeqOptions {
  std::int64_t symbols = 0;    ///< size of the alphabet with its special symbols
  std::int64_t embedding = 0;  ///< width of trained embeddings; 0: frozen one-hot vectors
  std::int64_t hidden = 64;    ///< decoder width; a bidirectional encoder has half of it for each direction
  bool bidirectional = false;  ///< needs an even hidden width
  Seq2SeqAttention attention = Seq2SeqAttention::dot;
  bool scaled = false;  ///< scores divided by sqrt(hidden)
};

/// Source [B, S] and target [B, T] ids, with their lengths.
class Seq2Seq final : public Module {
 public:
  /// Throws E-CONF-003 for a width below 1, E-CONF-005 for an odd hidden width with a bidirectional encoder.
  Seq2Seq(const Initializer& init, const Seq2SeqOptions& options);

  struct Source {
    Tensor ids;      ///< i32 [B, S]
    Tensor lengths;  ///< i32 [B]
  };
  struct Target {
    Tensor ids;      ///< i32 [B, T], what the decoder reads
    Tensor lengths;  ///< i32 [B]
  };

  /// Teacher forcing: logits [B, T, symbols] for the symbol after each target position; zeros at padded positions.
  Tensor forward(const Source& source, const Target& target) const;
  /// The attention weights [B, T, S] of the same call. Throws E-CONF-007 for a model without attention.
  Tensor alignment(const Source& source, const Target& target) const;
  /// Decodes with the most likely symbol at each step, from `begin` until `end` (left out) or max_length symbols.
  std::vector<std::vector<std::int32_t>> greedy(const Source& source, std::int32_t begin, std::int32_t end,
                                                std::int64_t max_length) const;

  const Seq2SeqOptions& options() const { return options_; }

 private:
  struct Encoded {
    Tensor states;      // [B, S, hidden]
    Lstm::State final;  // of one direction of width hidden
  };
  Encoded encode(const Source& source) const;
  Tensor logits(const Encoded& encoded, const Source& source, const Tensor& decoded, const Tensor& lengths) const;
  double scale() const { return options_.scaled ? 0.0 : 1.0; }

  Seq2SeqOptions options_;
  std::unique_ptr<Embedding> source_embedding_;
  std::unique_ptr<Embedding> target_embedding_;
  std::unique_ptr<Lstm> encoder_;
  std::unique_ptr<Lstm> decoder_;
  std::unique_ptr<Linear> combine_;  // W_c: [context; state] to hidden; only with attention
  std::unique_ptr<Linear> output_;
};

}  // namespace adjoint
