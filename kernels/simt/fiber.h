#pragma once
// A fiber: a stack and the place to go on from. On x86-64 a switch is ten instructions (about 10 ns); elsewhere
// ucontext, whose every swap is a system call (about 400 ns).

#include <cstddef>

#include "kernels/simt/executor.h"

#if !defined(__x86_64__)
#define ADJOINT_SIMT_UCONTEXT 1
#endif
#ifdef ADJOINT_SIMT_UCONTEXT
#include <ucontext.h>
#endif

namespace adjoint::simt::detail {

struct Fiber {
#ifdef ADJOINT_SIMT_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
  char* stack = nullptr;  // lowest usable byte; below it lies a guard page
  std::size_t size = 0;
  const void* asan_bottom = nullptr;  // what AddressSanitizer has to be told at a switch
  std::size_t asan_size = 0;
  void* asan_fake_stack = nullptr;
};

/// Allocates the stack on first use (kept for good) and sets the fiber to start at `entry`, which must never return.
/// `stagger`: shifts the top, because stacks that all end at the same page offset share cache sets. `abandoned`:
/// whether what ran on it last did not return, and frames of it are still marked as such.
void prepare(Fiber& fiber, void (*entry)(), std::size_t stack_bytes, std::size_t stagger, bool abandoned);

/// Goes on with `to`; returns when somebody switches back to `from`, which never happens if `from_ends`.
void switch_fiber(Fiber& from, Fiber& to, bool from_ends);

/// The first thing a fresh fiber does. `host` is where the first switch came from.
void fiber_started(Fiber& host);

}  // namespace adjoint::simt::detail
