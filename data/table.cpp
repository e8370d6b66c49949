#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "data/dataset.h"

namespace adjoint::data {

namespace {

constexpr size_t kMaxHeader = 1 << 16;           // bytes
constexpr uint64_t kMaxRow = uint64_t{1} << 24;  // bytes
constexpr size_t kMaxClasses = 1000;

// Reads a table row by row. Only the fields that are asked for are kept, whatever the size of the others.
class RowReader {
 public:
  RowReader(TextSource& source, bool tabs, uint64_t max_field)
      : source_(source), separator_(tabs ? '\t' : ','), quotes_(!tabs), max_field_(max_field) {}

  // False at the end of the file.
  bool next(const std::function<std::string*(int64_t column)>& destination);

  int64_t count() const { return count_; }    // fields of the row read last
  int64_t line() const { return line_; }      // where it starts
  bool empty() const { return bytes_ == 0; }  // not one byte beside the line end
  const std::optional<Error>& problem() const { return problem_; }

 private:
  int take();
  void read_quoted(std::string* field);
  void store(std::string* field, int byte);

  TextSource& source_;
  const int separator_;
  const bool quotes_;
  const uint64_t max_field_;
  int64_t count_ = 0, line_ = 0;
  uint64_t bytes_ = 0;
  int64_t quote_line_ = 0;  // of the open quote, 0 outside
  std::optional<Error> problem_;
};

int RowReader::take() {
  const int byte = source_.get();
  if (++bytes_ > kMaxRow) source_.refuse_long(line_, "a row", kMaxRow);
  return byte;
}

void RowReader::store(std::string* field, int byte) {
  if (field == nullptr) return;
  if (field->size() == max_field_) {
    const std::string what =
        quote_line_ != 0 ? fmt::format("a quote opened at line {}: the field", quote_line_) : "a field";
    source_.refuse_long(line_, what, max_field_);
  }
  *field += static_cast<char>(byte);
}

void RowReader::read_quoted(std::string* field) {
  quote_line_ = source_.line();
  const int64_t column = source_.column();
  while (true) {
    int byte = take();
    ADJOINT_CHECK(
        byte >= 0, "E-DATA-003", Exit::data,
        fmt::format("{}:{}:{}: quote opened at line {} is never closed; expected a closing \" before the end of "
                    "the file",
                    source_.path(), quote_line_, column, quote_line_));
    if (byte == '"') break;
    store(field, byte);
  }
  quote_line_ = 0;
}

bool RowReader::next(const std::function<std::string*(int64_t column)>& destination) {
  problem_.reset();
  count_ = 0;
  bytes_ = 0;
  int byte = source_.get();
  if (byte < 0) return false;
  line_ = source_.line();
  while (true) {
    std::string* field = destination(count_++);
    if (field != nullptr) field->clear();
    if (quotes_ && byte == '"') {
      read_quoted(field);
      while ((byte = take()) == '"') {  // "" inside quotes is one quote
        store(field, byte);
        read_quoted(field);
      }
      if (byte >= 0 && byte != separator_ && byte != '\n' && !problem_) {
        problem_.emplace(
            "E-DATA-003", Exit::data,
            fmt::format("{}:{}:{}: byte 0x{:02x} after the closing quote of field {} (quote opened at line {}); "
                        "expected a comma or the end of the row",
                        source_.path(), source_.line(), source_.column(), byte, count_, line_));
      }
    }
    for (; byte >= 0 && byte != separator_ && byte != '\n'; byte = take()) {
      if (!problem_) store(field, byte);
    }
    if (byte != separator_) break;
    byte = take();
  }
  if (auto bad_byte = source_.take_bad_byte()) problem_ = std::move(bad_byte);
  return true;
}

std::string list(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) {
    if (out.size() > 100) return out + ", …";
    out += (out.empty() ? "\"" : ", \"") + printable(name, 30) + "\"";
  }
  return out;
}

int64_t find_column(const std::vector<std::string>& names, const std::string& wanted, const std::string& option,
                    const std::string& place) {
  const auto found = std::ranges::find(names, wanted);
  ADJOINT_CHECK(found != names.end(), "E-DATA-002", Exit::data,
                fmt::format("{}: no column \"{}\"; expected one of {}; try {}", place, printable(wanted, 30),
                            list(names), option));
  return found - names.begin();
}

std::vector<std::string> read_header(RowReader& rows, const std::string& path) {
  std::vector<std::string> names;
  size_t total = 0;
  const bool found = rows.next([&](int64_t) {
    if (!names.empty()) total += names.back().size() + 1;
    ADJOINT_CHECK(
        total <= kMaxHeader, "E-DATA-007", Exit::data,
        fmt::format("{}: line 1: the header is longer than {} bytes; expected column names", path, kMaxHeader));
    return &names.emplace_back();
  });
  if (found && rows.problem()) throw *rows.problem();
  for (std::string& name : names) name = trimmed(name);
  return names;
}

// Labels to class numbers: of a given list, or collected in order of appearance.
class Classes {
 public:
  explicit Classes(const std::vector<std::string>& given) : names_(given), fixed_(!given.empty()) {
    for (const std::string& name : given) number_.emplace(name, static_cast<int32_t>(number_.size()));
  }

