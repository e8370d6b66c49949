#include "tests/support/paths.h"

namespace adjoint::testing_support {

std::string source_dir() { return ADJOINT_SOURCE_DIR; }
std::string program_dir() { return ADJOINT_BINARY_DIR; }

}  // namespace adjoint::testing_support
