#include "data/word_vectors.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "data/lines.h"
#include "data/random.h"

namespace adjoint::data {

namespace {

constexpr int64_t kMaxWidth = 65536;

// Where each field starts that follows a space; field 0 starts at 0.
void find_fields(std::string_view line, std::vector<size_t>& starts) {
  starts.assign(1, 0);
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == ' ') starts.push_back(i + 1);
  }
}

bool is_integer(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

int64_t width_of_first_line(std::string_view line, int64_t fields, const std::string& path) {
  const bool header =
      fields == 2 && is_integer(line.substr(0, line.find(' '))) && is_integer(line.substr(line.find(' ') + 1));
  ADJOINT_CHECK(
      !header, "E-GLOVE-001", Exit::data,
      fmt::format("{}:1: \"{}\" looks like a word2vec header; expected a token and its numbers; try deleting the "
                  "first line",
                  path, printable(line)));
  ADJOINT_CHECK(fields >= 2 && fields - 1 <= kMaxWidth, "E-GLOVE-001", Exit::data,
                fmt::format("{}:1: {} numbers after the token; expected 1..{}", path, fields - 1, kMaxWidth));
  return fields - 1;
}

// No word token looks like [CLS] or <s>.
bool is_special(const std::string& token) {
  return token.size() > 2 && (token.front() == '[' || token.front() == '<') &&
         (token.back() == ']' || token.back() == '>');
}

}  // namespace

double WordVectors::coverage() const {
  const double total = static_cast<double>(found) + static_cast<double>(missing.size());
  return total == 0 ? 0 : static_cast<double>(found) / total;
}

WordVectors read_word_vectors(const std::string& path, const Vocabulary& vocabulary, int64_t width, MissingRows missing,
                              uint64_t seed) {
  WordVectors out{.width = width, .values = {}, .missing = {}};
  std::vector<int64_t> row_of(vocabulary.size(), -1);  // in `rows`, which grows with what was read
  std::vector<float> rows, row;
  std::vector<size_t> starts;
  double sum = 0, squares = 0;
  TextSource source(path);
  std::string text;
  while (read_line(source, ReadOptions{}.max_field, text)) {
    if (const auto error = source.take_bad_byte()) throw *error;
    const std::string_view line = std::string_view(text).substr(0, text.find_last_not_of(' ') + 1);
    if (line.empty()) continue;
    find_fields(line, starts);
    const int64_t fields = static_cast<int64_t>(starts.size());
    if (out.width == 0) out.width = width_of_first_line(line, fields, path);
    ADJOINT_CHECK(
        fields > out.width, "E-GLOVE-001", Exit::data,
        fmt::format("{}:{}: expected a token and {} numbers, found {}", path, source.line(), out.width, fields - 1));
    row.clear();
    for (int64_t i = fields - out.width; i < fields; ++i) {
      const char* end = line.data() + (i + 1 < fields ? starts[i + 1] - 1 : line.size());
      double value = 0;
      const auto result = std::from_chars(line.data() + starts[i], end, value);
      const bool finite = std::isfinite(static_cast<float>(value));
      ADJOINT_CHECK(result.ec == std::errc() && result.ptr == end && finite, "E-GLOVE-002", Exit::data,
                    fmt::format("{}:{}: column {}: \"{}\" as number {} of {}; expected a finite decimal number", path,
                                source.line(), starts[i] + 1, printable({line.data() + starts[i], end}, 30),
                                i - (fields - out.width) + 1, out.width));
      row.push_back(static_cast<float>(value));
    }
    const std::string_view token = line.substr(0, starts[fields - out.width] - 1);
    if (!vocabulary.contains(token) || row_of[vocabulary.id(token)] >= 0) continue;
    row_of[vocabulary.id(token)] = out.found++;
    rows.insert(rows.end(), row.begin(), row.end());
    for (const double value : row) sum += value, squares += value * value;
  }
  ADJOINT_CHECK(out.width > 0 && !row.empty(), "E-DATA-001", Exit::data,
                fmt::format("{}: no examples: not one word vector; expected GloVe text", path));
  const double count = std::max<double>(1, static_cast<double>(out.found * out.width));
  out.sigma = std::sqrt(std::max(0.0, squares / count - sum / count * (sum / count)));
  out.values.resize(vocabulary.size() * out.width);
  for (int64_t id = 0; id < vocabulary.size(); ++id) {
    const auto destination = out.values.begin() + id * out.width;
    if (row_of[id] >= 0) {
      std::copy_n(rows.begin() + row_of[id] * out.width, out.width, destination);
      continue;
    }
    if (!is_special(vocabulary.token(id))) out.missing.push_back(vocabulary.token(id));
    if (id == vocabulary.pad_id() || missing == MissingRows::zero) continue;
    // One stream a row: the row of a token does not depend on which others are missing.
    CounterRandom random(seed, static_cast<uint64_t>(id));
    for (int64_t i = 0; i < out.width; ++i) destination[i] = static_cast<float>(out.sigma * random.normal());
  }
  return out;
}

}  // namespace adjoint::data
