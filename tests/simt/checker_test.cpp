// What the checker says about memory it was told of. The planted bugs show that it finds races; here is its
// book-keeping.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/cuda/compat.h"
#include "kernels/simt/buffer.h"
#include "tests/simt/cases.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

__global__ void copy(const float* __restrict__ from, float* __restrict__ to, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) to[i] = from[i];
}

std::string copy_fault(const float* from, float* to, int n) {
  try {
    launch(copy, dim3((n + 31) / 32), dim3(32), 0, nullptr, from, to, n);
  } catch (const Fault& e) {
    return e.what();
  }
  return "no fault";
}

TEST(Checker, Names_buffer_offset_source_line_and_thread) {
  Buffer<float> from(std::vector<float>(40, 1.0f), "source"), to(32, "target");
  self_test::Under under({Order::ascending, 1, self_test::kNan});
  EXPECT_EQ(copy_fault(from, to, 32), "no fault");
  EXPECT_THAT(copy_fault(from, to, 40),
              AllOf(HasSubstr("block (1,0,0) thread ("), HasSubstr("out of bounds: write of 4 bytes"),
                    HasSubstr("at checker_test.cpp:"), HasSubstr("bytes past the end of target (128 bytes)")));
}

TEST(Checker, Knows_what_was_never_written) {
  Buffer<float> from(32, "source"), to(32, "target");
  EXPECT_THAT(copy_fault(from, to, 32), HasSubstr("uninitialised read: read of 4 bytes at source + "));
  mark_initialised(from, 16 * sizeof(float));
  EXPECT_EQ(copy_fault(from, to, 16), "no fault");
  EXPECT_THAT(copy_fault(from, to, 17), HasSubstr("at source + 64 (of 128 bytes)"));
  zero(from, 32 * sizeof(float), nullptr);
  EXPECT_EQ(copy_fault(from, to, 32), "no fault");
  poison(from, 32 * sizeof(float));
  EXPECT_THAT(copy_fault(from, to, 32), HasSubstr("uninitialised read"));
}

TEST(Checker, Forgets_a_buffer_that_was_unregistered) {
  std::vector<float> from(32, 1.0f), to(32);
  EXPECT_THAT(copy_fault(from.data(), to.data(), 32), HasSubstr("outside all kernel memory"));
  register_buffer(from.data(), 32 * sizeof(float), "source", true);
  register_buffer(to.data(), 32 * sizeof(float), "target");
  EXPECT_EQ(copy_fault(from.data(), to.data(), 32), "no fault");
  unregister_buffer(from.data());
  EXPECT_THAT(copy_fault(from.data(), to.data(), 32), HasSubstr("outside all kernel memory"));
  unregister_buffer(to.data());
}

TEST(Checker, Takes_no_overrun_for_an_access_to_the_next_buffer) {
  Buffer<float> from(std::vector<float>(32, 1.0f), "source"), next(std::vector<float>(4096, 1.0f), "next");
  Buffer<float> to(32, "target");
  for (int past = 0; past < 4096; past += 512) {
    EXPECT_THAT(copy_fault(from + 32 + past, to, 32), HasSubstr("outside all kernel memory"));
  }
}

/// In ascending order the reader comes first: only the write can notice.
__global__ void read_then_written(float* x, float* out) {
  if (threadIdx.x == 0) out[0] = x[0];
  if (threadIdx.x == 40) x[0] = 2.0f;
}

TEST(Checker, Sees_a_write_after_anothers_read) {
  self_test::Under under({Order::ascending, 1, self_test::kNan});
  Buffer<float> x(std::vector<float>(1, 1.0f), "x"), out(1, "out");
  try {
    launch(read_then_written, dim3(1), dim3(64), 0, nullptr, x, out);
    ADD_FAILURE() << "no race was reported";
  } catch (const Fault& e) {
    EXPECT_THAT(e.what(), AllOf(HasSubstr("thread (40,0,0): race: write of 4 bytes at x + 0"),
                                HasSubstr("; read by thread (0,0,0) at checker_test.cpp:")));
  }
}

/// The two halves of a word in turn.
__global__ void write_halves(bf16* x) { x[threadIdx.x % 2] = bf16(1.0f); }

TEST(Checker, Tells_neighbouring_small_elements_apart) {
  self_test::Under under({Order::ascending, 1, self_test::kNan});
  Buffer<bf16> x(2, "x");
  launch(write_halves, dim3(1), dim3(2), 0, nullptr, x);
  // The third writer meets the first one's half, after the second has written to the same word.
  EXPECT_THROW(launch(write_halves, dim3(1), dim3(3), 0, nullptr, x), Fault);
}

TEST(Checker, Can_interrupt_threads_at_any_memory_access) {
  for (const self_test::Case& c : self_test::all_cases()) {
    if (c.bug != self_test::Bug::none) continue;
    self_test::Under under({Order::random, 1, self_test::kNan});
    options().preempt = 50;
    try {
      c.run();
    } catch (const std::exception& e) {
      ADD_FAILURE() << c.kernel << ": " << e.what();
    }
  }
}

}  // namespace
}  // namespace adjoint::simt
