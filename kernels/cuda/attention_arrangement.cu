// Attention's operands in cuDNN's order. One element a thread.

#include "kernels/cuda/attention_arrangement.h"

#include <algorithm>

#include "kernels/cuda/compat.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) arrange_heads(ArrangeHeads x, std::int64_t count) {
  const std::int64_t width = x.width + (x.marked ? 1 : 0);
  for (std::int64_t e = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; e < count;
       e += static_cast<std::int64_t>(gridDim.x) * kThreads) {
    const std::int64_t i = e % width, row = e / width, t = row % x.positions, head = row / x.positions,
                       h = head % x.heads, b = head / x.heads;
    const bool part =
        t >= x.first && (x.lengths == nullptr || t < x.lengths[b]) && (x.needed == nullptr || x.needed[b] > 0);
    T value(0);
    if (i == x.width) {
      value = static_cast<T>(part ? x.within : x.beyond);
    } else if (part) {
      value = static_cast<const T*>(x.from)[b * x.from_stride[0] + h * x.from_stride[1] + t * x.from_stride[2] + i];
    }
    static_cast<T*>(x.to)[e] = value;
  }
}

}  // namespace

void run(const At& at, const ArrangeHeads& call) {
  const std::int64_t count = call.batch * call.heads * call.positions * (call.width + (call.marked ? 1 : 0));
  if (count == 0) return;
  const auto kernel = call.dtype == DType::f64 ? arrange_heads<double> : arrange_heads<float>;
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((count + kThreads - 1) / kThreads, 4096));
  launch(kernel, dim3(blocks), dim3(kThreads), 0, stream_of(at), call, count);
}

ADJOINT_GPU_KERNEL(ArrangeHeads)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