  // -1 if the label is not one of them.
  int32_t number(const std::string& label) {
    const auto found = number_.find(label);
    if (found != number_.end()) return found->second;
    if (fixed_ || label.empty() || names_.size() == kMaxClasses) return -1;
    names_.push_back(label);
    return number_[label] = static_cast<int32_t>(names_.size()) - 1;
  }

  std::string expected() const {
    if (fixed_) return "one of " + list(names_);
    return names_.size() < kMaxClasses ? "one of the class names, not nothing"
                                       : fmt::format("one of at most {} class names", kMaxClasses);
  }

  // Puts collected names in order, `positive` last, and renumbers `labels`.
  std::vector<std::string> settle(const std::string& positive, std::vector<int32_t>& labels) const {
    if (fixed_) return names_;
    std::vector<std::string> sorted = names_;
    std::ranges::sort(sorted, {}, [&](const std::string& name) { return std::pair(name == positive, name); });
    std::vector<int32_t> renumbered(names_.size());
    for (size_t i = 0; i < sorted.size(); ++i) renumbered[number_.at(sorted[i])] = static_cast<int32_t>(i);
    for (int32_t& label : labels) label = renumbered[label];
    return sorted;
  }

 private:
  std::vector<std::string> names_;
  bool fixed_;
  std::map<std::string, int32_t> number_;
};

}  // namespace

Dataset read_table(const std::string& path, const DatasetOptions& options) {
  Dataset dataset;
  ReadSummary summary{.path = path};
  BadRowPolicy policy(options.read.on_bad_row, summary);
  TextSource source(path, options.read.max_inflated);
  RowReader rows(source, path.ends_with(".tsv") || path.ends_with(".tsv.gz"), options.read.max_field);
  const std::vector<std::string> names = options.columns.empty() ? read_header(rows, path) : options.columns;
  if (names.empty()) return dataset;
  const int64_t text_column = find_column(names, options.text_column, "--text-column", path + ":1");
  const int64_t label_column = find_column(names, options.label_column, "--label-column", path + ":1");
  const int64_t expected = static_cast<int64_t>(names.size());

  Classes classes(options.classes);
  std::string text, label;
  const auto destination = [&](int64_t column) {
    return column == text_column ? &text : column == label_column ? &label : nullptr;
  };
  while (rows.next(destination)) {
    if (rows.problem()) {
      policy.row_is_bad(*rows.problem());
      continue;
    }
    if (rows.empty()) {
      ++summary.blank;
      continue;
    }
    if (rows.count() != expected) {
      policy.row_is_bad(Error("E-DATA-002", Exit::data,
                              fmt::format("{}:{}: row with the wrong number of columns; expected {}, found {}", path,
                                          rows.line(), expected, rows.count())));
      continue;
    }
    if (trimmed(text).empty()) {
      ++summary.blank;
      continue;
    }
    const int32_t number = classes.number(std::string(trimmed(label)));
    if (number < 0) {
      policy.row_is_bad(Error("E-DATA-004", Exit::data,
                              fmt::format("{}:{}: label \"{}\"; expected {}", path, rows.line(), printable(label, 40),
                                          classes.expected())));
      continue;
    }
    dataset.texts.emplace_back(trimmed(text));
    dataset.labels.push_back(number);
    ++summary.rows;
  }
  policy.finish();
  dataset.classes = classes.settle(options.positive, dataset.labels);
  dataset.sources.push_back(std::move(summary));
  return dataset;
}

}  // namespace adjoint::data
