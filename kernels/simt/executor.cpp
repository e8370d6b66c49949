// Scheduling: which fiber runs next, barriers, warp collectives, and the life of a block and of a grid.

#include "kernels/simt/executor.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <utility>

#include "kernels/simt/machine.h"

namespace adjoint::simt {

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

Options& options() { return detail::machine.options; }
Stats& stats() { return detail::machine.stats; }
bool has_checker() { return detail::checker.access != nullptr; }
DeviceLimits device_limits() { return {options().multiprocessors, options().shared_memory_limit, 90}; }

namespace detail {

Machine machine;
constinit Checker checker{};
bool in_kernel = false;

namespace {

/// Executor code is not kernel code: no access checks inside it.
class Inside {
 public:
  Inside() { in_kernel = false; }
  ~Inside() { in_kernel = true; }
};

std::string_view file_name(const char* path) {
  std::string_view name = path;
  return name.substr(name.rfind('/') + 1);  // npos + 1 is 0
}
std::string place(const char* what, Location at) {
  return fmt::format("{} at {}:{}", what, file_name(at.file), at.line);
}
bool same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }  // one literal has few addresses
bool same(Location a, Location b) { return a.line == b.line && same(a.file, b.file); }

std::string deadlock() {
  std::string text = "deadlock: no thread of the block can go on.";
  int shown = 0;
  for (unsigned i = 0; i < machine.threads; ++i) {
    const Lane& lane = *machine.lanes[i];
    if (lane.state == State::done || ++shown > 6) continue;
    text += fmt::format(" Thread ({},{},{}) waits in {}.", lane.id.x, lane.id.y, lane.id.z,
                        place(lane.waits_in, lane.waits_at));
  }
  return fmt::format("block ({},{},{}): {}", blockIdx.x, blockIdx.y, blockIdx.z, text);
}

void make_ready(Lane& lane) {
  unsigned warp = lane.index / 32;
  lane.state = State::ready;
  machine.ready[warp] |= 1u << (lane.index % 32);
  machine.ready_ranks |= 1u << machine.rank_of_warp[warp];
}

/// Only while no lane is ready: ready_ranks is in terms of the ranks.
void draw_ranks() {
  for (unsigned w = 0; w < 32; ++w) {
    unsigned j = machine.options.order == Order::skewed ? random_bits() % (w + 1) : w;
    machine.warp_of_rank[w] = machine.warp_of_rank[j];
    machine.warp_of_rank[j] = static_cast<std::uint8_t>(w);
  }
  for (unsigned r = 0; r < 32; ++r) machine.rank_of_warp[machine.warp_of_rank[r]] = static_cast<std::uint8_t>(r);
}

unsigned lowest(std::uint32_t mask) { return static_cast<unsigned>(std::countr_zero(mask)); }
unsigned highest(std::uint32_t mask) { return 31 - static_cast<unsigned>(std::countl_zero(mask)); }
unsigned some_bit(std::uint32_t mask) {
  unsigned turn = random_bits() % 32;
  return (lowest(std::rotr(mask, static_cast<int>(turn))) + turn) % 32;
}

/// Hands the processor to a ready fiber, or to the host when there is none.
ADJOINT_SIMT_RAW void run_next(Fiber& from, bool from_ends = false) {
  ++machine.stats.switches;
  if (machine.ready_ranks == 0) {
    if (machine.alive != 0) machine.error = deadlock();
    machine.current = nullptr;
    return switch_fiber(from, machine.host, from_ends);
  }
  Order order = machine.options.order;
  unsigned rank = order == Order::ascending ? lowest(machine.ready_ranks)
                  : order == Order::random  ? some_bit(machine.ready_ranks)
                                            : highest(machine.ready_ranks);
  unsigned warp = machine.warp_of_rank[rank];
  std::uint32_t& mask = machine.ready[warp];
  unsigned bit = order == Order::ascending ? lowest(mask) : order == Order::descending ? highest(mask) : some_bit(mask);
  mask &= ~(1u << bit);
  if (mask == 0) machine.ready_ranks &= ~(1u << rank);
  Lane& next = *machine.lanes[warp * 32 + bit];
  machine.current = &next;
  threadIdx = next.id;
  if (&from != &next.fiber) switch_fiber(from, next.fiber, from_ends);
}

void release_block() {
  machine.predicate_result[machine.barrier_phase] = std::exchange(machine.predicates, 0);
  machine.barrier_phase ^= 1;
  machine.arrived = 0;
  machine.barrier = nullptr;
  machine.barrier_time = ++machine.clock;
  ++machine.stats.barriers;
  if (machine.ready_ranks == 0) draw_ranks();
  for (unsigned i = 0; i < machine.threads; ++i) {
    if (machine.lanes[i]->state == State::at_barrier) make_ready(*machine.lanes[i]);
  }
}

/// Completes the i-th pending collective of a warp if everybody it waits for has arrived or returned.
bool try_complete(unsigned warp_index, int i) {
  Warp& warp = machine.warps[warp_index];
  Pending pending = warp.pending[i];
  if ((pending.mask & ~(pending.arrived | warp.done | ~warp.exists)) != 0) return false;
  warp.pending[i] = warp.pending[--warp.pending_count];
  ++machine.stats.collectives;
  pending.complete(warp.operands, pending.arrived);
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((pending.arrived >> lane & 1) != 0) make_ready(*machine.lanes[warp_index * 32 + lane]);
  }
  return true;
}

/// What a fiber runs: the kernel for one thread, then the bookkeeping of its end.
ADJOINT_SIMT_RAW void lane_main() {
  fiber_started(machine.host);
  Lane& me = *machine.current;
  std::string thrown;
  try {
    machine.entry(machine.entry_argument);
  } catch (const std::exception& e) {
    in_kernel = false;
    thrown = e.what();  // failing here would leave the exception in flight for good
  } catch (...) {
    thrown = "of an unknown type";
  }
  in_kernel = false;
  if (!thrown.empty()) fail("exception in the kernel: " + std::exchange(thrown, {}));
  wait_for_copies(me, me.copy_groups + 1);
  me.state = State::done;
  --machine.alive;
  unsigned warp_index = me.index / 32;
  Warp& warp = machine.warps[warp_index];
  warp.done |= 1u << (me.index % 32);
  for (int i = 0; i < warp.pending_count;) {
    if (!try_complete(warp_index, i)) ++i;
  }
  if (machine.arrived != 0) {
    me.state = State::ready;  // its stack is abandoned here
    std::string text =
        fmt::format("thread returned while others wait in {}", place(machine.barrier, machine.barrier_at));
    fail(std::move(text));
  }
  run_next(me.fiber, true);
  std::abort();
}

void start_block() {
  machine.threads = machine.alive = blockDim.x * blockDim.y * blockDim.z;
  machine.arrived = 0;
  machine.barrier = nullptr;
  machine.predicates = 0;
  machine.ready_ranks = 0;
  std::memset(machine.ready, 0, sizeof machine.ready);
  draw_ranks();
  ++machine.block;
  machine.barrier_time = ++machine.clock;
  for (StaticArray array : machine.static_arrays) fill(array.data, array.bytes, machine.options.poison);
  for (unsigned i = 0; i < machine.threads; ++i) {
    if (i == machine.pool.size()) machine.pool.push_back(std::make_unique<Lane>());
    Lane& lane = *(machine.lanes[i] = machine.pool[i].get());
    const bool abandoned = lane.state != State::done;  // mid-frame, when its block failed
    prepare(lane.fiber, lane_main, machine.options.stack_bytes, i % 61 * 192, abandoned);
    lane.index = i;
    lane.id = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    lane.pieces = 0;
    lane.shared_bytes = 0;
    lane.copy_groups = 0;
    lane.copies.clear();
    make_ready(lane);
  }
  for (unsigned w = 0; w * 32 < machine.threads; ++w) {
    Warp& warp = machine.warps[w];
    unsigned lanes = machine.threads - w * 32;
    warp.exists = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
    warp.done = 0;
    warp.pending_count = 0;
    if (has_checker()) std::memset(warp.met, 0, sizeof warp.met);
  }
}

void run_block() {
  start_block();
  run_next(machine.host);
  in_kernel = false;
  ++machine.stats.blocks;
  machine.stats.threads += machine.threads;
  if (!machine.error.empty()) throw Fault(std::exchange(machine.error, {}));
}

void check_limits(dim3 grid, dim3 block, std::size_t shared_bytes) {
  std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64) {
    throw Fault(fmt::format("launch: bad block size {}x{}x{}; expected 1 to 1024 threads", block.x, block.y, block.z));
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    throw Fault(
        fmt::format("launch: bad grid size {}x{}x{}; expected 1 to 2^31-1 x 65535 x 65535", grid.x, grid.y, grid.z));
  }
  if (shared_bytes > machine.options.shared_memory_limit) {
    throw Fault(fmt::format("launch: {} bytes of dynamic shared memory; the limit is {}", shared_bytes,
                            machine.options.shared_memory_limit));
  }
}

}  // namespace

