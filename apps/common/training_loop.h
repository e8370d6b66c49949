#pragma once
// The driver of a training run, without tensors: it decides what happens when, callbacks do it.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "apps/common/metrics.h"
#include "apps/common/requirement.h"

namespace adjoint::app {

class EventWriter;
class Progress;
class RunFolder;
class Settings;

/// Everything that the loop must know to go on where it was. Part of every checkpoint.
struct LoopState {
  std::int64_t step = 0;   // done in all
  std::int64_t epoch = 1;  // the one that goes on
  std::int64_t batch = 0;  // the next one of it
  double loss_sum = 0;     // over the epoch's batches so far
  std::int64_t tokens = 0;
  Metrics best;  // the metrics of the best evaluation; empty before the first
  std::int64_t best_step = 0;
  std::int64_t evaluations_without_gain = 0;
};
std::string encode(const LoopState& state);
/// E-CKPT-023, naming the field that is missing or wrong.
LoopState decode_loop_state(const std::string& text);

struct LoopSetup {
  std::int64_t epochs = 1;
  std::int64_t steps_per_epoch = 1;
  std::int64_t max_steps = 0;    // 0: no limit
  double max_seconds = 0;        // 0: no limit
  std::int64_t save_every = 0;   // steps; 0: after each epoch
  std::int64_t log_every = 50;   // steps
  std::int64_t patience = 0;     // evaluations without a gain before an early stop; 0: never
  std::string watched = "loss";  // the metric of evaluate() that decides what is best; direction by higher_is_better()
  bool dry_run = false;          // one step, nothing else
  bool overfit_batch = false;    // batch 0 again and again: no evaluation, no saving
  std::vector<Requirement> requirements = {};  // of the best evaluation
};
/// The fields that shared options give; options that the program does not have keep their defaults.
LoopSetup loop_setup(const Settings& settings);

/// Which step is due. Its batch is a function of (epoch, batch) and the seed, and of nothing else.
struct StepPlace {
  std::int64_t step;   // from 1, over all epochs
  std::int64_t epoch;  // from 1
  std::int64_t batch;  // from 0, within the epoch
};
struct StepResult {
  double loss = 0;
  std::int64_t tokens = 0;  // real ones, padding not counted
  Metrics more = {};        // logged beside the loss: grad_norm …
};

/// Steps whose results may be outstanding.
constexpr std::size_t kMostOutstanding = 64;

struct LoopCallbacks {
  std::function<void(std::int64_t epoch)> begin_epoch;  // shuffle; also called when a run resumes within the epoch
  /// Required. The step's result, or none if it is still on its way from a device.
  std::function<std::optional<StepResult>(const StepPlace&, double learning_rate)> train_step;
  /// The results that train_step did not give, in the order of their steps; waits for them. Asked for by what needs
  /// them: the log, the progress, the end of an epoch, a save, the end; after kMostOutstanding steps in any case.
  std::function<std::vector<StepResult>()> results;
  std::function<double(std::int64_t step)> learning_rate;
  std::function<Metrics()> evaluate;
  std::function<void(const LoopState&, const Metrics&)> keep_best;
  std::function<void(const LoopState&)> save;
  /// After a loss that is not finite: "op 'softmax', rows 3, 7". Later steps may have been made by then.
  std::function<std::string(const StepPlace&)> explain_nonfinite;
};

/// Who watches. Any may be missing.
struct LoopObservers {
  Progress* progress = nullptr;
  RunFolder* run = nullptr;
  EventWriter* events = nullptr;
  std::function<double()> clock = {};  // seconds; the steady clock if missing
  std::function<int()> stop = {};      // stop_signal() if missing
};

enum class Ending { finished, max_steps, max_time, early_stop, signal, dry_run };
const char* name(Ending ending);

struct LoopResult {
  Ending ending = Ending::finished;
  int signal = 0;
  LoopState state;
  Metrics last;  // of the last evaluation
  double first_loss = 0, last_loss = 0, seconds = 0;
  std::vector<std::string> unmet;  // requirements, a line each

  /// 128 + signal, 8 for unmet requirements, or 0.
  int exit_code() const;
};

/// Trains from `state` on. Each epoch ends with an evaluation, then a save; a stop signal, --max-steps and --max-time
/// end it after the current step with a save. Writes metrics.jsonl with splits "step" (one in log_every), "train"
/// (means of an epoch) and "val". A loss that is not finite is E-NUM-001, which names its step; nothing is saved after
/// it. A periodic save that fails is tried again at the next interval; the third failure in a row ends the run.
LoopResult run_training(const LoopSetup& setup, const LoopCallbacks& callbacks, const LoopObservers& observers,
                        LoopState state = {});

}  // namespace adjoint::app
