#pragma once
// A block's shared memory: poisoned at the start of every block, with ends that the sanitizers can see.

#include <cstddef>

#include "kernels/simt/collectives.h"

namespace adjoint::simt {

namespace detail {
void* carve(std::size_t bytes, std::size_t alignment, std::size_t element, Location at);
void register_shared_array(void* data, std::size_t bytes, std::size_t element);
[[noreturn]] void fail_index(std::size_t index, std::size_t size);
}  // namespace detail

/// Hands out the launch's dynamic shared memory piece by piece; every thread must take the same pieces in the same
/// order. Here each piece is its own allocation, so an overrun of one tile into the next is seen.
class Smem {
 public:
  template <class T>
  T* take(std::size_t count, detail::Location at = detail::Location::here()) {
    constexpr std::size_t alignment = alignof(T) > 16 ? alignof(T) : 16;
    return static_cast<T*>(detail::carve(count * sizeof(T), alignment, sizeof(T), at));
  }
};

/// Static shared memory; declare as `__shared__ SharedArray<float, 8> part;`. A plain __shared__ array would be neither
/// poisoned nor checked: no linker section can collect function-local statics in GCC, a constructor can.
template <class T, std::size_t N>
struct SharedArray {
  T data[N];
#ifdef ADJOINT_SIMT_CHECKER
  char guard[256];  // statics lie side by side: an overrun must not reach the next one
#endif

  ADJOINT_SIMT_RAW SharedArray() { detail::register_shared_array(data, sizeof data, sizeof(T)); }
  T& operator[](std::size_t i) {
    if (i >= N) detail::fail_index(i, N);
    return data[i];
  }
};

}  // namespace adjoint::simt
