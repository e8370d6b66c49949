#include "kernels/cpu/thread_pool.h"

#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace adjoint::cpu {
namespace {

// Spinning for about 20 us bridges the gap between two kernels of a step; longer would take the core from others.
constexpr int kSpins = 4000;

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

thread_local bool inside_chunk = false;

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::mutex one_fork;  // two host threads may share a pool

  // A fork publishes job, context and chunks, then raises `generation`. Workers take chunks from `next`, and leave
  // `active` when none is left; the forker leaves when all chunks are done and no worker still looks at the job.
  Job job = nullptr;
  void* context = nullptr;
  std::int64_t chunks = 0;
  std::atomic<std::int64_t> next{0};
  std::atomic<std::uint32_t> generation{0};
  std::atomic<int> active{0};
  std::atomic<bool> stop{false};
  std::mutex error_mutex;
  std::exception_ptr error;

  void work() {
    inside_chunk = true;
    for (std::int64_t c; (c = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) {
      try {
        job(context, c);
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
      }
    }
    inside_chunk = false;
  }

  void worker() {
    std::uint32_t seen = 0;
    for (;;) {
      int spins = 0;
      std::uint32_t now;
      while ((now = generation.load(std::memory_order_acquire)) == seen) {
        if (++spins < kSpins) {
          pause_briefly();
        } else {
          generation.wait(seen, std::memory_order_acquire);
        }
      }
      seen = now;
      if (stop.load(std::memory_order_relaxed)) return;
      work();
      active.fetch_sub(1, std::memory_order_acq_rel);
    }
  }
};

ThreadPool::ThreadPool(int threads) : threads_(threads < 1 ? 1 : threads), state_(std::make_unique<State>()) {
  for (int i = 1; i < threads_; ++i) state_->workers.emplace_back([s = state_.get()] { s->worker(); });
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_relaxed);
  state_->generation.fetch_add(1, std::memory_order_release);
  state_->generation.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

void ThreadPool::fork(std::int64_t chunks, Job job, void* context) {
  if (inside_chunk) {
    for (std::int64_t c = 0; c < chunks; ++c) job(context, c);
    return;
  }
  State& s = *state_;
  const std::lock_guard lock(s.one_fork);
  s.job = job;
  s.context = context;
  s.chunks = chunks;
  s.error = nullptr;
  s.next.store(0, std::memory_order_relaxed);
  s.active.store(threads_ - 1, std::memory_order_relaxed);
  s.generation.fetch_add(1, std::memory_order_release);
  s.generation.notify_all();
  s.work();
  // Every worker passes through each generation, so waiting for all of them also means that none reads the job later.
  for (int spins = 0; s.active.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpins) {
      pause_briefly();
    } else {
      std::this_thread::yield();
    }
  }
  if (s.error) std::rethrow_exception(s.error);
}

void* thread_buffer(int slot, std::size_t bytes) {
  struct Buffer {
    void* data = nullptr;
    std::size_t size = 0;
    ~Buffer() { ::operator delete (data, std::align_val_t{64}); }
  };
  static thread_local Buffer buffers[8];
  Buffer& b = buffers[slot];
  if (b.size < bytes) {
    ::operator delete (b.data, std::align_val_t{64});
    b.data = nullptr;
    b.size = 0;
    const std::size_t size = bytes + bytes / 4;
    b.data = ::operator new (size, std::align_val_t{64});
    b.size = size;
  }
  return b.data;
}

}  // namespace adjoint::cpu
