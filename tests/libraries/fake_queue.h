#pragma once
// How stand-ins for libraries run what they are asked for: at once, or when a recorded step comes to it.

#include <functional>

namespace adjoint::testing {

using FakeQueue = void (*)(std::function<void()>);

}  // namespace adjoint::testing
