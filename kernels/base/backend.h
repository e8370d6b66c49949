#pragma once
// How calls reach a backend. Every kernel family declares, per backend, `void run(const At&, const Call&)`; a call that
// needs temporary memory has a member `void* scratch` and declares `std::size_t scratch_bytes(const At&, const Call&)`
// beside run. The CPU's are declared beside the call's contract and always linked, once for each level of processor;
// the At chooses among them. A GPU backend is in a program or not: each of its sources enters what it defines below,
// before main, and a null pointer says that it is not there.

#include <cstddef>

#include "kernels/base/cpu_level.h"

namespace adjoint {

namespace cpu {
class ThreadPool;

/// Where CPU calls run, and on which instructions.
struct At {
  ThreadPool* pool;
  Level level = cpu::level();
};
}  // namespace cpu

namespace cuda {
/// Where CUDA calls run: a cudaStream_t, on the current device.
struct At {
  void* stream;
};
}  // namespace cuda

namespace simt {
/// The executor runs a call before it returns; the stream is there so that both backends share their launch code.
struct At {
  void* stream;
};
}  // namespace simt

/// A GPU backend's functions for one kind of call.
template <class At, class Call>
struct Entry {
  void (*run)(const At&, const Call&) = nullptr;
  std::size_t (*scratch_bytes)(const At&, const Call&) = nullptr;  ///< of calls that have scratch
  std::size_t (*saved_bytes)(const At&, const Call&) = nullptr;    ///< of a library's that save for their backward
};
template <class At, class Call>
inline constinit Entry<At, Call> entry{};
/// The same of one of NVIDIA's libraries, for calls with a member by_library, in them or in their shape, that is set.
template <class At, class Call>
inline constinit Entry<At, Call> library_entry{};

template <class Call>
constexpr bool is_by_library(const Call& call) {
  if constexpr (requires { call.by_library; }) {
    return call.by_library;
  } else if constexpr (requires { call.shape.by_library; }) {
    return call.shape.by_library;
  } else {
    return false;
  }
}
template <class At, class Call>
const Entry<At, Call>& entry_of(const Call& call) {
  return is_by_library(call) ? library_entry<At, Call> : entry<At, Call>;
}

}  // namespace adjoint

/// Declares a call's entry points on the CPU. launch() finds them through the namespace of At. The sources of one level
/// see those of their own level alone.
#define ADJOINT_CPU_NO_SCRATCH(Call) /* only GPU backends use its scratch */ \
  namespace adjoint::cpu {                                                   \
  constexpr std::size_t scratch_bytes(const At&, const Call&) { return 0; }  \
  }
#ifdef ADJOINT_CPU_LEVEL
#define ADJOINT_CPU_KERNEL(Call)              \
  namespace adjoint::cpu::ADJOINT_CPU_LEVEL { \
  void run(const At& at, const Call& call);   \
  }
#define ADJOINT_CPU_SCRATCH(Call)              \
  namespace adjoint::cpu::ADJOINT_CPU_LEVEL {  \
  std::size_t scratch_bytes(const Call& call); \
  }
#else
#define ADJOINT_DECLARE_RUN(level, name, Call) \
  namespace level {                            \
  void run(const At& at, const Call& call);    \
  }
#define ADJOINT_RUN(level, name, Call) \
  case Level::level:                   \
    return level::run(at, call);
#define ADJOINT_DECLARE_SCRATCH(level, name, Call) \
  namespace level {                                \
  std::size_t scratch_bytes(const Call& call);     \
  }
#define ADJOINT_SCRATCH(level, name, Call) \
  case Level::level:                       \
    return level::scratch_bytes(call);

#define ADJOINT_CPU_KERNEL(Call)                                \
  namespace adjoint::cpu {                                      \
  ADJOINT_CPU_LEVELS(ADJOINT_DECLARE_RUN, Call)                 \
  inline void run(const At& at, const Call& call) {             \
    switch (at.level) { ADJOINT_CPU_LEVELS(ADJOINT_RUN, Call) } \
  }                                                             \
  }
#define ADJOINT_CPU_SCRATCH(Call)                                    \
  namespace adjoint::cpu {                                           \
  ADJOINT_CPU_LEVELS(ADJOINT_DECLARE_SCRATCH, Call)                  \
  inline std::size_t scratch_bytes(const At& at, const Call& call) { \
    switch (at.level) { ADJOINT_CPU_LEVELS(ADJOINT_SCRATCH, Call) }  \
    return 0;                                                        \
  }                                                                  \
  }
#endif
