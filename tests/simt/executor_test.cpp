// What the executor does and what it says, on kernels of a few lines.

#include "kernels/simt/executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/compat.h"
#include "kernels/simt/buffer.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

/// The message of the Fault that a launch throws.
template <class F>
std::string fault_of(F f) {
  try {
    f();
  } catch (const Fault& e) {
    return e.what();
  }
  return "no fault";
}

template <class... P, class... A>
std::string launch_fault(void (*kernel)(P...), unsigned threads, std::size_t shared, A... arguments) {
  return fault_of([&] { launch(kernel, dim3(2), dim3(threads), shared, nullptr, arguments...); });
}

__global__ void write_index(int* out) {
  int i = (blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x * blockDim.y + threadIdx.y * blockDim.x + threadIdx.x;
  out[i] = i;
}

TEST(Launch, Runs_every_thread_of_every_block_once) {
  Buffer<int> out(3 * 2 * 40 * 2, "out");
  launch(write_index, dim3(3, 2), dim3(40, 2), 0, nullptr, out);
  std::vector<int> want(out.size());
  for (std::size_t i = 0; i < want.size(); ++i) want[i] = static_cast<int>(i);
  EXPECT_EQ(out.host(), want);
}

TEST(Launch, Refuses_what_no_gpu_would_run) {
  auto with = [](dim3 grid, dim3 block, std::size_t shared) {
    return fault_of([&] { launch(write_index, grid, block, shared, nullptr, nullptr); });
  };
  EXPECT_THAT(with(dim3(1), dim3(1025), 0), HasSubstr("bad block size 1025x1x1"));
  EXPECT_THAT(with(dim3(1), dim3(0), 0), HasSubstr("bad block size 0x1x1"));
  EXPECT_THAT(with(dim3(0), dim3(32), 0), HasSubstr("bad grid size 0x1x1"));
  EXPECT_THAT(with(dim3(1, 65536), dim3(32), 0), HasSubstr("bad grid size 1x65536x1"));
  EXPECT_THAT(with(dim3(1), dim3(32), 228 << 10), HasSubstr("233472 bytes of dynamic shared memory"));
}

__global__ void order_of_blocks(int* next, int* order) {
  if (threadIdx.x == 0) order[atomicAdd(next, 1)] = blockIdx.x;
}

std::vector<int> block_order(std::uint64_t seed) {
  self_test::Under under({Order::skewed, seed, self_test::kNan});
  Buffer<int> next(std::vector<int>{0}, "next"), order(16, "order");
  launch(order_of_blocks, dim3(16), dim3(32), 0, nullptr, next, order);
  return order.host();
}

TEST(Launch, Shuffles_blocks_by_the_seed) {
  EXPECT_EQ(block_order(1), block_order(1));
  EXPECT_NE(block_order(1), block_order(2));
  std::vector<int> sorted = block_order(1);
  std::sort(sorted.begin(), sorted.end());
  for (int i = 0; i < 16; ++i) EXPECT_EQ(sorted[i], i);
}

__global__ void throws() { throw std::string::npos; }
__global__ void throws_exception() { throw std::runtime_error("no such luck"); }

TEST(Launch, Reports_an_exception_and_can_go_on) {
  EXPECT_THAT(launch_fault(throws_exception, 32, 0), HasSubstr("exception in the kernel: no such luck"));
  if (!has_checker()) {  // which objects to the kernel's writing a number to memory that is not the kernel's
    EXPECT_THAT(launch_fault(throws, 32, 0), HasSubstr("exception in the kernel: of an unknown type"));
  }
  Buffer<int> out(64, "out");
  EXPECT_EQ(launch_fault(write_index, 32, 0, out.get()), "no fault");
}

__global__ void nested() { launch(throws, dim3(1), dim3(1), 0, nullptr); }

TEST(Launch, Refuses_a_kernel_that_launches) {
  EXPECT_THAT(launch_fault(nested, 1, 0), HasSubstr("a kernel launched a kernel"));
}

// Barriers.

__global__ void two_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void early_return() {
  if (threadIdx.x == 5) return;
  __syncthreads();
}
__global__ void half_waits_in_a_shuffle() {
  if (threadIdx.x == 0) {
    __syncthreads();
  } else {
    __shfl_sync(0xffffffffu, 1, 0);
  }
}
__global__ void counts(int* out) {
  int odd = threadIdx.x % 2;
  int number = __syncthreads_count(odd), any = __syncthreads_or(threadIdx.x == 7), all = __syncthreads_and(odd);
  if (threadIdx.x == 0) {
    out[0] = number;
    out[1] = any;
    out[2] = all;
  }
}

TEST(Barrier, Must_be_the_same_for_all_threads) {
  for (const auto& schedule : self_test::schedules(2)) {
    self_test::Under under(schedule);
    EXPECT_THAT(launch_fault(two_barriers, 64, 0),
                AllOf(HasSubstr("divergent barrier"), HasSubstr("executor_test.cpp")));
    EXPECT_THAT(launch_fault(early_return, 64, 0), HasSubstr("return"));
  }
}

TEST(Barrier, That_never_fills_is_a_deadlock_and_says_who_waits_where) {
  EXPECT_THAT(launch_fault(half_waits_in_a_shuffle, 32, 0),
              AllOf(HasSubstr("deadlock"), HasSubstr("Thread (0,0,0) waits in __syncthreads at executor_test.cpp:"),
                    HasSubstr("Thread (1,0,0) waits in __shfl_sync")));
}

TEST(Barrier, Counts_predicates) {
  Buffer<int> out(3, "out");
  launch(counts, dim3(1), dim3(70), 0, nullptr, out);
  EXPECT_EQ(out.host(), (std::vector<int>{35, 1, 0}));
}

__global__ void first_warps(int* next, int* first) {
  for (int i = 0; i < 16; ++i) {
    if (threadIdx.x % 32 == 0 && atomicAdd(&next[i], 1) == 0) first[i] = threadIdx.x / 32;
    __syncthreads();
  }
}

TEST(Barrier, Gives_the_lead_to_another_warp_in_the_skewed_order) {
  self_test::Under under({Order::skewed, 1, self_test::kNan});
  Buffer<int> next(std::vector<int>(16, 0), "next"), first(16, "first");
  launch(first_warps, dim3(1), dim3(256), 0, nullptr, next, first);
  std::vector<int> warps = first.host();
  EXPECT_GE(std::set<int>(warps.begin(), warps.end()).size(), 4u) << "of 8 warps, in 16 rounds";
}

// Warp collectives.

enum class Shuffle { index, up, down, exclusive_or };

__global__ void shuffle(int* out, Shuffle kind, int argument, int width) {
  int lane = threadIdx.x, v = 100 + lane;
  int r = kind == Shuffle::index  ? __shfl_sync(0xffffffffu, v, argument, width)
          : kind == Shuffle::up   ? __shfl_up_sync(0xffffffffu, v, argument, width)
          : kind == Shuffle::down ? __shfl_down_sync(0xffffffffu, v, argument, width)
                                  : __shfl_xor_sync(0xffffffffu, v, argument, width);
  out[lane] = r;
}

std::vector<int> shuffled(Shuffle kind, int argument, int width) {
  Buffer<int> out(32, "out");
  launch(shuffle, dim3(1), dim3(32), 0, nullptr, out, kind, argument, width);
  return out.host();
}

TEST(WarpShuffle, Moves_values_as_the_programming_guide_says) {
  for (int width : {2, 8, 32}) {
    for (int argument : {0, 1, 3, 5, 16, 31}) {
      auto index = shuffled(Shuffle::index, argument, width), up = shuffled(Shuffle::up, argument, width);
      auto down = shuffled(Shuffle::down, argument, width), flip = shuffled(Shuffle::exclusive_or, argument, width);
      for (int lane = 0; lane < 32; ++lane) {
        int first = lane / width * width, at = lane % width;
        EXPECT_EQ(index[lane], 100 + first + argument % width);
        EXPECT_EQ(up[lane], 100 + (at >= argument ? lane - argument : lane));
        EXPECT_EQ(down[lane], 100 + (at + argument < width ? lane + argument : lane));
        EXPECT_EQ(flip[lane], 100 + ((lane ^ argument) < first + width ? lane ^ argument : lane));
      }
    }
  }
}

__global__ void shuffle_from_absent_lane(unsigned* out) {
  unsigned v = 1;
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, v, threadIdx.x + 16);
}
__global__ void other_operation() {
  if (threadIdx.x % 2 == 0) {
    __shfl_sync(0xffffffffu, 1, 0);
  } else {
    __ballot_sync(0xffffffffu, 1);
  }
}
__global__ void bad_width() { __shfl_sync(0xffffffffu, 1, 0, 12); }
__global__ void votes(unsigned* out) {
  unsigned ballot = __ballot_sync(0xffffffffu, threadIdx.x % 3 == 0);
  int any = __any_sync(0xffffffffu, threadIdx.x == 9), all = __all_sync(0xffffffffu, threadIdx.x < 32);
  if (threadIdx.x == 0) {
    out[0] = ballot;
    out[1] = any;
    out[2] = all;
  }
}

