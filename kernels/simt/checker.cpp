// Race, initialisation and bounds checks for kernels. Kernels are compiled with -fsanitize=thread, so the compiler
// calls
// __tsan_readN and __tsan_writeN at every load and store; the program is linked WITHOUT it, and the functions at the
// end of this file receive the calls. Own hooks instead of the ThreadSanitizer runtime give CUDA coordinates and buffer
// names in the report, uninitialised and out-of-bounds reads in the same pass, and shared memory that is forgotten
// between blocks while global memory stays racy across them.
//
// Ordering: __syncthreads orders a block, __syncwarp its lanes, the end of a kernel everything. Shuffles order nothing,
// as CUDA documents. Atomics race only with plain accesses. Compile this file, and the executor, without the sanitizer.

#include <dlfcn.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "kernels/simt/machine.h"

extern "C" char __executable_start, _end;

namespace adjoint::simt::detail {
namespace {

/// One access to the bytes of a cell (a bit each). All zero: none yet.
struct Event {
  void* pc;
  std::uint32_t block, time;
  std::uint16_t thread;
  std::uint8_t bytes;
  bool atomic;
};

struct Cell {
  Event write, reads[2];
  std::uint8_t initialised;
};

/// Zero pages from the system: cells of memory no kernel touches cost nothing.
struct Cells {
  Cell* data = nullptr;
  std::size_t count = 0;

