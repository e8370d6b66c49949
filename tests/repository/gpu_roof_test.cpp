// What bench_gpu holds measurements against: a benchmark that beats the roof has measured something else.

#include "bench/gpu_roof.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace adjoint::bench {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

GpuProperties h100() {
  GpuProperties gpu{};
  gpu.compute_capability = 90;
  gpu.multiprocessors = 132;
  gpu.clock_khz = 1'830'000;
  return gpu;
}

TEST(GpuRoof, Has_the_peaks_that_the_vendor_states) {
  const Roof roof = peaks_of(h100());
  EXPECT_NEAR(roof.bf16 * 1e-12, 989, 5);
  EXPECT_NEAR(roof.fma * 1e-12, 62, 1);
  EXPECT_NEAR(roof.tf32 * 1e-12, 495, 3);
  GpuProperties older{};
  older.compute_capability = 70;
  older.multiprocessors = 80;
  older.clock_khz = 1'000'000;
  EXPECT_EQ(peaks_of(older).bf16, 0) << "nothing is known of it";
}

TEST(GpuRoof, Floor_is_the_slowest_of_memory_arithmetic_and_exponentials) {
  const Roof roof{.bandwidth = 3e12, .fma = 6e13, .tf32 = 4.9e14, .bf16 = 9.8e14, .exponentials = 4e12};
  EXPECT_EQ(floor_of({.bytes = 3e9}, roof).bound, "memory");
  EXPECT_NEAR(floor_of({.bytes = 3e9, .flops = 1e9}, roof).seconds, 1e-3, 1e-9);
  EXPECT_EQ(floor_of({.bytes = 3e6, .flops = 6e12, .unit = Unit::fma}, roof).bound, "f32 units");
  EXPECT_NEAR(floor_of({.bytes = 3e6, .flops = 9.8e12, .unit = Unit::bf16}, roof).seconds, 1e-2, 1e-9);
  EXPECT_EQ(floor_of({.bytes = 3, .exponentials = 4e9}, roof).bound, "exponentials");
  EXPECT_EQ(floor_of({.bytes = 3e9}, {}).seconds, 0);
}

TEST(GpuRoof, Refuses_what_no_card_can_do) {
  const Roof roof{.bandwidth = 3e12, .fma = 6e13, .tf32 = 4.9e14, .bf16 = 9.8e14, .exponentials = 4e12};
  const Cost copy{.bytes = 3e9}, product{.bytes = 1e6, .flops = 9.8e11, .unit = Unit::bf16};
  EXPECT_THAT(impossible(1.05e-3, copy, roof, 3e9), IsEmpty());
  EXPECT_THAT(impossible(0.98e-3, copy, roof, 3e9), IsEmpty()) << "within the noise of the copy itself";
  EXPECT_THAT(impossible(0.96e-3, copy, roof, 3e9), HasSubstr("above the measured copy, 3000.0 GB/s"));
  EXPECT_THAT(impossible(0.96e-3, copy, roof, 1e6), IsEmpty()) << "in a cache it may be faster";
  EXPECT_THAT(impossible(1.01e-3, product, roof, 1e6), IsEmpty());
  EXPECT_THAT(impossible(0.99e-3, product, roof, 1e6), HasSubstr("above the card's peak, 980.0 TFLOP/s"));
  EXPECT_THAT(impossible(4.1e-6, {.steps = 20}, roof, 0), IsEmpty());
  EXPECT_THAT(impossible(3.9e-6, {.steps = 20}, roof, 0), HasSubstr("above what any recurrence does"));
  for (const double seconds : {0.0, -1.0, std::nan("")}) EXPECT_NE(impossible(seconds, copy, roof, 0), "");
  EXPECT_THAT(impossible(1e-9, product, {}, 1e9), IsEmpty()) << "a roof that is not known";
}

}  // namespace
}  // namespace adjoint::bench
