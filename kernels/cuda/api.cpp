// The table of kernels/base/gpu_api.h over the CUDA runtime, which is linked statically: a program with this backend
// starts on a machine without driver or GPU, and is told so by the first call.

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "kernels/base/gpu_api.h"

namespace adjoint::cuda {
namespace {

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaGraphExec_t as_graph(void* graph) { return static_cast<cudaGraphExec_t>(graph); }

int device_count(int* count) { return cudaGetDeviceCount(count); }

int properties(int device, GpuProperties* properties) {
  cudaDeviceProp all{};
  const cudaError_t status = cudaGetDeviceProperties(&all, device);
  if (status != cudaSuccess) return status;
  std::snprintf(properties->name, sizeof properties->name, "%s", all.name);
  properties->compute_capability = 10 * all.major + all.minor;
  properties->multiprocessors = all.multiProcessorCount;
  properties->memory = all.totalGlobalMem;
  properties->cache = static_cast<std::size_t>(all.l2CacheSize);
  return cudaDeviceGetAttribute(&properties->clock_khz, cudaDevAttrClockRate, device);
}

int versions(int* driver, int* runtime) {
  const cudaError_t status = cudaDriverGetVersion(driver);
  return status != cudaSuccess ? status : cudaRuntimeGetVersion(runtime);
}

int set_device(int device) {
  cudaError_t status = cudaSetDevice(device);
  if (status != cudaSuccess) return status;
  // Freed memory stays in the driver's pool: our own cache asks for it again.
  cudaMemPool_t pool{};
  status = cudaDeviceGetDefaultMemPool(&pool, device);
  if (status != cudaSuccess) return status;
  unsigned long long keep = ~0ull;
  return cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep);
}

int create_stream(void** stream) {
  cudaStream_t made{};
  const cudaError_t status = cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking);
  *stream = made;
  return status;
}
int synchronize(void* stream) { return cudaStreamSynchronize(as_stream(stream)); }

int allocate(void** data, std::size_t bytes, void* stream) {
  const cudaError_t status = cudaMallocAsync(data, bytes, as_stream(stream));
  if (status == cudaErrorMemoryAllocation) cudaGetLastError();  // it has been reported, and the device goes on
  return status;
}
int release(void* data, void* stream) { return cudaFreeAsync(data, as_stream(stream)); }
int allocate_host(void** data, std::size_t bytes) { return cudaMallocHost(data, bytes); }
int release_host(void* data) { return cudaFreeHost(data); }

int copy(void* to, const void* from, std::size_t bytes, GpuCopy direction, void* stream) {
  const cudaMemcpyKind kind = direction == GpuCopy::to_device ? cudaMemcpyHostToDevice
                              : direction == GpuCopy::to_host ? cudaMemcpyDeviceToHost
                                                              : cudaMemcpyDeviceToDevice;
  return cudaMemcpyAsync(to, from, bytes, kind, as_stream(stream));
}
int fill(void* to, int byte, std::size_t bytes, void* stream) {
  return cudaMemsetAsync(to, byte, bytes, as_stream(stream));
}

int begin_capture(void* stream) { return cudaStreamBeginCapture(as_stream(stream), cudaStreamCaptureModeThreadLocal); }
int end_capture(void* stream, void** graph) {
  cudaGraph_t captured{};
  cudaError_t status = cudaStreamEndCapture(as_stream(stream), &captured);
  if (status != cudaSuccess) return status;
  cudaGraphExec_t executable{};
  status = cudaGraphInstantiate(&executable, captured, 0);
  cudaGraphDestroy(captured);
  *graph = executable;
  return status;
}
int launch_graph(void* graph, void* stream) { return cudaGraphLaunch(as_graph(graph), as_stream(stream)); }
int destroy_graph(void* graph) { return cudaGraphExecDestroy(as_graph(graph)); }

const char* error_name(int status) { return cudaGetErrorName(static_cast<cudaError_t>(status)); }
const char* error_text(int status) {
  if (status == cudaErrorIllegalAddress) return "illegal address: a kernel accessed memory that is not its own";
  return cudaGetErrorString(static_cast<cudaError_t>(status));
}
bool is_out_of_memory(int status) { return status == cudaErrorMemoryAllocation; }

bool is_sticky(int status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorContextIsDestroyed: return true;
    default: return false;
  }
}

const char* architectures() { return ADJOINT_CUDA_ARCHITECTURES; }

/// "80-real" is machine code for 8.0 and later minor versions of 8; "80" and "80-virtual" have PTX, for all from 8.0
/// on.
bool runs_on(int compute_capability) {
  for (std::string_view rest = architectures(); !rest.empty();) {
    const std::size_t space = rest.find(' ');
    const std::string_view word = rest.substr(0, space);
    rest = space == std::string_view::npos ? std::string_view() : rest.substr(space + 1);
    const int built = std::atoi(std::string(word).c_str());
    const bool machine_code = !word.ends_with("-virtual"), portable = !word.ends_with("-real");
    if (machine_code && built / 10 == compute_capability / 10 && built <= compute_capability) return true;
    if (portable && built <= compute_capability) return true;
  }
  return false;
}

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
}  // namespace adjoint::cuda
