#include "data/naive_bayes.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/base/real_math.h"

namespace adjoint::data {

namespace {

void require(const char* what, int64_t value, int64_t bound) {
  ADJOINT_CHECK(value >= 0 && value < bound, "E-OP-010", Exit::data,
                fmt::format("naive Bayes: {} {}; expected 0..{}", what, value, bound - 1));
}

}  // namespace

NaiveBayes::NaiveBayes(const std::vector<std::vector<int32_t>>& sequences, const std::vector<int32_t>& labels,
                       std::span<const int64_t> chosen, int64_t vocabulary_size, int64_t classes)
    : vocabulary_size_(vocabulary_size),
      classes_(classes),
      log_prior_(classes, 1.0),
      log_token_(classes * vocabulary_size, 1.0) {
  for (const int64_t example : chosen) {
    const int64_t label = labels.at(example);
    require("label", label, classes);
    ++log_prior_[label];
    for (const int32_t token : sequences.at(example)) {
      require("token id", token, vocabulary_size);
      ++log_token_[label * vocabulary_size + token];
    }
  }
  const auto to_log_shares = [](std::span<double> counts) {
    double total = 0;
    for (const double count : counts) total += count;
    for (double& count : counts) count = real::log(count / total);
  };
  to_log_shares(log_prior_);
  for (int64_t i = 0; i < classes; ++i) {
    to_log_shares(std::span(log_token_).subspan(i * vocabulary_size, vocabulary_size));
  }
}

int32_t NaiveBayes::predict(std::span<const int32_t> tokens) const {
  std::vector<double> score = log_prior_;
  for (const int32_t token : tokens) {
    require("token id", token, vocabulary_size_);
    for (int64_t i = 0; i < classes_; ++i) score[i] += log_token_[i * vocabulary_size_ + token];
  }
  return static_cast<int32_t>(std::ranges::max_element(score) - score.begin());
}

Confusion NaiveBayes::evaluate(const std::vector<std::vector<int32_t>>& sequences, const std::vector<int32_t>& labels,
                               std::span<const int64_t> chosen) const {
  Confusion confusion(classes_);
  for (const int64_t example : chosen) confusion.add(labels.at(example), predict(sequences.at(example)));
  return confusion;
}

}  // namespace adjoint::data
