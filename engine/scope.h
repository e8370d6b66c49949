#pragma once
// Where an error happened: the path of modules being run on this thread, appended to the message of a failing op.

#include <string>

#include "kernels/base/error.h"

namespace adjoint {

/// While it lives, errors of ops on this thread end with "; in layer 'PATH'". `name` must outlive it.
class ScopeName {
 public:
  explicit ScopeName(const char* name) : name_(name), outer_(innermost()) { innermost() = this; }
  ~ScopeName() { innermost() = outer_; }
  ScopeName(const ScopeName&) = delete;
  ScopeName& operator=(const ScopeName&) = delete;

  /// Names of the scopes from the outermost in, joined with dots; empty outside any.
  static std::string path();

 private:
  static ScopeName*& innermost();

  const char* name_;
  ScopeName* outer_;
};

/// An Error with exit code `data`, and the layer it happened in.
Error op_error(const char* code, const std::string& message);

}  // namespace adjoint

/// Checks an op's arguments: throws op_error before anything is allocated or launched.
#define ADJOINT_OP_CHECK(condition, code, ...)      \
  do {                                              \
    if (!(condition)) [[unlikely]]                  \
      throw ::adjoint::op_error(code, __VA_ARGS__); \
  } while (false)
