#pragma once
// Elements in registers: 16-byte loads and stores of storage types, and arithmetic in acc_t.

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/compat.h"
#include "kernels/cuda/ptx.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE {

/// Elements of one 16-byte access.
template <class S>
constexpr int kPerVector = 16 / static_cast<int>(sizeof(S));

/// n elements with the alignment of a single access; above 16 bytes it is several.
template <class S, int n>
struct alignas(n * sizeof(S) < 16 ? n * sizeof(S) : 16) Pack {
  S element[n];
};

/// v = the n elements at p, which is aligned as a Pack<S, n>.
template <class S, int n>
__device__ __forceinline__ void load_pack(const S* p, acc_t<S> (&v)[n]) {
  const Pack<S, n> pack = *reinterpret_cast<const Pack<S, n>*>(p);
#pragma unroll
  for (int k = 0; k < n; ++k) v[k] = static_cast<acc_t<S>>(pack.element[k]);
}

/// The n elements at p, which is aligned as a Pack<S, n>, = v, rounded once.
template <class S, int n>
__device__ __forceinline__ void store_pack(S* p, const acc_t<S> (&v)[n]) {
  if constexpr (std::is_same_v<S, bf16> && n % 2 == 0) {
    Pack<std::uint32_t, n / 2> pack;
#pragma unroll
    for (int k = 0; k < n / 2; ++k) pack.element[k] = pack_bf16(v[2 * k], v[2 * k + 1]);
    *reinterpret_cast<Pack<std::uint32_t, n / 2>*>(p) = pack;
  } else {
    Pack<S, n> pack;
#pragma unroll
    for (int k = 0; k < n; ++k) pack.element[k] = static_cast<S>(v[k]);
    *reinterpret_cast<Pack<S, n>*>(p) = pack;
  }
}

/// Blocks, or parts, that take `each` of the items.
constexpr std::int64_t blocks_for(std::int64_t items, std::int64_t each) { return (items + each - 1) / each; }

/// Whether a Pack of that many bytes (a power of two) may lie at p.
inline bool is_aligned(const void* p, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(p) % (bytes < 16 ? bytes : 16) == 0;
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