std::uint32_t random_bits() {
  machine.random ^= machine.random << 13;
  machine.random ^= machine.random >> 7;
  machine.random ^= machine.random << 17;
  return static_cast<std::uint32_t>(machine.random >> 32);
}

ADJOINT_SIMT_RAW void fill(void* data, std::size_t bytes, std::uint32_t pattern) {
  char* to = static_cast<char*>(data);
  std::size_t i = 0;
  for (; i + 4 <= bytes; i += 4) std::memcpy(to + i, &pattern, 4);
  if (i < bytes) std::memcpy(to + i, &pattern, bytes - i);
}

void fail(std::string text) {
  in_kernel = false;
  if (machine.current == nullptr) throw Fault(text);
  machine.error = fmt::format("block ({},{},{}) thread ({},{},{}): {}", blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x,
                              threadIdx.y, threadIdx.z, text);
  std::string().swap(text);  // this stack is abandoned: no destructor on it will run
  Lane* me = std::exchange(machine.current, nullptr);
  switch_fiber(me->fiber, machine.host, false);
  std::abort();
}

void fail_at(const char* what, Location at, std::string text) {
  text = fmt::format("{}: {}", place(what, at), text);
  fail(std::move(text));
}

ADJOINT_SIMT_RAW void give_way() {
  Lane& me = *machine.current;
  make_ready(me);
  run_next(me.fiber);
}

