// Training as the programs do it, on a GPU or the executor: the programs' own commands against the CPU, a loop that
// does not wait for the device, and what a failing device leaves behind.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "apps/clickbait/commands.h"
#include "apps/common/command_line.h"
#include "apps/common/main_guard.h"
#include "apps/common/step_numbers.h"
#include "apps/reverse_string/commands.h"
#include "engine/launch.h"
#include "engine/ops.h"
#include "engine/optim/optimizer.h"
#include "engine/step.h"
#include "kernels/simt/executor.h"
#include "models/layers.h"
#include "tests/device/faults.h"
#include "tests/support/engine.h"

extern "C" [[gnu::weak]] void __asan_init();  // there in a program with AddressSanitizer

namespace adjoint::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

using Words = std::vector<std::string>;

std::string contents(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
/// The numbers in a file of weights: what follows its header, which also says how it was made.
std::string weights_in(const fs::path& path) {
  const std::string file = contents(path);
  std::uint64_t header = 0;
  if (file.size() > sizeof header) std::memcpy(&header, file.data(), sizeof header);
  if (header == 0 || header + sizeof header >= file.size()) throw std::runtime_error(path.string() + ": no weights");
  return file.substr(sizeof header + header);
}
/// Every file below the folder, but for the lock, which goes back to nobody when a run ends.
std::map<std::string, std::string> snapshot(const fs::path& folder) {
  std::map<std::string, std::string> files;
  if (!fs::exists(folder)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file() && entry.path().filename() != ".lock")
      files[fs::relative(entry.path(), folder).string()] = contents(entry.path());
  return files;
}

/// What a program trains, small enough for the executor.
struct Program {
  const char* name;
  void (*add_options)(app::OptionTable&);
  int (*train)(const app::Settings&);
  Words words;
};
Program reverse_string_program() {
  return {"reverse_string",
          reverse_string::add_train_options,
          reverse_string::train,
          {"--letters", "abc", "--min-length", "1", "--max-length", "3", "--train-strings", "20",
           "--validation-strings", "4", "--hidden", "8", "--embedding", "4", "--batch-size", "10", "--lr", "0.02"}};
}
Program clickbait_program(const char* model) {
  return {"clickbait",
          clickbait::add_train_options,
          clickbait::train,
          {"--model",        model, "--hidden",     "8",   "--embedding", "8",    "--heads",        "2",
           "--intermediate", "16",  "--batch-size", "8",   "--lr",        "0.02", "--max-length",   "8",
           "--min-count",    "1",   "--validation", "0.2", "--test",      "0.2",  "--word-dropout", "0.1",
           "--early-stop",   "0"}};
}

class ProgramOnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    set_threads(1);  // there is nothing to share out, and a child process has no threads of its parent's
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    std::string name =
        fmt::format("adjoint_{}_{}_{}", getpid(), info->test_suite_name(), info->name());  // three builds side by side
    std::replace(name.begin(), name.end(), '/', '_');
    folder_ = fs::path(::testing::TempDir()) / name;
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    std::ofstream texts(folder_ / "texts.tsv");
    texts << "text\tlabel\n";
    const char* bait[] = {"you won't believe this", "ten tricks that work", "this will shock you"};
    const char* news[] = {"court rules on the tax", "minister leaves office", "flood in the north"};
    for (int i = 0; i < 15; ++i)
      texts << bait[i % 3] << " " << i % 4 << "\tclickbait\n" << news[i % 3] << " " << i % 4 << "\tnews\n";
  }
  void TearDown() override { fs::remove_all(folder_); }

  /// `program train` into the folder `out`, as main() would run it; the exit code. Tensors are on the CPU where the
  /// program does not say otherwise, as they are in it.
  int train(const Program& program, Device device, const std::string& out, const Words& more) const {
    const DefaultDevice cpu(Device{});
    Words words{"train", "--device", text(device), "--out", (folder_ / out).string(), "--threads", "1", "--quiet"};
    words.insert(words.end(), program.words.begin(), program.words.end());
    words.insert(words.end(), more.begin(), more.end());
    if (program.name == std::string("clickbait"))
      words.insert(words.end(), {"--data", (folder_ / "texts.tsv").string()});
    app::CommandLine line(program.name, "", {});
    program.add_options(line.command("train", "", {}));
    return app::run_program(program.name, 0, nullptr,
                            [&](int, char**) { return program.train(line.parse(words).settings); });
  }

  fs::path folder_;
};

