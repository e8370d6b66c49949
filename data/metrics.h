#pragma once
// How good predictions are.

#include <cstdint>
#include <string>
#include <vector>

namespace adjoint::data {

/// Counts of (truth, prediction). A ratio with nothing below the line is 0, as scikit-learn has it.
class Confusion {
 public:
  explicit Confusion(int64_t classes) : classes_(classes), counts_(classes * classes) {}

  /// Throws E-OP-010 for a class outside 0 … classes-1.
  void add(int64_t truth, int64_t predicted);

  int64_t classes() const { return classes_; }
  int64_t count(int64_t truth, int64_t predicted) const { return counts_[truth * classes_ + predicted]; }
  int64_t total() const;
  double accuracy() const;
  double precision(int64_t of_class) const;
  double recall(int64_t of_class) const;
  double f1(int64_t of_class) const;
  /// Mean of f1 over the classes.
  double macro_f1() const;

 private:
  int64_t classes_;
  std::vector<int64_t> counts_;
};

using TokenSequences = std::vector<std::vector<std::string>>;

/// BLEU-4 of a whole corpus with one reference each and no smoothing (Papineni et al. 2002), 0 … 1. What a token is
/// decides the value: name it beside the number. Throws E-OP-001 unless both hold as many sequences.
double bleu4(const TokenSequences& hypotheses, const TokenSequences& references);

/// Share of sequences that are equal from the first to the last token; 0 of none.
double exact_match(const TokenSequences& hypotheses, const TokenSequences& references);

}  // namespace adjoint::data
