#include "data/reversal.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <unordered_set>

#include "data/random.h"
#include "kernels/base/error.h"

namespace adjoint::data {

namespace {

constexpr int32_t kFirstLetter = 2;

std::vector<int32_t> lengths_of(const std::vector<std::string>& strings) {
  std::vector<int32_t> lengths;
  for (const std::string& text : strings) lengths.push_back(static_cast<int32_t>(text.size()));
  return lengths;
}

// How many strings there are, or `enough` as soon as that many are certain.
int64_t distinct_strings(int64_t letters, int32_t min_length, int32_t max_length, int64_t enough) {
  int64_t total = 0;
  int64_t of_length = 1;
  for (int32_t length = 1; length <= max_length; ++length) {
    if (of_length > enough / letters) return enough;
    of_length *= letters;
    if (length >= min_length) total += of_length;
  }
  return total;
}

}  // namespace

ReversalAlphabet::ReversalAlphabet(std::string letters) : letters_(std::move(letters)) {
  const bool printable = std::ranges::all_of(letters_, [](char c) { return c > ' ' && c < 127; });
  const bool distinct = std::set<char>(letters_.begin(), letters_.end()).size() == letters_.size();
  ADJOINT_CHECK(!letters_.empty() && printable && distinct, "E-DATA-009", Exit::usage,
                fmt::format("alphabet \"{}\"; expected one or more different printable ASCII characters",
                            printable ? letters_ : "?"));
}

std::vector<int32_t> ReversalAlphabet::encode(std::string_view text) const {
  std::vector<int32_t> ids = {kBegin};
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t letter = letters_.find(text[i]);
    ADJOINT_CHECK(letter != std::string::npos, "E-DATA-010", Exit::data,
                  fmt::format("string to reverse: byte 0x{:02x} at position {}; expected only the letters \"{}\"",
                              static_cast<unsigned char>(text[i]), i + 1, letters_));
    ids.push_back(kFirstLetter + static_cast<int32_t>(letter));
  }
  ids.push_back(kEnd);
  return ids;
}

std::string ReversalAlphabet::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    if (id == kEnd) break;
    if (id != kBegin) text += symbol(id);
  }
  return text;
}

std::string ReversalAlphabet::symbol(int32_t id) const {
  ADJOINT_CHECK(id >= 0 && id < size(), "E-VOC-002", Exit::data,
                fmt::format("reversal alphabet: id {}; expected 0..{}", id, size() - 1));
  if (id < kFirstLetter) return id == kBegin ? "<s>" : "</s>";
  return std::string(1, letters_[id - kFirstLetter]);
}

ReversalStrings practical10_strings() {
  ReversalStrings out{ReversalAlphabet("abcd"), {}, {}};
  PythonRandom random(5);
  for (int i = 0; i < 300; ++i) {
    std::string text(random.randrange(3, 15), ' ');
    for (char& letter : text) letter = out.alphabet.letters()[random.choice(4)];
    (i < 200 ? out.train : out.validation).push_back(text);
  }
  return out;
}

ReversalStrings generate_strings(const ReversalOptions& options) {
  ReversalStrings out{ReversalAlphabet(options.letters), {}, {}};
  ADJOINT_CHECK(options.min_length >= 1 && options.max_length >= options.min_length && options.max_length <= 1 << 16,
                "E-DATA-009", Exit::usage,
                fmt::format("string lengths {}..{}; expected 1 <= shortest <= longest <= 65536", options.min_length,
                            options.max_length));
  constexpr int64_t kMost = 100'000'000;
  ADJOINT_CHECK(options.train >= 1 && options.validation >= 0 && options.train <= kMost && options.validation <= kMost,
                "E-DATA-009", Exit::usage,
                fmt::format("{} training and {} validation strings; expected 1..{} and 0..{}", options.train,
                            options.validation, kMost, kMost));
  const int64_t wanted = options.train + options.validation;
  const int64_t letters = static_cast<int64_t>(options.letters.size());
  const int64_t possible = distinct_strings(letters, options.min_length, options.max_length, wanted);
  ADJOINT_CHECK(possible >= wanted, "E-DATA-009", Exit::usage,
                fmt::format("{} different strings asked for, but only {} exist with {} letters and lengths {}..{}; try "
                            "longer strings or fewer of them",
                            wanted, possible, letters, options.min_length, options.max_length));
  CounterRandom random(options.seed);
  std::unordered_set<std::string> seen;
  while (static_cast<int64_t>(seen.size()) < wanted) {
    std::string text(options.min_length + random.below(options.max_length - options.min_length + 1), ' ');
    for (char& letter : text) letter = options.letters[random.below(letters)];
    if (!seen.insert(text).second) continue;
    (static_cast<int64_t>(out.train.size()) < options.train ? out.train : out.validation).push_back(text);
  }
  return out;
}

ReversalBatches::ReversalBatches(const ReversalAlphabet& alphabet, const std::vector<std::string>& strings,
                                 BatchOptions options, int32_t ignored_id)
    : order_(lengths_of(strings), options), ignored_id_(ignored_id) {
  for (const std::string& text : strings) {
    source_.push_back(alphabet.encode(text));
    const std::vector<int32_t> target = alphabet.encode(std::string(text.rbegin(), text.rend()));
    target_in_.emplace_back(target.begin(), target.end() - 1);
    target_out_.emplace_back(target.begin() + 1, target.end());
  }
}

ReversalBatch ReversalBatches::batch(int64_t cursor) {
  const std::span<const int64_t> chosen = order_.batch(cursor);
  return {pad(source_, chosen, ReversalAlphabet::kEnd),
          pad(target_in_, chosen, ReversalAlphabet::kEnd),
          pad(target_out_, chosen, ignored_id_),
          {chosen.begin(), chosen.end()}};
}

}  // namespace adjoint::data
