#include "kernels/cpu/thread_pool.h"

#include <algorithm>
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
/// How long a leader waits for workers before the first step: they are there at once unless they sleep.
constexpr int kJoinSpins = 64;

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

/// Waits until done(): spinning for a while, then leaving the core to others. Says whether it took less than that.
template <class F>
bool wait_for(F&& done) {
  int spins = 0;
  for (; !done(); ++spins) {
    if (spins < kSpins) {
      pause_briefly();
    } else {
      std::this_thread::yield();
    }
  }
  return spins <= kSpins;
}

thread_local bool inside_chunk = false;

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::mutex one_fork;  // two host threads may share a pool

  // A fork publishes the job, then opens the gate to it under a new number. Workers enter while it is open; the forker
  // closes it when all is done and leaves when no worker is inside. One that was asleep meanwhile is not missed.
  static constexpr std::uint32_t kInside = 0xff, kOpen = 0x100, kNumber = 0x200;
  alignas(64) std::atomic<std::uint32_t> gate{0};  // forks so far * kNumber + kOpen + workers inside
  std::atomic<bool> stop{false};

  alignas(64) Job job = nullptr;
  void* context = nullptr;
  std::int64_t chunks = 0;
  std::int64_t steps = 0;  // 0: chunks in any order
  int parts = 0;
  std::mutex error_mutex;
  std::exception_ptr error;
  alignas(64) std::atomic<std::int64_t> next{0};  // chunk

  // Steps taken together. The leader's word says how many it has done, which seats take part in the last one and which
  // in the next; a seat's, that its worker is there, then how many it has done. All meet by reading all words.
  static constexpr int kMostParts = 8;
  static constexpr std::uint64_t kStep = 1 << 16, kTaking = 1 << 8;
  static constexpr std::uint64_t kThere = 1, kDone = 2;  // a seat's words: absent (0), there, kDone + steps done
  struct alignas(64) Word {
    std::atomic<std::uint64_t> value{0};
  };
  Word leader, seats[kMostParts];

  void call(std::int64_t c) {
    try {
      job(context, c);
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  }

  void take_chunks() {
    for (std::int64_t c; (c = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) call(c);
  }

  static bool takes_part(std::uint64_t mask, int seat) { return ((mask >> seat) & 1) != 0; }
  /// Waits for the seats of a mask, but for `mine`; returns those that kept it waiting for long.
  std::uint64_t meet(std::uint64_t mask, int mine, std::uint64_t done) {
    std::uint64_t late = 0;
    for (int seat = 1; seat < parts; ++seat)
      if (seat != mine && takes_part(mask, seat) &&
          !wait_for([&] { return seats[seat].value.load(std::memory_order_acquire) >= kDone + done; }))
        late |= std::uint64_t{1} << seat;
    return late;
  }

  void lead() {
    std::uint64_t now = 0, late = 0;
    const auto next_seats = [&] {
      std::uint64_t mask = 0;
      for (int seat = 1; seat < parts; ++seat)
        if (!takes_part(late, seat) && seats[seat].value.load(std::memory_order_acquire) != 0)
          mask |= std::uint64_t{1} << seat;
      return mask;
    };
    const std::uint64_t all = (std::uint64_t{1} << parts) - 2;
    for (int spins = 0; spins < kJoinSpins && next_seats() != all; ++spins) pause_briefly();
    now = next_seats();
    leader.value.store(now, std::memory_order_release);
    for (std::int64_t step = 0; step < steps; ++step) {
      for (int part = 0; part < parts; ++part)
        if (!takes_part(now, part)) call(step * parts + part);
      const std::uint64_t done = static_cast<std::uint64_t>(step) + 1;
      const std::uint64_t then = step + 1 < steps ? next_seats() : 0;
      leader.value.store(done * kStep + now * kTaking + then, std::memory_order_release);
      late |= meet(now, 0, done);
      now = then;
    }
  }

  void follow(int seat) {
    seats[seat].value.store(kThere, std::memory_order_release);
    const auto last = static_cast<std::uint64_t>(steps);
    std::uint64_t word = 0, done = 0;
    wait_for([&] {
      word = leader.value.load(std::memory_order_acquire);
      return takes_part(word, seat) || takes_part(word / kTaking, seat) || word / kStep == last;
    });
    for (bool first = true;; first = false) {
      const std::uint64_t led = word / kStep;
      if (takes_part(word / kTaking, seat) && (first || led > done)) {
        done = led - 1;  // the leader, ahead in the step to take now, has met all others before it
      } else if (takes_part(word, seat)) {
        done = led;
        meet(word / kTaking & 0xff, seat, done);
      } else {
        return;
      }
      call(static_cast<std::int64_t>(done) * parts + seat);
      ++done;
      seats[seat].value.store(kDone + done, std::memory_order_release);
      wait_for([&] { return (word = leader.value.load(std::memory_order_acquire)) / kStep >= done; });
    }
  }

  void worker(int index) {
    inside_chunk = true;
    std::uint32_t seen = 0;
    for (int spins = 0;;) {
      std::uint32_t now = gate.load(std::memory_order_acquire);
      if ((now & kOpen) == 0 || now / kNumber == seen) {
        if (++spins < kSpins) {
          pause_briefly();
        } else {
          gate.wait(now, std::memory_order_acquire);
        }
        continue;
      }
      if (!gate.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) continue;
      spins = 0;
      seen = now / kNumber;
      if (stop.load(std::memory_order_relaxed)) return;
      if (steps == 0) {
        take_chunks();
      } else if (index < parts) {
        follow(index);
      }
      gate.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  void open() {
    gate.store((gate.load(std::memory_order_relaxed) / kNumber + 1) * kNumber + kOpen, std::memory_order_release);
    gate.notify_all();
  }
  /// The forker's side of a job.
  template <class F>
  void run(F&& mine) {
    error = nullptr;
    open();
    inside_chunk = true;
    mine();
    inside_chunk = false;
    gate.fetch_and(~kOpen, std::memory_order_acq_rel);
    wait_for([&] { return (gate.load(std::memory_order_acquire) & kInside) == 0; });
    if (error) std::rethrow_exception(error);
  }
};

ThreadPool::ThreadPool(int threads, int cores)
    : threads_(threads < 1 ? 1 : threads), state_(std::make_unique<State>()) {
  if (cores == 0) cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  most_parts_ = std::min({threads_, cores, State::kMostParts});
  for (int i = 1; i < threads_; ++i) state_->workers.emplace_back([s = state_.get(), i] { s->worker(i); });
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_relaxed);
  state_->open();
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
  s.steps = 0;
  s.next.store(0, std::memory_order_relaxed);
  s.run([&] { s.take_chunks(); });
}

void ThreadPool::fork_steps(std::int64_t steps, int parts, Job job, void* context) {
  if (inside_chunk) {
    for (std::int64_t c = 0; c < steps * parts; ++c) job(context, c);
    return;
  }
  if (steps == 0) return;
  State& s = *state_;
  const std::lock_guard lock(s.one_fork);
  s.job = job;
  s.context = context;
  s.steps = steps;
  s.parts = parts;
  s.leader.value.store(0, std::memory_order_relaxed);
  for (State::Word& seat : s.seats) seat.value.store(0, std::memory_order_relaxed);
  s.run([&] { s.lead(); });
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
