#pragma once
// Named numbers of a run, and their log.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/common/files.h"

namespace adjoint::app {

using Metrics = std::vector<std::pair<std::string, double>>;

/// The number, or none.
const double* find_metric(const Metrics& metrics, std::string_view name);
/// False for losses, perplexities and errors.
bool higher_is_better(std::string_view metric);

/// {"f1": 0.98, …}
nlohmann::ordered_json as_json(const Metrics& metrics);
/// JSON text of a report: valid UTF-8 whatever the strings hold, NaN and infinities as null and counted in a
/// top-level "nonfinite" where there are any.
std::string json_text(const nlohmann::ordered_json& json, int indent = -1);

/// metrics.jsonl: the schema on the first line, then one object a line, each written at once.
class MetricsLog {
 public:
  MetricsLog() = default;
  explicit MetricsLog(const std::string& path);

  /// Drops the records after this step, which a resumed run writes again, and a torn last line.
  void rewind(std::int64_t step);
  /// {"split": "val", "step": 40, "epoch": 2, "seconds": 1.5, metrics…}
  void write(std::string_view split, std::int64_t step, std::int64_t epoch, double seconds, const Metrics& metrics);

 private:
  std::string path_;
  LineFile file_;
};

}  // namespace adjoint::app
