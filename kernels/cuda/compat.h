#pragma once
// The one header a kernel source includes. Under nvcc it is CUDA; under any other compiler the SIMT executor, which
// runs the same source on the CPU, thread by thread. Kernels and their launch functions live in
//
//   namespace adjoint::ADJOINT_GPU_NAMESPACE { … }
//
// which is adjoint::cuda for nvcc and adjoint::simt otherwise, so one program can link both builds of a .cu file. The
// same unqualified names exist in both: At, launch, zero, Stream, stream_of, Smem, SharedArray, device_limits.
// docs/kernel_testing.md has the rules for kernels.

#include "kernels/base/backend.h"
#include "kernels/base/dtype.h"

/// After the definition of run(const At&, const Call&), and of scratch_bytes(const At&, const Call&) if the call has
/// scratch: makes them known to launch().
#define ADJOINT_GPU_KERNEL(Call) [[maybe_unused]] static const bool entered_##Call = (entry<At, Call>.run = run, true);
#define ADJOINT_GPU_SCRATCH(Call) \
  [[maybe_unused]] static const bool entered_scratch_##Call = (entry<At, Call>.scratch_bytes = scratch_bytes, true);

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/base/gpu_api.h"

#define ADJOINT_GPU_NAMESPACE cuda

namespace adjoint::cuda {

using Stream = cudaStream_t;
inline Stream stream_of(const At& at) { return static_cast<Stream>(at.stream); }

/// For the engine to turn into an Error; `what` says which call failed, as "launch" or "zero".
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) [[unlikely]] {
    throw GpuFailure{status, what};
  }
}

/// Queues the kernel; `shared_bytes` of dynamic shared memory may exceed the 48 KB a kernel gets unasked.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes, Stream stream, A&&... arguments) {
  if (shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "launch: asking for shared memory");
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...), "launch");
}

/// Clears memory in stream order.
inline void zero(void* data, std::size_t bytes, Stream stream) {
  check(cudaMemsetAsync(data, 0, bytes, stream), "zero");
}

/// What launch code may ask about the current device.
struct DeviceLimits {
  int multiprocessors;
  std::size_t shared_memory_per_block;
  int compute_capability;  // 80, 90 …
};
inline DeviceLimits device_limits() {
  int device = 0;
  check(cudaGetDevice(&device), "device_limits");
  auto ask = [device](cudaDeviceAttr attribute) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, attribute, device), "device_limits");
    return value;
  };
  return {ask(cudaDevAttrMultiProcessorCount), static_cast<std::size_t>(ask(cudaDevAttrMaxSharedMemoryPerBlockOptin)),
          10 * ask(cudaDevAttrComputeCapabilityMajor) + ask(cudaDevAttrComputeCapabilityMinor)};
}

/// Static shared memory; declare as `__shared__ SharedArray<float, 8> part;`.
template <class T, std::size_t N>
struct SharedArray {
  T data[N];
  __device__ T& operator[](std::size_t i) { return data[i]; }
};

/// Hands out the launch's dynamic shared memory piece by piece. The offsets fold to constants.
class Smem {
 public:
  template <class T>
  __device__ T* take(std::size_t count) {
    extern __shared__ __align__(128) unsigned char adjoint_dynamic_shared_memory[];
    constexpr unsigned alignment = alignof(T) > 16 ? alignof(T) : 16;
    unsigned here = (taken_ + alignment - 1) / alignment * alignment;
    taken_ = here + static_cast<unsigned>(count * sizeof(T));
    return reinterpret_cast<T*>(adjoint_dynamic_shared_memory + here);
  }

 private:
  unsigned taken_ = 0;
};

}  // namespace adjoint::cuda

#else

// The standard headers below must not see these words redefined, so they come first.
#include "kernels/simt/names.h"
#include "kernels/simt/shared_memory.h"

#define ADJOINT_GPU_NAMESPACE simt

// The toolkit's headers define some of these for plain C++ too, as nothing or as attributes.
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __launch_bounds__
#undef __forceinline__
#define __global__
#define __device__
#define __host__
// Every block runs on one OS thread, one after another. thread_local would be as right, but ASan puts no red zones
// there.
#define __shared__ static
#define __launch_bounds__(...)
#define __forceinline__ inline

#endif
