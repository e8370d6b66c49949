#include "kernels/layer_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

/// Rows whose chains of dependent operations run side by side. A row's own order does not depend on it.
constexpr int kTogether = 4;

/// Rows of a chunk: at least 32, and at most 64 chunks, so that their column sums are soon added up.
std::int64_t rows_per_chunk(std::int64_t rows) {
  return std::max<std::int64_t>((rows + 63) / 64 + kTogether - 1, 32) / kTogether * kTogether;
}
std::int64_t chunks_of(std::int64_t rows) { return (rows + rows_per_chunk(rows) - 1) / rows_per_chunk(rows); }

/// Calls f(position, get, set) register by register; get and set reach the elements that exist, get gives 0 elsewhere.
template <class A, class F>
inline void over_row(std::int64_t width, F&& f) {
  std::int64_t i = 0;
  for (; i + kLanes<A> <= width; i += kLanes<A>) {
    f(
        i, [](const auto* p) { return load(p); }, [](auto* p, Vec<A> v, bool accumulate) { put(p, v, accumulate); });
  }
  if (const int n = static_cast<int>(width - i); n > 0) {
    f(
        i, [n](const auto* p) { return load_first(p, n); },
        [n](auto* p, Vec<A> v, bool accumulate) { put_first(p, v, n, accumulate); });
  }
}

template <class T, int R>
void forward_rows(const LayerNormForward& call, std::int64_t row) {
  using A = acc_t<T>;
  const std::int64_t width = call.width, begin = row * width;
  const T* s = static_cast<const T*>(call.x) + begin;
  Vec<A> total[R] = {};
  if (call.residual != nullptr) {
    const T* residual = static_cast<const T*>(call.residual) + begin;
    T* sum = static_cast<T*>(call.sum) + begin;
    over_row<A>(width, [&](std::int64_t i, auto get, auto set) {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        set(sum + r * width + i, get(s + r * width + i) + get(residual + r * width + i), false);
        total[r] += get(sum + r * width + i);  // as stored: what is normalised is what backward will read
      }
    });
    s = sum;
  } else {
    over_row<A>(width, [&](std::int64_t i, auto get, auto) {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) total[r] += get(s + r * width + i);
    });
  }
  A mean[R], rstd[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) mean[r] = sum_lanes<A>(total[r]) / static_cast<A>(width);
  // The missing lanes of the last register hold 0 - mean: they are left out by their own mask.
  const std::int64_t whole = width / kLanes<A> * kLanes<A>;
  Vec<A> squares[R] = {};
  for (std::int64_t i = 0; i < whole; i += kLanes<A>) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vec<A> d = load(s + r * width + i) - mean[r];
      squares[r] = multiply_add(d, d, squares[r]);
    }
  }
  if (const int rest = static_cast<int>(width - whole); rest > 0) {
    const VecInt<A> exists = first_lanes<A>(rest);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vec<A> d = select(exists, load_first(s + r * width + whole, rest) - mean[r], Vec<A>{});
      squares[r] = multiply_add(d, d, squares[r]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
    rstd[r] = A(1) / std::sqrt(sum_lanes<A>(squares[r]) / static_cast<A>(width) + static_cast<A>(call.eps));
  const T* gamma = static_cast<const T*>(call.gamma);
  const T* beta = static_cast<const T*>(call.beta);
  T* y = static_cast<T*>(call.y) + begin;
  over_row<A>(width, [&](std::int64_t i, auto get, auto set) {
    const Vec<A> scale = gamma != nullptr ? get(gamma + i) : broadcast(A(1));
    const Vec<A> shift = beta != nullptr ? get(beta + i) : Vec<A>{};
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
      set(y + r * width + i, multiply_add((get(s + r * width + i) - mean[r]) * rstd[r], scale, shift), false);
  });
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    static_cast<A*>(call.mean)[row + r] = mean[r];
    static_cast<A*>(call.rstd)[row + r] = rstd[r];
  }
}

