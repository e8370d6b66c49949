#pragma once
// Learning rate as a function of the step.

#include <cstdint>

namespace adjoint {

enum class Schedule { constant, linear, cosine };

struct ScheduleOptions {
  Schedule kind = Schedule::constant;
  double rate = 1e-3;            ///< the highest rate
  std::int64_t warmup = 0;       ///< steps over which the rate rises from rate / warmup to rate
  std::int64_t total_steps = 0;  ///< linear and cosine reach 0 here
};

/// The rate of step 1, 2, …: warm-up, then constant, falling in a line, or as half a cosine wave.
double scheduled_rate(const ScheduleOptions& options, std::int64_t step);

}  // namespace adjoint
