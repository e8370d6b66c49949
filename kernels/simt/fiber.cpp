#include "kernels/simt/fiber.h"

#include <sys/mman.h>

#include <cstring>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace adjoint::simt::detail {
namespace {

#ifndef ADJOINT_SIMT_UCONTEXT
// Saves the callee-saved registers of the System V ABI on the old stack, and takes them from the new one. The second
// argument is where the new stack was left.
__attribute__((naked, noinline)) ADJOINT_SIMT_RAW void swap_stacks(void** /*from*/, void* /*to*/) {
  asm volatile(
      "pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n\t"
      "movq %rsp, (%rdi); movq %rsi, %rsp\n\t"
      "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}
#endif

void allocate_stack(Fiber& fiber, std::size_t bytes, std::size_t stagger) {
  constexpr std::size_t guard = 4096;
  void* memory =
      mmap(nullptr, bytes + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE) != 0) {
    throw Error("E-SIMT-002", Exit::memory,
                "simt: no memory for the " + std::to_string(bytes) + "-byte stack of a simulated thread");
  }
  fiber.stack = static_cast<char*>(memory) + guard;
  fiber.size = bytes - stagger;
  fiber.asan_bottom = fiber.stack;
  fiber.asan_size = fiber.size;
}

}  // namespace

void prepare(Fiber& fiber, void (*entry)(), std::size_t stack_bytes, std::size_t stagger,
             [[maybe_unused]] bool abandoned) {
  if (fiber.stack == nullptr) allocate_stack(fiber, stack_bytes, stagger / 16 * 16);
#ifdef __SANITIZE_ADDRESS__
  if (abandoned) __asan_unpoison_memory_region(fiber.stack, fiber.size);
#endif
#ifdef ADJOINT_SIMT_UCONTEXT
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = fiber.size;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#else
  // What swap_stacks pops: six registers, then the entry as return address, above it a null return address.
  void** top = reinterpret_cast<void**>(fiber.stack + fiber.size) - 8;
  std::memset(top, 0, 8 * sizeof(void*));
  top[6] = reinterpret_cast<void*>(entry);
  fiber.stack_pointer = top;
#endif
}

ADJOINT_SIMT_RAW void switch_fiber(Fiber& from, Fiber& to, [[maybe_unused]] bool from_ends) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(from_ends ? nullptr : &from.asan_fake_stack, to.asan_bottom, to.asan_size);
#endif
#ifdef ADJOINT_SIMT_UCONTEXT
  swapcontext(&from.context, &to.context);
#else
  swap_stacks(&from.stack_pointer, to.stack_pointer);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from.asan_fake_stack, nullptr, nullptr);
#endif
}

ADJOINT_SIMT_RAW void fiber_started([[maybe_unused]] Fiber& host) {
#ifdef __SANITIZE_ADDRESS__
  // The first fiber of a program learns the host's stack, which nobody else could name.
  bool known = host.asan_bottom != nullptr;
  __sanitizer_finish_switch_fiber(nullptr, known ? nullptr : &host.asan_bottom, known ? nullptr : &host.asan_size);
#endif
}

}  // namespace adjoint::simt::detail
