#pragma once
// Runs CUDA kernels' own source on the CPU: one fiber a CUDA thread, all on the calling OS thread. A fiber gives way
// only at barriers, warp collectives and atomics; blocks run one after another in shuffled order. For tests only:
// launches are serialised by a lock, and __shared__ variables are process-wide statics.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/error.h"
#include "kernels/base/gpu_api.h"
#include "kernels/simt/types.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

// Executor code that runs on fibers or beside the checker must not be instrumented itself.
#define ADJOINT_SIMT_RAW __attribute__((no_sanitize("address", "thread", "undefined")))

namespace adjoint::simt {

/// What the executor or the checker has to say about a kernel: always a bug of ours.
class Fault : public Error {
 public:
  explicit Fault(const std::string& text) : Error("E-SIMT-001", Exit::bug, text) {}
};

/// Which ready thread runs next. Skewed: warps get random ranks, drawn anew at every barrier, and the highest runs as
/// far as it can, which drives fast and slow warps further apart than a GPU would.
enum class Order { ascending, descending, random, skewed };

struct Options {
  std::uint64_t seed = 1;  // the same seed gives the same run
  Order order = Order::skewed;
  std::uint32_t poison = 0xFFFFFFFFu;  // NaN in f64, f32, f16 and bf16; -1 as an index
  unsigned preempt = 0;                // checker build: give way about once in so many memory accesses
  bool shuffle_blocks = true;
  std::size_t stack_bytes = 128 << 10;
  std::size_t shared_memory_limit = 227 << 10;  // a block's on sm_90
  int multiprocessors = 4;                      // few, so that grid-stride loops go round more than once
  int (*launch_status)() = nullptr;             // a failing driver, for tests: what is not 0 fails the launch
};

struct Stats {
  std::uint64_t launches = 0, blocks = 0, threads = 0, switches = 0, barriers = 0, collectives = 0, accesses = 0;
};

Options& options();
Stats& stats();

/// True where loads and stores are watched (the build whose kernels are compiled with -fsanitize=thread).
bool has_checker();

/// What launch code may ask about the device.
struct DeviceLimits {
  int multiprocessors;
  std::size_t shared_memory_per_block;
  int compute_capability;  // 80, 90 …
};
DeviceLimits device_limits();

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

/// CUDA's cudaStream_t; the executor has finished a launch when it returns.
using Stream = void*;
inline Stream stream_of(const At& at) { return at.stream; }

namespace detail {
void run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, void (*entry)(void*), void* argument);
extern bool in_kernel;  // kernel code is running, neither the executor nor the host
}  // namespace detail

/// Launches that are kept instead of run, as a CUDA graph would be: a capture of the api's.
using Kept = std::vector<std::function<void()>>;
void begin_keeping();
Kept* end_keeping();  // the caller's to delete
void run_kept(const Kept* kept);
bool captured();  // whether launches are being kept

namespace detail {
/// Fails in a kernel. Before anything is allocated: an abandoned fiber runs no destructors.
void require_host();
/// Runs it, or keeps it; throws GpuFailure if options().launch_status says so.
void submit(std::function<void()> queued);
/// Adds the kernel to the file that $ADJOINT_SIMT_LAUNCHED names, as its program, the time that was linked at, and the
/// kernel's place in it: for the test that other tests launch every kernel.
void note_launch(const void* kernel);
}  // namespace detail

/// Runs the kernel over the grid; throws Fault for anything the executor or the checker finds.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes, Stream, A&&... arguments) {
  detail::require_host();
  detail::note_launch(reinterpret_cast<const void*>(kernel));
  detail::submit([=, held = std::tuple<std::decay_t<P>...>(static_cast<P>(std::forward<A>(arguments))...)] {
    auto body = [kernel, &held] {
      std::apply(
          [kernel](P... parameters) {
            auto run = kernel;  // read before the checker watches: the closure is the host's memory
            detail::in_kernel = true;
            run(parameters...);
            detail::in_kernel = false;
          },
          held);
    };
    detail::run_grid(
        grid, block, shared_bytes, [](void* p) { (*static_cast<decltype(body)*>(p))(); }, &body);
  });
}

/// Clears memory in stream order, as launch code does for accumulators.
void zero(void* data, std::size_t bytes, Stream stream);

}  // namespace adjoint::simt
