#pragma once
// Multinomial naive Bayes: the floor that every classifier is printed beside.

#include <cstdint>
#include <span>
#include <vector>

#include "data/metrics.h"

namespace adjoint::data {

/// Class priors and token frequencies with one count added to each (Laplace).
class NaiveBayes {
 public:
  /// `sequences` are token ids below `vocabulary_size`, `labels` classes below `classes`; `chosen` are the examples to
  /// learn from. Throws E-OP-010 for an id or label outside.
  NaiveBayes(const std::vector<std::vector<int32_t>>& sequences, const std::vector<int32_t>& labels,
             std::span<const int64_t> chosen, int64_t vocabulary_size, int64_t classes);

  int32_t predict(std::span<const int32_t> tokens) const;
  Confusion evaluate(const std::vector<std::vector<int32_t>>& sequences, const std::vector<int32_t>& labels,
                     std::span<const int64_t> chosen) const;

 private:
  int64_t vocabulary_size_;
  int64_t classes_;
  std::vector<double> log_prior_;  // [classes]
  std::vector<double> log_token_;  // [classes, vocabulary size]
};

}  // namespace adjoint::data
