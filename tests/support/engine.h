#pragma once
// What the tests of engine/ and models/ share: short ways to make tensors, and the error that must come.

#include <gtest/gtest.h>
#include <regex.h>

#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/tensor.h"
#include "kernels/base/error.h"

/// Ends a test about blocks that are handed out again, where none is.
#if defined(__SANITIZE_ADDRESS__)
#define ADJOINT_NEED_SIZE_CLASSES() GTEST_SKIP() << "under AddressSanitizer every block is exact and never cached"
#else
#define ADJOINT_NEED_SIZE_CLASSES()
#endif

namespace adjoint::testing {

inline Tensor tensor(const std::vector<double>& values, const Shape& shape, DType dtype = DType::f64) {
  return Tensor::from(std::span<const double>(values), shape, dtype);
}
inline Tensor vector_of(const std::vector<double>& values, DType dtype = DType::f64) {
  return tensor(values, {static_cast<std::int64_t>(values.size())}, dtype);
}
inline Tensor ints(const std::vector<std::int32_t>& values, const Shape& shape) {
  return Tensor::from(std::span<const std::int32_t>(values), shape);
}

/// The bytes of a dense tensor.
inline std::string bits(const Tensor& x) {
  EXPECT_TRUE(x.dense());
  const std::vector<std::byte> bytes = x.to_bytes();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

/// Whether a POSIX extended expression is found in `text`.
inline bool matches(const std::string& text, const std::string& pattern) {
  regex_t compiled;
  if (regcomp(&compiled, pattern.c_str(), REG_EXTENDED | REG_NOSUB) != 0) throw std::invalid_argument(pattern);
  const bool found = regexec(&compiled, text.c_str(), 0, nullptr, 0) == 0;
  regfree(&compiled);
  return found;
}

/// The error that `action` must end in: code and exit exactly, the text found by a POSIX extended expression.
inline void expect_error(const std::function<void()>& action, const std::string& code, const std::string& pattern,
                         Exit exit = Exit::data) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_TRUE(matches(error.what(), pattern)) << "  message: " << error.what() << "\n  pattern: " << pattern;
    EXPECT_EQ(static_cast<int>(error.exit()), static_cast<int>(exit)) << error.what();
    EXPECT_LE(error.line().size(), 400u) << error.line();
    EXPECT_EQ(error.line().find('\n'), std::string::npos) << error.line();
    return;
  }
  ADD_FAILURE() << "no error; expected " << code << ": " << pattern;
}

}  // namespace adjoint::testing
