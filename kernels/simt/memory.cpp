// Device memory and shared memory.

#include "kernels/simt/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "kernels/simt/machine.h"
#include "kernels/simt/shared_memory.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace adjoint::simt {

using detail::checker;
using detail::machine;

void register_buffer(const void* data, std::size_t bytes, const char* name, bool initialised, std::size_t element) {
  if (!has_checker() || bytes == 0) return;
  std::lock_guard lock(machine.one_launch);
  checker.add(data, bytes, element, false, initialised, name);
}

void unregister_buffer(const void* data) {
  if (!has_checker()) return;
  std::lock_guard lock(machine.one_launch);
  checker.remove(data);
}

void poison(void* data, std::size_t bytes) {
  detail::fill(data, bytes, options().poison);
  if (!has_checker()) return;
  std::lock_guard lock(machine.one_launch);
  checker.set_initialised(data, bytes, false);
}

void mark_initialised(const void* data, std::size_t bytes) {
  if (!has_checker()) return;
  std::lock_guard lock(machine.one_launch);
  checker.set_initialised(data, bytes, true);
}

void* allocate(std::size_t bytes) {
  // The checker must not take an overrun for an access to the next buffer. ASan keeps its own distance.
  if (has_checker()) bytes += 16 << 10;
  void* data = nullptr;
  // Not aligned_alloc, which wants a size that is a multiple of the alignment.
  if (posix_memalign(&data, 256, std::max<std::size_t>(bytes, 1)) != 0) throw std::bad_alloc();
  return data;
}

void deallocate(void* data) { std::free(data); }

void zero(void* data, std::size_t bytes, Stream) {
  detail::submit([=] {
    std::memset(data, 0, bytes);
    mark_initialised(data, bytes);
  });
}

namespace detail {
namespace {

/// The executor reads and writes on the kernel's behalf, unseen by ASan's own instrumentation.
void check_range([[maybe_unused]] const void* data, [[maybe_unused]] std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  if (void* bad = __asan_region_is_poisoned(const_cast<void*>(data), bytes)) {
    volatile char reported = *static_cast<volatile char*>(bad);
    (void)reported;
  }
#endif
}

void copy_now(const CopyJob& job, bool move) {
  if (checker.access != nullptr) {
    in_kernel = true;
    if (job.from != nullptr) checker.access(job.from, job.bytes, Access::read, job.pc);
    checker.access(job.to, job.bytes, Access::write, job.pc);
    in_kernel = false;
  }
  check_range(job.to, job.bytes);
  if (job.from != nullptr) check_range(job.from, job.bytes);
  if (!move) return;
  if (job.from != nullptr) {
    std::memcpy(job.to, job.from, job.bytes);
  } else {
    std::memset(job.to, 0, job.bytes);
  }
}

}  // namespace

Machine::~Machine() {
  for (Piece& piece : pieces) std::free(piece.data);
}

ADJOINT_SIMT_RAW void touch(const void* data, std::size_t bytes, Access access, void* pc) {
  if (checker.access != nullptr) checker.access(data, bytes, access, pc);
  bool kernel = in_kernel;
  in_kernel = false;
  check_range(data, bytes);
  in_kernel = kernel;
}

// A copy may land at any moment between issue and wait. Emulating it only at the wait would hide a reader of the old
// contents, only at the issue a missing wait: one of the two is picked by chance, and the checker sees a write at both
// ends with the contents unreadable in between.
void issue_copy(void* to, const void* from, unsigned bytes, void* pc) {
  in_kernel = false;
  CopyJob job{to, from, bytes, machine.current->copy_groups, pc, random_bits() % 2 != 0};
  copy_now(job, !job.late);
  if (has_checker()) checker.set_initialised(to, bytes, false);
  machine.current->copies.push_back(job);
  in_kernel = true;
}

void commit_copies() { ++machine.current->copy_groups; }

void wait_for_copies(int pending) {
  in_kernel = false;
  wait_for_copies(*machine.current, machine.current->copy_groups - pending);
  in_kernel = true;
}

void wait_for_copies(Lane& lane, int groups) {
  std::size_t kept = 0;
  for (CopyJob& job : lane.copies) {
    if (job.group < groups) {
      copy_now(job, job.late);
    } else {
      lane.copies[kept++] = job;
    }
  }
  lane.copies.resize(kept);
}

// Every piece is its own allocation, so AddressSanitizer or the checker sees where one ends.
void* carve(std::size_t bytes, std::size_t alignment, std::size_t element, Location at) {
  in_kernel = false;
  Lane& me = *machine.current;
  me.shared_bytes = (me.shared_bytes + alignment - 1) / alignment * alignment + bytes;
  if (me.shared_bytes > machine.shared_bytes) {
    fail_at("Smem::take", at,
            fmt::format("shared memory ends at byte {}, the launch gave {}", me.shared_bytes, machine.shared_bytes));
  }
  unsigned k = me.pieces++;
  if (k == machine.pieces.size()) machine.pieces.push_back({nullptr, 0, 0});
  Piece& piece = machine.pieces[k];
  if (piece.block != machine.block) {  // the first thread of this block to come here
    if (piece.bytes != bytes || piece.data == nullptr) {
      if (piece.data != nullptr && has_checker()) checker.remove(piece.data);
      deallocate(piece.data);
      piece.data = static_cast<char*>(allocate(bytes));
      piece.bytes = bytes;
      if (has_checker() && bytes > 0) {
        checker.add(piece.data, bytes, element, true, false, "dynamic shared memory");
      }
    }
    piece.block = machine.block;
    fill(piece.data, bytes, machine.options.poison);
  } else if (piece.bytes != bytes) {
    fail_at("Smem::take", at, fmt::format("{} bytes here, {} in another thread", bytes, piece.bytes));
  }
  in_kernel = true;
  return piece.data;
}

void register_shared_array(void* data, std::size_t bytes, std::size_t element) {
  bool kernel = in_kernel;
  in_kernel = false;
  machine.static_arrays.push_back({data, bytes});
  if (has_checker()) checker.add(data, bytes, element, true, false, "static shared memory");
  fill(data, bytes, machine.options.poison);
  in_kernel = kernel;
}

void fail_index(std::size_t index, std::size_t size) {
  fail(fmt::format("static shared array of {} elements: index {}", size, index));
}

}  // namespace detail
}  // namespace adjoint::simt
