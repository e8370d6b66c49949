#include "apps/common/training_loop.h"

#include <fmt/format.h>

#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>

#include "apps/common/progress.h"
#include "apps/common/run_folder.h"
#include "tests/apps/common_support.h"

namespace adjoint::app {
namespace {

/// Records what the loop asks for.
class TrainingLoop : public ::testing::Test {
 protected:
  TrainingLoop() {
    setup_ = {.epochs = 3, .steps_per_epoch = 4, .log_every = 1, .watched = "f1"};
    callbacks_.begin_epoch = [this](std::int64_t epoch) { note("shuffle {}", epoch); };
    callbacks_.train_step = [this](const StepPlace& at, double) {
      note("step {}:{}:{}", at.step, at.epoch, at.batch);
      now_ += 1;
      if (at.step == signal_at_) signal_ = SIGTERM;
      return StepResult{1.0 / static_cast<double>(at.step), 10};
    };
    callbacks_.evaluate = [this] {
      note("evaluate");
      return Metrics{{"f1", evaluations_ < f1_.size() ? f1_[evaluations_++] : 0.5}, {"loss", 1}};
    };
    callbacks_.keep_best = [this](const LoopState& state, const Metrics&) { note("best {}", state.step); };
    callbacks_.save = [this](const LoopState& state) {
      note("save {}", state.step);
      saved_ = encode(state);
    };
    observers_.clock = [this] { return now_; };
    observers_.stop = [this] { return signal_; };
  }
  template <class... T>
  void note(const char* format, T... values) {
    events_ += fmt::format(fmt::runtime(format), values...) + "; ";
  }
  LoopResult run(LoopState state = {}) { return run_training(setup_, callbacks_, observers_, std::move(state)); }
  std::string take() { return std::exchange(events_, ""); }

