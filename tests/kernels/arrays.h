#pragma once
// Arrays of any dtype and layout for the kernel tests, read and written as doubles.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/view.h"
#ifdef ADJOINT_KERNELS_ON_GPU
#include "kernels/base/backend.h"
#include "kernels/base/gpu_api.h"
#include "tests/support/by_library.h"
#else
#include "kernels/cpu/thread_pool.h"
#endif

namespace adjoint::testing {

// The tests of the contracts run on the CPU's kernels, and once more, with ADJOINT_KERNELS_ON_GPU, on the GPU's: each
// file calls run(at(), call) and scratch_bytes(at(), call). What a call points to comes from operator new, which
// tests/device/contract_main.cpp makes memory that a device reads; nothing lies on the stack.
#ifdef ADJOINT_KERNELS_ON_GPU
/// The backend of this program: the executor where it has one, else CUDA.
struct At {};
constexpr std::size_t kMargin = 64;  // arrays are aligned, as device memory is

/// Calls f with the backend's own At.
template <class F>
auto with_backend(F&& f) {
  return simt::api != nullptr ? f(simt::At{}) : f(cuda::At{});
}
inline GpuApi* gpu_api() { return simt::api != nullptr ? simt::api : cuda::api; }

/// With the library that may do the call, where the program has one.
template <class Call>
Call placed(Call call) {
  if constexpr (requires { call.shape.by_library; }) call.shape.by_library = by_library;
  return call;
}
template <class Call>
std::size_t scratch_bytes(At, const Call& call) {
  return with_backend([call = placed(call)](auto at) { return entry_of<decltype(at)>(call).scratch_bytes(at, call); });
}
/// Waits for the call. With scratch of its own if the call has none: on the CPU some calls need none.
template <class Call>
void run(At at, Call call) {
  call = placed(call);
  std::vector<unsigned char> scratch;
  if constexpr (requires { call.scratch; }) {
    if (call.scratch == nullptr) {
      scratch.assign(scratch_bytes(at, call) + 1, 0xA5);
      call.scratch = scratch.data();
    }
  }
  with_backend([&](auto place) { entry_of<decltype(place)>(call).run(place, call); });
  const int status = gpu_api()->synchronize(nullptr);
  EXPECT_EQ(status, 0) << gpu_api()->error_name(status) << ": " << gpu_api()->error_text(status);
  EXPECT_TRUE(scratch.empty() || scratch.back() == 0xA5) << "wrote past the scratch it asked for";
}
#else
using cpu::At;
constexpr std::size_t kMargin = 67;
#endif

using Dims = std::vector<std::int64_t>;

constexpr DType kFloats[] = {DType::f64, DType::f32, DType::bf16};
constexpr DType kAll[] = {DType::f64, DType::f32, DType::bf16, DType::i32, DType::u8};
constexpr std::int64_t kOddSizes[] = {0, 1, 31, 32, 33, 127, 128, 129, 1023};
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// Where an array's elements lie: as in C; with the dimensions reversed; with gaps after each; backwards.
enum class Layout { dense, transposed, gaps };
constexpr Layout kLayouts[] = {Layout::dense, Layout::transposed, Layout::gaps};

inline double get(DType dtype, const void* p, std::int64_t i) {
  return visit_any(
      dtype, [&](auto type) { return static_cast<double>(static_cast<const typename decltype(type)::type*>(p)[i]); });
}
inline void set(DType dtype, void* p, std::int64_t i, double v) {
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
  set(dtype, &memory, 0, v);
  return get(dtype, &memory, 0);
}
/// One rounding of the dtype, relative.
inline double epsilon(DType dtype) {
  return dtype == DType::f64 ? 0x1p-53 : dtype == DType::f32 ? 0x1p-24 : dtype == DType::bf16 ? 0x1p-8 : 0;
}

/// Memory and a view of it. The bytes around and between the elements are 0xA5, and must stay so.
class Array {
 public:
  Array(DType dtype, const Dims& shape, Layout layout = Layout::dense) {
    view.dtype = dtype;
    view.rank = static_cast<int>(shape.size());
    for (int i = 0; i < view.rank; ++i) view.shape[i] = shape[i];
    std::int64_t step = layout == Layout::gaps ? 2 : 1;
    const bool reversed = layout == Layout::transposed;
    for (int k = 0; k < view.rank; ++k) {
      const int i = reversed ? k : view.rank - 1 - k;
      view.stride[i] = step;
      step *= shape[i];
      if (layout == Layout::gaps) step += 3;
    }
    const std::size_t size = size_of(dtype);
    bytes_.assign((static_cast<std::size_t>(step) + 2 * kMargin) * size, 0xA5);
    view.data = bytes_.data() + kMargin * size;
  }
  Array(const Array& other) : view(other.view), bytes_(other.bytes_) {
    view.data = bytes_.data() + (static_cast<const unsigned char*>(other.view.data) - other.bytes_.data());
  }
  Array& operator=(const Array&) = delete;