TEST(WarpShuffle, From_a_lane_that_takes_no_part_is_poison) {
  Buffer<unsigned> out(16, "out");
  launch(shuffle_from_absent_lane, dim3(1), dim3(32), 0, nullptr, out);
  for (unsigned v : out.host()) EXPECT_EQ(v, options().poison);
}

TEST(WarpCollective, Must_be_the_same_operation_for_all_lanes) {
  EXPECT_THAT(launch_fault(other_operation, 32, 0), AllOf(HasSubstr("warp mismatch"), HasSubstr("__ballot_sync at")));
  EXPECT_THAT(launch_fault(bad_width, 32, 0), HasSubstr("width is not a power of two"));
}

TEST(WarpVote, Sees_every_lane) {
  Buffer<unsigned> out(3, "out");
  launch(votes, dim3(1), dim3(32), 0, nullptr, out);
  EXPECT_EQ(out.host(), (std::vector<unsigned>{0x49249249u, 1, 1}));
}

// Atomics.

__global__ void count_up(int* total, int* top, int* low) {
  atomicAdd(total, 1);
  atomicMax(top, static_cast<int>(threadIdx.x));
  atomicMin(low, -static_cast<int>(threadIdx.x));
}
__global__ void spin_lock(int* lock, int* total) {
  while (atomicCAS(lock, 0, 1) != 0) {
  }
  atomicAdd(total, 1);
  atomicExch(lock, 0);
}

