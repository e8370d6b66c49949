#pragma once
// A small model run on a device, forward and backward, and compared with the same on the CPU in f64.

#include <string>
#include <vector>

#include "engine/device.h"

namespace adjoint::app {

struct SelfTest {
  bool passed = false;
  std::string text;  ///< what was compared and how near it came, or what went wrong
};

/// An LSTM, attention, layer norm, a linear layer and cross entropy with all their gradients, in f32, then the same
/// recorded and replayed, which must give equal bits. Never throws.
SelfTest self_test(Device device);

/// The largest difference of two lists of tensors' values, each over the largest value of its tensor in `expected`.
/// Infinite where one is not finite or the sizes differ.
double largest_difference(const std::vector<std::vector<double>>& actual,
                          const std::vector<std::vector<double>>& expected);

}  // namespace adjoint::app
