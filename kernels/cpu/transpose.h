#pragma once
// Transposition within registers.

#include <utility>

#include "kernels/cpu/simd.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {

/// Swaps the off-diagonal blocks of `step` lanes of two rows that lie `step` apart.
template <int step, class T, int bytes, int... L>
ADJOINT_INLINE void swap_blocks(Lanes<T, bytes>& a, Lanes<T, bytes>& b, std::integer_sequence<int, L...> lanes) {
  if constexpr (bytes == kRegisterBytes) {
    constexpr int count = sizeof...(L);
    const auto low = a.r, high = b.r;
    a = __builtin_shufflevector(low, high, ((L & step) == 0 ? L : count + L - step)...);
    b = __builtin_shufflevector(low, high, ((L & step) == 0 ? L + step : count + L)...);
  } else if constexpr (step * 2 * static_cast<int>(sizeof(T)) == bytes) {
    const auto high = a.high;
    a.high = b.low;
    b.low = high;
  } else {
    swap_blocks<step>(a.low, b.low, lanes);
    swap_blocks<step>(a.high, b.high, lanes);
  }
}

/// Transposes a square of vectors: swaps blocks of half the size, then of a quarter, and so on.
template <class A, int step = kLanes<A> / 2>
ADJOINT_INLINE void transpose(Vec<A> (&r)[kLanes<A>]) {
  if constexpr (step > 0) {
    using OfRegister = std::make_integer_sequence<int, kRegisterBytes / static_cast<int>(sizeof(A))>;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<A>; ++i)
      if ((i & step) == 0) swap_blocks<step>(r[i], r[i + step], OfRegister{});
    transpose<A, step / 2>(r);
  }
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
