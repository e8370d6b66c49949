#pragma once
// Where the tests' own files lie: in one source file, so that a build folder's place is not part of every test's build.

#include <string>

namespace adjoint::testing_support {

/// The root of the source tree, without a slash at its end.
std::string source_dir();
/// The folder with the built programs.
std::string program_dir();

}  // namespace adjoint::testing_support
