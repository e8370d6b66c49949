#include "data/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>

#include "kernels/base/error.h"
#include "kernels/base/real_math.h"

namespace adjoint::data {

namespace {

constexpr size_t kOrders = 4;

double ratio(double part, double whole) { return whole == 0 ? 0 : part / whole; }

using Counts = std::map<std::vector<std::string>, int64_t>;

Counts ngrams(const std::vector<std::string>& tokens, size_t order) {
  Counts counts;
  for (size_t i = 0; i + order <= tokens.size(); ++i) ++counts[{tokens.begin() + i, tokens.begin() + i + order}];
  return counts;
}

void require_pairs(const char* metric, const TokenSequences& hypotheses, const TokenSequences& references) {
  ADJOINT_CHECK(hypotheses.size() == references.size(), "E-OP-001", Exit::data,
                fmt::format("{}: {} hypotheses and {} references; expected one reference each", metric,
                            hypotheses.size(), references.size()));
}

}  // namespace

void Confusion::add(int64_t truth, int64_t predicted) {
  ADJOINT_CHECK(
      std::min(truth, predicted) >= 0 && std::max(truth, predicted) < classes_, "E-OP-010", Exit::data,
      fmt::format("confusion: truth {}, prediction {}; expected classes 0..{}", truth, predicted, classes_ - 1));
  ++counts_[truth * classes_ + predicted];
}

int64_t Confusion::total() const { return std::accumulate(counts_.begin(), counts_.end(), int64_t{0}); }

double Confusion::accuracy() const {
  int64_t right = 0;
  for (int64_t i = 0; i < classes_; ++i) right += count(i, i);
  return ratio(static_cast<double>(right), static_cast<double>(total()));
}

double Confusion::precision(int64_t of_class) const {
  int64_t predicted = 0;
  for (int64_t truth = 0; truth < classes_; ++truth) predicted += count(truth, of_class);
  return ratio(static_cast<double>(count(of_class, of_class)), static_cast<double>(predicted));
}

double Confusion::recall(int64_t of_class) const {
  int64_t there = 0;
  for (int64_t predicted = 0; predicted < classes_; ++predicted) there += count(of_class, predicted);
  return ratio(static_cast<double>(count(of_class, of_class)), static_cast<double>(there));
}

double Confusion::f1(int64_t of_class) const {
  const double p = precision(of_class), r = recall(of_class);
  return ratio(2 * p * r, p + r);
}

double Confusion::macro_f1() const {
  double sum = 0;
  for (int64_t i = 0; i < classes_; ++i) sum += f1(i);
  return ratio(sum, static_cast<double>(classes_));
}

double bleu4(const TokenSequences& hypotheses, const TokenSequences& references) {
  require_pairs("bleu4", hypotheses, references);
  std::array<int64_t, kOrders> matched{}, possible{};
  int64_t length = 0, reference_length = 0;
  for (size_t i = 0; i < hypotheses.size(); ++i) {
    length += static_cast<int64_t>(hypotheses[i].size());
    reference_length += static_cast<int64_t>(references[i].size());
    for (size_t order = 1; order <= kOrders; ++order) {
      const Counts expected = ngrams(references[i], order);
      for (const auto& [ngram, count] : ngrams(hypotheses[i], order)) {
        possible[order - 1] += count;
        const auto found = expected.find(ngram);
        if (found != expected.end()) matched[order - 1] += std::min(count, found->second);
      }
    }
  }
  double log_precision = 0;
  for (size_t i = 0; i < kOrders; ++i) {
    if (matched[i] == 0) return 0;
    log_precision += real::log(static_cast<double>(matched[i]) / static_cast<double>(possible[i])) / kOrders;
  }
  const double brevity = std::min(0.0, 1 - static_cast<double>(reference_length) / static_cast<double>(length));
  return real::exp(brevity + log_precision);
}

double exact_match(const TokenSequences& hypotheses, const TokenSequences& references) {
  require_pairs("exact_match", hypotheses, references);
  int64_t equal = 0;
  for (size_t i = 0; i < hypotheses.size(); ++i) equal += hypotheses[i] == references[i];
  return ratio(static_cast<double>(equal), static_cast<double>(hypotheses.size()));
}

}  // namespace adjoint::data
