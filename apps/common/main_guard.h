#pragma once
// The outermost frame of every program.

#include <functional>

namespace adjoint::app {

/// Runs the program and turns what it throws into one line on stderr and an exit code: Error into its own, lack of
/// memory into E-MEM-001 and 5, anything else into 1, "this is a bug". Results that no longer reach stdout warn once.
int run_program(const char* name, int argc, char** argv, const std::function<int(int, char**)>& program);

}  // namespace adjoint::app