/// R rows of dx, and their terms of dgamma and dbeta added to `columns` [2, width] row by row (unless that is null).
template <class T, int R>
void backward_rows(const LayerNormBackward& call, std::int64_t row, acc_t<T>* columns) {
  using A = acc_t<T>;
  const std::int64_t width = call.width, begin = row * width;
  const T* s = static_cast<const T*>(call.s) + begin;
  const T* dy = static_cast<const T*>(call.dy) + begin;
  const T* gamma = static_cast<const T*>(call.gamma);
  const A* mean = static_cast<const A*>(call.mean) + row;
  const A* rstd = static_cast<const A*>(call.rstd) + row;
  Vec<A> sum[R] = {}, dot[R] = {};
  over_row<A>(width, [&](std::int64_t i, auto get, auto set) {
    const Vec<A> scale = gamma != nullptr ? get(gamma + i) : broadcast(A(1));
    Vec<A> of_gamma{}, of_beta{};
    if (columns != nullptr) {
      of_gamma = get(columns + i);
      of_beta = get(columns + width + i);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vec<A> g = get(dy + r * width + i), normal = (get(s + r * width + i) - mean[r]) * rstd[r];
      of_gamma = multiply_add(g, normal, of_gamma);
      of_beta += g;
      const Vec<A> scaled = g * scale;  // 0 in the lanes that do not exist
      sum[r] += scaled;
      dot[r] = multiply_add(scaled, normal, dot[r]);
    }
    if (columns != nullptr) {
      set(columns + i, of_gamma, false);
      set(columns + width + i, of_beta, false);
    }
  });
  if (call.dx.data == nullptr && call.dresidual.data == nullptr) return;
  A mean_g[R], mean_dot[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    mean_g[r] = sum_lanes<A>(sum[r]) / static_cast<A>(width);
    mean_dot[r] = sum_lanes<A>(dot[r]) / static_cast<A>(width);
  }
  const T* dsum = call.dsum != nullptr ? static_cast<const T*>(call.dsum) + begin : nullptr;
  T* dx = call.dx.data != nullptr ? static_cast<T*>(call.dx.data) + begin : nullptr;
  T* dresidual = call.dresidual.data != nullptr ? static_cast<T*>(call.dresidual.data) + begin : nullptr;
  over_row<A>(width, [&](std::int64_t i, auto get, auto set) {
    const Vec<A> scale = gamma != nullptr ? get(gamma + i) : broadcast(A(1));
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const std::int64_t place = r * width + i;
      const Vec<A> normal = (get(s + place) - mean[r]) * rstd[r];
      Vec<A> d = rstd[r] * multiply_add(normal, -mean_dot[r], get(dy + place) * scale - mean_g[r]);
      if (dsum != nullptr) d += get(dsum + place);
      if (dx != nullptr) set(dx + place, d, call.dx.accumulate);
      if (dresidual != nullptr) set(dresidual + place, d, call.dresidual.accumulate);
    }
  });
}

/// Adds up columns [begin, end) of the chunks' partial sums, chunk after chunk.
template <class T>
void finish_columns(const GradOut& out, const acc_t<T>* partial, std::int64_t chunks, std::int64_t width,
                    std::int64_t begin, std::int64_t end) {
  using A = acc_t<T>;
  if (out.data == nullptr) return;
  over_row<A>(end - begin, [&](std::int64_t i, auto get, auto set) {
    Vec<A> total{};
    for (std::int64_t c = 0; c < chunks; ++c) total += get(partial + c * 2 * width + begin + i);
    set(static_cast<T*>(out.data) + begin + i, total, out.accumulate);
  });
}

}  // namespace

void run(const At& at, const LayerNormForward& call) {
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    parallel_for(at, call.rows, rows_per_chunk(call.rows), call.width, [&](std::int64_t begin, std::int64_t end) {
      std::int64_t row = begin;
      for (; row + kTogether <= end; row += kTogether) forward_rows<T, kTogether>(call, row);
      for (; row < end; ++row) forward_rows<T, 1>(call, row);
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
    const bool wants_columns = call.dgamma.data != nullptr || call.dbeta.data != nullptr;
    const std::int64_t grain = rows_per_chunk(call.rows), chunks = chunks_of(call.rows), width = call.width;
    A* partial = static_cast<A*>(call.scratch);
    parallel_for(at, call.rows, grain, 3 * width, [&](std::int64_t begin, std::int64_t end) {
      A* mine = wants_columns ? partial + begin / grain * 2 * width : nullptr;
      if (wants_columns) std::fill_n(mine, 2 * width, A(0));
      std::int64_t row = begin;
      for (; row + kTogether <= end; row += kTogether) backward_rows<T, kTogether>(call, row, mine);
      for (; row < end; ++row) backward_rows<T, 1>(call, row, mine);
    });
    if (!wants_columns) return;
    parallel_for(at, width, 256, chunks / 2 + 1, [&](std::int64_t begin, std::int64_t end) {
      finish_columns<T>(call.dgamma, partial, chunks, width, begin, end);
      finish_columns<T>(call.dbeta, partial + width, chunks, width, begin, end);
    });
  });
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
