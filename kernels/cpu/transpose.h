#pragma once
// Transposition within registers.

#include <utility>

#include "kernels/cpu/simd.h"

namespace adjoint::cpu {

/// Transposes a square of registers: swaps off-diagonal blocks of half the size, then of a quarter, and so on.
template <int Step, class A, int... L>
[[gnu::always_inline]] inline void swap_blocks(Vec<A> (&r)[kLanes<A>], std::integer_sequence<int, L...>) {
  constexpr int lanes = kLanes<A>;
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) {
    if ((i & Step) != 0) continue;
    const Vec<A> low = r[i], high = r[i + Step];
    r[i] = __builtin_shufflevector(low, high, ((L & Step) == 0 ? L : lanes + L - Step)...);
    r[i + Step] = __builtin_shufflevector(low, high, ((L & Step) == 0 ? L + Step : lanes + L)...);
  }
}
template <class A>
[[gnu::always_inline]] inline void transpose(Vec<A> (&r)[kLanes<A>]) {
  using Lanes = std::make_integer_sequence<int, kLanes<A>>;
  if constexpr (kLanes<A> >= 16) swap_blocks<8, A>(r, Lanes{});
  if constexpr (kLanes<A> >= 8) swap_blocks<4, A>(r, Lanes{});
  if constexpr (kLanes<A> >= 4) swap_blocks<2, A>(r, Lanes{});
  if constexpr (kLanes<A> >= 2) swap_blocks<1, A>(r, Lanes{});
}

}  // namespace adjoint::cpu
