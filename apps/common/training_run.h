#pragma once
// What is around the loop of every training command: schedule, dry run, run folder, logs, progress and profile.

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "apps/common/options.h"
#include "apps/common/progress.h"
#include "apps/common/run_folder.h"
#include "apps/common/step_numbers.h"
#include "apps/common/training_loop.h"
#include "engine/device.h"

namespace adjoint::app {

/// What a program trains.
struct TrainingPlan {
  std::string program;
  std::string name;         // end of the run folder's name where --name gives none
  std::string description;  // what is trained on what, for the first line and --dry-run
  std::string watched;      // the metric that decides what is best
  std::int64_t parameters = 0;
  std::int64_t steps_per_epoch = 1;
  std::function<StepTensors(std::int64_t cursor, double rate)> step;  // batch number `cursor` over all epochs
  std::function<Metrics()> evaluate;                  // none: nothing is best, the last weights are kept
  std::function<void(const std::string& path)> save;  // the weights that are judged
  bool keep_best = true;
  std::vector<Requirement> requirements = {};                   // of the best evaluation
  std::vector<std::pair<std::string, std::string>> files = {};  // written to the run folder before training
};

/// What a training command ends with.
struct Trained {
  nlohmann::ordered_json report;
  std::string text;
  std::string profile;
  int exit = 0;
};
/// Prints it as --json asks, and returns the exit code.
int print_trained(const Settings& settings, const Trained& trained);

class TrainingRun {
 public:
  /// With --dry-run runs one step and says what it did; otherwise makes the run folder.
  TrainingRun(const Settings& settings, Device device, TrainingPlan plan);

  /// The text of --dry-run: there is then nothing to train.
  const std::optional<std::string>& dry() const { return dry_; }
  void train();

  RunFolder& folder() { return *folder_; }
  std::string weights() const { return folder_->file("model.safetensors"); }
  void message(const std::string& line) { progress_.message(line); }
  const LoopResult& result() const { return result_; }
  double seconds() const { return seconds_; }
  /// The part of a report that all training has: steps, times, how it ended, level of processor, digest of the weights.
  nlohmann::ordered_json summary() const;
  const std::string& profile() const { return profile_; }

 private:
  const Settings& settings_;
  Device device_;
  TrainingPlan plan_;
  LoopSetup setup_;
  std::optional<std::string> dry_;
  std::optional<RunFolder> folder_;
  Progress progress_;
  LoopResult result_;
  std::string profile_;
  double seconds_ = 0;
};

}  // namespace adjoint::app
