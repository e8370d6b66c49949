#pragma once
// report.html: a run for people, drawn from the files of its folder.

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace adjoint::app {

/// The page of the run in `folder` (config.json and metrics.jsonl, each where there is one) and its report. Beside
/// what report.json always has it shows "errors" [{truth, predicted, probability, text}] and "examples"
/// [{input, output, expected}].
std::string report_page(const std::string& folder, const nlohmann::ordered_json& report);

}  // namespace adjoint::app
