// Puts the stand-ins where the engine will look, and tells the tests of contracts to call them, before main.

#include "tests/libraries/libraries.h"
#include "tests/support/by_library.h"

namespace {

[[maybe_unused]] const auto& cublas_lt = adjoint::testing::cublas_lt();
[[maybe_unused]] const auto& cudnn = adjoint::testing::cudnn();
[[maybe_unused]] const bool by_library = adjoint::testing::by_library = true;

}  // namespace
