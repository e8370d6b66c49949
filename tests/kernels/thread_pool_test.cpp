#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <thread>
#include <vector>

namespace adjoint::cpu {
namespace {

/// Takes a while.
void spend(int rounds) {
  std::atomic<int> left = rounds;
  while (left.fetch_sub(1, std::memory_order_relaxed) > 0) {
  }
}

/// Each element of a step is a sum of all elements of the step before: wrong as soon as a part is left out, done twice
/// or not waited for.
std::vector<std::uint64_t> mix(ThreadPool& pool, std::int64_t steps, int parts, int uneven) {
  std::vector<std::uint64_t> now(static_cast<std::size_t>(parts)), next(now);
  for (std::size_t i = 0; i < now.size(); ++i) now[i] = i + 1;
  pool.run_steps(steps, parts, [&](std::int64_t step, int part) {
    std::vector<std::uint64_t>&from = step % 2 == 0 ? now : next, &to = step % 2 == 0 ? next : now;
    if (uneven != 0) spend(static_cast<int>((step * 7 + part * 13) % uneven));
    std::uint64_t sum = static_cast<std::uint64_t>(step * parts + part);
    for (const std::uint64_t v : from) sum = sum * 31 + v;
    to[static_cast<std::size_t>(part)] = sum;
  });
  return steps % 2 == 0 ? now : next;
}

TEST(ThreadPool, Runs_each_chunk_once) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> runs(37);
      pool.run(37, [&](std::int64_t c) { ++runs[static_cast<std::size_t>(c)]; });
      for (const std::atomic<int>& n : runs) ASSERT_EQ(n, 1);
    }
  }
}

TEST(ThreadPool, Has_room_for_all_workers_that_there_may_be) {
  ThreadPool pool(256);
  for (int round = 0; round < 5; ++round) {
    std::atomic<int> runs = 0;
    pool.run(1000, [&](std::int64_t) {
      spend(1000);
      ++runs;
    });
    ASSERT_EQ(runs, 1000);
  }
}

TEST(ThreadPool, Takes_steps_one_after_the_other_whoever_takes_part) {
  ThreadPool alone(1);
  for (const int threads : {2, 3, 4, 8, 16}) {
    ThreadPool pool(threads, threads);
    ASSERT_EQ(pool.most_parts(), std::min(threads, 8));
    for (int round = 0; round < 300; ++round) {
      const std::int64_t steps = round % 7;
      const int parts = 2 + round % (pool.most_parts() - 1), uneven = round % 3 * 200;
      // Workers that had to wait for long sleep, and come late to the next call.
      if (round % 50 == 49) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ASSERT_EQ(mix(pool, steps, parts, uneven), mix(alone, steps, parts, 0))
          << threads << " threads, " << steps << " steps in " << parts << " parts";
    }
  }
}

TEST(ThreadPool, Has_parts_for_threads_that_have_a_core_each) {
  EXPECT_EQ(ThreadPool(4, 2).most_parts(), 2);
  EXPECT_EQ(ThreadPool(1, 2).most_parts(), 1);
  EXPECT_EQ(ThreadPool(2, 1).most_parts(), 1);
}

TEST(ThreadPool, Passes_on_what_a_part_throws_and_runs_calls_from_inside_inline) {
  ThreadPool pool(2, 2);
  EXPECT_THROW(pool.run_steps(3, 2,
                              [](std::int64_t step, int part) {
                                if (step == 1 && part == 1) throw std::runtime_error("planned");
                              }),
               std::runtime_error);
  EXPECT_THROW(pool.run(4,
                        [](std::int64_t c) {
                          if (c == 2) throw std::runtime_error("planned");
                        }),
               std::runtime_error);
  std::atomic<int> runs = 0;
  pool.run_steps(2, 2, [&](std::int64_t, int) {
    pool.run_steps(3, 2, [&](std::int64_t, int) { ++runs; });
    pool.run(5, [&](std::int64_t) { ++runs; });
  });
  EXPECT_EQ(runs, 2 * 2 * (6 + 5));
}

}  // namespace
}  // namespace adjoint::cpu
