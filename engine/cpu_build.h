#pragma once
// The CPU side of this build, for those who may not see kernels.

#include <string>

namespace adjoint {

struct CpuBuild {
  std::string instructions;  ///< "AVX-512", "AVX2" or "baseline"
  bool runs_here = true;     ///< false: the first kernel would end the program
};
CpuBuild cpu_build();

}  // namespace adjoint
