#pragma once
// Fork and join over chunks. What a chunk computes must depend on the shape alone, never on the number of threads: that
// is what makes results equal, bit for bit, for any number of threads.

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
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  /// Calls f(c) once for each c in [0, chunks), on this thread and the workers; returns when all are done. Chunks are
  /// taken in rising order by whoever is free. The first exception is rethrown here. A call from inside a chunk runs
  /// inline.
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

 private:
  using Job = void (*)(void*, std::int64_t);
  void fork(std::int64_t chunks, Job job, void* context);

  struct State;
  int threads_;
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
