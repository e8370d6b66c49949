#include "apps/common/training_loop.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "apps/common/options.h"
#include "apps/common/progress.h"
#include "apps/common/run_folder.h"
#include "apps/common/signals.h"
#include "apps/common/tensorboard.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

constexpr int kSaveAttempts = 3;
constexpr std::int64_t kOverfitSteps = 200;  // where --max-steps does not say
constexpr double kRefreshSeconds = 0.1;      // as often as the progress is drawn

class Loop {
 public:
  Loop(const LoopSetup& setup, const LoopCallbacks& callbacks, const LoopObservers& observers, LoopState state)
      : setup_(setup), callbacks_(callbacks), observers_(observers), state_(std::move(state)) {
    if (!callbacks_.train_step || setup_.steps_per_epoch < 1) throw std::logic_error("run_training: nothing to train");
    started_ = now();
  }

  LoopResult run() {
    if (setup_.dry_run || setup_.overfit_batch) {
      result_.ending = repeat_first_batch();
    } else {
      const std::int64_t total = setup_.epochs * setup_.steps_per_epoch;
      begin_progress(setup_.max_steps > 0 ? std::min(total, setup_.max_steps) : total);
      result_.ending = train();
      finish_progress();
      result_.unmet = unmet(setup_.requirements, state_.best.empty() ? result_.last : state_.best);
    }
    result_.state = state_;
    result_.seconds = now() - started_;
    return std::move(result_);
  }