  LoopSetup setup_;
  LoopCallbacks callbacks_;
  LoopObservers observers_;
  std::vector<double> f1_ = {0.5, 0.7, 0.6};
  std::size_t evaluations_ = 0;
  std::string events_, saved_;
  double now_ = 0;
  int signal_ = 0;
  std::int64_t signal_at_ = -1;
};

TEST_F(TrainingLoop, Trains_evaluates_keeps_the_best_and_saves_each_epoch) {
  setup_.steps_per_epoch = 2;
  const LoopResult result = run();
  EXPECT_EQ(take(),
            "shuffle 1; step 1:1:0; step 2:1:1; evaluate; best 2; save 2; "
            "shuffle 2; step 3:2:0; step 4:2:1; evaluate; best 4; save 4; "
            "shuffle 3; step 5:3:0; step 6:3:1; evaluate; save 6; ");
  EXPECT_EQ(result.ending, Ending::finished);
  EXPECT_EQ(result.state.best_step, 4);
  EXPECT_EQ(*find_metric(result.state.best, "f1"), 0.7);
  EXPECT_EQ(*find_metric(result.last, "f1"), 0.6);
  EXPECT_EQ(result.first_loss, 1);
  EXPECT_EQ(result.last_loss, 1.0 / 6);
  EXPECT_EQ(result.state.tokens, 60);
  EXPECT_EQ(result.state.loss_sum, 0);  // begins again with each epoch
  EXPECT_EQ(result.exit_code(), 0);
}

TEST_F(TrainingLoop, Stops_early_after_evaluations_without_a_gain) {
  setup_ = {.epochs = 9, .steps_per_epoch = 1, .patience = 2, .watched = "f1"};
  f1_ = {0.5, 0.7, 0.7, std::nan(""), 0.9};
  const LoopResult result = run();
  EXPECT_EQ(result.ending, Ending::early_stop);
  EXPECT_EQ(result.state.step, 4);
  EXPECT_EQ(result.state.best_step, 2);
  EXPECT_EQ(result.exit_code(), 0);
}

TEST_F(TrainingLoop, A_watched_loss_is_better_when_lower) {
  setup_ = {.epochs = 3, .steps_per_epoch = 1, .watched = "loss"};
  std::vector<double> losses = {std::nan(""), 0.5, 0.6};
  callbacks_.evaluate = [&] { return Metrics{{"loss", losses[evaluations_++]}}; };
  EXPECT_EQ(run().state.best_step, 2);
  evaluations_ = 0;
  losses = {std::nan(""), std::nan(""), std::nan("")};
  const LoopResult hopeless = run();
  EXPECT_TRUE(hopeless.state.best.empty());
  EXPECT_EQ(hopeless.state.evaluations_without_gain, 3);
  setup_.watched = "f1";
  evaluations_ = 0;
  EXPECT_THROW(run(), std::logic_error);
}

TEST_F(TrainingLoop, A_signal_finishes_the_step_and_saves) {
  signal_at_ = 6;
  const LoopResult result = run();
  EXPECT_TRUE(events_.ends_with("step 5:2:0; step 6:2:1; save 6; ")) << events_;
  EXPECT_EQ(result.ending, Ending::signal);
  EXPECT_EQ(result.exit_code(), 143);
}

TEST_F(TrainingLoop, A_resumed_run_continues_as_if_never_stopped) {
  run();
  const std::string whole = take(), final_state = saved_;
  for (std::int64_t stop = 1; stop <= 12; ++stop) {
    evaluations_ = 0;
    signal_ = 0;
    signal_at_ = stop;
    run();
    const std::string before = take();
    signal_ = 0;
    signal_at_ = -1;
    run(decode_loop_state(saved_));
    const std::string after = take();
    const auto work = [](std::string text) {  // what changes the model: all but the stop's own save and reshuffle
      std::string out;
      for (std::size_t start = 0, end; (end = text.find("; ", start)) != text.npos; start = end + 2)
        if (text.compare(start, 4, "save") != 0 && text.compare(start, 7, "shuffle") != 0)
          out += text.substr(start, end - start + 2);
      return out;
    };
    EXPECT_EQ(work(before + after), work(whole)) << "stopped at " << stop;
    EXPECT_EQ(saved_, final_state) << "stopped at " << stop;
  }
}

TEST_F(TrainingLoop, Limits_end_it_with_a_save_and_an_evaluation) {
  setup_.max_steps = 6;
  EXPECT_EQ(run().ending, Ending::max_steps);
  EXPECT_TRUE(events_.ends_with("step 6:2:1; save 6; evaluate; best 6; ")) << take();
  take();
  setup_.max_steps = 4;  // exactly an epoch, and one that no interval saves
  setup_.save_every = 3;
  evaluations_ = 0;
  run();
  EXPECT_TRUE(events_.ends_with("step 3:1:2; save 3; step 4:1:3; evaluate; best 4; shuffle 2; save 4; ")) << take();
  setup_.max_steps = 6;  // the evaluation within an epoch does not use up patience
  evaluations_ = 0;
  f1_ = {0.7, 0.6};
  EXPECT_EQ(run().state.evaluations_without_gain, 0);
  setup_.max_steps = 0;
  setup_.max_seconds = 5;
  const LoopResult result = run();
  EXPECT_EQ(result.ending, Ending::max_time);
  EXPECT_EQ(result.state.step, 5);
}

TEST_F(TrainingLoop, A_failing_periodic_save_is_tried_again_and_the_third_ends_it) {
  setup_ = {.epochs = 1, .steps_per_epoch = 10, .save_every = 2, .watched = "f1"};
  int failures = 2, attempts = 0;
  callbacks_.save = [&](const LoopState&) {
    if (++attempts <= failures) throw Error("E-IO-005", Exit::io, "disk: full");
  };
  EXPECT_EQ(run().ending, Ending::finished);
  attempts = 0;
  failures = 3;
  expect_error([&] { run(); }, "E-IO-005", Exit::io, "disk: full");
  EXPECT_EQ(attempts, 3);
}

TEST_F(TrainingLoop, A_dry_run_does_one_step_and_nothing_else) {
  setup_.dry_run = true;
  EXPECT_EQ(run().ending, Ending::dry_run);
  EXPECT_EQ(take(), "shuffle 1; step 1:1:0; ");
}

TEST_F(TrainingLoop, Overfitting_repeats_the_first_batch) {
  setup_.overfit_batch = true;
  setup_.max_steps = 3;
  const LoopResult result = run();
  EXPECT_EQ(take(), "shuffle 1; step 1:1:0; step 2:1:0; step 3:1:0; ");
  EXPECT_EQ(result.last_loss, 1.0 / 3);
}

TEST_F(TrainingLoop, A_loss_that_is_not_finite_is_an_error_with_its_place) {
  callbacks_.train_step = [](const StepPlace& at, double) { return StepResult{at.step == 6 ? std::nan("") : 1.0}; };
  callbacks_.explain_nonfinite = [](const StepPlace&) { return std::string("op 'softmax'"); };
  expect_error([&] { run(); }, "E-NUM-001", Exit::numeric,
               "step 6 \\(epoch 2, batch 1\\): loss is nan; first non-finite value in op 'softmax'");
  EXPECT_EQ(events_.find("save 6"), std::string::npos);
}

/// A device that gives its results when it is asked for them.
struct Late {
  std::vector<StepResult> kept;
  std::vector<std::size_t> taken;  // how many at a time

