#pragma once
// What a kernel call is made of: non-owning views, and gradient destinations.

#include <cstdint>

#include "kernels/base/dtype.h"

namespace adjoint {

constexpr int kMaxRank = 6;

/// A strided array in some backend's memory. Strides count elements; 0 repeats an element (broadcasting).
/// Only the first `rank` entries of shape and stride are set.
struct View {
  void* data;
  DType dtype;
  int rank;
  std::int64_t shape[kMaxRank];
  std::int64_t stride[kMaxRank];

  /// n consecutive elements.
  static View flat(void* data, DType dtype, std::int64_t n) {
    View v;
    v.data = data;
    v.dtype = dtype;
    v.rank = 1;
    v.shape[0] = n;
    v.stride[0] = 1;
    return v;
  }

  std::int64_t count() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
};

/// Where a kernel puts a gradient: dense row-major memory. `data` null means the gradient is not wanted.
struct GradOut {
  void* data = nullptr;
  bool accumulate = false;  ///< add to what is there; otherwise assign
};

/// The rows of a table that a gradient reached, each once, in the order in which it did. In device memory.
struct RowList {
  std::int64_t* count = nullptr;   ///< null: no list
  std::int32_t* rows = nullptr;    ///< [rows of the table], the first *count of which are set
  std::uint8_t* listed = nullptr;  ///< [rows of the table]: 1 for a row that is in the list, else 0
};

/// Philox state in device memory: the same bits give the same numbers on every backend.
/// Kernels that draw read `counter` and never write it; RandomAdvance moves it on.
struct PhiloxState {
  std::uint64_t key;
  std::uint64_t counter;
};

}  // namespace adjoint
