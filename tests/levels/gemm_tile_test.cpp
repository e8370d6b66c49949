#include "kernels/cpu/gemm_tile.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

TEST(Pack, Lays_b_out_in_panels_with_zeros_past_the_last_column) {
  const std::int64_t k = 3, n = kPanel<float> + 2;
  std::vector<float> b;
  for (std::int64_t i = 0; i < k * n; ++i) b.push_back(static_cast<float>(i + 1));

  std::vector<float> packed(static_cast<std::size_t>(packed_elements<float>(k, n)), -9.0f);
  pack(k, n, b.data(), n, 1, nullptr, 0, n, packed.data());
  for (std::int64_t p = 0; p < k; ++p) {
    for (std::int64_t j = 0; j < kPanel<float> + kLanes<float>; ++j) {
      const std::int64_t at =
          j < kPanel<float> ? p * kPanel<float> + j : k * kPanel<float> + p * kLanes<float> + (j - kPanel<float>);
      EXPECT_EQ(packed[static_cast<std::size_t>(at)], j < n ? b[static_cast<std::size_t>(p * n + j)] : 0.0f);
    }
  }
}

}  // namespace
}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
