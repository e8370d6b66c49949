#include "engine/cpu_build.h"

#include "kernels/base/instructions.h"

namespace adjoint {

CpuBuild cpu_build() { return {cpu::instructions(), cpu::has_instructions()}; }

}  // namespace adjoint
