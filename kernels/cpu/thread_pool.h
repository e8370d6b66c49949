#pragma once
// Fork and join over chunks, or over steps that threads take together. What an element becomes must depend on the shape
// alone, never on the number of threads: that is what makes results equal, bit for bit, for any number of threads.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "kernels/base/backend.h"

namespace adjoint::cpu {

class ThreadPool {
 public:
  /// `threads`: 256 at most. `cores`: of the machine that this process may use; 0: as the system says.
  explicit ThreadPool(int threads, int cores = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }
  /// The most parts that run_steps may have: threads that have a core each, since they wait for each other.
  int most_parts() const { return most_parts_; }

  /// Calls f(c) once for each c in [0, chunks), on this thread and the workers; returns when all are done. Chunks are
  /// taken in rising order by whoever is free. The first exception is rethrown here. A call from inside a chunk runs
  /// inline. A worker that comes too late for any chunk is not waited for.
  template <class F>
  void run(std::int64_t chunks, F&& f) {
    if (threads_ == 1 || chunks <= 1) {
      for (std::int64_t c = 0; c < chunks; ++c) f(c);
      return;
    }
    using Function = std::remove_reference_t<F>;
    fork(
        chunks, [](void* context, std::int64_t c) { (*static_cast<Function*>(context))(c); },
        const_cast<void*>(static_cast<const void*>(std::addressof(f))));
  }

  /// Calls f(step, part) for each step in [0, steps) and part in [0, parts), all parts of a step before any of the
  /// next; parts is at most most_parts(). Part p is the same worker's at every step, so that what it touches stays in
  /// one core's cache; parts of workers that are not there are this thread's, which goes on without one that is late.
  /// A step should take a microsecond at least: the threads meet after each in about 0.2 us. Exceptions and calls from
  /// inside as for run().
  template <class F>
  void run_steps(std::int64_t steps, int parts, F&& f) {
    if (parts == 1) {
      for (std::int64_t s = 0; s < steps; ++s) f(s, 0);
      return;
    }
    const auto one = [&](std::int64_t c) { f(c / parts, static_cast<int>(c % parts)); };
    fork_steps(
        steps, parts, [](void* context, std::int64_t c) { (*static_cast<decltype(one)*>(context))(c); },
        const_cast<void*>(static_cast<const void*>(std::addressof(one))));
  }

 private:
  using Job = void (*)(void*, std::int64_t);
  void fork(std::int64_t chunks, Job job, void* context);
  void fork_steps(std::int64_t steps, int parts, Job job, void* context);

  struct State;
  int threads_, most_parts_;
  std::unique_ptr<State> state_;
};

/// Below this many scalar operations a call is not worth waking a thread for (about 20 us).
constexpr std::int64_t kInlineWork = 60'000;

/// Splits [0, n) into chunks of `grain` and calls f(begin, end) for each. Runs inline when the whole is small:
/// n * work_per_item scalar operations below kInlineWork. The chunk boundaries are the same either way.
template <class F>
void parallel_for(const At& at, std::int64_t n, std::int64_t grain, std::int64_t work_per_item, F&& f) {
  const std::int64_t chunks = (n + grain - 1) / grain;
  const auto chunk = [&](std::int64_t c) { f(c * grain, c * grain + grain < n ? c * grain + grain : n); };
  if (n * work_per_item < kInlineWork) {
    for (std::int64_t c = 0; c < chunks; ++c) chunk(c);
  } else {
    at.pool->run(chunks, chunk);
  }
}

/// Temporary memory of this thread, at least `bytes`, 64-byte aligned; valid until the next call with the same slot.
/// Slots keep nested users apart: 0..4 are a kernel's own, 5..7 belong to the products it may call (gemm_tile.h).
void* thread_buffer(int slot, std::size_t bytes);

}  // namespace adjoint::cpu