  void over(LoopCallbacks& callbacks) {
    callbacks.train_step = [this, at_once = callbacks.train_step](const StepPlace& at, double rate) {
      kept.push_back(*at_once(at, rate));
      return std::optional<StepResult>();
    };
    callbacks.results = [this] {
      taken.push_back(kept.size());
      return std::exchange(kept, {});
    };
  }
};

TEST_F(TrainingLoop, Results_that_come_late_change_nothing) {
  std::vector<std::string> files, events, states, shown;
  for (const bool late : {false, true}) {
    TempFolder folder;
    RunFolder run_folder({.program = "p", .name = "n", .out = folder.file("r")});
    observers_.run = &run_folder;
    std::string text;
    Progress progress(
        Progress::Mode::plain, {}, [&](std::string_view part) { text += part; }, [this] { return now_; });
    observers_.progress = &progress;
    setup_ = {.epochs = 3, .steps_per_epoch = 40, .save_every = 25, .log_every = 7, .watched = "f1"};
    const auto train_step = callbacks_.train_step;
    Late device;
    if (late) device.over(callbacks_);
    observers_.clock = [this] { return std::floor(now_ / 200); };  // no time passes within a refresh
    now_ = 0;
    evaluations_ = 0;
    const LoopResult result = run();
    callbacks_.train_step = train_step;
    EXPECT_EQ(result.last_loss, 1.0 / 120);
    EXPECT_EQ(result.first_loss, 1);
    files.push_back(slurp(run_folder.file("metrics.jsonl")));
    events.push_back(take());
    states.push_back(encode(result.state) + saved_);
    shown.push_back(text);
    // The first three one by one, since the progress times from them; then for the log at 7, 14 … and the save at 25.
    if (late) {
      EXPECT_THAT(std::vector(device.taken.begin(), device.taken.begin() + 8),
                  ::testing::ElementsAre(1, 1, 1, 4, 7, 7, 4, 3));
    }
  }
  EXPECT_EQ(files[0], files[1]);
  EXPECT_EQ(events[0], events[1]);
  EXPECT_EQ(states[0], states[1]);
  EXPECT_THAT(shown[1], ::testing::HasSubstr("100%  epoch 3/3  loss 0.0083"));
}

TEST_F(TrainingLoop, Late_results_are_asked_for_ten_times_a_second_and_before_too_many_are_out) {
  setup_ = {.epochs = 1, .steps_per_epoch = 200, .log_every = 1000, .watched = "f1"};
  Late device;
  device.over(callbacks_);
  const double a_step = 0.03;
  observers_.clock = [&] { return now_ * a_step; };
  run();
  // A step adds 0.03 s, so the fourth after the last result is past 0.1 s.
  EXPECT_THAT(std::vector(device.taken.begin(), device.taken.begin() + 5), ::testing::ElementsAre(1, 1, 1, 4, 4));
  device.taken.clear();
  observers_.clock = [] { return 0.0; };
  run();
  EXPECT_THAT(device.taken, ::testing::ElementsAre(1, 1, 1, kMostOutstanding, kMostOutstanding, kMostOutstanding, 5));
}

TEST_F(TrainingLoop, A_late_loss_that_is_not_finite_names_its_own_step_and_nothing_is_saved_after_it) {
  callbacks_.train_step = [this](const StepPlace& at, double) {
    note("step {}", at.step);
    return StepResult{at.step >= 6 ? std::nan("") : 1.0};
  };
  setup_ = {.epochs = 1, .steps_per_epoch = 40, .save_every = 10, .log_every = 1000, .watched = "f1"};
  observers_.clock = [] { return 0.0; };
  Late device;
  device.over(callbacks_);
  expect_error([&] { run(); }, "E-NUM-001", Exit::numeric, "step 6 \\(epoch 1, batch 5\\): loss is nan");
  EXPECT_TRUE(events_.ends_with("step 9; step 10; ")) << events_;  // found when the save at 10 asked
  EXPECT_EQ(events_.find("save"), std::string::npos);
}

TEST_F(TrainingLoop, A_stop_counts_the_steps_that_were_made) {
  Late device;
  device.over(callbacks_);
  observers_.clock = [] { return 0.0; };
  setup_ = {.epochs = 1, .steps_per_epoch = 40, .log_every = 1000, .watched = "f1"};
  signal_at_ = 9;
  const LoopResult result = run();
  EXPECT_EQ(result.last_loss, 1.0 / 9);
  EXPECT_EQ(decode_loop_state(saved_).tokens, 90);
}

TEST_F(TrainingLoop, Requirements_are_checked_against_the_best_evaluation) {
  setup_.requirements = parse_requirements({"f1>=0.7"}, {"f1"});
  EXPECT_EQ(run().exit_code(), 0);
  evaluations_ = 0;
  setup_.requirements = parse_requirements({"f1>0.7"}, {"f1"});
  const LoopResult result = run();
  EXPECT_EQ(result.exit_code(), 8);
  EXPECT_THAT(result.unmet, ::testing::ElementsAre("f1>0.7 is not met: f1 is 0.7"));
}

TEST_F(TrainingLoop, The_learning_rate_is_asked_for_each_step_and_logged) {
  TempFolder folder;
  RunFolder run_folder({.program = "p", .name = "n", .out = folder.file("r")});
  observers_.run = &run_folder;
  setup_ = {.epochs = 1, .steps_per_epoch = 2, .log_every = 2, .watched = "f1"};
  callbacks_.learning_rate = [](std::int64_t step) { return 0.5 / static_cast<double>(step); };
  run();
  EXPECT_EQ(
      slurp(run_folder.file("metrics.jsonl")),
      "{\"schema\":\"adjoint.metrics\",\"version\":1}\n"
      "{\"split\":\"step\",\"step\":2,\"epoch\":1,\"seconds\":2.0,\"loss\":0.5,\"lr\":0.25,\"tokens_per_s\":10.0}\n"
      "{\"split\":\"train\",\"step\":2,\"epoch\":1,\"seconds\":2.0,\"loss\":0.75}\n"
      "{\"split\":\"val\",\"step\":2,\"epoch\":1,\"seconds\":2.0,\"f1\":0.5,\"loss\":1.0}\n");
}

TEST_F(TrainingLoop, Progress_shows_loss_metric_and_tokens) {
  std::string shown;
  Progress progress(
      Progress::Mode::plain, {}, [&](std::string_view text) { shown += text; }, [this] { return now_; });
  observers_.progress = &progress;
  run();
  EXPECT_THAT(shown, ::testing::HasSubstr("100%  epoch 3/3  loss 0.0833  f1 0.7000  10 tok/s  ETA 0:00\n"));
}

TEST(LoopState, Loses_nothing_and_notices_each_missing_field) {
  const LoopState state{7, 2, 3, 0.1 + 0.2, 99, {{"f1", 1.0 / 3}, {"x", std::nan("")}}, 5, 1};
  const LoopState back = decode_loop_state(encode(state));
  EXPECT_EQ(encode(back), encode(state));
  EXPECT_EQ(back.loss_sum, 0.1 + 0.2);
  EXPECT_TRUE(std::isnan(back.best[1].second));
  const auto json = nlohmann::json::parse(encode(state));
  EXPECT_EQ(json.size(), 8u);
  for (const auto& [field, value] : json.items()) {
    auto damaged = json;
    damaged.erase(field);
    expect_error([&] { decode_loop_state(damaged.dump()); }, "E-CKPT-023", Exit::data,
                 "resume state: " + field + " is missing");
    damaged[field] = "x";
    expect_error([&] { decode_loop_state(damaged.dump()); }, "E-CKPT-023", Exit::data, "resume state: " + field);
  }
  expect_error([&] { decode_loop_state("no json"); }, "E-CKPT-023", Exit::data, "resume state: step");
}

}  // namespace
}  // namespace adjoint::app