void give_way_sometimes() {
  Inside inside;
  if (random_bits() % 4 == 0) give_way();
}

ADJOINT_SIMT_RAW int block_barrier(const char* what, bool predicate, Location at) {
  Inside inside;
  Lane& me = *machine.current;
  if (machine.barrier == nullptr) {
    machine.barrier = what;
    machine.barrier_at = at;
  }
  if (!same(what, machine.barrier) || !same(at, machine.barrier_at)) {
    std::string text = fmt::format("divergent barrier: this thread is in {}, others wait in {}", place(what, at),
                                   place(machine.barrier, machine.barrier_at));
    fail(std::move(text));
  }
  if (machine.alive != machine.threads) {
    std::string text =
        fmt::format("{} after {} threads of the block have returned", place(what, at), machine.threads - machine.alive);
    fail(std::move(text));
  }
  me.waits_in = what;
  me.waits_at = at;
  me.state = State::at_barrier;
  machine.predicates += predicate ? 1 : 0;
  unsigned phase = machine.barrier_phase;
  if (++machine.arrived == machine.alive) release_block();
  run_next(me.fiber);
  return machine.predicate_result[phase];
}

ADJOINT_SIMT_RAW void collective(const char* what, unsigned mask, Location at, bool aligned, const Operand& operand,
                                 Complete complete) {
  Inside inside;
  Lane& me = *machine.current;
  unsigned lane = me.index % 32;
  Warp& warp = machine.warps[me.index / 32];
  if ((mask >> lane & 1) == 0) {
    std::string text = fmt::format("{}: mask {:#010x} does not name the calling lane {}", place(what, at), mask, lane);
    fail(std::move(text));
  }
  if (aligned && (mask & ~warp.done & warp.exists) != 0xffffffffu) {
    std::string text = fmt::format("{} needs the whole warp", place(what, at));
    fail(std::move(text));
  }
  me.waits_in = what;
  me.waits_at = at;
  me.state = State::in_collective;
  warp.operands[lane] = operand;
  int i = 0;
  while (i < warp.pending_count && warp.pending[i].mask != mask) ++i;
  if (i == warp.pending_count) warp.pending[warp.pending_count++] = Pending{mask, 0, what, complete, at};
  Pending& pending = warp.pending[i];
  if (pending.complete != complete || !same(pending.what, what) || (aligned && !same(pending.at, at))) {
    std::string text = fmt::format("warp mismatch: this thread is in {}, its warp waits in {}", place(what, at),
                                   place(pending.what, pending.at));
    fail(std::move(text));
  }
  pending.arrived |= 1u << lane;
  try_complete(me.index / 32, i);
  run_next(me.fiber);
}

