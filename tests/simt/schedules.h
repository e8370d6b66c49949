#pragma once
// The schedules and poisons a kernel's test runs under.

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/simt/executor.h"

namespace adjoint::simt::self_test {

struct Schedule {
  Order order;
  std::uint64_t seed;
  std::uint32_t poison;
};

constexpr std::uint32_t kNan = 0xFFFFFFFFu;
constexpr std::uint32_t kLarge = 0x7F7F7F7Fu;  // 3.4e38 in f32 and bf16: finite, so that fmax does not swallow it

/// Seeds 1 … `seeds` of both shuffled orders, and the two fixed orders once; NaN and a large number in turn.
std::vector<Schedule> schedules(int seeds);
/// As many seeds as this build affords: its sanitizer decides.
int affordable_seeds();

const char* name(Order order);
std::string name(const Schedule& schedule);

/// Sets the executor's options, and resets them at the end of the scope.
class Under {
 public:
  explicit Under(const Schedule& schedule);
  ~Under();
  Under(const Under&) = delete;
  Under& operator=(const Under&) = delete;

 private:
  Options before_;
};

}  // namespace adjoint::simt::self_test
