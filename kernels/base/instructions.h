#pragma once
// What the CPU kernels were compiled for. A processor without these instructions ends the program in its first kernel.

namespace adjoint::cpu {

/// "AVX-512", "AVX2", or "baseline" for what every processor of this kind has.
const char* instructions();
/// Whether this processor has them.
bool has_instructions();

}  // namespace adjoint::cpu