  std::int64_t count() const { return view.count(); }
  void* data() { return view.data; }
  /// Offset of the i-th element in row-major order.
  static std::int64_t place(const View& v, std::int64_t i) {
    std::int64_t offset = 0;
    for (int k = v.rank - 1; k >= 0; --k) {
      offset += i % v.shape[k] * v.stride[k];
      i /= v.shape[k];
    }
    return offset;
  }
  double operator[](std::int64_t i) const { return get(view.dtype, view.data, place(view, i)); }
  void put(std::int64_t i, double v) { set(view.dtype, view.data, place(view, i), v); }

  Array& random(unsigned seed, double low, double high) {
    std::mt19937 generator(seed);
    std::uniform_real_distribution<double> draw(low, high);
    for (std::int64_t i = 0, n = count(); i < n; ++i) put(i, draw(generator));
    return *this;
  }
  /// The same elements in another layout.
  Array as(Layout layout) const {
    Array other(view.dtype, Dims(view.shape, view.shape + view.rank), layout);
    for (std::int64_t i = 0, n = count(); i < n; ++i) {
      const std::size_t size = size_of(view.dtype);
      std::memcpy(static_cast<char*>(other.view.data) + place(other.view, i) * size,
                  static_cast<const char*>(view.data) + place(view, i) * size, size);
    }
    return other;
  }
  /// Whether all memory, margins and gaps too, is the same.
  bool same_bytes(const Array& other) const { return bytes_ == other.bytes_; }
  /// Whether the elements are the same bit for bit, wherever they lie.
  bool same_elements(const Array& other) const {
    const std::size_t size = size_of(view.dtype);
    for (std::int64_t i = 0, n = count(); i < n; ++i) {
      if (std::memcmp(static_cast<const char*>(view.data) + place(view, i) * size,
                      static_cast<const char*>(other.view.data) + place(other.view, i) * size, size) != 0)
        return false;
    }
    return true;
  }
  /// Whether nothing but elements has been written.
  bool unspoiled() const {
    std::vector<unsigned char> copy = bytes_;
    const std::size_t size = size_of(view.dtype);
    const std::ptrdiff_t start = static_cast<const unsigned char*>(view.data) - bytes_.data();
    for (std::int64_t i = 0, n = count(); i < n; ++i)
      std::memset(copy.data() + start + place(view, i) * static_cast<std::int64_t>(size), 0xA5, size);
    for (unsigned char byte : copy)
      if (byte != 0xA5) return false;
    return true;
  }

  View view;

 private:
  std::vector<unsigned char> bytes_;
};

/// v seen with a larger shape: stride 0 where it has size 1 or no dimension.
inline View expanded(const View& v, const Dims& shape) {
  View e = v;
  e.rank = static_cast<int>(shape.size());
  for (int i = 0; i < e.rank; ++i) {
    const int k = i - (e.rank - v.rank);
    e.shape[i] = shape[i];
    e.stride[i] = k < 0 || (v.shape[k] == 1 && shape[i] != 1) ? 0 : v.stride[k];
  }
  return e;
}

inline std::string text(const Dims& shape) {
  std::string s = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

/// |value - expected| <= relative |expected| + absolute, NaN and infinities equal.
inline ::testing::AssertionResult close(double value, double expected, double relative, double absolute) {
  if (std::isnan(expected) ? std::isnan(value) : value == expected) return ::testing::AssertionSuccess();
  if (std::abs(value - expected) <= relative * std::abs(expected) + absolute) return ::testing::AssertionSuccess();
  std::ostringstream s;
  s.precision(17);
  s << value << " instead of " << expected << ", tolerance " << relative * std::abs(expected) + absolute;
  return ::testing::AssertionFailure() << s.str();
}

/// Pools of 1, 2, 3, 4 and 8 threads that work as if each had a core; on a GPU nothing depends on it.
inline const At& at([[maybe_unused]] int threads = 1) {
#ifdef ADJOINT_KERNELS_ON_GPU
  static const At place{};
  return place;
#else
  static cpu::ThreadPool pools[] = {cpu::ThreadPool(1), cpu::ThreadPool(2, 2), cpu::ThreadPool(3, 3),
                                    cpu::ThreadPool(4, 4), cpu::ThreadPool(8, 8)};
  static const At places[] = {{&pools[0]}, {&pools[1]}, {&pools[2]}, {&pools[3]}, {&pools[4]}};
  return places[threads <= 4 ? threads - 1 : 4];
#endif
}

}  // namespace adjoint::testing
