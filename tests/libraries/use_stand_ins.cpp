// Puts the stand-ins where the engine will look, before main.

#include "tests/libraries/libraries.h"

namespace {

[[maybe_unused]] const auto& cublas_lt = adjoint::testing::cublas_lt();
[[maybe_unused]] const auto& cudnn = adjoint::testing::cudnn();

}  // namespace
