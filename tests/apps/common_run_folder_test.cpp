#include "apps/common/run_folder.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/common/signals.h"
#include "tests/apps/common_support.h"

namespace adjoint::app {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST(WriteFile, Replaces_all_or_nothing) {
  TempFolder folder;
  write_file(folder.file("a"), "old");
  write_file(folder.file("a"), "new");
  EXPECT_EQ(slurp(folder.file("a")), "new");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);  // no temporary file is left
  struct stat info {};
  stat(folder.file("a").c_str(), &info);
  const mode_t mask = umask(022);
  umask(mask);
  EXPECT_EQ(info.st_mode & 0777, 0666 & ~mask);
}

TEST(WriteFile, Does_not_follow_a_link_at_its_target) {
  TempFolder folder;
  spill(folder.file("victim"), "keep");
  fs::create_symlink(folder.file("victim"), folder.file("a"));
  write_file(folder.file("a"), "new");
  EXPECT_EQ(slurp(folder.file("victim")), "keep");
  EXPECT_EQ(slurp(folder.file("a")), "new");
}

TEST(WriteFile, A_file_size_limit_is_an_error_that_keeps_the_old_file) {
  TempFolder folder;
  const std::string path = folder.file("a");
  write_file(path, "old");
  const auto write_beyond_the_limit = [&] {
    ignore_write_signals();
    const rlimit limit{1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_file(path, std::string(5000, 'x'));
    } catch (const Error& error) {
      fprintf(stderr, "%s\n", error.line().c_str());
      _exit(static_cast<int>(error.exit()));
    }
    _exit(0);
  };
  EXPECT_EXIT(write_beyond_the_limit(), ::testing::ExitedWithCode(4),
              "E-IO-005.*File too large.; need 5000 bytes, [0-9]+ free; the previous file.*kept");
  EXPECT_EQ(slurp(path), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(WriteFile, Says_why_it_failed) {
  TempFolder folder;
  expect_error([&] { write_file(folder.file("absent/a"), "x"); }, "E-IO-002", Exit::io,
               "absent/a: cannot .*No such file");
}

TEST(ReadFile, Refuses_pipes_and_large_files_at_once) {
  TempFolder folder;
  mkfifo(folder.file("pipe").c_str(), 0600);
  expect_error([&] { read_file(folder.file("pipe"), 10); }, "E-IO-003", Exit::io, "pipe: not a regular file");
  spill(folder.file("big"), "12345678901");
  expect_error([&] { read_file(folder.file("big"), 10); }, "E-IO-003", Exit::io, "11 bytes, more than the limit of 10");
}

TEST(OutputCheck, Sees_through_links) {
  TempFolder folder;
  spill(folder.file("in"), "x");
  fs::create_hard_link(folder.file("in"), folder.file("hard"));
  fs::create_symlink(folder.file("in"), folder.file("soft"));
  spill(folder.file("other"), "x");
  for (const char* name : {"in", "hard", "soft", "./in"})
    expect_error(
        [&] {
          check_output_is_no_input(folder.file(name), {folder.file("other"), folder.file("in")});
        },
        "E-CLI-005", Exit::usage, "same file as the input");
  EXPECT_NO_THROW(check_output_is_no_input(folder.file("other"), {folder.file("in"), folder.file("absent")}));
  EXPECT_NO_THROW(check_output_is_no_input(folder.file("absent"), {folder.file("in"), folder.file("absent")}));
}

TEST(LineFile, A_full_disk_costs_one_warning) {
  if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
  LineFile full("/dev/full");
  ::testing::internal::CaptureStderr();
  EXPECT_FALSE(full.write("a"));
  EXPECT_FALSE(full.write("b"));
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, ::testing::MatchesRegex("warning: /dev/full: No space left on device[^\n]*\n"));
}

class RunFolderTest : public ::testing::Test {
 protected:
  RunFolder::Request at(const std::string& name, bool resume = false) {
    return {.program = "clickbait", .name = "lstm", .out = folder_.file(name), .resume = resume};
  }
  TempFolder folder_;
};

TEST_F(RunFolderTest, Is_named_after_the_time_and_never_shared) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_.path());
  setenv("TZ", "UTC", 1);
  {
    RunFolder first({.program = "clickbait", .name = "lstm", .out = "", .time = 1795305900});
    RunFolder second({.program = "clickbait", .name = "lstm", .out = "", .time = 1795305900});
    EXPECT_EQ(first.path(), "runs/clickbait/20261122-0005-lstm");
    EXPECT_EQ(second.path(), "runs/clickbait/20261122-0005-lstm-2");
    EXPECT_TRUE(fs::is_directory(second.path()));
  }
  fs::current_path(before);
}

TEST_F(RunFolderTest, Belongs_to_one_process_at_a_time) {
  {
    RunFolder run(at("r"));
    expect_error([&] { RunFolder(at("r")); }, "E-IO-006", Exit::io,
                 "r: in use by process " + std::to_string(getpid()) + ";");
  }
  EXPECT_NO_THROW(RunFolder(at("r")));  // released with the first
}

