#pragma once
// Finding a finished run again.

#include <string>

namespace adjoint::app {

/// `asked`, or the newest folder below runs/PROGRAM that has weights. Throws E-IO-008 if there is none.
std::string finished_run(const std::string& program, const std::string& asked);

}  // namespace adjoint::app
