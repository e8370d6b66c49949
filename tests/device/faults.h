#pragma once
// A GPU whose driver fails on demand: the current device's table of functions, wrapped, counting calls and blocks.

#include <cstddef>
#include <functional>
#include <string>

#include "engine/device.h"

namespace adjoint::testing {

/// While it lives, the table of the default device counts its calls and fails where it is told to. One at a time.
class Faults {
 public:
  Faults();
  ~Faults();
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;

  /// The n-th call from now on (1 is the next) returns this status, and does nothing; 0 lets all be.
  /// A release that fails has released all the same, as a destructor cannot be told otherwise.
  void fail(std::uint64_t n, int status);
  /// The same, of the first call whose name begins with this ("launch": of a kernel or a graph) from the n-th on.
  void fail_next(const std::string& name, std::uint64_t n, int status);
  /// Called as the call fails.
  void on_failure(std::function<void()> action);
  /// Whether the call that was to fail has been made.
  bool failed() const;
  /// What it was: "copy", "launch" …
  std::string failed_call() const;
  /// Calls since the last fail().
  std::uint64_t calls() const;
  /// Of them, those with this name, as failed_call() gives it; "copy to the host" are some of "copy".
  std::uint64_t calls_of(const std::string& call) const;

  /// The device has this many bytes; 0: as many as it really has.
  void set_memory(std::size_t bytes);
  std::size_t memory_in_use() const;
  std::uint64_t live_blocks() const;
  std::uint64_t live_graphs() const;
};

}  // namespace adjoint::testing
