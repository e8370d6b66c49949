// What becomes of a training step when a call of the device's driver fails: for every call of it.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/gpu.h"
#include "engine/ops.h"
#include "engine/optim/optimizer.h"
#include "engine/step.h"
#include "models/layers.h"
#include "tests/device/faults.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

// As CUDA numbers them, and the executor after it.
constexpr int kInvalidValue = 1, kOutOfMemory = 2, kIllegalAddress = 700, kLaunchFailure = 719;

/// A classifier with dropout, clipping and Adam, whose state can be set back.
struct Training {
  Training() : model({random}, 12, 5), parameters(model), adam(parameters, {.learning_rate = 0.05, .max_norm = 0.3}) {
    state = {random.state()};
    for (const auto& [name, tensor] : adam.state()) state.push_back(tensor);
    for (const Tensor& t : state) start.push_back(t.to_bytes());
  }

  std::vector<Tensor> run(std::span<const Tensor> in) {
    Tensor loss;
    {
      const auto recording = tape.record();
      const ScopeName scope("classifier");
      loss = cross_entropy(model.forward(dropout(in[0], 0.3, random)), in[1]);
    }
    tape.backward(loss);
    adam.step();
    return {loss};
  }

  void set_back() {
    for (std::size_t i = 0; i < state.size(); ++i) state[i].write(std::span<const std::byte>(start[i]));
    parameters.clear_gradients();
    const auto forget = tape.record();  // what a step that failed half way has kept for backward
  }

  /// Three steps: plain, recorded, replayed. Their losses, and the state at the end, as bits.
  std::string train(const std::vector<Tensor>& batch) {
    Step step([this](std::span<const Tensor> in) { return run(in); }, state);
    std::string result;
    for (int i = 0; i < 3; ++i) {
      adam.set_learning_rate(0.05 / (i + 1));
      result += bits(step(batch)[0]);
    }
    for (const Tensor& t : state) result += bits(t);
    return result;
  }

  Generator random{5};
  Linear model;
  ParameterSet parameters;
  Adam adam;
  Tape tape;
  std::vector<Tensor> state;
  std::vector<std::vector<std::byte>> start;
};

std::vector<Tensor> batch_of(std::int64_t rows) {
  Generator random(7);
  const Tensor x = random.normal({rows, 12}, 0, 1);
  return {x, cast(random.uniform({rows}, 0, 5), DType::i32)};
}

/// The error a child process ends in when call n fails, as the exit code and the line; and what it refuses afterwards.
struct Ended {
  int exit = -1;
  std::string line;
};
Ended in_child(const std::function<void()>& action) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("pipe");
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    int code = 0;
    std::string line = "no error";
    try {
      action();
    } catch (const Error& error) {
      code = static_cast<int>(error.exit());
      line = error.line();
    } catch (const std::exception& error) {
      code = 99;
      line = error.what();
    }
    [[maybe_unused]] const auto written = write(ends[1], line.data(), line.size());
    _exit(code);
  }
  close(ends[1]);
  Ended ended;
  char buffer[4096];
  for (ssize_t n = 0; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
    ended.line.append(buffer, static_cast<std::size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  ended.exit = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ended;
}

class GpuFailure : public ::testing::Test {
 protected:
  Faults faults;
  Training training;
  std::vector<Tensor> batch = batch_of(9);
  std::string expected;
  std::uint64_t calls = 0;

  void SetUp() override {
    expected = training.train(batch);  // what is made once, such as staging memory, is there from now on
    training.set_back();
    faults.fail(0, 0);
    ASSERT_EQ(training.train(batch), expected) << "a step is not repeatable";
    calls = faults.calls();
    training.set_back();
    ASSERT_GE(calls, 60u);
  }
};

TEST_F(GpuFailure, Of_any_call_of_three_steps_is_a_clear_error_and_leaves_all_usable) {
  const std::uint64_t blocks = faults.live_blocks();
  std::map<std::string, int> seen;
  for (std::uint64_t n = 1; n <= calls; ++n) {
    std::string line;
    faults.fail(n, kInvalidValue);
    try {
      training.train(batch);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "E-GPU-005") << error.what();
      EXPECT_EQ(error.exit(), Exit::device);
      line = error.line();
    }
    ASSERT_TRUE(faults.failed()) << "call " << n << " was never made";
    const std::string call = faults.failed_call();
    ++seen[call];
    if (call == "release" || call == "destroy_graph") {
      EXPECT_EQ(line, "") << "of call " << n << ", " << call << ", which no destructor may throw for";
    } else {
      EXPECT_TRUE(matches(line, "invalid argument \\(cudaErrorInvalidValue\\) at '[a-z ]+', after op '[A-Za-z ]+'"))
          << "call " << n << ", " << call << ": " << line;
    }
    EXPECT_FALSE(recording_a_step());
    faults.fail(0, 0);
    training.set_back();
    ASSERT_EQ(faults.live_blocks(), blocks) << "call " << n << ", " << call;
    ASSERT_EQ(faults.live_graphs(), 0u) << "call " << n << ", " << call;
    if (n % 8 == 0) {
      ASSERT_EQ(training.train(batch), expected) << "after call " << n << ", " << call;
      training.set_back();
    }
  }
  for (const char* kind : {"allocate", "release", "copy", "synchronize", "launch", "begin_capture", "end_capture",
                           "launch_graph", "destroy_graph"}) {
    EXPECT_GE(seen[kind], 1) << kind;
  }
}