void run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, void (*entry)(void*), void* argument) {
  std::lock_guard lock(machine.one_launch);
  check_limits(grid, block, shared_bytes);
  machine.random = machine.options.seed * 0x9E3779B97F4A7C15ull + 0x1234567;
  for (int i = 0; i < 8; ++i) random_bits();  // xorshift takes a few steps to leave a seed of few bits
  gridDim = grid;
  blockDim = block;
  machine.shared_bytes = shared_bytes;
  machine.entry = entry;
  machine.entry_argument = argument;
  machine.blocks_before_launch = machine.block;
  ++machine.stats.launches;
  std::vector<std::uint32_t> order(std::size_t{grid.x} * grid.y * grid.z);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(i);
  if (machine.options.shuffle_blocks) {
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_bits() % i]);
  }
  for (std::uint32_t b : order) {
    blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    run_block();
  }
}

namespace {
Kept* kept = nullptr;  // one OS thread launches
}

void require_host() {
  if (machine.current != nullptr) fail("a kernel launched a kernel");
}

void note_launch(const void* kernel) {
  static const char* const file = std::getenv("ADJOINT_SIMT_LAUNCHED");
  if (file == nullptr) return;
  static std::set<const void*> noted;
  Dl_info info;
  if (!noted.insert(kernel).second || dladdr(kernel, &info) == 0) return;
  // One write a line, since tests run side by side.
  const std::string line = fmt::format("{} {} {:x}\n", info.dli_fname,
                                       std::filesystem::last_write_time(info.dli_fname).time_since_epoch().count(),
                                       static_cast<const char*>(kernel) - static_cast<char*>(info.dli_fbase));
  std::ofstream(file, std::ios::app) << line << std::flush;
}

void submit(std::function<void()> queued) {
  if (const auto status_of = machine.options.launch_status; status_of != nullptr)
    if (const int status = status_of(); status != 0) throw GpuFailure{status, "launch"};
  if (kept != nullptr) {
    kept->push_back(std::move(queued));
  } else {
    queued();
  }
}

}  // namespace detail

void begin_keeping() { detail::kept = new Kept; }
Kept* end_keeping() { return std::exchange(detail::kept, nullptr); }
void run_kept(const Kept* kept) {
  for (const auto& run : *kept) run();
}
bool captured() { return detail::kept != nullptr; }
}  // namespace adjoint::simt
