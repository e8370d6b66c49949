#include "kernels/base/instructions.h"

#include "kernels/cpu/simd.h"

namespace adjoint::cpu {

const char* instructions() { return kVectorBytes == 64 ? "AVX-512" : kVectorBytes == 32 ? "AVX2" : "baseline"; }

// In this file, because it is compiled with the kernels' own flags.
bool has_instructions() {
  bool all = true;
#if defined(__x86_64__)
#ifdef __AVX512F__
  all = all && __builtin_cpu_supports("avx512f");
#endif
#ifdef __AVX512DQ__
  all = all && __builtin_cpu_supports("avx512dq");
#endif
#ifdef __AVX512BW__
  all = all && __builtin_cpu_supports("avx512bw");
#endif
#ifdef __AVX512VL__
  all = all && __builtin_cpu_supports("avx512vl");
#endif
#ifdef __AVX2__
  all = all && __builtin_cpu_supports("avx2");
#endif
#ifdef __FMA__
  all = all && __builtin_cpu_supports("fma");
#endif
#endif
  return all;
}

}  // namespace adjoint::cpu
