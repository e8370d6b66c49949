#pragma once
// The one error type of the project, and the check that callers' mistakes go through.

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace adjoint {

/// What the process returns when an error of this kind ends it.
enum class Exit : int {
  done = 0,
  bug = 1,
  usage = 2,
  data = 3,
  io = 4,
  memory = 5,
  numeric = 6,
  device = 7,
  requirement_not_met = 8,
};

/// An error a person can act on. `code` is stable ("E-OP-003"); the text is one line of the form
/// "PLACE: WHAT; expected …; try …" and carries no type names, addresses or line breaks.
class Error : public std::runtime_error {
 public:
  Error(std::string_view code, Exit exit, const std::string& text)
      : std::runtime_error(text), code_(code), exit_(exit) {}

  const std::string& code() const { return code_; }
  Exit exit() const { return exit_; }
  /// "error[E-OP-003]: layer_norm: …", as programs print it after their own name.
  std::string line() const { return "error[" + code_ + "]: " + what(); }

 private:
  std::string code_;
  Exit exit_;
};

}  // namespace adjoint

/// Checks what a caller passed; stays in release builds. The message is an expression (usually fmt::format(…)) that is
/// evaluated only on failure. Our own bugs are for assert.
#define ADJOINT_CHECK(condition, code, exit_code, ...)      \
  do {                                                      \
    if (!(condition)) [[unlikely]]                          \
      throw ::adjoint::Error(code, exit_code, __VA_ARGS__); \
  } while (false)
