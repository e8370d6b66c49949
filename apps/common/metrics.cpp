#include "apps/common/metrics.h"

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

namespace adjoint::app {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kSchema = R"({"schema":"adjoint.metrics","version":1})";
constexpr std::size_t kMaxLog = std::size_t{1} << 30;

std::size_t count_nonfinite(const Json& json) {
  if (json.is_number_float()) return std::isfinite(json.get<double>()) ? 0 : 1;
  std::size_t count = 0;
  if (json.is_structured())
    for (const Json& item : json) count += count_nonfinite(item);
  return count;
}

}  // namespace

const double* find_metric(const Metrics& metrics, std::string_view name) {
  for (const auto& [metric, value] : metrics)
    if (metric == name) return &value;
  return nullptr;
}

bool higher_is_better(std::string_view metric) {
  return !(metric.ends_with("loss") || metric.ends_with("perplexity") || metric.ends_with("error"));
}

Json as_json(const Metrics& metrics) {
  Json json = Json::object();
  for (const auto& [metric, value] : metrics) json[metric] = value;
  return json;
}

std::string json_text(const Json& json, int indent) {
  const auto dump = [indent](const Json& value) {
    return value.dump(indent, ' ', false, Json::error_handler_t::replace);  // writes null for what is not finite
  };
  const std::size_t nonfinite = count_nonfinite(json);
  if (nonfinite == 0 || !json.is_object()) return dump(json);
  Json counted = json;
  counted["nonfinite"] = nonfinite;
  return dump(counted);
}

MetricsLog::MetricsLog(const std::string& path) : path_(path) {
  std::error_code ignored;
  const bool fresh = !std::filesystem::exists(path, ignored) || std::filesystem::file_size(path, ignored) == 0;
  file_ = LineFile(path);
  if (fresh) file_.write(kSchema);
}

void MetricsLog::rewind(std::int64_t step) {
  const std::string old = read_file(path_, kMaxLog);
  std::string kept = std::string(kSchema) + "\n";
  for (std::size_t start = 0, end; (end = old.find('\n', start)) != old.npos; start = end + 1) {
    const std::string_view line = std::string_view(old).substr(start, end - start);
    const Json record = Json::parse(line, nullptr, false);
    if (record.is_object() && record.contains("step") && record["step"].is_number_integer() &&
        record["step"].get<std::int64_t>() <= step)
      kept.append(line).append("\n");
  }
  write_file(path_, kept);
  file_ = LineFile(path_);
}

void MetricsLog::write(std::string_view split, std::int64_t step, std::int64_t epoch, double seconds,
                       const Metrics& metrics) {
  Json record = {{"split", split}, {"step", step}, {"epoch", epoch}, {"seconds", std::round(seconds * 1000) / 1000}};
  record.update(as_json(metrics));
  file_.write(json_text(record));
}

}  // namespace adjoint::app
