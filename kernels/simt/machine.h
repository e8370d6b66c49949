#pragma once
// The executor's state. Internal to kernels/simt: kernels and tests see executor.h.

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/simt/collectives.h"
#include "kernels/simt/fiber.h"

namespace adjoint::simt::detail {

enum class State : std::uint8_t { ready, at_barrier, in_collective, done };

/// One cp.async between its issue and its wait.
struct CopyJob {
  void* to;
  const void* from;  // null: write zeros
  unsigned bytes;
  int group;
  void* pc;
  bool late;  // lands at the wait, not at the issue
};

/// One simulated thread.
struct Lane {
  Fiber fiber;
  uint3 id{};
  unsigned index = 0;  // in the block
  State state = State::done;
  const char* waits_in = "";
  Location waits_at;
  unsigned pieces = 0;  // of dynamic shared memory taken so far
  std::size_t shared_bytes = 0;
  int copy_groups = 0;  // committed so far
  std::vector<CopyJob> copies;
};

/// A collective that some lanes have reached. Disjoint masks may be in flight side by side.
struct Pending {
  unsigned mask, arrived;
  const char* what;
  Complete complete;
  Location at;
};

struct Warp {
  unsigned exists = 0, done = 0;
  int pending_count = 0;
  Pending pending[32];
  Lanes operands;
  std::uint32_t met[32][32];  // [a][b]: the time when lanes a and b last met in __syncwarp
};

struct Piece {  // of dynamic shared memory; reused from block to block
  char* data;
  std::size_t bytes;
  std::uint32_t block;  // the last one that took it
};

struct StaticArray {
  void* data;
  std::size_t bytes;
};

/// The checker's entry points; null in builds without it. Apart from Machine and constant-initialised, because the
/// checker installs itself before main, in no known order with Machine's constructor.
struct Checker {
  void (*access)(const void* data, std::size_t bytes, Access access, void* pc) = nullptr;
  void (*add)(const void* data, std::size_t bytes, std::size_t element, bool shared, bool initialised,
              const char* name) = nullptr;
  void (*remove)(const void* data) = nullptr;
  void (*set_initialised)(const void* data, std::size_t bytes, bool initialised) = nullptr;
};

extern Checker checker;

/// Where the compiler's calls arrive in the checker's build.
void hook(void* data, std::size_t bytes, Access access, void* pc);

struct Machine {
  Options options;
  Stats stats;
  std::mutex one_launch;  // also guards the checker's table of buffers

  Fiber host;
  Lane* current = nullptr;
  std::vector<std::unique_ptr<Lane>> pool;
  Lane* lanes[1024] = {};
  Warp warps[32];
  std::uint32_t ready[32] = {};   // by warp: a bit a lane
  std::uint32_t ready_ranks = 0;  // a bit a rank: that warp has a ready lane
  std::uint8_t rank_of_warp[32], warp_of_rank[32];

  unsigned threads = 0, alive = 0, arrived = 0;
  const char* barrier = nullptr;  // what the threads that have arrived wait in
  Location barrier_at;
  int predicates = 0, predicate_result[2] = {};  // two, since a fast thread may be at the next barrier already
  unsigned barrier_phase = 0;

  std::vector<Piece> pieces;
  std::size_t shared_bytes = 0;
  std::vector<StaticArray> static_arrays;

  void (*entry)(void*) = nullptr;
  void* entry_argument = nullptr;
  std::string error;
  std::uint64_t random = 1;
  // Block numbers and barrier times count up over all launches; they are what the checker orders accesses by.
  std::uint32_t clock = 1, barrier_time = 1, block = 0, blocks_before_launch = 0;

  ~Machine();
};
extern Machine machine;

std::uint32_t random_bits();
void fill(void* data, std::size_t bytes, std::uint32_t pattern);
/// Lets another fiber run; the current one stays ready.
void give_way();
void wait_for_copies(Lane& lane, int groups);  // the first `groups` groups are complete afterwards

}  // namespace adjoint::simt::detail