TEST(Atomics, Add_up_under_every_schedule) {
  for (const auto& schedule : self_test::schedules(2)) {
    self_test::Under under(schedule);
    Buffer<int> values(std::vector<int>{0, 0, 0}, "values");
    launch(count_up, dim3(5), dim3(100), 0, nullptr, values.get(), values.get() + 1, values.get() + 2);
    EXPECT_EQ(values.host(), (std::vector<int>{500, 99, -99}));
  }
}

TEST(Atomics, Give_way_so_that_a_spinning_thread_cannot_hang_the_block) {
  for (const auto& schedule : self_test::schedules(2)) {
    self_test::Under under(schedule);
    Buffer<int> lock(std::vector<int>{0}, "lock"), total(std::vector<int>{0}, "total");
    launch(spin_lock, dim3(2), dim3(64), 0, nullptr, lock, total);
    EXPECT_EQ(total.host()[0], 128);
  }
}

// Shared memory.

__global__ void takes(std::size_t floats) {
  Smem smem;
  smem.take<float>(floats);
  smem.take<float>(floats);
}
__global__ void takes_by_thread() {
  Smem smem;
  smem.take<char>(64 + threadIdx.x);
}
__global__ void copies_poison(std::uint32_t* out) {
  __shared__ SharedArray<std::uint32_t, 1> word;
  Smem smem;
  std::uint32_t* dynamic = smem.take<std::uint32_t>(1);
  if (threadIdx.x == 0) {
    out[2 * blockIdx.x] = word.data[0];
    out[2 * blockIdx.x + 1] = dynamic[0];
    word[0] = dynamic[0] = 7;
  }
}
__global__ void index_past_the_end() {
  __shared__ SharedArray<float, 8> part;
  part[threadIdx.x] = 0;
}

TEST(SharedMemory, Ends_where_the_launch_said) {
  EXPECT_EQ(launch_fault(takes, 32, 256, std::size_t{32}), "no fault");
  EXPECT_THAT(launch_fault(takes, 32, 252, std::size_t{32}),
              HasSubstr("shared memory ends at byte 256, the launch gave 252"));
  EXPECT_THAT(launch_fault(takes_by_thread, 32, 1024), HasSubstr("in another thread"));
  EXPECT_THAT(launch_fault(index_past_the_end, 32, 0), HasSubstr("static shared array of 8 elements: index"));
}

TEST(SharedMemory, Is_poisoned_for_every_block) {
  self_test::Under under({Order::ascending, 1, 0x12345678u});
  Buffer<std::uint32_t> out(6, "out");
  if (has_checker()) {
    EXPECT_THAT(launch_fault(copies_poison, 32, 4, out.get()), HasSubstr("uninitialised read"));
    return;
  }
  launch(copies_poison, dim3(3), dim3(32), 4, nullptr, out);
  EXPECT_EQ(out.host(), std::vector<std::uint32_t>(6, 0x12345678u));
}

}  // namespace
}  // namespace adjoint::simt
