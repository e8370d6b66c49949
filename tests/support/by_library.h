#pragma once

namespace adjoint::testing {

/// Whether the tests of contracts give their calls to NVIDIA's library that may do them: true in programs that link
/// tests/libraries/use_stand_ins.cpp.
inline bool by_library = false;

}  // namespace adjoint::testing
