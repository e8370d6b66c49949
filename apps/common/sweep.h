#pragma once
// Trains at every point of a grid of options, over several seeds, and ranks the points.

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "apps/common/options.h"

namespace adjoint::app {

/// Makes the options of a `sweep` command from those of the program's `train`.
void add_sweep_options(OptionTable& table, const OptionTable& train_table);

/// What a program gives a sweep.
struct SweepTask {
  const OptionTable& train_table;
  std::string metric;  // of the report's "val", by which points are ranked; direction by higher_is_better()
  /// Throws what is wrong with a combination of options that each may be right. Before anything runs.
  std::function<void(const Settings&)> check;
  /// Trains into the folder --out and returns the run's report: ending, val, parameters, epoch_s.
  std::function<nlohmann::ordered_json(const Settings&)> train;
};

/// One point of the grid, with what its finished runs gave.
struct SweepPoint {
  std::vector<std::string> values;  // in the order of the axes
  std::vector<double> metric;       // a finished run each
  std::vector<double> epoch_seconds;
  std::int64_t parameters = 0;
  std::string failure;  // of the last run that ended with an error

  double mean() const;
  /// Of the sample (n - 1); 0 for fewer than two runs.
  double sd() const;
  double mean_epoch_seconds() const;
};

struct SweepResult {
  std::string metric;
  std::int64_t seeds = 1;
  std::vector<Axis> axes;
  std::vector<SweepPoint> points;  // the best first, those without a result last
};

std::string sweep_table(const SweepResult& result);
std::string sweep_csv(const SweepResult& result);
/// A page for browsers that opens offline and makes no request.
std::string sweep_page(const SweepResult& result, const std::string& title);

/// A CSV field (RFC 4180). Text that a spreadsheet would take for a formula gets an apostrophe in front.
std::string csv_field(const std::string& text);

/// Runs what is missing of the sweep and prints its table. Every run has a folder below --out, by default one whose
/// name is a function of the options, so the same command goes on where it was; a run that was killed starts anew, one
/// that is finished is read. Bad axes and values are errors before anything runs: E-CLI-001, 002, 004, and what
/// `check` throws. E-CONF-008: a folder's runs had other options. A run that fails does not end the sweep.
int run_sweep(const Settings& settings, const SweepTask& task);

}  // namespace adjoint::app
