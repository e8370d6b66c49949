#pragma once
// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
// 1, 2, 3" (SC 2011). Element i of a draw that starts at counter c is word i % 4 of block c + i / 4, on every backend.

#include <cstdint>

#include "kernels/base/dtype.h"

namespace adjoint {

struct PhiloxBlock {
  std::uint32_t word[4];
};

ADJOINT_HD inline PhiloxBlock philox(std::uint64_t key, std::uint64_t block) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  std::uint32_t c0 = static_cast<std::uint32_t>(block), c1 = static_cast<std::uint32_t>(block >> 32), c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(0xD2511F53u) * c0;
    const std::uint64_t p1 = static_cast<std::uint64_t>(0xCD9E8D57u) * c2;
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// Word for element `index` of a draw whose state is (key, counter).
ADJOINT_HD inline std::uint32_t philox_word(std::uint64_t key, std::uint64_t counter, std::uint64_t index) {
  return philox(key, counter + index / 4).word[index % 4];
}

/// 24 random bits as a number in [0, 1): exact in f32, so f32 and f64 kernels draw the same dropout mask.
ADJOINT_HD inline float philox_uniform(std::uint32_t word) {
  return static_cast<float>(word >> 8) * (1.0f / 16777216.0f);
}

}  // namespace adjoint
