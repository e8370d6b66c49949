#pragma once
// The choke point: every kernel call of the engine passes through launch(), so that steps can be recorded, calls can be
// timed, and a device decides once which backend runs.

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string_view>
#include <type_traits>
#include <vector>

#include "engine/device.h"
#include "engine/gpu.h"
#include "engine/storage.h"
#include "kernels/base/backend.h"
#include "kernels/base/shared_library.h"

namespace adjoint {

constexpr int kMostThreads = 256;
/// The machine's cores, kMostThreads at most.
int threads_of_machine();
/// Number of CPU threads that kernels use, this thread included. Default: threads_of_machine().
/// Results do not depend on it, bit for bit. Throws E-CONF-003 unless 1..kMostThreads. Not while kernels run.
void set_threads(int threads);
int threads();

/// A level of processor that CPU kernels are compiled for: "x86-64-v3", "AVX2".
struct CpuLevel {
  std::string_view name, instructions;
};
/// The one that is used, and the best that this processor has. Results are equal, bit for bit, on all levels that have
/// a fused multiply-add (all but x86-64-v2).
CpuLevel cpu_level();
CpuLevel best_cpu_level();
/// `text`: a level's name, or auto for the best. Throws E-CONF-003, naming `origin` ("--cpu-level"), for another text
/// and for a level that this processor lacks. Not while kernels run.
void set_cpu_level(std::string_view text, std::string_view origin);

/// Where CPU kernels run.
const cpu::At& cpu_at();

/// A linear list of calls, stored by value, that can be run again.
class Recording {
 public:
  template <class Call>
  void append(Device device, const Call& call);
  void replay() const;
  std::size_t calls() const { return calls_; }
  std::size_t bytes() const { return buffer_.size() * sizeof(Unit); }
  /// Keeps a block alive as long as the recording.
  void keep(StorageRef storage) { kept_.push_back(std::move(storage)); }

 private:
  using Run = void (*)(Device, const void*);
  struct alignas(16) Unit {
    std::byte bytes[16];
  };
  struct Header {
    Run run;
    std::uint32_t units;
    Device device;
  };
  static_assert(sizeof(Header) <= sizeof(Unit));