TEST_F(GpuFailure, For_lack_of_memory_names_what_was_asked_for_and_where) {
  int allocations = 0;
  for (std::uint64_t n = 1; n <= calls; ++n) {
    faults.fail(n, kOutOfMemory);
    const auto train = [&] { training.train(batch); };
    try {
      train();
    } catch (const Error& error) {
      if (faults.failed_call() == "allocate") {
        ++allocations;
        EXPECT_EQ(error.code(), "E-GPU-002") << error.what();
        EXPECT_TRUE(matches(error.line(), "requested [0-9.]+ .iB.*in use.*op")) << error.line();
      }
    }
    faults.fail(0, 0);
    training.set_back();
  }
  // A cache that can be given back makes the retry succeed; without any, every one of them fails.
  EXPECT_GE(allocations, 10);
  ASSERT_EQ(training.train(batch), expected);
}

TEST_F(GpuFailure, Of_the_device_itself_ends_in_exit_7_and_later_calls_refuse) {
  int launches = 0, all = 0;
  for (std::uint64_t n = 1; n <= calls; ++n) {
    const Ended ended = in_child([&] {
      const int status = n % 2 == 0 ? kIllegalAddress : kLaunchFailure;
      faults.fail(n, status);
      std::string first;
      try {
        training.train(batch);
      } catch (const Error& error) {
        first = error.line();
      }
      const std::string call = faults.failed_call();
      if (call == "release" || call == "destroy_graph") throw Error("E-GPU-003", Exit::device, "released");
      faults.fail(0, 0);
      const Device device = default_device();
      // Whatever is tried now, nothing reaches the device.
      for (const auto& again : std::vector<std::function<void()>>{
               [&] { (void)training.run(batch); }, [&] { (void)training.state[0].to_bytes(); },
               [&] { training.state[0].write(std::span<const std::byte>(training.start[0])); },
               [&] { Gpu::of(device).synchronize(); }, [&] { (void)Tensor::empty({1 << 20}, DType::f32, device); }}) {
        bool refused = false;
        try {
          again();
        } catch (const Error& error) {
          refused = error.code() == "E-GPU-003";
        }
        if (!refused) throw std::logic_error("a lost device was used again after " + first);
      }
      if (faults.calls() != 0) throw std::logic_error(fmt::format("{} calls reached a lost device", faults.calls()));
      throw Error("E-GPU-003", Exit::device, call + ": " + first);
    });
    ASSERT_EQ(ended.exit, 7) << "call " << n << ": " << ended.line;
    ++all;
    if (!matches(ended.line, "^error.E-GPU-003.: launch: ")) continue;
    ++launches;
    EXPECT_TRUE(matches(ended.line, n % 2 == 0 ? "E-GPU-003.*illegal address.*op '[A-Za-z]+'.*last checkpoint"
                                               : "E-GPU-003.*launch failure.*op '[A-Za-z]+'.*last checkpoint"))
        << ended.line;
  }
  EXPECT_EQ(all, static_cast<int>(calls));
  EXPECT_GE(launches, 10);
}

TEST_F(GpuFailure, For_lack_of_memory_can_be_followed_by_a_smaller_batch_a_hundred_times) {
  const std::vector<Tensor> large = batch_of(4096);
  const std::uint64_t blocks = faults.live_blocks();
  const std::size_t in_use = faults.memory_in_use();
  faults.set_memory(in_use + (std::size_t{64} << 10));  // enough for the small batch alone
  for (int cycle = 0; cycle < 100; ++cycle) {
    expect_error([&] { training.train(large); }, "E-GPU-002", "requested [0-9.]+ .iB.*in use.*op", Exit::device);
    training.set_back();
    ASSERT_EQ(training.train(batch), expected) << "cycle " << cycle;
    training.set_back();
    ASSERT_EQ(faults.live_blocks(), blocks) << "cycle " << cycle;
    ASSERT_EQ(faults.memory_in_use(), in_use) << "cycle " << cycle;
  }
}

}  // namespace
}  // namespace adjoint::testing
