#pragma once
// What the tests of apps/common share: a folder of their own, and a check of errors.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include "kernels/base/error.h"

namespace adjoint::app {

/// An empty folder that goes with the test.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "adjoint-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
inline void spill(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

/// The call must throw an Error with this code and exit; its line is short, single and matches the POSIX expression.
inline void expect_error(const std::function<void()>& call, const std::string& code, Exit exit,
                         const std::string& pattern) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.line();
    EXPECT_EQ(error.exit(), exit) << error.line();
    EXPECT_THAT(error.what(), ::testing::ContainsRegex(pattern));
    EXPECT_LE(error.line().size(), 400u);
    EXPECT_EQ(error.line().find('\n'), std::string::npos) << error.line();
    return;
  }
  ADD_FAILURE() << "no error; expected " << code << " matching " << pattern;
}

}  // namespace adjoint::app
