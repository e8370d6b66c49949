#pragma once
// --profile: time of each kind of kernel call.

#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>

#include "engine/launch.h"

namespace adjoint::app {

/// Counts and times every call of this thread while it lives.
class Profile final : public LaunchObserver {
 public:
  Profile() { launch_hooks.observer = this; }
  ~Profile() override { launch_hooks.observer = nullptr; }
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;

  /// A table of calls, total time, mean and least time of a call and share of all, the largest first. Calls of a kind
  /// may differ in size: the least time is then that of the smallest.
  std::string text() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Entry {
    std::int64_t calls = 0;
    double seconds = 0;
    double least = std::numeric_limits<double>::infinity();
  };
  void before(std::string_view) override { started_ = Clock::now(); }
  void after(std::string_view call) override;

  Clock::time_point started_;
  std::map<std::string_view, Entry> entries_;
};

}  // namespace adjoint::app
