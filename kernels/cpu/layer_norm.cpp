#include "kernels/layer_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu {
namespace {

constexpr std::int64_t kRowsPerChunk = 32;

std::int64_t chunks_of(std::int64_t rows) { return (rows + kRowsPerChunk - 1) / kRowsPerChunk; }

/// Calls f(position, lanes that count) over a row.
template <class A, class F>
inline void registers(std::int64_t width, F&& f) {
  std::int64_t i = 0;
  for (; i + kLanes<A> <= width; i += kLanes<A>) f(i, kLanes<A>);
  if (i < width) f(i, static_cast<int>(width - i));
}
template <class T>
Vec<acc_t<T>> get(const T* p, int n) {
  return n == kLanes<acc_t<T>> ? load(p) : load_first(p, n);
}
template <class T>
void set(T* p, Vec<acc_t<T>> v, int n, bool accumulate = false) {
  if (n == kLanes<acc_t<T>>) {
    put(p, v, accumulate);
  } else {
    put_first(p, v, n, accumulate);
  }
}
template <class A>
Vec<A> only_first(Vec<A> v, int n) {
  return n == kLanes<A> ? v : (first_lanes<A>(n) ? v : Vec<A>{});
}

template <class T>
void forward_row(const LayerNormForward& call, std::int64_t r) {
  using A = acc_t<T>;
  const std::int64_t begin = r * call.width;
  const T* s = static_cast<const T*>(call.x) + begin;
  if (call.residual != nullptr) {
    const T* residual = static_cast<const T*>(call.residual) + begin;
    T* sum = static_cast<T*>(call.sum) + begin;
    registers<A>(call.width, [&](std::int64_t i, int n) { set(sum + i, get(s + i, n) + get(residual + i, n), n); });
    s = sum;  // what is normalised is what backward will read
  }
  const A width = static_cast<A>(call.width);
  Vec<A> total{};
  registers<A>(call.width, [&](std::int64_t i, int n) { total += get(s + i, n); });
  const A mean = sum_lanes<A>(total) / width;
  Vec<A> squares{};
  registers<A>(call.width, [&](std::int64_t i, int n) {
    const Vec<A> d = only_first<A>(get(s + i, n) - mean, n);
    squares += d * d;
  });
  const A rstd = A(1) / std::sqrt(sum_lanes<A>(squares) / width + static_cast<A>(call.eps));
  const T* gamma = static_cast<const T*>(call.gamma);
  const T* beta = static_cast<const T*>(call.beta);
  T* y = static_cast<T*>(call.y) + begin;
  registers<A>(call.width, [&](std::int64_t i, int n) {
    Vec<A> v = (get(s + i, n) - mean) * rstd;
    if (gamma != nullptr) v *= get(gamma + i, n);
    if (beta != nullptr) v += get(beta + i, n);
    set(y + i, v, n);
  });
  static_cast<A*>(call.mean)[r] = mean;
  static_cast<A*>(call.rstd)[r] = rstd;
}

/// One row of dx, and its terms of dgamma and dbeta added to `columns` [2, width] (or not, if that is null).
template <class T>
void backward_row(const LayerNormBackward& call, std::int64_t r, acc_t<T>* columns) {
  using A = acc_t<T>;
  const std::int64_t begin = r * call.width;
  const T* s = static_cast<const T*>(call.s) + begin;
  const T* dy = static_cast<const T*>(call.dy) + begin;
  const T* gamma = static_cast<const T*>(call.gamma);
  const A mean = static_cast<const A*>(call.mean)[r], rstd = static_cast<const A*>(call.rstd)[r];
  const auto normal = [&](std::int64_t i, int n) { return (get(s + i, n) - mean) * rstd; };
  const auto incoming = [&](std::int64_t i, int n) {
    const Vec<A> g = get(dy + i, n);
    return gamma != nullptr ? g * get(gamma + i, n) : g;
  };
  if (columns != nullptr) {
    registers<A>(call.width, [&](std::int64_t i, int n) {
      const Vec<A> g = get(dy + i, n);
      set(columns + i, g * normal(i, n), n, true);
      set(columns + call.width + i, g, n, true);
    });
  }
  if (call.dx.data == nullptr && call.dresidual.data == nullptr) return;
  Vec<A> sum{}, dot{};
  registers<A>(call.width, [&](std::int64_t i, int n) {
    const Vec<A> g = incoming(i, n);  // 0 in the lanes that do not count
    sum += g;
    dot += g * normal(i, n);
  });
  const A width = static_cast<A>(call.width);
  const A mean_g = sum_lanes<A>(sum) / width, mean_dot = sum_lanes<A>(dot) / width;
  registers<A>(call.width, [&](std::int64_t i, int n) {
    Vec<A> d = rstd * (incoming(i, n) - mean_g - normal(i, n) * mean_dot);
    if (call.dsum != nullptr) d += get(static_cast<const T*>(call.dsum) + begin + i, n);
    for (const GradOut& out : {call.dx, call.dresidual})
      if (out.data != nullptr) set(static_cast<T*>(out.data) + begin + i, d, n, out.accumulate);
  });
}

template <class T>
void finish_columns(const GradOut& out, const acc_t<T>* partial, std::int64_t chunks, std::int64_t width) {
  using A = acc_t<T>;
  if (out.data == nullptr) return;
  registers<A>(width, [&](std::int64_t i, int n) {
    Vec<A> total{};
    for (std::int64_t c = 0; c < chunks; ++c) total += get(partial + c * 2 * width + i, n);
    set(static_cast<T*>(out.data) + i, total, n, out.accumulate);
  });
}

}  // namespace

void run(const At& at, const LayerNormForward& call) {
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    parallel_for(at, call.rows, kRowsPerChunk, call.width, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) forward_row<T>(call, r);
    });
  });
}

std::size_t scratch_bytes(const LayerNormBackward& call) {
  if (call.dgamma.data == nullptr && call.dbeta.data == nullptr) return 0;
  return static_cast<std::size_t>(chunks_of(call.rows) * 2 * call.width) * size_of(accumulator_of(call.dtype));
}

void run(const At& at, const LayerNormBackward& call) {
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const bool columns = call.dgamma.data != nullptr || call.dbeta.data != nullptr;
    A* partial = static_cast<A*>(call.scratch);
    parallel_for(at, call.rows, kRowsPerChunk, 3 * call.width, [&](std::int64_t begin, std::int64_t end) {
      A* mine = columns ? partial + begin / kRowsPerChunk * 2 * call.width : nullptr;
      if (columns) std::fill_n(mine, 2 * call.width, A(0));
      for (std::int64_t r = begin; r < end; ++r) backward_row<T>(call, r, mine);
    });
    if (columns) {
      finish_columns<T>(call.dgamma, partial, chunks_of(call.rows), call.width);
      finish_columns<T>(call.dbeta, partial + call.width, chunks_of(call.rows), call.width);
    }
  });
}

}  // namespace adjoint::cpu