 private:
  double now() const {
    if (observers_.clock) return observers_.clock();
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  int signal() const { return observers_.stop ? observers_.stop() : stop_signal(); }

  void begin_progress(std::int64_t total) {
    if (observers_.progress != nullptr) observers_.progress->begin(state_.step, total);
  }
  void finish_progress() {
    if (observers_.progress != nullptr) observers_.progress->finish();
  }
  void tell(const std::string& line) {
    if (observers_.progress != nullptr) observers_.progress->message(line);
    if (observers_.run != nullptr) observers_.run->log(line);
  }

  /// Makes a step. Its result, and those of steps before it, are counted now or when something needs them.
  void step(const StepPlace& place) {
    learning_rate_ = callbacks_.learning_rate ? callbacks_.learning_rate(place.step) : 0;
    outstanding_.push_back(place);
    if (const std::optional<StepResult> result = callbacks_.train_step(place, learning_rate_)) {
      count({*result});
    } else if (counted_ < Progress::kUntimedSteps || outstanding_.size() >= kMostOutstanding ||
               place.step % setup_.log_every == 0 || now() - counted_at_ >= kRefreshSeconds) {
      count_outstanding();
    }
  }

  void count_outstanding() {
    if (!outstanding_.empty()) count(callbacks_.results());
  }

  void count(const std::vector<StepResult>& results) {
    if (results.size() != outstanding_.size()) throw std::logic_error("run_training: not a result for each step");
    for (std::size_t i = 0; i < results.size(); ++i) count(outstanding_[i], results[i]);
    outstanding_.clear();
    counted_at_ = now();
  }

  void count(const StepPlace& place, const StepResult& step) {
    if (!std::isfinite(step.loss)) {
      finish_progress();
      throw Error(
          "E-NUM-001", Exit::numeric,
          fmt::format(
              "step {} (epoch {}, batch {}): loss is {}; first non-finite value in {}; try a smaller --lr, or "
              "--clip 1",
              place.step, place.epoch, place.batch, step.loss,
              callbacks_.explain_nonfinite ? callbacks_.explain_nonfinite(place) : "an op that was not traced"));
    }
    if (counted_ == 0) result_.first_loss = step.loss;
    ++counted_;
    result_.last_loss = step.loss;
    tokens_ += step.tokens;
    state_.loss_sum += step.loss;
    state_.tokens += step.tokens;
    last_ = step;
    if (observers_.progress != nullptr)
      observers_.progress->step(place.step, {place.epoch, setup_.epochs, step.loss, watched_text_, tokens_});
  }

  Ending repeat_first_batch() {
    if (callbacks_.begin_epoch) callbacks_.begin_epoch(1);
    const std::int64_t steps = setup_.dry_run ? 1 : setup_.max_steps > 0 ? setup_.max_steps : kOverfitSteps;
    begin_progress(steps);
    for (std::int64_t i = 1; i <= steps && (result_.signal = signal()) == 0; ++i) {
      step({i, 1, 0});
      state_.step = i;
    }
    count_outstanding();
    finish_progress();
    return result_.signal != 0 ? Ending::signal : setup_.dry_run ? Ending::dry_run : Ending::finished;
  }

  Ending train() {
    while (state_.epoch <= setup_.epochs) {
      if (callbacks_.begin_epoch) callbacks_.begin_epoch(state_.epoch);
      while (state_.batch < setup_.steps_per_epoch) {
        // Before the step, so that a resumed run that has nothing left to do does nothing.
        if (const auto ending = due()) return stop_within_epoch(*ending);
        const StepPlace place{state_.step + 1, state_.epoch, state_.batch};
        step(place);
        state_.step = place.step;
        ++state_.batch;
        if (state_.step % setup_.log_every == 0) log_step();
        if (setup_.save_every > 0 && state_.step % setup_.save_every == 0 && state_.batch < setup_.steps_per_epoch)
          save_now_and_then();
      }
      count_outstanding();
      record("train", {{"loss", state_.loss_sum / static_cast<double>(setup_.steps_per_epoch)}});
      if (callbacks_.evaluate) evaluate(true);
      ++state_.epoch;
      state_.batch = 0;
      state_.loss_sum = 0;
      const bool stopping = setup_.patience > 0 && state_.evaluations_without_gain >= setup_.patience;
      if (stopping || state_.epoch > setup_.epochs || signal() != 0) {
        save();
      } else if (setup_.save_every == 0 || state_.step % setup_.save_every == 0) {
        save_now_and_then();
      }
      if (stopping) return Ending::early_stop;
    }
    return Ending::finished;
  }

  std::optional<Ending> due() {
    if ((result_.signal = signal()) != 0) return Ending::signal;
    if (setup_.max_steps > 0 && state_.step >= setup_.max_steps) return Ending::max_steps;
    if (setup_.max_seconds > 0 && now() - started_ >= setup_.max_seconds) return Ending::max_time;
    return std::nullopt;
  }

  Ending stop_within_epoch(Ending ending) {
    count_outstanding();
    if (counted_ == 0) return ending;
    if (saved_step_ != state_.step) save();
    // The evaluation comes after the save: a resumed run then passes the same evaluations as one that never stopped.
    if (ending != Ending::signal && state_.batch > 0 && callbacks_.evaluate) evaluate(false);
    return ending;
  }

  void evaluate(bool counts_for_patience) {
    result_.last = callbacks_.evaluate();
    const double* value = find_metric(result_.last, setup_.watched);
    if (value == nullptr) throw std::logic_error("evaluate() gives no metric named " + setup_.watched);
    record("val", result_.last);
    watched_text_ = fmt::format("{} {:.4f}", setup_.watched, *value);
    const double* best = find_metric(state_.best, setup_.watched);
    // NaN is no gain, and any number is one over NaN.
    const bool gain = !std::isnan(*value) && (best == nullptr || std::isnan(*best) ||
                                              (higher_is_better(setup_.watched) ? *value > *best : *value < *best));
    if (gain) {
      state_.best = result_.last;
      state_.best_step = state_.step;
      if (callbacks_.keep_best) callbacks_.keep_best(state_, state_.best);
    }
    if (counts_for_patience) state_.evaluations_without_gain = gain ? 0 : state_.evaluations_without_gain + 1;
    if (observers_.run != nullptr)
      observers_.run->log(
          fmt::format("epoch {} step {}: {}{}", state_.epoch, state_.step, watched_text_, gain ? ", best" : ""));
  }

  void log_step() {
    Metrics metrics = {{"loss", last_.loss}};
    if (callbacks_.learning_rate) metrics.emplace_back("lr", learning_rate_);
    metrics.insert(metrics.end(), last_.more.begin(), last_.more.end());
    const double seconds = now() - logged_at_.value_or(started_);
    if (tokens_ > logged_tokens_ && seconds > 0)
      metrics.emplace_back("tokens_per_s", std::round(static_cast<double>(tokens_ - logged_tokens_) / seconds));
    logged_at_ = now();
    logged_tokens_ = tokens_;
    record("step", metrics);
  }

  void record(const std::string& split, const Metrics& metrics) {
    if (observers_.run != nullptr)
      observers_.run->metrics().write(split, state_.step, state_.epoch, now() - started_, metrics);
    if (observers_.events == nullptr) return;
    const std::string prefix = split == "step" ? "train/" : split == "train" ? "train/epoch_" : split + "/";
    for (const auto& [metric, value] : metrics) observers_.events->scalar(prefix + metric, state_.step, value);
  }

  void save() {
    count_outstanding();
    if (callbacks_.save) callbacks_.save(state_);
    saved_step_ = state_.step;
    failed_saves_ = 0;
  }
  void save_now_and_then() {
    try {
      save();
    } catch (const Error& error) {
      if (error.exit() != Exit::io || ++failed_saves_ == kSaveAttempts) throw;
      tell(fmt::format("warning: {}; the run goes on and saves again later", error.line()));
    }
  }

  const LoopSetup& setup_;
  const LoopCallbacks& callbacks_;
  const LoopObservers& observers_;
  LoopState state_;
  LoopResult result_;
  std::string watched_text_;
  std::optional<double> logged_at_;
  std::vector<StepPlace> outstanding_;  // steps whose results are
  StepResult last_;                     // of those that are counted
  double started_ = 0, learning_rate_ = 0, counted_at_ = 0;
  std::int64_t counted_ = 0, tokens_ = 0, logged_tokens_ = 0, saved_step_ = -1;
  int failed_saves_ = 0;
};

}  // namespace

