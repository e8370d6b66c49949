// The functions GCC's -fsanitize=thread calls, in place of the ThreadSanitizer runtime. Clang turns struct copies into
// memcpy, which no hook sees: use GCC. Compile this file without the sanitizer.

#include <cstddef>
#include <cstdint>

#include "kernels/simt/machine.h"

using adjoint::simt::detail::Access;
using adjoint::simt::detail::hook;

// NOLINTBEGIN: reserved names, fixed by the compiler
extern "C" {

#define ADJOINT_HOOK(name, bytes, kind) \
  void __tsan_##name(void* p) { hook(p, bytes, Access::kind, __builtin_return_address(0)); }
#define ADJOINT_HOOKS(bytes)                         \
  ADJOINT_HOOK(read##bytes, bytes, read)             \
  ADJOINT_HOOK(write##bytes, bytes, write)           \
  ADJOINT_HOOK(unaligned_read##bytes, bytes, read)   \
  ADJOINT_HOOK(unaligned_write##bytes, bytes, write) \
  ADJOINT_HOOK(volatile_read##bytes, bytes, read)    \
  ADJOINT_HOOK(volatile_write##bytes, bytes, write)
ADJOINT_HOOKS(1)
ADJOINT_HOOKS(2)
ADJOINT_HOOKS(4)
ADJOINT_HOOKS(8)
ADJOINT_HOOKS(16)
void __tsan_read_range(void* p, std::size_t n) { hook(p, n, Access::read, __builtin_return_address(0)); }
void __tsan_write_range(void* p, std::size_t n) { hook(p, n, Access::write, __builtin_return_address(0)); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// C++ atomics are host code: the tests' libraries, and the guard of a static local. Kernels use atomicAdd and its kin.
#define ADJOINT_ATOMIC_UPDATE(bits, name)                                                                         \
  std::uint##bits##_t __tsan_atomic##bits##_##name(volatile std::uint##bits##_t* p, std::uint##bits##_t v, int) { \
    return __atomic_##name(p, v, __ATOMIC_SEQ_CST);                                                               \
  }
#define ADJOINT_ATOMIC_EXCHANGE(bits, name)                                                                         \
  int __tsan_atomic##bits##_compare_exchange_##name(volatile std::uint##bits##_t* p, std::uint##bits##_t* expected, \
                                                    std::uint##bits##_t v, int, int) {                              \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                  \
  }
#define ADJOINT_ATOMICS(bits)                                                                                       \
  std::uint##bits##_t __tsan_atomic##bits##_load(const volatile std::uint##bits##_t* p, int) {                      \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                                    \
  }                                                                                                                 \
  void __tsan_atomic##bits##_store(volatile std::uint##bits##_t* p, std::uint##bits##_t v, int) {                   \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                                       \
  }                                                                                                                 \
  std::uint##bits##_t __tsan_atomic##bits##_exchange(volatile std::uint##bits##_t* p, std::uint##bits##_t v, int) { \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                                             \
  }                                                                                                                 \
  ADJOINT_ATOMIC_UPDATE(bits, fetch_add)                                                                            \
  ADJOINT_ATOMIC_UPDATE(bits, fetch_sub)                                                                            \
  ADJOINT_ATOMIC_UPDATE(bits, fetch_and)                                                                            \
  ADJOINT_ATOMIC_UPDATE(bits, fetch_or)                                                                             \
  ADJOINT_ATOMIC_UPDATE(bits, fetch_xor)                                                                            \
  ADJOINT_ATOMIC_EXCHANGE(bits, strong)                                                                             \
  ADJOINT_ATOMIC_EXCHANGE(bits, weak)
ADJOINT_ATOMICS(8)
ADJOINT_ATOMICS(16)
ADJOINT_ATOMICS(32)
ADJOINT_ATOMICS(64)
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

}  // extern "C"
// NOLINTEND