  explicit Cells(std::size_t n) : count(n) {
    void* memory =
        mmap(nullptr, n * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    data = static_cast<Cell*>(memory);
  }
  Cells(Cells&& other) noexcept : data(std::exchange(other.data, nullptr)), count(other.count) {}
  Cells& operator=(Cells&& other) noexcept {
    std::swap(data, other.data);
    std::swap(count, other.count);
    return *this;
  }
  ~Cells() {
    if (data != nullptr) munmap(data, count * sizeof(Cell));
  }
};

struct Region {
  const char* base;
  std::size_t bytes;
  unsigned granule_bits;  // a cell is of 1 << granule_bits bytes: 1, 2, 4 or 8
  std::size_t guard;      // bytes behind the end that belong to nobody
  bool shared;
  std::uint32_t block;  // shared memory: the block whose contents the cells describe
  std::string name;
  Cells cells;
};

// By base address. Never destroyed: buffers owned by other statics unregister after main.
std::map<const char*, Region>& regions = *new std::map<const char*, Region>;
std::array<Region*, 64> last_found{};  // by page, modulo: kernels go to and fro between a few buffers

Region* find(const char* p) {
  auto holds = [p](const Region& r) { return p >= r.base && p < r.base + r.bytes + r.guard; };
  Region*& last = last_found[reinterpret_cast<std::uintptr_t>(p) / 4096 % last_found.size()];
  if (last != nullptr && holds(*last)) return last;
  auto next = regions.upper_bound(p);
  if (next == regions.begin()) return nullptr;
  Region& r = std::prev(next)->second;
  return holds(r) ? last = &r : nullptr;
}

/// "layer_norm.cuh:61" for a code address.
std::string source_line(void* pc) {
  Dl_info info{};
  if (pc == nullptr || dladdr(pc, &info) == 0 || info.dli_fbase == nullptr) return "an unknown line";
  // One byte back: a return address already belongs to the next statement.
  std::size_t offset = static_cast<std::size_t>(static_cast<char*>(pc) - static_cast<char*>(info.dli_fbase)) - 1;
  std::string text;
  if (FILE* pipe = popen(fmt::format("addr2line -s -e '{}' {:#x} 2>/dev/null", info.dli_fname, offset).c_str(), "r")) {
    char buffer[256];
    while (std::fgets(buffer, sizeof buffer, pipe) != nullptr) text += buffer;
    pclose(pipe);
  }
  text = text.substr(0, text.find_first_of("\n "));
  return text.empty() ? fmt::format("offset {:#x}", offset) : text;
}

std::string who(const Event& e) {
  unsigned t = e.thread;
  return fmt::format("thread ({},{},{}){} at {}", t % blockDim.x, t / blockDim.x % blockDim.y,
                     t / blockDim.x / blockDim.y, e.block == machine.block ? "" : " of another block",
                     source_line(e.pc));
}

/// Is the event ordered before whatever the running thread does now?
bool ordered(const Event& e, const Region& r) {
  if (e.block <= machine.blocks_before_launch) return true;  // an earlier kernel
  if (e.block != machine.block) return r.shared;             // blocks of one grid are unordered
  unsigned me = machine.current->index;
  if (e.thread == me || e.time < machine.barrier_time) return true;
  return e.thread / 32 == me / 32 && e.time < machine.warps[me / 32].met[me % 32][e.thread % 32];
}

struct Touch {
  const char* at;
  std::size_t bytes;
  Access access;
  void* pc;
};

std::string describe(const Touch& t) {
  const char* kind = t.access == Access::read ? "read" : t.access == Access::write ? "write" : "atomic update";
  return fmt::format("{} of {} bytes", kind, t.bytes);
}

void report(const char* kind, const Region& r, const Touch& t, const Event* other = nullptr, const char* did = "") {
  std::string text = fmt::format("{}: {} at {} + {} (of {} bytes) at {}", kind, describe(t), r.name, t.at - r.base,
                                 r.bytes, source_line(t.pc));
  if (other != nullptr) text += fmt::format("; {} by {}", did, who(*other));
  fail(std::move(text));
}

/// `bits`: which bytes of the cell.
void check_cell(Cell& cell, std::uint8_t bits, const Region& r, const Touch& t) {
  if (t.access != Access::write && (cell.initialised & bits) != bits) report("uninitialised read", r, t);
  bool both_atomic = t.access == Access::atomic && cell.write.atomic;
  if ((cell.write.bytes & bits) != 0 && !both_atomic && !ordered(cell.write, r)) {
    report("race", r, t, &cell.write, cell.write.atomic ? "atomic" : "written");
  }
  Event now{t.pc,          machine.block,
            machine.clock, static_cast<std::uint16_t>(machine.current->index),
            bits,          t.access == Access::atomic};
  if (t.access == Access::read) {
    // Two readers are kept; a slot is free if its reader is this thread or is ordered before it.
    Event& first = cell.reads[0];
    bool free = first.bytes == 0 || ordered(first, r);
    (free ? first : cell.reads[1]) = now;
    return;
  }
  for (const Event& e : cell.reads) {
    if ((e.bytes & bits) != 0 && !ordered(e, r)) report("race", r, t, &e, "read");
  }
  cell.write = now;
  cell.initialised |= bits;
}

void check_region(Region& r, const Touch& t) {
  if (t.at + t.bytes > r.base + r.bytes) report("out of bounds", r, t);
  if (r.shared && r.block != machine.block) {
    r.block = machine.block;
    for (std::size_t i = 0; i < r.cells.count; ++i) r.cells.data[i].initialised = 0;
  }
  const char* end = t.at + t.bytes;
  const std::size_t granule = std::size_t{1} << r.granule_bits;
  for (const char* p = t.at; p < end;) {
    std::size_t offset = static_cast<std::size_t>(p - r.base), first = offset & (granule - 1);
    std::size_t length = std::min(granule - first, static_cast<std::size_t>(end - p));
    check_cell(r.cells.data[offset >> r.granule_bits], static_cast<std::uint8_t>(((1u << length) - 1) << first), r,
               {p, length, t.access, t.pc});
    p += length;
  }
}

/// An access to memory that was neither registered nor is a static of the program.
void report_stranger(const Touch& t) {
  std::string text = fmt::format("out of bounds: {} outside all kernel memory, at {}", describe(t), source_line(t.pc));
  auto next = regions.upper_bound(t.at);
  if (next != regions.begin()) {
    const Region& r = std::prev(next)->second;
    text += fmt::format("; {} bytes past the end of {} ({} bytes)",
                        t.at - r.base - static_cast<std::ptrdiff_t>(r.bytes), r.name, r.bytes);
  }
  fail(std::move(text));
}

/// Statics of the program, or of kernels that were loaded as a library.
bool in_an_image(const char* p) {
  Dl_info info;
  return (p >= &__executable_start && p < &_end) || dladdr(p, &info) != 0;
}

void access(const void* data, std::size_t bytes, Access kind, void* pc) {
  if (!in_kernel || bytes == 0) return;
  const char* p = static_cast<const char*>(data);
  const Fiber& fiber = machine.current->fiber;
  if (p >= fiber.stack && p < fiber.stack + fiber.size) return;
  in_kernel = false;
  ++machine.stats.accesses;
  Touch touch{p, bytes, kind, pc};
  if (Region* r = find(p)) {
    check_region(*r, touch);
    // Give way only here: inside the constructor of a static local, a second fiber would enter that constructor too.
    if (machine.options.preempt != 0 && random_bits() % machine.options.preempt == 0) give_way();
  } else if (!in_an_image(p)) {
    report_stranger(touch);
  }
  in_kernel = true;
}

void add(const void* data, std::size_t bytes, std::size_t element, bool shared, bool initialised, const char* name) {
  // A cell keeps one writer: elements of one must not share it. What is wider than a double is a vector of floats.
  const std::size_t granule = element == 8 ? 8 : std::clamp<std::size_t>(element, 1, 4);
  const auto granule_bits = static_cast<unsigned>(std::bit_width(granule) - 1);
  const char* base = static_cast<const char*>(data);
  Region r{base,   bytes, granule_bits, in_an_image(base) ? 256u : 0u,
           shared, 0,     name,         Cells((bytes >> granule_bits) + 1)};
  if (initialised) {
    for (std::size_t i = 0; i < r.cells.count; ++i) r.cells.data[i].initialised = 0xff;
  }
  last_found = {};
  regions.insert_or_assign(base, std::move(r));
}

void remove(const void* data) {
  last_found = {};
  regions.erase(static_cast<const char*>(data));
}

void set_initialised(const void* data, std::size_t bytes, bool initialised) {
  const char* p = static_cast<const char*>(data);
  Region* r = find(p);
  if (r == nullptr) return;
  std::size_t first = static_cast<std::size_t>(p - r->base), last = std::min(first + bytes, r->bytes);
  for (std::size_t i = first; i < last; ++i) {
    std::uint8_t bit = static_cast<std::uint8_t>(1u << (i & ((1u << r->granule_bits) - 1)));
    std::uint8_t& bits = r->cells.data[i >> r->granule_bits].initialised;
    bits = static_cast<std::uint8_t>(initialised ? bits | bit : bits & ~bit);
  }
}

const bool installed = (checker = {access, add, remove, set_initialised}, true);

}  // namespace

void hook(void* p, std::size_t bytes, Access kind, void* pc) { access(p, bytes, kind, pc); }

}  // namespace adjoint::simt::detail
