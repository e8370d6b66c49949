#pragma once
// Labelled texts: the headline corpus in a folder, or a CSV/TSV table with named columns.

#include <cstdint>
#include <string>
#include <vector>

#include "data/lines.h"

namespace adjoint::data {

struct Dataset {
  std::vector<std::string> texts;
  std::vector<int32_t> labels;       // index into classes
  std::vector<std::string> classes;  // of two, the second is the positive one
  std::vector<ReadSummary> sources;  // one a file
};

struct DatasetOptions {
  std::string text_column = "text";
  std::string label_column = "label";
  /// Names of a table's columns when it has no header row.
  std::vector<std::string> columns{};
  /// The labels a table may hold, in the order of their numbers. Empty: those that occur, sorted, `positive` last.
  std::vector<std::string> classes{};
  std::string positive = "clickbait";
  ReadOptions read{};
};

/// A folder is the headline corpus, a file is a table. Throws E-DATA-001 if there are no examples, and what
/// `read_headlines` and `read_table` throw.
Dataset read_dataset(const std::string& path, const DatasetOptions& options = {});

/// `clickbait_data` and `non_clickbait_data` in a folder, each plain or with .gz, one headline a line, blank lines left
/// out. Classes "other" and "clickbait".
Dataset read_headlines(const std::string& folder, const ReadOptions& options = {});

/// A table with one example a row, plain or gzip. `.tsv`: fields end at tabs and quotes mean nothing; otherwise RFC
/// 4180 with commas. Rows with an empty text count as blank. Throws E-DATA-002 (number or names of columns), E-DATA-003
/// (quotes), E-DATA-004 (label), and what TextSource throws.
Dataset read_table(const std::string& path, const DatasetOptions& options = {});

}  // namespace adjoint::data
