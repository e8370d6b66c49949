#include "kernels/bias_gelu.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/strided.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

/// Rows of a chunk: at least 16, and at most 64 chunks, so that their column sums are soon added up.
std::int64_t rows_per_chunk(std::int64_t rows) { return std::max<std::int64_t>((rows + 63) / 64, 16); }

template <class A, bool tanh_form>
ADJOINT_INLINE Vec<A> value(Vec<A> x) {
  using M = VectorMath<A>;
  return tanh_form ? M::gelu_tanh(x) : x * M::normal_cdf(x);
}
template <class A, bool tanh_form>
ADJOINT_INLINE Vec<A> slope(Vec<A> x) {
  using M = VectorMath<A>;
  return tanh_form ? M::gelu_tanh_slope(x) : M::normal_cdf(x) + x * M::normal_pdf(x);
}

/// The call, with zeros in place of a bias that it has not.
template <class T, class Call>
Call with_bias(Call call, std::vector<T>& zeros) {
  if (call.bias != nullptr) return call;
  zeros.assign(static_cast<std::size_t>(call.width), T(0));
  call.bias = zeros.data();
  return call;
}

template <class T, bool tanh_form>
void forward(const At& at, const BiasGeluForward& call) {
  using A = acc_t<T>;
  const T* bias = static_cast<const T*>(call.bias);
  parallel_for(at, call.rows, rows_per_chunk(call.rows), 8 * call.width, [&](std::int64_t begin, std::int64_t end) {
    for_lengths(call, begin, end, [&](std::int64_t first, std::int64_t taking, std::int64_t last) {
      T* const y = static_cast<T*>(call.y);
      for (std::int64_t row = first; row < taking; ++row) {
        const T* x = static_cast<const T*>(call.x) + row * call.width;
        for_registers<false>(y + row * call.width, call.width,
                             [=](std::int64_t i, auto get) { return value<A, tanh_form>(get(x + i) + get(bias + i)); });
      }
      clear_rows(y + taking * call.width, last - taking, call.width, call.width);
    });
  });
}

/// One row of dx, and of `columns`, if wanted, to which it is added before it is rounded.
template <class T, bool tanh_form>
void backward_row(const BiasGeluBackward& call, std::int64_t row, acc_t<T>* columns) {
  using A = acc_t<T>;
  const T *x = static_cast<const T*>(call.x) + row * call.width, *bias = static_cast<const T*>(call.bias),
          *dy = static_cast<const T*>(call.dy) + row * call.width;
  T* dx = call.dx.data != nullptr ? static_cast<T*>(call.dx.data) + row * call.width : nullptr;
  const auto gradient = [=](std::int64_t i, auto get) {
    return get(dy + i) * slope<A, tanh_form>(get(x + i) + get(bias + i));
  };
  if (columns == nullptr) {
    call.dx.accumulate ? for_registers<true>(dx, call.width, gradient) : for_registers<false>(dx, call.width, gradient);
    return;
  }
  for_registers<true>(columns, call.width, [=, accumulate = call.dx.accumulate](std::int64_t i, auto get) {
    const Vec<A> g = gradient(i, get);
    if (dx != nullptr) {
      const int n = static_cast<int>(std::min<std::int64_t>(call.width - i, kLanes<A>));
      n == kLanes<A> ? put(dx + i, g, accumulate) : put_first(dx + i, g, n, accumulate);
    }
    return g;
  });
}

template <class T, bool tanh_form>
void backward(const At& at, const BiasGeluBackward& call) {
  using A = acc_t<T>;
  const std::int64_t width = call.width, grain = rows_per_chunk(call.rows), chunks = (call.rows + grain - 1) / grain;
  const bool wants_columns = call.dbias.data != nullptr;
  A* const partial = static_cast<A*>(call.scratch);
  if (!wants_columns && call.dx.data == nullptr) return;
  parallel_for(at, call.rows, grain, 12 * width, [&](std::int64_t begin, std::int64_t end) {
    A* const mine = wants_columns ? partial + begin / grain * width : nullptr;
    if (mine != nullptr) std::fill_n(mine, width, A(0));
    for_lengths(call, begin, end, [&](std::int64_t first, std::int64_t taking, std::int64_t last) {
      for (std::int64_t row = first; row < taking; ++row) backward_row<T, tanh_form>(call, row, mine);
      if (call.dx.data != nullptr && !call.dx.accumulate)
        clear_rows(static_cast<T*>(call.dx.data) + taking * width, last - taking, width, width);
    });
  });
  if (!wants_columns) return;
  parallel_for(at, width, 256, chunks / 2 + 1, [&](std::int64_t begin, std::int64_t end) {
    const auto sum = [&](std::int64_t i, auto get) {
      Vec<A> total{};
      for (std::int64_t c = 0; c < chunks; ++c) total += get(partial + c * width + begin + i);
      return total;
    };
    T* const out = static_cast<T*>(call.dbias.data) + begin;
    call.dbias.accumulate ? for_registers<true>(out, end - begin, sum) : for_registers<false>(out, end - begin, sum);
  });
}

}  // namespace

void run(const At& at, const BiasGeluForward& call) {
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    std::vector<T> zeros;
    const BiasGeluForward it = with_bias(call, zeros);
    it.tanh_form ? forward<T, true>(at, it) : forward<T, false>(at, it);
  });
}

std::size_t scratch_bytes(const BiasGeluBackward& call) {
  if (call.dbias.data == nullptr) return 0;
  const std::int64_t grain = rows_per_chunk(call.rows);
  return static_cast<std::size_t>((call.rows + grain - 1) / grain * call.width) * size_of(accumulator_of(call.dtype));
}

void run(const At& at, const BiasGeluBackward& call) {
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    std::vector<T> zeros;
    const BiasGeluBackward it = with_bias(call, zeros);
    it.tanh_form ? backward<T, true>(at, it) : backward<T, false>(at, it);
  });
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
