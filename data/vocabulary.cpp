#include "data/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "data/lines.h"
#include "data/sha256.h"
#include "kernels/base/error.h"

namespace adjoint::data {

namespace {

constexpr std::string_view kPad = "[PAD]";
constexpr std::string_view kUnknown = "[UNK]";
constexpr std::string_view kSpecials[] = {kPad, kUnknown, "[CLS]", "[SEP]"};
constexpr uint64_t kMaxLine = 1 << 16;

// "token<TAB>id" lines into the order of their ids.
std::vector<std::string> by_id(const std::vector<std::string>& lines, const std::string& path) {
  const int64_t count = static_cast<int64_t>(lines.size());
  std::vector<std::string> tokens(lines.size());
  std::vector<bool> taken(lines.size());
  for (int64_t i = 0; i < count; ++i) {
    const size_t tab = lines[i].rfind('\t');
    const std::string number = tab == std::string::npos ? "" : lines[i].substr(tab + 1);
    int64_t id = -1;
    const auto result = std::from_chars(number.data(), number.data() + number.size(), id);
    const bool whole = result.ec == std::errc() && result.ptr == number.data() + number.size();
    const bool fits = whole && id >= 0 && id < count;
    ADJOINT_CHECK(fits && !taken[id], "E-VOC-002", Exit::data,
                  fmt::format("{}:{}: id {}{}; expected each of 0..{} once", path, i + 1, printable(number, 30),
                              fits ? " a second time" : "", count - 1));
    taken[id] = true;
    tokens[id] = lines[i].substr(0, tab);
  }
  return tokens;
}

}  // namespace

Vocabulary::Vocabulary(std::vector<std::string> tokens, const std::string& place) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const bool is_new = !tokens_[i].empty() && id_.emplace(tokens_[i], static_cast<int32_t>(i)).second;
    ADJOINT_CHECK(is_new, "E-VOC-003", Exit::data,
                  fmt::format("{}: id {}: token \"{}\" {}; expected every token once, none empty", place, i,
                              printable(tokens_[i]), tokens_[i].empty() ? "is empty" : "is there already"));
  }
  for (const std::string_view special : kSpecials) {
    ADJOINT_CHECK(contains(special), "E-VOC-001", Exit::data,
                  fmt::format("{}: no token {}; expected [PAD], [UNK], [CLS] and [SEP] among the {} tokens", place,
                              special, tokens_.size()));
  }
  pad_ = id_.find(kPad)->second;
  unknown_ = id_.find(kUnknown)->second;
}

Vocabulary Vocabulary::build(const TokenCounts& counts, const VocabularyOptions& options) {
  std::vector<std::string> tokens(std::begin(kSpecials), std::end(kSpecials));
  tokens.insert(tokens.end(), options.extra_specials.begin(), options.extra_specials.end());
  const size_t specials = tokens.size();
  std::vector<std::pair<int64_t, std::string_view>> ranked;
  for (const auto& [token, count] : counts) {
    const bool special = std::find(tokens.begin(), tokens.begin() + specials, token) != tokens.begin() + specials;
    if (count >= options.min_count && !special) ranked.emplace_back(-count, token);
  }
  std::ranges::sort(ranked);
  for (const auto& [rank, token] : ranked) {
    if (options.max_size > 0 && static_cast<int64_t>(tokens.size()) >= options.max_size) break;
    ADJOINT_CHECK(token.find_first_of("\t\n\r") == token.npos, "E-VOC-003", Exit::data,
                  fmt::format("vocabulary: token \"{}\" holds a tab or a line end", printable(token)));
    tokens.emplace_back(token);
  }
  return Vocabulary(std::move(tokens), "vocabulary");
}

Vocabulary Vocabulary::read(const std::string& path) {
  TextSource source(path);
  std::vector<std::string> lines;
  std::string line;
  while (read_line(source, kMaxLine, line)) {
    if (const auto error = source.take_bad_byte()) throw *error;
    lines.push_back(line);
  }
  const bool with_ids =
      std::ranges::any_of(lines, [](const std::string& text) { return text.find('\t') != text.npos; });
  return Vocabulary(with_ids ? by_id(lines, path) : std::move(lines), path);
}

int32_t Vocabulary::id(std::string_view token) const {
  const auto found = id_.find(token);
  return found == id_.end() ? unknown_ : found->second;
}

const std::string& Vocabulary::token(int64_t id) const {
  ADJOINT_CHECK(id >= 0 && id < size(), "E-VOC-002", Exit::data,
                fmt::format("vocabulary: id {}; expected 0..{}", id, size() - 1));
  return tokens_[id];
}

std::vector<int32_t> Vocabulary::encode(std::span<const std::string> tokens) const {
  std::vector<int32_t> ids;
  ids.reserve(tokens.size());
  for (const std::string& token : tokens) ids.push_back(id(token));
  return ids;
}

std::string Vocabulary::text() const {
  std::string out;
  for (const std::string& token : tokens_) out += token + '\n';
  return out;
}

std::string Vocabulary::fingerprint() const { return sha256(text()); }

}  // namespace adjoint::data
