#pragma once
// --init-from: a classifier that starts from another run's LSTM and word vectors.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/vocabulary.h"
#include "models/classifiers.h"

namespace adjoint::clickbait {

struct Taken {
  std::string run;
  std::vector<std::string> taken, fresh;  // names of parameters; the word vectors are counted instead
  std::int64_t words = 0, vocabulary = 0;

  /// "from RUN: lstm.weight_ih_l0 … and 12000 of 12895 word vectors; fresh: head.output.weight …"
  std::string text() const;
  nlohmann::ordered_json json() const;
};

/// Copies the LSTM of a classifier's or a language model's run, and the word vectors of the tokens that both
/// vocabularies have. Nothing is copied unless all fits. Throws E-CONF-009 (the model, or the run, has no LSTM),
/// E-CKPT-019 (shapes), E-IO-001 (no vocab.txt or weights), and what reading them throws.
Taken take_weights(Classifier& model, const data::Vocabulary& vocabulary, const std::string& run);

}  // namespace adjoint::clickbait
