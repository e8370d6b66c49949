#pragma once
// Arrays of any dtype and layout in the executor's memory, read and written as doubles.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/view.h"
#include "kernels/simt/buffer.h"

namespace adjoint::simt::self_test {

using Dims = std::vector<std::int64_t>;

constexpr DType kFloats[] = {DType::f64, DType::f32, DType::bf16};

/// dense: as in C; transposed: dimensions reversed; gaps: every second element, rows further apart; backwards: negative
/// strides; odd: dense, but one element off the alignment of vectors.
enum class Placing { dense, transposed, gaps, backwards, odd };
constexpr Placing kPlacings[] = {Placing::dense, Placing::transposed, Placing::gaps, Placing::backwards, Placing::odd};

inline double value_at(DType dtype, const void* p, std::int64_t i) {
  return visit_any(
      dtype, [&](auto type) { return static_cast<double>(static_cast<const typename decltype(type)::type*>(p)[i]); });
}
inline void put_value(DType dtype, void* p, std::int64_t i, double v) {
  visit_any(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (std::is_same_v<T, bf16>) {
      static_cast<T*>(p)[i] = bf16(static_cast<float>(v));
    } else {
      static_cast<T*>(p)[i] = static_cast<T>(v);
    }
  });
}
inline double rounded(DType dtype, double v) {
  double memory;
  put_value(dtype, &memory, 0, v);
  return value_at(dtype, &memory, 0);
}
/// Half a unit in the last place, relative: the error of one rounding.
inline double rounding(DType dtype) { return dtype == DType::f64 ? 0x1p-53 : dtype == DType::f32 ? 0x1p-24 : 0x1p-8; }

/// Offset of the i-th element of the row-major order.
inline std::int64_t place_in(const View& v, std::int64_t i) {
  std::int64_t at = 0;
  for (int d = v.rank - 1; d >= 0; --d) {
    at += i % v.shape[d] * v.stride[d];
    i /= v.shape[d];
  }
  return at;
}

/// Device memory and a view of it. What lies between the elements is poison that a kernel must not change.
class Array {
 public:
  Array(DType dtype, const Dims& shape, Placing placing = Placing::dense)
      : view(make_view(dtype, shape, placing)),
        elements_(extent(view) + (placing == Placing::odd ? 1 : 0)),
        buffer_(static_cast<std::size_t>(elements_) * size_of(dtype), "array") {
    start_ = placing == Placing::backwards && view.count() > 0 ? elements_ - 1 : placing == Placing::odd ? 1 : 0;
    view.data = buffer_.get() + start_ * static_cast<std::int64_t>(size_of(dtype));
    before_ = buffer_.host();
  }
  Array(DType dtype, const Dims& shape, const std::vector<double>& values, Placing placing = Placing::dense)
      : Array(dtype, shape, placing) {
    for (std::int64_t i = 0; i < view.count(); ++i) put_value(dtype, view.data, place_in(view, i), values[i]);
    mark_initialised(buffer_.get(), buffer_.size());
    before_ = buffer_.host();
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  void* data() const { return view.data; }
  double operator[](std::int64_t i) const { return value_at(view.dtype, view.data, place_in(view, i)); }
  std::vector<double> values() const {
    std::vector<double> v(static_cast<std::size_t>(view.count()));
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = (*this)[static_cast<std::int64_t>(i)];
    return v;
  }
  /// Whether nothing but elements has been written.
  bool unspoiled() const {
    std::vector<unsigned char> now = buffer_.host();
    const std::size_t size = size_of(view.dtype);
    for (std::int64_t i = 0; i < view.count(); ++i) {
      const std::size_t at = static_cast<std::size_t>(start_ + place_in(view, i)) * size;
      std::memcpy(now.data() + at, before_.data() + at, size);
    }
    return now == before_;
  }

  View view;

 private:
  static View make_view(DType dtype, const Dims& shape, Placing placing) {
    View v;
    v.data = nullptr;
    v.dtype = dtype;
    v.rank = static_cast<int>(shape.size());
    std::int64_t step = placing == Placing::gaps ? 2 : placing == Placing::backwards ? -1 : 1;
    for (int k = 0; k < v.rank; ++k) {
      const int d = placing == Placing::transposed ? k : v.rank - 1 - k;
      v.shape[d] = shape[static_cast<std::size_t>(d)];
      v.stride[d] = step;
      step *= v.shape[d];
      if (placing == Placing::gaps) step += 3;
    }
    return v;
  }
  /// Elements from the first to the last.
  static std::int64_t extent(const View& v) {
    if (v.count() == 0) return 0;
    std::int64_t last = 0;
    for (int d = 0; d < v.rank; ++d) last += (v.shape[d] - 1) * std::abs(v.stride[d]);
    return last + 1;
  }

  std::int64_t elements_;
  Buffer<unsigned char> buffer_;
  std::int64_t start_ = 0;
  std::vector<unsigned char> before_;
};

/// v seen with a larger shape: stride 0 where it has size 1 or no dimension.
inline View expanded(const View& v, const Dims& shape) {
  View e = v;
  e.rank = static_cast<int>(shape.size());
  for (int d = 0; d < e.rank; ++d) {
    const int k = d - (e.rank - v.rank);
    e.shape[d] = shape[static_cast<std::size_t>(d)];
    e.stride[d] = k < 0 || (v.shape[k] == 1 && e.shape[d] != 1) ? 0 : v.stride[k];
  }
  return e;
}

inline std::int64_t count_of(const Dims& shape) {
  std::int64_t n = 1;
  for (std::int64_t size : shape) n *= size;
  return n;
}

/// Numbers that the dtype holds exactly.
inline std::vector<double> uniform_values(DType dtype, std::int64_t n, unsigned seed, double low, double high) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> draw(low, high);
  std::vector<double> v(static_cast<std::size_t>(n));
  for (double& x : v) x = rounded(dtype, draw(random));
  return v;
}

/// Every element within relative |expected| + absolute; NaN and infinities equal.
inline void expect_near(const Array& got, const std::vector<double>& expected, double relative, double absolute,
                        const std::string& what) {
  ASSERT_EQ(got.view.count(), static_cast<std::int64_t>(expected.size())) << what;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double value = got[static_cast<std::int64_t>(i)], want = expected[i];
    const bool same = value == want || (std::isnan(value) && std::isnan(want));
    ASSERT_TRUE(same || std::abs(value - want) <= relative * std::abs(want) + absolute)
        << what << ": element " << i << " is " << value << ", expected " << want << "; error over tolerance "
        << std::abs(value - want) / (relative * std::abs(want) + absolute);
  }
  EXPECT_TRUE(got.unspoiled()) << what << ": memory between the elements was written";
}

}  // namespace adjoint::simt::self_test