/// The losses of the epochs.
std::vector<double> losses(const fs::path& run) {
  std::vector<double> all;
  std::ifstream in(run / "metrics.jsonl");
  for (std::string line; std::getline(in, line);) {
    const json record = json::parse(line);
    if (record.value("split", "") == "train") all.push_back(record["loss"].get<double>());
  }
  return all;
}

/// Schedules beside the default one, as many as this build affords.
std::vector<simt::Options> schedules() {
  if (simt::has_checker()) return {};
  if (__asan_init != nullptr) return {{.seed = 3, .order = simt::Order::random, .poison = 0x7F7F7F7Fu}};
  return {{.seed = 2, .order = simt::Order::ascending, .poison = 0x7F7F7F7Fu},
          {.seed = 3, .order = simt::Order::random},
          {.seed = 4, .order = simt::Order::skewed, .poison = 0x7F7F7F7Fu}};
}

class Trains : public ProgramOnDevice, public ::testing::WithParamInterface<const char*> {};

TEST_P(Trains, To_the_losses_of_the_cpu_replaying_a_graph_of_the_whole_step) {
  const std::string kind = GetParam();
  const Program program = kind == "seq2seq" ? reverse_string_program() : clickbait_program(GetParam());
  const Device device = default_device();
  ASSERT_EQ(train(program, Device{}, "cpu", {"--epochs", "5"}), 0);
  Faults calls;
  ASSERT_EQ(train(program, device, "device", {"--epochs", "5"}), 0);
  const std::vector<double> expected = losses(folder_ / "cpu"), got = losses(folder_ / "device");
  ASSERT_EQ(expected.size(), 5u);
  ASSERT_EQ(got.size(), 5u);
  // A step differs by roundings, some 1e-6 of the loss. Adam divides by the root of the squares, so that where these
  // are small roundings grow; 1e-3 after a dozen steps still is a tenth of what any wrong gradient makes.
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-3 * expected[i]) << "epoch " << i;
  EXPECT_LT(got.back(), 0.9 * got.front());
  const json report = json::parse(contents(folder_ / "device/report.json"));
  EXPECT_EQ(report["device"], text(device));
  const json on_cpu = json::parse(contents(folder_ / "cpu/report.json"));
  EXPECT_NEAR(report["first_loss"].get<double>(), on_cpu["first_loss"].get<double>(), 1e-5);
  EXPECT_EQ(report["best_step"], on_cpu["best_step"]);
  // Every step but the plain ones in front of each recording: one launch.
  const auto steps = report["steps"].get<std::uint64_t>();
  EXPECT_GE(calls.calls_of("launch_graph") + 4, steps);
  EXPECT_LE(calls.calls_of("launch_graph"), steps);
  EXPECT_EQ(calls.live_graphs(), 0u);

  // In whatever order threads run, and whatever shared memory holds at first: not a bit of the weights changes.
  const std::string weights = weights_in(folder_ / "device/model.safetensors");
  const simt::Options before = simt::options();
  for (const simt::Options& other : schedules()) {
    simt::options().order = other.order;
    simt::options().seed = other.seed;
    simt::options().poison = other.poison;
    EXPECT_EQ(train(program, device, "again", {"--epochs", "5"}), 0);
    simt::options().order = before.order;
    simt::options().seed = before.seed;
    simt::options().poison = before.poison;
    EXPECT_TRUE(weights_in(folder_ / "again/model.safetensors") == weights) << "seed " << other.seed;
    fs::remove_all(folder_ / "again");
  }
}
INSTANTIATE_TEST_SUITE_P(Programs, Trains, ::testing::Values("seq2seq", "lstm", "encoder"), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST_F(ProgramOnDevice, Of_too_little_memory_says_what_it_asked_for_and_saves_nothing) {
  Faults driver;
  driver.set_memory(driver.memory_in_use() + (std::size_t{96} << 10));
  ::testing::internal::CaptureStderr();
  Program program = reverse_string_program();
  program.words = {"--letters", "abc", "--hidden", "8", "--embedding", "4", "--batch-size", "4096"};
  const int exit = train(program, default_device(), "small", {"--epochs", "1"});
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(exit, 7);
  EXPECT_TRUE(matches(said, "error.E-GPU-002.: .*requested [0-9.]+ .iB.*in use.*op")) << said;
  EXPECT_FALSE(fs::exists(folder_ / "small/model.safetensors"));
}

TEST_F(ProgramOnDevice, Whose_device_is_lost_ends_in_exit_7_and_touches_no_file) {
  const Program program = reverse_string_program();
  const fs::path run = folder_ / "lost";
  const std::uint64_t calls = [&] {
    Faults driver;
    EXPECT_EQ(train(program, default_device(), "whole", {"--epochs", "3"}), 0);
    return driver.calls();
  }();
  // In a child process, which also prints what files are not as they were when the call failed.
  const auto lose = [&](const char* call, int tenths) {
    Faults driver;
    std::map<std::string, std::string> before;
    driver.on_failure([&] { before = snapshot(run); });
    driver.fail_next(call, calls * static_cast<std::uint64_t>(tenths) / 10, 700);
    const int exit = train(program, default_device(), "lost", {"--epochs", "3"});
    // By the last tenth two epochs are done and their best weights saved.
    if (tenths == 9 && !before.contains("model.safetensors")) std::fprintf(stderr, "nothing was saved before\n");
    std::map<std::string, std::string> after = snapshot(run);
    after.insert(before.begin(), before.end());
    for (const auto& [file, content] : after)
      if (!before.contains(file) || before[file] != content || !fs::exists(run / file))
        std::fprintf(stderr, "touched: %s\n", file.c_str());
    std::_Exit(exit);
  };
  // A step is captured once, and memory taken early on.
  const std::vector<std::pair<const char*, std::vector<int>>> places = {{"launch", {0, 3, 9}},   {"copy", {0, 3, 9}},
                                                                        {"synchronize", {0, 3}}, {"allocate", {0, 3}},
                                                                        {"begin_capture", {0}},  {"end_capture", {0}}};
  for (const auto& [call, all] : places) {
    for (const int tenths : all) {
      EXPECT_EXIT(lose(call, tenths), ::testing::ExitedWithCode(7),
                  "^[^\n]*error.E-GPU-003.: [^\n]*illegal address[^\n]*op '[^\n]*last checkpoint[^\n]*\n$")
          << call << " " << tenths;
      fs::remove_all(run);
    }
  }
}

TEST_F(ProgramOnDevice, That_is_refused_memory_says_so_and_saves_nothing) {
  const Program program = reverse_string_program();
  Faults driver;
  ASSERT_EQ(train(program, default_device(), "whole", {"--epochs", "2"}), 0);
  const std::uint64_t calls = driver.calls();
  int refused = 0;
  for (std::uint64_t part = 0; part < 12; ++part) {
    std::map<std::string, std::string> before;
    driver.on_failure([&] { before = snapshot(folder_ / "again"); });
    driver.fail_next("allocate", 1 + calls * part / 12, 2);
    ::testing::internal::CaptureStderr();
    const int exit = train(program, default_device(), "again", {"--epochs", "2"});
    const std::string said = ::testing::internal::GetCapturedStderr();
    if (!driver.failed()) break;  // nothing is allocated from here on
    ++refused;
    EXPECT_EQ(exit, 7);
    EXPECT_TRUE(matches(said, "error.E-GPU-002.: .*requested [0-9.]+ .iB.*in use.*op")) << said;
    EXPECT_EQ(snapshot(folder_ / "again"), before);
    fs::remove_all(folder_ / "again");
  }
  EXPECT_GE(refused, 5);
}

/// A classifier with dropout and clipping, whose rate changes with every step and whose batches come from the host.
struct Classifier {
  Generator random{5};
  Linear first{{random}, 12, 16}, second{{random}, 16, 5};
  struct Both : Module {
    Both(Module& a, Module& b) {
      add("first", a);
      add("second", b);
    }
  } both{first, second};
  ParameterSet parameters{both};
  Adam adam{parameters, {.learning_rate = 0.05, .max_norm = 0.3}};
  Tape tape;
  Step step{[this](std::span<const Tensor> in) {
    Tensor loss;
    {
      const auto recording = tape.record();
      loss = cross_entropy(second.forward(dropout(relu(first.forward(in[0])), 0.2, random)), in[1]);
    }
    tape.backward(loss);
    adam.step();
    return std::vector<Tensor>{loss};
  }};

  app::StepTensors train(std::int64_t n, double rate) {
    adam.set_learning_rate(rate);
    std::vector<double> x;
    std::vector<std::int32_t> y;
    for (std::int64_t i = 0; i < 8 * 12; ++i) x.push_back(std::sin(static_cast<double>(i * (n + 3))));
    for (std::int64_t i = 0; i < 8; ++i) y.push_back(static_cast<std::int32_t>((i * n) % 5));
    return {.loss = step({Tensor::from(std::span<const double>(x), {8, 12}),
                          Tensor::from(std::span<const std::int32_t>(y), {8})})[0],
            .gradient_norm = adam.gradient_norm(),
            .tokens = 8};
  }
};

TEST(TrainingLoopOnDevice, Does_not_wait_for_replayed_steps) {
  constexpr std::int64_t kSteps = 30, kFrom = 8, kTo = 18;
  const auto rate = [](std::int64_t step) { return 0.05 / static_cast<double>(step); };
  std::vector<double> expected;
  {
    Classifier classifier;
    for (std::int64_t i = 1; i <= kSteps; ++i) expected.push_back(classifier.train(i, rate(i)).loss.item());
  }
  Faults driver;
  Classifier classifier;
  app::StepNumbers numbers(default_device());
  std::vector<double> got;
  std::map<std::string, std::uint64_t> before, after;
  const auto count = [&] {
    std::map<std::string, std::uint64_t> calls;
    for (const char* name : {"synchronize", "copy to the host", "copy", "launch_graph", "begin_capture"})
      calls[name] = driver.calls_of(name);
    return calls;
  };
  app::run_training({.epochs = 1, .steps_per_epoch = kSteps, .log_every = 1000},
                    {.begin_epoch = nullptr,
                     .train_step =
                         [&](const app::StepPlace& place, double now) {
                           if (place.step == kFrom) before = count();
                           if (place.step == kTo) after = count();
                           return numbers.add(classifier.train(place.step, now));
                         },
                     .results =
                         [&] {
                           const std::vector<app::StepResult> results = numbers.take();
                           for (const app::StepResult& result : results) got.push_back(result.loss);
                           return results;
                         },
                     .learning_rate = rate,
                     .evaluate = nullptr,
                     .keep_best = nullptr,
                     .save = nullptr,
                     .explain_nonfinite = nullptr},
                    {.clock = [] { return 0.0; }, .stop = [] { return 0; }});
  EXPECT_EQ(got, expected) << "the same bits, whenever they are read";
  EXPECT_EQ(after["synchronize"] - before["synchronize"], 0u);
  EXPECT_EQ(after["copy to the host"] - before["copy to the host"], 0u);
  EXPECT_EQ(after["begin_capture"] - before["begin_capture"], 0u);
  EXPECT_EQ(after["launch_graph"] - before["launch_graph"], std::uint64_t{kTo - kFrom});
  EXPECT_EQ(after["copy"] - before["copy"], std::uint64_t{3 * (kTo - kFrom)}) << "two inputs and the rate";
}

TEST(TrainingLoopOnDevice, Numbers_of_a_step_come_back_as_they_were_and_not_too_many_at_once) {
  app::StepNumbers numbers(default_device());
  EXPECT_TRUE(numbers.take().empty());
  for (int round = 0; round < 2; ++round) {
    for (std::size_t i = 0; i < app::kMostOutstanding; ++i) {
      const double loss = 0.1f * static_cast<float>(i);
      app::StepTensors step{.loss = Tensor::scalar(loss), .tokens = static_cast<std::int64_t>(i)};
      if (i % 2 == 0) step.gradient_norm = Tensor::scalar(-loss, DType::f64);
      EXPECT_FALSE(numbers.add(step).has_value());
    }
    EXPECT_THROW(numbers.add({.loss = Tensor::scalar(1)}), std::logic_error);
    const std::vector<app::StepResult> results = numbers.take();
    ASSERT_EQ(results.size(), app::kMostOutstanding);
    for (std::size_t i = 0; i < results.size(); ++i) {
      EXPECT_EQ(results[i].loss, 0.1f * static_cast<float>(i));
      EXPECT_EQ(results[i].tokens, static_cast<std::int64_t>(i));
      ASSERT_EQ(results[i].more.size(), i % 2 == 0 ? 1u : 0u);
      if (i % 2 == 0) {
        EXPECT_EQ(results[i].more[0].second, -results[i].loss);
      }
    }
  }
  // On the CPU there is nothing to wait for.
  const DefaultDevice cpu(Device{});
  app::StepNumbers at_once{Device{}};
  EXPECT_EQ(at_once.add({.loss = Tensor::scalar(0.25), .tokens = 3})->loss, 0.25);
  EXPECT_TRUE(at_once.take().empty());
}

}  // namespace
}  // namespace adjoint::testing
