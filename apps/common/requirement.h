#pragma once
// --require 'f1>=0.97': what a result must reach for the program to end with 0.

#include <string>
#include <string_view>
#include <vector>

#include "apps/common/metrics.h"

namespace adjoint::app {

struct Requirement {
  std::string metric;
  std::string relation;  // >= > <= <
  double bound = 0;

  /// Never by NaN.
  bool met_by(double value) const;
};

/// E-CLI-006 if it is not METRIC RELATION NUMBER, or the metric is not among the available ones.
Requirement parse_requirement(std::string_view typed, const std::vector<std::string>& metrics);
std::vector<Requirement> parse_requirements(const std::vector<std::string>& typed,
                                            const std::vector<std::string>& metrics);

/// One line each for those that are not met: "f1>=0.97 is not met: f1 is 0.9512".
std::vector<std::string> unmet(const std::vector<Requirement>& requirements, const Metrics& metrics);

}  // namespace adjoint::app
