#pragma once
// The token batches that every step benchmark runs on: the generator of bench/peers/batches.py, which states the rules.

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace adjoint::bench {

class SplitMix64 {
 public:
  explicit SplitMix64(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    state_ += 0x9E3779B97F4A7C15;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }
  std::int32_t below(std::int32_t n) {
    return static_cast<std::int32_t>(((next() >> 32) * static_cast<std::uint64_t>(n)) >> 32);
  }

 private:
  std::uint64_t state_;
};

using Rows = std::vector<std::vector<std::int32_t>>;

struct ReverseRules {
  int batch = 64;
  std::int32_t min_length = 1;
  std::int32_t max_length = 20;
  std::int32_t first_letter = 3;
  std::int32_t letters = 4;
};

inline std::vector<Rows> reverse_batches(const ReverseRules& rules, std::uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<Rows> batches(static_cast<std::size_t>(std::max(8, 64 / rules.batch)));
  for (Rows& rows : batches) {
    rows.resize(static_cast<std::size_t>(rules.batch));
    for (std::vector<std::int32_t>& row : rows) {
      row.resize(static_cast<std::size_t>(rules.min_length + random.below(rules.max_length - rules.min_length + 1)));
      for (std::int32_t& token : row) token = rules.first_letter + random.below(rules.letters);
    }
  }
  return batches;
}

struct HeadlineBatch {
  Rows rows;
  std::vector<std::int32_t> labels;
};

struct HeadlineRules {
  int batch = 64;
  std::int32_t min_length = 5;
  std::int32_t max_length = 20;  ///< of the first row always
  std::int32_t vocabulary = 20000;
};

inline std::vector<HeadlineBatch> headline_batches(const HeadlineRules& rules, std::uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<HeadlineBatch> batches(static_cast<std::size_t>(std::max(8, 64 / rules.batch)));
  for (HeadlineBatch& batch : batches) {
    for (int r = 0; r < rules.batch; ++r) {
      const std::int32_t drawn = rules.min_length + random.below(rules.max_length - rules.min_length + 1);
      std::vector<std::int32_t>& row =
          batch.rows.emplace_back(static_cast<std::size_t>(r == 0 ? rules.max_length : drawn));
      for (std::int32_t& token : row) token = 1 + random.below(rules.vocabulary - 1);
      batch.labels.push_back(random.below(2));
    }
  }
  return batches;
}

/// FNV-1a over lengths, tokens and labels, as both sides of a comparison print it.
class Fingerprint {
 public:
  void add(const Rows& rows, const std::vector<std::int32_t>& labels = {}) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      mix(rows[i].size());
      for (const std::int32_t token : rows[i]) mix(static_cast<std::uint64_t>(token));
      if (!labels.empty()) mix(static_cast<std::uint64_t>(labels[i]));
    }
  }
  std::string text() const { return fmt::format("{:016x}", hash_); }

 private:
  void mix(std::uint64_t value) { hash_ = (hash_ ^ value) * 0x100000001B3; }
  std::uint64_t hash_ = 0xCBF29CE484222325;
};
inline std::string fingerprint(const std::vector<Rows>& batches) {
  Fingerprint print;
  for (const Rows& rows : batches) print.add(rows);
  return print.text();
}
inline std::string fingerprint(const std::vector<HeadlineBatch>& batches) {
  Fingerprint print;
  for (const HeadlineBatch& batch : batches) print.add(batch.rows, batch.labels);
  return print.text();
}

}  // namespace adjoint::bench
