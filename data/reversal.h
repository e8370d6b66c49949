#pragma once
// The string-reversal task: where its strings come from, how they become ids, and batches of them.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/batches.h"

namespace adjoint::data {

/// Ids: `<s>` = 0, `</s>` = 1, then the letters of the alphabet from 2.
class ReversalAlphabet {
 public:
  static constexpr int32_t kBegin = 0;
  static constexpr int32_t kEnd = 1;

  /// Throws E-DATA-009 unless `letters` is one or more distinct printable ASCII characters.
  explicit ReversalAlphabet(std::string letters);

  const std::string& letters() const { return letters_; }
  int64_t size() const { return static_cast<int64_t>(letters_.size()) + 2; }
  /// `<s>` text `</s>`. Throws E-DATA-010 naming the first letter outside the alphabet.
  std::vector<int32_t> encode(std::string_view text) const;
  /// The letters up to the first `</s>`; `<s>` is left out.
  std::string decode(std::span<const int32_t> ids) const;
  /// One id as text, for tables and attention pages.
  std::string symbol(int32_t id) const;

 private:
  std::string letters_;
};

struct ReversalStrings {
  ReversalAlphabet alphabet;
  std::vector<std::string> train;
  std::vector<std::string> validation;
};

/// The 200 + 100 strings of the published exercise: what Python draws after random.seed(5). Strings may repeat.
ReversalStrings practical10_strings();

struct ReversalOptions {
  std::string letters = "abcdefgh";
  int32_t min_length = 3;
  int32_t max_length = 12;
  int64_t train = 4000;
  int64_t validation = 500;
  uint64_t seed = 1;
};

/// Distinct strings, lengths uniform; no validation string is in the training part. Throws E-DATA-009 if there are not
/// that many different strings.
ReversalStrings generate_strings(const ReversalOptions& options);

/// B pairs. The target is the reversed string; the decoder reads `<s>` … and must say … `</s>`.
struct ReversalBatch {
  Padded source;                  // [B, S]: <s> string </s>, padded with </s>
  Padded target_in;               // [B, T]: <s> reversed, padded with </s>
  Padded target_out;              // [B, T]: reversed </s>, padded with the ignored id
  std::vector<int64_t> examples;  // [B]

  const std::vector<int32_t>& source_lengths() const { return source.lengths; }
  const std::vector<int32_t>& target_lengths() const { return target_out.lengths; }
};

/// All pairs of one part, encoded once, handed out by batch number.
class ReversalBatches {
 public:
  static constexpr int32_t kIgnore = -1;  ///< target id that the loss leaves out

  ReversalBatches(const ReversalAlphabet& alphabet, const std::vector<std::string>& strings, BatchOptions options,
                  int32_t ignored_id = kIgnore);

  int64_t batches_per_epoch() const { return order_.batches_per_epoch(); }
  int64_t epoch(int64_t cursor) const { return order_.epoch(cursor); }
  ReversalBatch batch(int64_t cursor);

 private:
  std::vector<std::vector<int32_t>> source_, target_in_, target_out_;
  BatchOrder order_;
  int32_t ignored_id_;
};

}  // namespace adjoint::data
