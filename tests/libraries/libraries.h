#pragma once
// The stand-ins of this folder, opened where the tests of engine and backend will find them.

#include <functional>
#include <string>

#include "tests/libraries/fake_cublas_lt.h"
#include "tests/libraries/fake_cudnn.h"

namespace adjoint::testing {

/// A file that was built beside the tests.
std::string built(const std::string& name);

/// The stand-ins, which $ADJOINT_CUBLASLT_LIBRARY and $ADJOINT_CUDNN_LIBRARY name from then on; they run in the
/// executor's order.
FakeCublasLt& cublas_lt();
FakeCudnn& cudnn();

/// What a child process, in which no library has been opened yet, writes with `action`: the text that it returns, or
/// the line of the Error that it ends in.
std::string in_child(const std::function<std::string()>& action);

}  // namespace adjoint::testing
