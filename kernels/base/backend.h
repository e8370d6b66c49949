#pragma once
// How calls reach a backend. Every kernel family declares, per backend, `void run(const At&, const Call&)`; a call that
// needs temporary memory has a member `void* scratch` and declares `std::size_t scratch_bytes(const Call&)` beside run.

#include <cstddef>

namespace adjoint::cpu {
class ThreadPool;

/// Where CPU calls run.
struct At {
  ThreadPool* pool;
};
}  // namespace adjoint::cpu

/// Declares a call's entry points on the CPU. launch() finds them through the namespace of At.
#define ADJOINT_CPU_KERNEL(Call)            \
  namespace adjoint::cpu {                  \
  void run(const At& at, const Call& call); \
  }
#define ADJOINT_CPU_SCRATCH(Call)                                                               \
  namespace adjoint::cpu {                                                                      \
  std::size_t scratch_bytes(const Call& call);                                                  \
  inline std::size_t scratch_bytes(const At&, const Call& call) { return scratch_bytes(call); } \
  }