TEST_F(RunFolderTest, A_killed_owner_leaves_no_lock) {
  if (const pid_t child = fork(); child == 0) {
    RunFolder run(at("r"));
    raise(SIGKILL);
  } else {
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
  }
  EXPECT_NO_THROW(RunFolder(at("r")));
}

TEST_F(RunFolderTest, Unusable_places_are_refused_before_anything_starts) {
  spill(folder_.file("plain"), "");
  expect_error([&] { RunFolder(at("plain/r")); }, "E-IO-002", Exit::io, "run directory.*\\(.+\\)");
  expect_error([&] { RunFolder(at("plain")); }, "E-IO-002", Exit::io, "run directory.*\\(.+\\)");
  expect_error([&] { RunFolder(at("absent", true)); }, "E-IO-002", Exit::io, "run directory.*no run to resume");
  fs::create_directory(folder_.file("linked"));
  fs::create_symlink("/etc/hostname", folder_.file("linked/.lock"));
  expect_error([&] { RunFolder(at("linked")); }, "E-IO-002", Exit::io, "run directory.*\\(.+\\)");
}

TEST_F(RunFolderTest, Does_not_overwrite_a_run_but_resumes_it) {
  {
    RunFolder run(at("r"));
    run.write("config.json", "{}");
  }
  expect_error([&] { RunFolder(at("r")); }, "E-IO-007", Exit::io, "holds a run already.*--resume");
  EXPECT_NO_THROW(RunFolder(at("r", true)));
}

TEST_F(RunFolderTest, Removes_what_a_killed_run_left_half_written) {
  fs::create_directories(folder_.file("r/checkpoints"));
  spill(folder_.file("r/checkpoints/.adjoint-tmp-123-0"), "half");
  spill(folder_.file("r/.other.tmp"), "not ours");
  fs::create_symlink("/etc/hostname", folder_.file("r/.adjoint-tmp-9-9"));
  RunFolder run(at("r"));
  ASSERT_EQ(run.leftovers().size(), 1u);
  EXPECT_FALSE(fs::exists(folder_.file("r/checkpoints/.adjoint-tmp-123-0")));
  EXPECT_TRUE(fs::exists(folder_.file("r/.other.tmp")));
  EXPECT_THAT(slurp(run.file("train.log")), HasSubstr("removed the half-written"));
}

TEST_F(RunFolderTest, Metrics_are_json_lines_with_null_for_what_is_not_finite) {
  RunFolder run(at("r"));
  run.metrics().write("val", 40, 2, 1.5, {{"loss", std::nan("")}, {"f1", 0.1}, {"x", -INFINITY}});
  EXPECT_EQ(slurp(run.file("metrics.jsonl")),
            "{\"schema\":\"adjoint.metrics\",\"version\":1}\n"
            "{\"split\":\"val\",\"step\":40,\"epoch\":2,\"seconds\":1.5,\"loss\":null,\"f1\":0.1,\"x\":null,"
            "\"nonfinite\":2}\n");  // read while the run is open: every line was flushed
}

TEST_F(RunFolderTest, A_resumed_run_writes_its_metrics_once) {
  RunFolder run(at("r"));
  for (int step = 1; step <= 3; ++step) run.metrics().write("step", step, 1, 0, {});
  std::ofstream(run.file("metrics.jsonl"), std::ios::app) << "{\"split\":\"st";  // torn by a power cut
  run.metrics().rewind(2);
  run.metrics().write("step", 3, 1, 0, {{"again", 1}});
  EXPECT_EQ(slurp(run.file("metrics.jsonl")),
            "{\"schema\":\"adjoint.metrics\",\"version\":1}\n"
            "{\"split\":\"step\",\"step\":1,\"epoch\":1,\"seconds\":0.0}\n"
            "{\"split\":\"step\",\"step\":2,\"epoch\":1,\"seconds\":0.0}\n"
            "{\"split\":\"step\",\"step\":3,\"epoch\":1,\"seconds\":0.0,\"again\":1.0}\n");
}

TEST_F(RunFolderTest, Reports_are_valid_json_whatever_they_hold) {
  RunFolder run(at("r"));
  run.write_report({{"text", "broken \xff utf8"}, {"list", {1.0, std::nan(""), INFINITY}}});
  const auto report = nlohmann::json::parse(slurp(run.file("report.json")));
  EXPECT_EQ(report["nonfinite"], 2);
  EXPECT_TRUE(report["list"][1].is_null());
  EXPECT_EQ(report["text"], "broken \uFFFD utf8");
  run.write_report({{"metrics", as_json({{"f1", 0.5}})}});
  EXPECT_EQ(nlohmann::json::parse(slurp(run.file("report.json")))["metrics"]["f1"], 0.5);
  EXPECT_FALSE(nlohmann::json::parse(slurp(run.file("report.json"))).contains("nonfinite"));
}

TEST_F(RunFolderTest, The_log_shows_control_bytes) {
  RunFolder run(at("r"));
  run.log("headline \x1b[31m\nsecond");
  EXPECT_THAT(slurp(run.file("train.log")), ::testing::MatchesRegex("[-0-9T:]+ headline .x1b.31m.x0asecond\n"));
}

}  // namespace
}  // namespace adjoint::app
