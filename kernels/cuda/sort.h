#pragma once
// A stable sort of pairs by their keys: CUB's radix sort on a GPU, std::stable_sort in the executor.

#include "kernels/cuda/compat.h"

#ifdef __CUDACC__

#include <cub/device/device_radix_sort.cuh>

namespace adjoint::cuda {

/// Bytes of temporary memory for n pairs whose keys have so many bits.
inline std::size_t sort_bytes(std::int64_t n, int bits) {
  std::size_t bytes = 0;
  check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, static_cast<const std::int32_t*>(nullptr),
                                        static_cast<std::int32_t*>(nullptr), static_cast<const std::int32_t*>(nullptr),
                                        static_cast<std::int32_t*>(nullptr), static_cast<int>(n), 0, bits),
        "sort: asking for its memory");
  return bytes;
}

/// Sorts n pairs by the low bits of their keys, which are not negative; pairs of equal keys keep their order.
inline void sort_pairs(void* temporary, std::size_t bytes, std::int64_t n, int bits, const std::int32_t* keys,
                       std::int32_t* sorted_keys, const std::int32_t* values, std::int32_t* sorted_values,
                       Stream stream) {
  check(cub::DeviceRadixSort::SortPairs(temporary, bytes, keys, sorted_keys, values, sorted_values, static_cast<int>(n),
                                        0, bits, stream),
        "sort");
}

}  // namespace adjoint::cuda

#else

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/simt/memory.h"

namespace adjoint::simt {

inline std::size_t sort_bytes(std::int64_t n, int) { return static_cast<std::size_t>(n); }

inline void sort_pairs(void*, std::size_t, std::int64_t n, int bits, const std::int32_t* keys,
                       std::int32_t* sorted_keys, const std::int32_t* values, std::int32_t* sorted_values, Stream) {
  detail::submit([=] {
    std::vector<std::int64_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    const auto key = [&](std::int64_t i) { return keys[i] & ((std::int64_t{1} << bits) - 1); };
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return key(a) < key(b); });
    for (std::size_t i = 0; i < order.size(); ++i) {
      sorted_keys[i] = keys[order[i]];
      sorted_values[i] = values[order[i]];
    }
    mark_initialised(sorted_keys, order.size() * sizeof(std::int32_t));
    mark_initialised(sorted_values, order.size() * sizeof(std::int32_t));
  });
}

}  // namespace adjoint::simt

#endif
