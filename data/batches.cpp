#include "data/batches.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "data/random.h"
#include "kernels/base/error.h"

namespace adjoint::data {

namespace {

// Examples are sorted by length only inside pools of this many batches: like lengths meet, yet each epoch mixes anew.
constexpr int64_t kPoolBatches = 32;

}  // namespace

int64_t Padded::tokens() const { return std::accumulate(lengths.begin(), lengths.end(), int64_t{0}); }

Padded pad(const std::vector<std::vector<int32_t>>& sequences, std::span<const int64_t> chosen, int32_t pad_id) {
  Padded out;
  out.rows = static_cast<int64_t>(chosen.size());
  for (const int64_t example : chosen) {
    out.lengths.push_back(static_cast<int32_t>(sequences.at(example).size()));
    out.width = std::max<int64_t>(out.width, out.lengths.back());
  }
  out.ids.assign(static_cast<size_t>(out.rows) * out.width, pad_id);
  for (int64_t row = 0; row < out.rows; ++row) {
    std::ranges::copy(sequences[chosen[row]], out.ids.begin() + row * out.width);
  }
  return out;
}

LabelledBatch labelled_batch(const std::vector<std::vector<int32_t>>& sequences, const std::vector<int32_t>& labels,
                             std::span<const int64_t> chosen, int32_t pad_id) {
  LabelledBatch out{pad(sequences, chosen, pad_id), {}, {chosen.begin(), chosen.end()}};
  for (const int64_t example : chosen) out.labels.push_back(labels.at(example));
  return out;
}

void drop_words(Padded& batch, double share, int32_t unknown, uint64_t seed, int64_t cursor) {
  if (share <= 0) return;
  CounterRandom random(seed, static_cast<uint64_t>(cursor));
  for (int32_t& id : batch.ids) {
    if (id > unknown && random.uniform() < share) id = unknown;
  }
}

Split stratified_split(const std::vector<int32_t>& labels, double validation, double test, uint64_t seed) {
  ADJOINT_CHECK(validation >= 0 && test >= 0 && validation + test < 1, "E-CONF-003", Exit::usage,
                fmt::format("split: validation {} and test {}; expected two shares of at least 0, together below 1",
                            validation, test));
  std::map<int32_t, std::vector<int64_t>> of_class;
  for (size_t i = 0; i < labels.size(); ++i) of_class[labels[i]].push_back(static_cast<int64_t>(i));
  Split out;
  for (auto& [label, examples] : of_class) {
    CounterRandom random(seed, static_cast<uint64_t>(label));
    shuffle(examples, random);
    const double count = static_cast<double>(examples.size());
    const auto validation_end = examples.begin() + std::lround(validation * count);
    // Rounding the sum, not both parts, never takes more than there is.
    const auto test_end = examples.begin() + std::lround((validation + test) * count);
    out.validation.insert(out.validation.end(), examples.begin(), validation_end);
    out.test.insert(out.test.end(), validation_end, test_end);
    out.train.insert(out.train.end(), test_end, examples.end());
  }
  for (std::vector<int64_t>* part : {&out.train, &out.validation, &out.test}) std::ranges::sort(*part);
  return out;
}

BatchOrder::BatchOrder(std::vector<int32_t> lengths, BatchOptions options)
    : lengths_(std::move(lengths)), options_(options), order_(lengths_.size()) {
  ADJOINT_CHECK(options_.size >= 1, "E-CONF-003", Exit::usage,
                fmt::format("batch_size: {}; expected an integer in 1..", options_.size));
  ADJOINT_CHECK(!lengths_.empty(), "E-DATA-001", Exit::data, "batches: no examples; expected at least 1");
  const int64_t count = static_cast<int64_t>(lengths_.size());
  batches_per_epoch_ = count / options_.size + (count % options_.size != 0);
}

std::span<const int64_t> BatchOrder::batch(int64_t cursor) {
  ADJOINT_CHECK(cursor >= 0, "E-CONF-003", Exit::usage,
                fmt::format("batch cursor: {}; expected an integer in 0..", cursor));
  if (epoch(cursor) != arranged_epoch_) arrange(epoch(cursor));
  const int64_t start = batch_start_[cursor % batches_per_epoch_];
  const int64_t end = std::min<int64_t>(start + options_.size, static_cast<int64_t>(order_.size()));
  return std::span(order_).subspan(start, end - start);
}

void BatchOrder::arrange(int64_t epoch) {
  CounterRandom random(options_.seed, static_cast<uint64_t>(epoch));
  std::iota(order_.begin(), order_.end(), int64_t{0});
  batch_start_.resize(batches_per_epoch_);
  for (int64_t i = 0; i < batches_per_epoch_; ++i) batch_start_[i] = i * options_.size;
  if (options_.shuffle) shuffle(order_, random);
  if (options_.bucket) {
    const int64_t count = static_cast<int64_t>(order_.size());
    const bool pools = options_.shuffle && options_.size <= count / kPoolBatches;
    const int64_t pool = pools ? options_.size * kPoolBatches : count;
    for (int64_t start = 0; start < count; start += pool) {
      const auto first = order_.begin() + start;
      const auto last = order_.begin() + std::min(start + pool, count);
      std::stable_sort(first, last, [&](int64_t a, int64_t b) { return lengths_[a] < lengths_[b]; });
    }
    if (options_.shuffle) shuffle(batch_start_, random);
  }
  arranged_epoch_ = epoch;
}

}  // namespace adjoint::data
