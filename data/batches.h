#pragma once
// From example numbers to padded batches. Host arrays only; the engine copies them where it wants them.

#include <cstdint>
#include <span>
#include <vector>

namespace adjoint::data {

/// Sequences of unequal length in one matrix: ids [rows, width], `pad` after each row's length.
struct Padded {
  int64_t rows = 0;
  int64_t width = 0;
  std::vector<int32_t> ids;      // [rows, width]
  std::vector<int32_t> lengths;  // [rows]

  /// Real tokens, padding not counted.
  int64_t tokens() const;
};

/// `width` is the longest of the chosen sequences. Sequences are taken in the order of `chosen`.
Padded pad(const std::vector<std::vector<int32_t>>& sequences, std::span<const int64_t> chosen, int32_t pad_id);

/// A batch for a classifier.
struct LabelledBatch {
  Padded tokens;
  std::vector<int32_t> labels;    // [rows]
  std::vector<int64_t> examples;  // [rows], position of each row in the data set
};

LabelledBatch labelled_batch(const std::vector<std::vector<int32_t>>& sequences, const std::vector<int32_t>& labels,
                             std::span<const int64_t> chosen, int32_t pad_id);

/// Puts `unknown` in the place of each id above it with probability `share`, as a function of (seed, cursor) and the
/// batch alone: a model that cannot rely on any one word overfits less, and learns what an unknown word means.
void drop_words(Padded& batch, double share, int32_t unknown, uint64_t seed, int64_t cursor);

/// Example numbers of the three parts, each in ascending order.
struct Split {
  std::vector<int64_t> train, validation, test;
};

/// Gives each part its share of every class, chosen by `seed`; training gets what the two fractions leave. Throws
/// E-CONF-003 unless the fractions are at least 0 and less than 1 together.
Split stratified_split(const std::vector<int32_t>& labels, double validation, double test, uint64_t seed);

struct BatchOptions {
  int64_t size = 32;
  uint64_t seed = 0;
  bool shuffle = true;  ///< a new order each epoch; otherwise the order of the data set in every epoch
  bool bucket = false;  ///< put examples of like length into one batch, so that little is padding
};

/// Which examples form batch number `cursor`, counted over all epochs. A pure function of (lengths, options, cursor): a
/// resumed run needs that one integer. Not for use by two threads at once.
class BatchOrder {
 public:
  /// Throws E-CONF-003 if size < 1 and E-DATA-001 if there are no examples.
  BatchOrder(std::vector<int32_t> lengths, BatchOptions options);

  int64_t batches_per_epoch() const { return batches_per_epoch_; }
  int64_t epoch(int64_t cursor) const { return cursor / batches_per_epoch_; }
  /// Valid until the next call.
  std::span<const int64_t> batch(int64_t cursor);

 private:
  void arrange(int64_t epoch);

  std::vector<int32_t> lengths_;
  BatchOptions options_;
  int64_t batches_per_epoch_;
  int64_t arranged_epoch_ = -1;
  std::vector<int64_t> order_;        // examples in the order of this epoch
  std::vector<int64_t> batch_start_;  // where each batch begins in order_, in the order of this epoch
};

}  // namespace adjoint::data
