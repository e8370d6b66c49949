#pragma once
// Runs code in a child process, since a planted bug may crash it and a sanitizer ends it.

#include <functional>
#include <string>

namespace adjoint::simt::self_test {

enum class Verdict {
  missed,     // ran to its end with the right values
  value,      // a result differs from the reference
  diagnosed,  // the executor or the checker named the bug
  sanitizer,  // AddressSanitizer or UndefinedBehaviorSanitizer ended the process
  crash,      // a signal did, or the time was up
};

struct Outcome {
  Verdict verdict;
  std::string text;  // the first line of the report
};

const char* name(Verdict verdict);

/// `body` may throw WrongValue or Fault.
Outcome run_in_child(const std::function<void()>& body);

}  // namespace adjoint::simt::self_test
