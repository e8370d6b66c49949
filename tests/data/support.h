#pragma once
// What the tests of data/ share: temporary files, the expected error, and where real data may lie.

#include <gtest/gtest.h>
#include <regex.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <string>

#include "kernels/base/error.h"
#include "tests/support/paths.h"

namespace adjoint::data {

/// A folder of its own that goes with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "adjoint-data-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string path(const std::string& name) const { return path_ / name; }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
    return path(name);
  }

 private:
  std::filesystem::path path_;
};

/// Whether a POSIX extended expression is found in `text`.
inline bool matches(const std::string& text, const std::string& pattern) {
  regex_t compiled;
  if (regcomp(&compiled, pattern.c_str(), REG_EXTENDED | REG_NOSUB) != 0) throw std::invalid_argument(pattern);
  const bool found = regexec(&compiled, text.c_str(), 0, nullptr, 0) == 0;
  regfree(&compiled);
  return found;
}

/// The error that `action` must end in, as a program prints it; checks its exit code and that it is one short line.
inline void expect_error(const std::function<void()>& action, Exit exit, const std::string& pattern) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_TRUE(matches(error.line(), pattern)) << "  message: " << error.line() << "\n  pattern: " << pattern;
    EXPECT_EQ(static_cast<int>(error.exit()), static_cast<int>(exit)) << error.line();
    EXPECT_LE(error.line().size(), 400u) << error.line();
    EXPECT_EQ(error.line().find('\n'), std::string::npos) << error.line();
    return;
  }
  ADD_FAILURE() << "no error; expected " << pattern;
}

/// A file of the public data sets, which the project does not ship: ADJOINT_DATA_DIR, else ../shared/data.
inline std::string real_data(const std::string& name) {
  const char* folder = std::getenv("ADJOINT_DATA_DIR");
  const std::filesystem::path base = folder != nullptr ? folder : testing_support::source_dir() + "/../shared/data";
  return base / name;
}

}  // namespace adjoint::data

#define ADJOINT_NEED_REAL_DATA(path)                                                                        \
  do {                                                                                                      \
    if (!std::filesystem::exists(path))                                                                     \
      GTEST_SKIP() << "real data absent: " << (path) << "; set ADJOINT_DATA_DIR to the folder that has it"; \
  } while (false)
