#pragma once
// Numbers to test with.

#include <cstddef>
#include <random>
#include <vector>

namespace adjoint::simt::self_test {

/// Normally distributed values, the same for the same seed.
inline std::vector<float> normal_values(std::size_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

}  // namespace adjoint::simt::self_test