  std::vector<Unit> buffer_;
  std::vector<StorageRef> kept_;
  std::size_t calls_ = 0;
};

/// Sees every call's name, before and after it runs; for profiles.
class LaunchObserver {
 public:
  virtual ~LaunchObserver() = default;
  virtual void before(std::string_view call) = 0;
  virtual void after(std::string_view call) = 0;
};

/// What launch() consults besides the call itself; one per thread.
struct LaunchHooks {
  Recording* recording = nullptr;
  LaunchObserver* observer = nullptr;
};
inline thread_local LaunchHooks launch_hooks;

inline bool recording_a_step() { return launch_hooks.recording != nullptr; }

/// "LayerNormForward" for LayerNormForward.
template <class Call>
constexpr std::string_view call_name() {
  // "… call_name() [with Call = adjoint::Name; …" (gcc), "… [Call = adjoint::Name]" (clang)
  std::string_view s = __PRETTY_FUNCTION__;
  s.remove_prefix(s.find("Call = ") + 7);
  s = s.substr(0, s.find_first_of(";]"));
  const std::size_t colon = s.rfind(':');
  return colon == std::string_view::npos ? s : s.substr(colon + 1);
}

namespace detail {

[[noreturn]] void no_kernel(Device device, std::string_view call);
/// Throws for a launch that the driver refused.
[[noreturn]] void launch_failed(Device device, const GpuFailure& failure);
/// Throws E-GPU-008 for a call that a library refused.
[[noreturn]] void library_failed(Device device, const LibraryFailure& failure);

template <class At, class Call>
void run_on_gpu(Device device, const Call& call) {
  const auto run = entry_of<At>(call).run;
  if (run == nullptr) no_kernel(device, call_name<Call>());
  Gpu& gpu = Gpu::of(device);
  gpu.about_to_launch(call_name<Call>());
  try {
    run(At{gpu.stream()}, call);
  } catch (const GpuFailure& failure) {
    launch_failed(device, failure);
  } catch (const LibraryFailure& failure) {
    library_failed(device, failure);
  }
}

/// What one of the functions that count bytes says.
template <class At, class Call>
std::size_t gpu_bytes(Device device, const Call& call, std::size_t (*Entry<At, Call>::*which)(const At&, const Call&)) {
  const auto bytes = entry_of<At>(call).*which;
  if (bytes == nullptr) no_kernel(device, call_name<Call>());
  Gpu& gpu = Gpu::of(device);
  if (is_by_library(call)) gpu.make_current();  // it may create its handle
  try {
    return bytes(At{gpu.stream()}, call);
  } catch (const LibraryFailure& failure) {
    library_failed(device, failure);
  }
}

}  // namespace detail

/// Runs a call whose scratch is already in place.
template <class Call>
inline void run_on(Device device, const Call& call) {
  if (device.type == DeviceType::cpu) [[likely]] {
    run(cpu_at(), call);
  } else if (device.type == DeviceType::cuda) {
    detail::run_on_gpu<cuda::At>(device, call);
  } else {
    detail::run_on_gpu<simt::At>(device, call);
  }
}

/// Bytes of temporary memory that the call needs on that device.
template <class Call>
inline std::size_t scratch_bytes_on(Device device, const Call& call) {
  if (device.type == DeviceType::cpu) [[likely]]
    return scratch_bytes(cpu_at(), call);
  return device.type == DeviceType::cuda
             ? detail::gpu_bytes<cuda::At>(device, call, &Entry<cuda::At, Call>::scratch_bytes)
             : detail::gpu_bytes<simt::At>(device, call, &Entry<simt::At, Call>::scratch_bytes);
}

/// Bytes that the library which will run the call wants to keep for its backward.
template <class Call>
inline std::size_t saved_bytes_on(Device device, const Call& call) {
  return device.type == DeviceType::cuda
             ? detail::gpu_bytes<cuda::At>(device, call, &Entry<cuda::At, Call>::saved_bytes)
             : detail::gpu_bytes<simt::At>(device, call, &Entry<simt::At, Call>::saved_bytes);
}

namespace detail {

template <class Call>
inline void launch_ready(Device device, const Call& call) {
  if (launch_hooks.recording != nullptr) [[unlikely]]
    launch_hooks.recording->append(device, call);
  if (launch_hooks.observer == nullptr) [[likely]] {
    run_on(device, call);
  } else {
    launch_hooks.observer->before(call_name<Call>());
    run_on(device, call);
    launch_hooks.observer->after(call_name<Call>());
  }
}

}  // namespace detail

/// Runs a kernel call on a device, and records it if a step is being recorded.
template <class Call>
inline void launch(Device device, const Call& call) {
  static_assert(std::is_trivially_copyable_v<Call>);
  if constexpr (requires { call.scratch; }) {
    const std::size_t bytes = scratch_bytes_on(device, call);
    if (bytes != 0) {
      const StorageRef scratch(Allocator::current(device).allocate(bytes));
      Call with_scratch = call;
      with_scratch.scratch = scratch->data;
      detail::launch_ready(device, with_scratch);
      return;
    }
  }
  detail::launch_ready(device, call);
}

template <class Call>
void Recording::append(Device device, const Call& call) {
  const Run run = [](Device d, const void* p) { detail::launch_ready(d, *static_cast<const Call*>(p)); };
  const std::size_t units = (sizeof(Call) + sizeof(Unit) - 1) / sizeof(Unit);
  const std::size_t at = buffer_.size();
  buffer_.resize(at + 1 + units);
  new (&buffer_[at]) Header{run, static_cast<std::uint32_t>(units), device};
  new (&buffer_[at + 1]) Call(call);
  ++calls_;
}

}  // namespace adjoint
