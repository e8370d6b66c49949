#pragma once
// How calls reach a backend. Every kernel family declares, per backend, `void run(const At&, const Call&)`; a call that
// needs temporary memory has a member `void* scratch` and declares `std::size_t scratch_bytes(const At&, const Call&)`
// beside run. The CPU's are declared beside the call's contract and always linked. A GPU backend is in a program or
// not: each of its sources enters what it defines below, before main, and a null pointer says that it is not there.

#include <cstddef>

namespace adjoint {

namespace cpu {
class ThreadPool;

/// Where CPU calls run.
struct At {
  ThreadPool* pool;
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

/// Declares a call's entry points on the CPU. launch() finds them through the namespace of At.
#define ADJOINT_CPU_KERNEL(Call)            \
  namespace adjoint::cpu {                  \
  void run(const At& at, const Call& call); \
  }
/// Of a call whose scratch only GPU backends use.
#define ADJOINT_CPU_NO_SCRATCH(Call)                                        \
  namespace adjoint::cpu {                                                  \
  constexpr std::size_t scratch_bytes(const At&, const Call&) { return 0; } \
  }
#define ADJOINT_CPU_SCRATCH(Call)                                                               \
  namespace adjoint::cpu {                                                                      \
  std::size_t scratch_bytes(const Call& call);                                                  \
  inline std::size_t scratch_bytes(const At&, const Call& call) { return scratch_bytes(call); } \
  }
