// Optimizer kernels.

#include "kernels/optimizer.h"

#include <gtest/gtest.h>

#include "tests/simt/call.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

TEST(OptimizerKernel, Step_advance_adds_one) {
  for (const Schedule& schedule : schedules(affordable_seeds())) {
    Under under(schedule);
    Buffer<std::int64_t> step(std::vector<std::int64_t>{41}, "step");
    run_call(StepAdvance{.step = step});
    EXPECT_EQ(step.host()[0], 42) << name(schedule);
  }
}

}  // namespace
}  // namespace adjoint::simt::self_test
