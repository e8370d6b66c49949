#pragma once
// Programs as a user runs them, each test in a folder of its own.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/support/paths.h"

namespace adjoint::testing {

struct Outcome {
  int exit;
  std::string out, err;
};

class ProgramTest : public ::testing::Test {
 protected:
  explicit ProgramTest(std::string program) : program_(std::move(program)) {}

  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(::testing::TempDir()) /
              ("adjoint_" + std::string(info->test_suite_name()) + info->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  /// In the test's folder. `shell` comes before the program: "timeout -s INT 1".
  Outcome run(const std::string& arguments, const std::string& input = "", const std::string& shell = "") const {
    write("in", input);
    const std::string command = "cd " + folder_.string() + " && " + shell + " " + testing_support::program_dir() + "/" +
                                program_ + " " + arguments + " < in > out 2> err";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read("out"), read("err")};
  }
  std::string read(const std::string& name) const {
    std::ifstream in(folder_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void write(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }

  std::string program_;
  std::filesystem::path folder_;
};

}  // namespace adjoint::testing
