// The allocator of device memory: how much of it lies idle, and what happens when there is no more.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "engine/storage.h"
#include "engine/tensor.h"
#include "tests/device/faults.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

/// An allocator that caches, also on the executor, whose own does not.
struct Owned {
  Allocator* allocator = new Allocator(default_device());
  ~Owned() { allocator->orphan(); }
  Allocator* operator->() const { return allocator; }
};

TEST(GpuAllocator, Reserves_at_most_1_5_times_what_was_live_at_once) {
  Faults driver;
  Owned allocator;
  std::mt19937_64 random(1);
  struct Block {
    StorageRef storage;
    std::size_t bytes;
  };
  std::vector<Block> live;
  std::size_t live_bytes = 0, peak = 0;
  double worst = 0;
  for (int i = 0; i < 10000; ++i) {
    // Phases with other sizes, as batches of other lengths bring them; lifetimes from one allocation to thousands.
    const double largest = 4 + 6 * std::abs(std::sin(i / 1500.0));
    const auto bytes = static_cast<std::size_t>(std::exp2(8 + std::uniform_real_distribution(0.0, largest)(random)));
    live.push_back({StorageRef(allocator->allocate(bytes)), bytes});
    live_bytes += bytes;
    peak = std::max(peak, live_bytes);
    while (live.size() > random() % 400) {
      const std::size_t which = random() % live.size();
      live_bytes -= live[which].bytes;
      live[which] = std::move(live.back());
      live.pop_back();
    }
    const AllocatorStatistics now = allocator->statistics();
    ASSERT_EQ(now.reserved, driver.memory_in_use());
    ASSERT_EQ(now.live, live.size());
    worst = std::max(worst, static_cast<double>(now.reserved) / static_cast<double>(peak));
    ASSERT_LE(static_cast<double>(now.reserved), 1.5 * static_cast<double>(peak)) << "allocation " << i;
  }
  const AllocatorStatistics end = allocator->statistics();
  EXPECT_LT(end.system_allocations, end.allocations / 2) << "it caches next to nothing";
  std::printf("reserved at most %.2f times the peak; %llu of %llu blocks came from the driver\n", worst,
              static_cast<unsigned long long>(end.system_allocations),
              static_cast<unsigned long long>(end.allocations));
}

TEST(GpuAllocator, Gives_its_cache_back_and_tries_again) {
  Faults driver;
  Owned allocator;
  driver.set_memory(3 << 20);
  { const StorageRef first(allocator->allocate(2 << 20)); }
  EXPECT_EQ(driver.live_blocks(), 1u) << "it is kept for reuse";
  const StorageRef held(allocator->allocate(2560 << 10));
  EXPECT_EQ(driver.live_blocks(), 1u) << "its place was needed";
  expect_error([&] { allocator->allocate(1 << 20); }, "E-GPU-002",
               "requested 1.0 MiB, in use 2.5 MiB, limit the device's; in an op outside of layers; try a smaller",
               Exit::device);
  EXPECT_EQ(allocator->statistics().live, 1u);
}

TEST(GpuAllocator, Gives_the_devices_cache_to_an_arena) {
  if (default_device().type == DeviceType::simt) GTEST_SKIP() << "the executor's own allocator has no cache";
  Allocator& own = Allocator::of(default_device());
  Allocator* const arena = new Allocator(default_device(), false, true);
  Faults driver;
  { const StorageRef cached(own.allocate(64 << 20)); }
  driver.set_memory(driver.memory_in_use() + (1 << 20));
  const StorageRef held(arena->allocate(64 << 20));
  EXPECT_EQ(own.statistics().reserved, own.statistics().in_use);
  arena->orphan();
}

}  // namespace
}  // namespace adjoint::testing
