#pragma once
// Barriers and warp collectives. A lane deposits its operand and sleeps; the last lane named in the mask (or the last
// one to exit) completes the operation for all.

#include <cstring>
#include <string>
#include <type_traits>

#include "kernels/simt/executor.h"

namespace adjoint::simt::detail {

/// Where a kernel called something: as a default argument it names the caller's line. (std::source_location, which
/// clang 14 lacks.) Return addresses would not do: an optimiser may duplicate a call.
struct Location {
  const char* file = "";
  int line = 0;
  static constexpr Location here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

/// Ends the launch with a Fault that names the running block and thread. Does not return to the kernel, whose stack is
/// abandoned: a message made of other strings is finished in a statement of its own, or these are never freed.
[[noreturn]] void fail(std::string text);
/// The same, with "WHAT at FILE:LINE: " in front.
[[noreturn]] void fail_at(const char* what, Location at, std::string text);

/// Returns how many threads passed a true predicate.
int block_barrier(const char* what, bool predicate, Location at);

struct Operand {
  const void* in;  // on the lane's own stack, or an address in shared memory
  void* out;
  int argument;
  int width;
  unsigned bytes;
};
using Lanes = Operand[32];
using Complete = void (*)(Lanes& lanes, unsigned arrived);

/// `aligned`: the instruction wants the whole warp, at the same place (mma, ldmatrix).
void collective(const char* what, unsigned mask, Location at, bool aligned, const Operand& operand, Complete complete);

void complete_index(Lanes& lanes, unsigned arrived);
void complete_up(Lanes& lanes, unsigned arrived);
void complete_down(Lanes& lanes, unsigned arrived);
void complete_xor(Lanes& lanes, unsigned arrived);
void complete_vote(Lanes& lanes, unsigned arrived);
void complete_meet(Lanes& lanes, unsigned arrived);  // __syncwarp: orders its lanes' memory accesses

template <class T>
ADJOINT_SIMT_RAW T shuffle(const char* what, unsigned mask, T value, int argument, int width, Location at,
                           Complete complete) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "CUDA shuffles int, long, float, double");
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) fail_at(what, at, "width is not a power of two up to 32");
  T result;
  collective(what, mask, at, false, {&value, &result, argument, width, sizeof(T)}, complete);
  return result;
}

struct Vote {
  unsigned yes, arrived;
};
Vote vote(const char* what, unsigned mask, int predicate, Location at);

// For operations whose memory accesses the compiler does not see as the kernel's: reports them to the checker and,
// under ASan, checks the range. `pc`: the kernel's code address.
enum class Access { read, write, atomic };
void touch(const void* data, std::size_t bytes, Access access, void* pc);
void give_way_sometimes();  // so that spinning on an atomic cannot hang the block

template <class T, class F>
ADJOINT_SIMT_RAW T atomic(T* target, F f, void* pc) {
  touch(target, sizeof(T), Access::atomic, pc);
  T old = *target;
  *target = f(old);
  give_way_sometimes();
  return old;
}

}  // namespace adjoint::simt::detail
