#pragma once
// What the engine asks of a GPU's driver, as a table of functions: CUDA fills one (kernels/cuda/api.cpp), the executor
// another (kernels/simt/api.cpp), and tests replace entries to make the N-th call fail. So everything above the table
// (allocator, transfers, whole-step graphs, errors) runs and fails on a machine without a GPU.

#include <cstddef>

namespace adjoint {

struct GpuProperties {
  char name[256];
  int compute_capability;  ///< 90 for sm_90
  int multiprocessors;
  std::size_t memory;  ///< bytes
  std::size_t cache;   ///< bytes of the level 2 cache
  int clock_khz;       ///< the multiprocessors' highest clock
};

enum class GpuCopy { to_device, to_host, within };

/// Every function returns a status, 0 for success. Streams, events and graphs are the driver's handles.
struct GpuApi {
  int (*device_count)(int* count);
  int (*properties)(int device, GpuProperties* properties);
  /// Of CUDA, 13000 for 13.0: the newest that the driver runs, 0 without one, and the one that this program brings.
  int (*versions)(int* driver, int* runtime);
  int (*set_device)(int device);
  int (*create_stream)(void** stream);
  /// Waits for all that was queued on the stream, and reports what went wrong there.
  int (*synchronize)(void* stream);
  /// Device memory in stream order, aligned to 256 bytes.
  int (*allocate)(void** data, std::size_t bytes, void* stream);
  int (*release)(void* data, void* stream);
  /// Host memory that copies can run from in the background.
  int (*allocate_host)(void** data, std::size_t bytes);
  int (*release_host)(void* data);
  int (*copy)(void* to, const void* from, std::size_t bytes, GpuCopy direction, void* stream);
  int (*fill)(void* to, int byte, std::size_t bytes, void* stream);
  /// Between these two, what is queued on the stream is kept instead of run; the second gives it as a graph.
  int (*begin_capture)(void* stream);
  int (*end_capture)(void* stream, void** graph);
  int (*launch_graph)(void* graph, void* stream);
  int (*destroy_graph)(void* graph);
  const char* (*error_name)(int status);  ///< "cudaErrorMemoryAllocation"
  const char* (*error_text)(int status);  ///< "out of memory"
  bool (*is_out_of_memory)(int status);
  /// After it the device's context is lost, and with it all that lies in its memory.
  bool (*is_sticky)(int status);
  /// Compute capabilities that the kernels were compiled for, as "80 90 120+ptx"; what runs_on decides by.
  const char* (*architectures)();
  bool (*runs_on)(int compute_capability);
};

namespace cuda {
/// Null in a program without the CUDA backend.
inline constinit GpuApi* api = nullptr;
}  // namespace cuda
namespace simt {
/// Null in a program without the executor.
inline constinit GpuApi* api = nullptr;
}  // namespace simt

/// What launch code throws when the driver refuses a launch; the engine adds what it knows and throws an Error.
struct GpuFailure {
  int status;
  const char* what;
};

}  // namespace adjoint
