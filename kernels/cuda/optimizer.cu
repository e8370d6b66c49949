// Optimizers over flat buffers.

#include "kernels/optimizer.h"

#include "kernels/cuda/compat.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE {

__global__ void step_advance(std::int64_t* step) { *step += 1; }

void run(const At& at, const StepAdvance& call) { launch(step_advance, dim3(1), dim3(1), 0, stream_of(at), call.step); }
ADJOINT_GPU_KERNEL(StepAdvance)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