std::string encode(const LoopState& state) {
  const nlohmann::ordered_json json = {
      {"step", state.step},           {"epoch", state.epoch},
      {"batch", state.batch},         {"loss_sum", state.loss_sum},
      {"tokens", state.tokens},       {"best", state.best},
      {"best_step", state.best_step}, {"evaluations_without_gain", state.evaluations_without_gain}};
  return json.dump();
}

LoopState decode_loop_state(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  const auto bad = [](const std::string& field) {
    throw Error(
        "E-CKPT-023", Exit::data,
        fmt::format("resume state: {} is missing or wrong; expected what a save of this version writes", field));
  };
  const auto read = [&](const char* field, auto& into) {
    if (!json.is_object() || !json.contains(field)) bad(field);
    const nlohmann::json& value = json[field];
    if constexpr (std::is_same_v<decltype(into), std::int64_t&>) {
      if (!value.is_number_integer() || value.get<std::int64_t>() < 0) bad(field);
      into = value.get<std::int64_t>();
    } else if constexpr (std::is_same_v<decltype(into), double&>) {
      if (!value.is_number()) bad(field);
      into = value.get<double>();
    } else {
      if (!value.is_array()) bad(field);
      for (const nlohmann::json& pair : value) {
        if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !(pair[1].is_number() || pair[1].is_null()))
          bad(field);
        into.emplace_back(pair[0].get<std::string>(), pair[1].is_null() ? std::nan("") : pair[1].get<double>());
      }
    }
  };
  LoopState state;
  read("step", state.step);
  read("epoch", state.epoch);
  read("batch", state.batch);
  read("loss_sum", state.loss_sum);
  read("tokens", state.tokens);
  read("best", state.best);
  read("best_step", state.best_step);
  read("evaluations_without_gain", state.evaluations_without_gain);
  return state;
}

LoopSetup loop_setup(const Settings& settings) {
  LoopSetup setup;
  const auto integer = [&](const char* option, std::int64_t& into) {
    if (settings.has(option)) into = settings.integer(option);
  };
  const auto flag = [&](const char* option, bool& into) {
    if (settings.has(option)) into = settings.flag(option);
  };
  integer("epochs", setup.epochs);
  integer("max-steps", setup.max_steps);
  integer("save-every", setup.save_every);
  integer("early-stop", setup.patience);
  if (settings.has("max-time")) setup.max_seconds = settings.real("max-time");
  flag("dry-run", setup.dry_run);
  flag("overfit-batch", setup.overfit_batch);
  return setup;
}

const char* name(Ending ending) {
  switch (ending) {
    case Ending::finished: return "finished";
    case Ending::max_steps: return "max-steps";
    case Ending::max_time: return "max-time";
    case Ending::early_stop: return "early-stop";
    case Ending::signal: return "signal";
    case Ending::dry_run: return "dry-run";
  }
  return "?";
}

int LoopResult::exit_code() const {
  if (ending == Ending::signal) return 128 + signal;
  return static_cast<int>(unmet.empty() ? Exit::done : Exit::requirement_not_met);
}

LoopResult run_training(const LoopSetup& setup, const LoopCallbacks& callbacks, const LoopObservers& observers,
                        LoopState state) {
  return Loop(setup, callbacks, observers, std::move(state)).run();
}

}  // namespace adjoint::app
