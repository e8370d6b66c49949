#include "apps/common/report_page.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/common/files.h"
#include "apps/common/page.h"
#include "apps/pages/page_files.h"

namespace adjoint::app {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::size_t kMaxFile = std::size_t{1} << 30;
constexpr std::size_t kMaxRecords = 4000;  // of one page; more are thinned

std::string content(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored) ? read_file(path, kMaxFile) : "";
}

Json records(const std::string& path) {
  std::vector<Json> all;
  std::istringstream lines(content(path));
  for (std::string line; std::getline(lines, line);) {
    Json record = Json::parse(line, nullptr, false);  // a torn last line is left out
    if (record.is_object() && record.contains("split")) all.push_back(std::move(record));
  }
  const std::size_t stride = all.size() / kMaxRecords + 1;
  Json kept = Json::array();
  for (std::size_t i = 0; i < all.size(); ++i)
    if (all[i]["split"] != "step" || i % stride == 0) kept.push_back(std::move(all[i]));
  return kept;
}

}  // namespace

std::string report_page(const std::string& folder, const Json& report) {
  Json config = Json::parse(content(folder + "/config.json"), nullptr, false);
  if (!config.is_object()) config = Json::object();
  const std::string name = report.value("app", "") + ": " + report.value("model", "");
  return page(name, pages::report_html, pages::report_js,
              {{"config", config}, {"metrics", records(folder + "/metrics.jsonl")}, {"report", report}});
}

}  // namespace adjoint::app
