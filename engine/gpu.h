#pragma once
// One GPU, or the executor that stands in for one: its stream, its memory, transfers and graphs, over the table of
// kernels/base/gpu_api.h. Every failing call becomes an Error that names the device, the call, and the last kernel
// call.

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "engine/device.h"
#include "kernels/base/gpu_api.h"

namespace adjoint {

class Gpu {
 public:
  /// The device's one object, made at first use. Throws E-GPU-001 (no such device, or a program without that backend)
  /// and E-GPU-004 (the kernels were not compiled for it).
  static Gpu& of(Device device);
  /// Why of() would throw for this device; empty if it would not.
  static std::string why_not(Device device);

  Device device() const { return device_; }
  void* stream() const { return stream_; }
  const GpuProperties& properties() const { return properties_; }

  /// Null if the device has not so much memory; throws for any other failure.
  void* allocate(std::size_t bytes);
  /// Never throws: it runs while errors are on their way.
  void release(void* data) noexcept;

  /// Host to device. The source may be overwritten when it returns; the copy itself is in stream order.
  void upload(void* to, const void* from, std::size_t bytes);
  /// Device to host; waits for all that was queued before.
  void download(void* to, const void* from, std::size_t bytes);
  void fill(void* to, int byte, std::size_t bytes);
  void synchronize();

  /// Runs `queue`, whose kernel calls are kept in a graph instead of being run. Reading or copying meanwhile fails.
  void* capture(const std::function<void()>& queue);
  void launch_graph(void* graph);
  void destroy_graph(void* graph) noexcept;

  /// Makes it this thread's current device, for what asks the driver past the table.
  void make_current() { begin("set the device"); }

  /// Notes the call that is about to be launched: an error of the device comes later than its cause.
  void about_to_launch(std::string_view call) {
    last_call_ = call;
    begin("launch");
  }
  /// Throws if a status is not 0: E-GPU-003 if the device is lost (and from then on for every call), else E-GPU-005.
  void check(int status, const char* what);

 private:
  Gpu(Device device, GpuApi*& api);
  /// Before every call of the table: refuses a lost device, and makes this thread's current device this one.
  void begin(const char* what) {
    if (lost_ != 0 || current != this) [[unlikely]]
      begin_slowly(what);
  }
  void begin_slowly(const char* what);
  void wait_for_staging(const char* what);

  static thread_local constinit Gpu* current;

  const Device device_;
  GpuApi*& api_;  // read at each call, so that tests can replace the table
  void* stream_ = nullptr;
  GpuProperties properties_{};
  std::string_view last_call_ = "none yet";
  int lost_ = 0;
  char* staging_ = nullptr;  // pinned; uploads are copied there first and go on in the background
  std::size_t staged_ = 0;
};

}  // namespace adjoint
