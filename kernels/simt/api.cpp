// The executor as a device: memory of exact size that the checker knows by name, and captures that keep launches.

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "kernels/base/gpu_api.h"
#include "kernels/simt/executor.h"
#include "kernels/simt/memory.h"

namespace adjoint::simt {
namespace {

// Statuses as CUDA numbers them, so that tests read alike.
constexpr int kInvalidValue = 1, kOutOfMemory = 2, kIllegalAddress = 700, kCaptureUnsupported = 900,
              kLaunchFailure = 719;

int device_count(int* count) {
  *count = 1;
  return 0;
}
int properties(int, GpuProperties* properties) {
  const DeviceLimits limits = device_limits();
  std::strcpy(properties->name, "SIMT executor");
  properties->compute_capability = limits.compute_capability;
  properties->multiprocessors = limits.multiprocessors;
  properties->memory = std::size_t{1} << 40;
  properties->cache = 0;
  properties->clock_khz = 0;
  return 0;
}
int versions(int* driver, int* runtime) {
  *driver = *runtime = 0;
  return 0;
}
int set_device(int device) { return device == 0 ? 0 : kInvalidValue; }
int create_stream(void** stream) {
  *stream = nullptr;
  return 0;
}
/// What is queued has run already; only a capture forbids waiting.
int synchronize(void*) { return captured() ? kCaptureUnsupported : 0; }

int allocate(void** data, std::size_t bytes, void*) {
  if (captured()) return kCaptureUnsupported;
  try {
    *data = simt::allocate(bytes);
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  register_buffer(*data, bytes, "tensor", false, 1);
  poison(*data, bytes);
  return 0;
}
int release(void* data, void*) {
  unregister_buffer(data);
  deallocate(data);
  return 0;
}
int allocate_host(void** data, std::size_t bytes) {
  *data = std::malloc(bytes);
  return *data != nullptr ? 0 : kOutOfMemory;
}
int release_host(void* data) {
  std::free(data);
  return 0;
}
int copy(void* to, const void* from, std::size_t bytes, GpuCopy direction, void*) {
  if (captured()) return kCaptureUnsupported;
  std::memcpy(to, from, bytes);
  if (direction != GpuCopy::to_host) mark_initialised(to, bytes);
  return 0;
}
int fill(void* to, int byte, std::size_t bytes, void*) {
  if (captured()) return kCaptureUnsupported;
  std::memset(to, byte, bytes);
  mark_initialised(to, bytes);
  return 0;
}
int begin_capture(void*) {
  if (captured()) return kCaptureUnsupported;
  begin_keeping();
  return 0;
}
int end_capture(void*, void** graph) {
  if (!captured()) return kCaptureUnsupported;
  *graph = end_keeping();
  return 0;
}
int launch_graph(void* graph, void*) {
  run_kept(static_cast<Kept*>(graph));
  return 0;
}
int destroy_graph(void* graph) {
  delete static_cast<Kept*>(graph);
  return 0;
}
const char* error_name(int status) {
  switch (status) {
    case kInvalidValue: return "cudaErrorInvalidValue";
    case kOutOfMemory: return "cudaErrorMemoryAllocation";
    case kIllegalAddress: return "cudaErrorIllegalAddress";
    case kLaunchFailure: return "cudaErrorLaunchFailure";
    case kCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    default: return "cudaErrorUnknown";
  }
}
const char* error_text(int status) {
  switch (status) {
    case kInvalidValue: return "invalid argument";
    case kOutOfMemory: return "out of memory";
    case kIllegalAddress: return "an illegal memory access: illegal address";
    case kLaunchFailure: return "unspecified launch failure";
    case kCaptureUnsupported: return "operation not permitted while a stream is captured";
    default: return "unknown error";
  }
}
bool is_out_of_memory(int status) { return status == kOutOfMemory; }
bool is_sticky(int status) { return status == kIllegalAddress || status == kLaunchFailure; }
const char* architectures() { return "any"; }
bool runs_on(int) { return true; }

GpuApi table{.device_count = device_count,
             .properties = properties,
             .versions = versions,
             .set_device = set_device,
             .create_stream = create_stream,
             .synchronize = synchronize,
             .allocate = allocate,
             .release = release,
             .allocate_host = allocate_host,
             .release_host = release_host,
             .copy = copy,
             .fill = fill,
             .begin_capture = begin_capture,
             .end_capture = end_capture,
             .launch_graph = launch_graph,
             .destroy_graph = destroy_graph,
             .error_name = error_name,
             .error_text = error_text,
             .is_out_of_memory = is_out_of_memory,
             .is_sticky = is_sticky,
             .architectures = architectures,
             .runs_on = runs_on};

[[maybe_unused]] const bool entered = (api = &table, true);

}  // namespace
}  // namespace adjoint::simt
