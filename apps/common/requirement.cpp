#include "apps/common/requirement.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "apps/common/options.h"
#include "apps/common/terminal.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

}  // namespace

bool Requirement::met_by(double value) const {
  if (relation == ">=") return value >= bound;
  if (relation == ">") return value > bound;
  if (relation == "<=") return value <= bound;
  return value < bound;
}

Requirement parse_requirement(std::string_view typed, const std::vector<std::string>& metrics) {
  const auto reject = [&](const std::string& why) {
    throw Error("E-CLI-006", Exit::usage,
                fmt::format("--require {}: {}; expected a METRIC, one of >= > <= <, and a number, as in '{}>=0.97'",
                            shortened(typed, 60), why, metrics.empty() ? "accuracy" : metrics.front()));
  };
  const std::size_t at = typed.find_first_of("<>");
  if (at == typed.npos) reject("no comparison");
  const std::size_t length = at + 1 < typed.size() && typed[at + 1] == '=' ? 2 : 1;
  Requirement requirement{std::string(trimmed(typed.substr(0, at))), std::string(typed.substr(at, length)), 0};
  const std::string_view number = trimmed(typed.substr(at + length));
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), requirement.bound);
  if (error != std::errc{} || end != number.data() + number.size() || !std::isfinite(requirement.bound))
    reject("no number after the comparison");
  if (std::find(metrics.begin(), metrics.end(), requirement.metric) == metrics.end()) {
    const std::string near = nearest(requirement.metric, metrics);
    throw Error("E-CLI-006", Exit::usage,
                fmt::format("--require {}: unknown metric {}; {}expected one of {}", shortened(typed, 60),
                            shortened(requirement.metric, 30), near.empty() ? "" : "did you mean " + near + "? ",
                            fmt::join(metrics, ", ")));
  }
  return requirement;
}

std::vector<Requirement> parse_requirements(const std::vector<std::string>& typed,
                                            const std::vector<std::string>& metrics) {
  std::vector<Requirement> requirements;
  for (const std::string& one : typed) requirements.push_back(parse_requirement(one, metrics));
  return requirements;
}

std::vector<std::string> unmet(const std::vector<Requirement>& requirements, const Metrics& metrics) {
  std::vector<std::string> lines;
  for (const Requirement& requirement : requirements) {
    const double* value = find_metric(metrics, requirement.metric);
    if (value != nullptr && requirement.met_by(*value)) continue;
    lines.push_back(fmt::format("{}{}{} is not met: {} {}", requirement.metric, requirement.relation, requirement.bound,
                                requirement.metric,
                                value == nullptr ? "was not measured" : fmt::format("is {:.6g}", *value)));
  }
  return lines;
}

}  // namespace adjoint::app
