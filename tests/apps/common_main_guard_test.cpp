#include "apps/common/main_guard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <new>
#include <tuple>

#include "apps/common/requirement.h"
#include "apps/common/signals.h"
#include "apps/common/terminal.h"
#include "tests/apps/common_support.h"

namespace adjoint::app {
namespace {

struct Ended {
  int code;
  std::string out, err;
};
Ended run(const std::function<int()>& body) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  char name[] = "clickbait";
  char* argv[] = {name, nullptr};
  const int code = run_program("clickbait", 1, argv, [&](int, char**) { return body(); });
  return {code, ::testing::internal::GetCapturedStdout(), ::testing::internal::GetCapturedStderr()};
}

TEST(RunProgram, Prints_an_error_on_stderr_and_returns_its_code) {
  const Ended ended = run([]() -> int {
    print_result("{\"half\":");
    throw Error("E-DATA-001", Exit::data, "data: no examples; a\nb");
  });
  EXPECT_EQ(ended.code, 3);
  EXPECT_EQ(ended.err, "clickbait: error[E-DATA-001]: data: no examples; a\\x0ab\n");
  EXPECT_EQ(ended.out, "{\"half\":");  // errors never mix with results, --json included
}

TEST(RunProgram, Maps_other_exceptions) {
  Ended ended = run([]() -> int { throw std::bad_alloc(); });
  EXPECT_EQ(ended.code, 5);
  EXPECT_THAT(ended.err, ::testing::StartsWith("clickbait: error[E-MEM-001]: out of memory"));
  ended = run([]() -> int { throw std::logic_error("boom"); });
  EXPECT_EQ(ended.code, 1);
  EXPECT_THAT(ended.err, ::testing::ContainsRegex("error\\[E-BUG-001\\]: boom; this is a bug"));
  ended = run([]() -> int { throw 1; });
  EXPECT_EQ(ended.code, 1);
  ended = run([]() -> int { throw std::filesystem::filesystem_error("f", std::make_error_code(std::errc::io_error)); });
  EXPECT_EQ(ended.code, 4);
  EXPECT_EQ(run([] { return 8; }).code, 8);
}

TEST(RunProgram, Keeps_errors_short) {
  const Ended ended = run([]() -> int { throw Error("E-X-001", Exit::usage, std::string(5000, 'x')); });
  EXPECT_LE(ended.err.size(), 410u);
}

TEST(PrintResult, A_full_stdout_costs_one_warning_and_a_closed_pipe_none) {
  if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
  const auto print_twice = [] {
    const bool printed = print_result("a\n");
    print_result("b\n");
    _exit(printed ? 1 : 7);
  };
  EXPECT_EXIT(
      {
        if (std::freopen("/dev/full", "w", stdout) == nullptr) _exit(2);
        print_twice();
      },
      ::testing::ExitedWithCode(7), "^warning: stdout: No space left on device[^\n]*\n$");
  EXPECT_EXIT(
      {
        ignore_write_signals();
        int ends[2];
        if (pipe(ends) != 0 || dup2(ends[1], 1) != 1) _exit(2);
        close(ends[0]);
        print_twice();
      },
      ::testing::ExitedWithCode(7), "^$");
}

TEST(Signals, The_first_sets_a_flag_and_the_second_ends_the_process) {
  EXPECT_EXIT(
      {
        watch_stop_signals();
        if (stop_signal() != 0) _exit(1);
        raise(SIGTERM);
        if (stop_signal() != SIGTERM) _exit(2);
        fprintf(stderr, "still here");
        raise(SIGINT);
        _exit(3);
      },
      ::testing::ExitedWithCode(130), "still here");
  EXPECT_EXIT(
      {
        watch_stop_signals();
        raise(SIGINT);
        raise(SIGTERM);
      },
      ::testing::ExitedWithCode(143), "");
}

const std::vector<std::string> kMetrics = {"f1", "accuracy", "loss"};

TEST(Requirement, Reads_the_four_relations) {
  for (const auto& [typed, met, missed] : std::vector<std::tuple<const char*, double, double>>{
           {"f1>=0.97", 0.97, 0.9699}, {"f1 > 0.97", 0.971, 0.97}, {"loss<=1e-2", 0.01, 0.011}, {"loss<0", -1, 0}}) {
    const Requirement requirement = parse_requirement(typed, kMetrics);
    EXPECT_TRUE(requirement.met_by(met)) << typed;
    EXPECT_FALSE(requirement.met_by(missed)) << typed;
    EXPECT_FALSE(requirement.met_by(std::nan(""))) << typed;
  }
}

TEST(Requirement, Rejects_what_it_cannot_check) {
  const auto rejected = [](const char* typed, const char* pattern) {
    expect_error([&] { parse_requirement(typed, kMetrics); }, "E-CLI-006", Exit::usage, pattern);
  };
  rejected("f1", "--require f1: no comparison; expected a METRIC");
  rejected("f1>=", "no number");
  rejected("f1>=0,5", "no number");
  rejected("f1>=nan", "no number");
  rejected("f1=>0.5", "unknown metric f1=; did you mean f1");
  rejected("acuracy>=0.5", "unknown metric acuracy; did you mean accuracy\\? expected one of f1, accuracy, loss");
}

TEST(Requirement, Tells_what_was_reached) {
  const auto requirements = parse_requirements({"f1>=0.97", "loss<1", "accuracy>0"}, kMetrics);
  EXPECT_THAT(
      unmet(requirements, {{"f1", 0.9512}, {"loss", 0.5}}),
      ::testing::ElementsAre("f1>=0.97 is not met: f1 is 0.9512", "accuracy>0 is not met: accuracy was not measured"));
}

}  // namespace
}  // namespace adjoint::app
