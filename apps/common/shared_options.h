#pragma once
// The options that programs have in common, defined once. A program names those that it implements: any other is
// unknown to it, rather than accepted and ignored.

#include <string_view>
#include <vector>

#include "apps/common/options.h"

namespace adjoint::app {

/// Adds shared options by name under their usual headings: add_shared(train, {"seed", "epochs", "lr"}).
/// Their defaults may be changed with OptionTable::defaults. A name that is not shared is a bug in the program.
void add_shared(OptionTable& table, const std::vector<std::string_view>& names);

}  // namespace adjoint::app
