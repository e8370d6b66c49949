#pragma once
// Views of one shape, walked together: which element a thread's number stands for, in each of them.

#include <cstdint>

#include "kernels/base/view.h"
#include "kernels/cuda/vector.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {

/// Division of numbers below 2^31 by a constant from 1 to 2^31: one multiplication and a shift (Granlund and
/// Montgomery, "Division by invariant integers using multiplication", PLDI 1994).
struct Divisor {
  unsigned value = 1, multiplier = 1, shift = 0;

  Divisor() = default;
  explicit Divisor(std::int64_t d) : value(static_cast<unsigned>(d)) {
    while ((std::uint64_t{1} << shift) < value) ++shift;
    multiplier = static_cast<unsigned>(((std::uint64_t{1} << 32) * ((std::uint64_t{1} << shift) - value)) / value + 1);
  }
  __device__ __forceinline__ unsigned quotient(unsigned n) const { return (__umulhi(n, multiplier) + n) >> shift; }
};

/// Elements that one launch numbers: Divisor's limit.
constexpr std::int64_t kLayoutLimit = (std::int64_t{1} << 31) - 1;

/// N views' strides over one shape, without the dimensions that can be merged in all of them.
template <int N>
struct Layout {
  unsigned count = 1;
  int rank = 1;
  Divisor size[kMaxRank];
  std::int64_t stride[N][kMaxRank];

  /// Where element i of the row-major order lies in each view, in elements.
  __device__ __forceinline__ void place(unsigned i, std::int64_t (&at)[N]) const {
#pragma unroll
    for (int n = 0; n < N; ++n) at[n] = 0;
#pragma unroll 1
    for (int d = rank - 1; d > 0; --d) {
      const unsigned above = size[d].quotient(i);
      const std::int64_t index = i - above * size[d].value;
#pragma unroll
      for (int n = 0; n < N; ++n) at[n] += index * stride[n][d];
      i = above;
    }
#pragma unroll
    for (int n = 0; n < N; ++n) at[n] += i * stride[n][0];
  }
};

/// A shape with the strides of N views of it, on the host; dimensions in row-major order.
template <int N>
struct Dimensions {
  int rank = 0;
  std::int64_t size[kMaxRank];
  std::int64_t stride[N][kMaxRank];

  /// Adds an inner dimension, merged with the last one where every view allows it.
  void add(std::int64_t extent, const std::int64_t (&strides)[N]) {
    if (extent == 1) return;
    bool merges = rank > 0;
    for (int n = 0; n < N; ++n) merges = merges && stride[n][rank - 1] == strides[n] * extent;
    if (!merges) ++rank;
    size[rank - 1] = merges ? size[rank - 1] * extent : extent;
    for (int n = 0; n < N; ++n) stride[n][rank - 1] = strides[n];
  }

  std::int64_t count() const {
    std::int64_t n = 1;
    for (int d = 0; d < rank; ++d) n *= size[d];
    return n;
  }

  /// Of at most kLayoutLimit elements.
  Layout<N> layout() const {
    Layout<N> l;
    l.count = static_cast<unsigned>(count());
    l.rank = rank > 0 && l.count > 0 ? rank : 1;
    for (int d = 0; d < l.rank; ++d) {
      l.size[d] = Divisor(d < rank && l.count > 0 ? size[d] : 1);
      for (int n = 0; n < N; ++n) l.stride[n][d] = d < rank ? stride[n][d] : 1;
    }
    return l;
  }

  /// Whether `width` consecutive elements always lie in one row, where views either run along it or repeat one element,
  /// and a row's start keeps the alignment of the view's. Rows of a single dimension may have a shorter end.
  bool has_vectors(int width) const {
    if (rank == 0) return false;
    if (rank > 1 && size[rank - 1] % width != 0) return false;
    for (int n = 0; n < N; ++n) {
      const std::int64_t step = stride[n][rank - 1];
      if (step != 1 && step != 0) return false;
      for (int d = 0; d < rank - 1; ++d)
        if (step == 1 && stride[n][d] % width != 0) return false;
    }
    return true;
  }
};

/// The views' common dimensions. With `any_order` they are sorted by falling strides of the last view first, so that
/// neighbouring threads write neighbouring elements.
template <int N>
Dimensions<N> dimensions_of(const View (&views)[N], bool any_order) {
  const View& shape = views[N - 1];
  int order[kMaxRank];
  for (int d = 0; d < shape.rank; ++d) order[d] = d;
  const auto magnitude = [&](int d) { return shape.stride[d] < 0 ? -shape.stride[d] : shape.stride[d]; };
  for (int end = any_order ? shape.rank - 1 : 0; end > 0; --end) {
    for (int i = 0; i < end; ++i) {
      if (magnitude(order[i]) >= magnitude(order[i + 1])) continue;
      const int swapped = order[i];
      order[i] = order[i + 1];
      order[i + 1] = swapped;
    }
  }
  Dimensions<N> dimensions;
  for (int i = 0; i < shape.rank; ++i) {
    std::int64_t strides[N];
    for (int n = 0; n < N; ++n) strides[n] = views[n].stride[order[i]];
    dimensions.add(shape.shape[order[i]], strides);
  }
  return dimensions;
}

/// Calls f(views) for pieces of at most `limit` elements that together are the views: cut along the longest dimension.
template <int N, class F>
void for_pieces(const View (&views)[N], std::int64_t limit, const F& f) {
  if (views[0].count() <= limit) return f(views);
  int longest = 0;
  for (int d = 1; d < views[0].rank; ++d)
    if (views[0].shape[d] > views[0].shape[longest]) longest = d;
  const std::int64_t half = views[0].shape[longest] / 2;
  View first[N], second[N];
  for (int n = 0; n < N; ++n) {
    first[n] = second[n] = views[n];
    first[n].shape[longest] = half;
    second[n].shape[longest] -= half;
    second[n].data = static_cast<char*>(second[n].data) +
                     half * second[n].stride[longest] * static_cast<std::int64_t>(size_of(second[n].dtype));
  }
  for_pieces(first, limit, f);
  for_pieces(second, limit, f);
}

/// Dense memory as a view of the given one's shape.
inline View dense_like(const View& shape, const void* data, DType dtype) {
  View v = shape;
  v.data = const_cast<void*>(data);
  v.dtype = dtype;
  std::int64_t step = 1;
  for (int d = v.rank - 1; d >= 0; --d) {
    v.stride[d] = step;
    step *= v.shape[d];
  }
  return v;
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
