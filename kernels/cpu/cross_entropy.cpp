#include "kernels/cross_entropy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/error.h"
#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

/// Rows whose chains of dependent operations run side by side.
constexpr int kTogether = 4;
/// Beyond this size the saved log-sum-exp, being rounded, costs exp(x - log_sum_exp) more than 1e-6 in f32 (and at 1e38
/// all meaning): backward then computes the row's sum again.
constexpr double kLargeLogSum = 16.0;

/// Rows of a chunk: about 8192 elements, a multiple of the lanes and of kTogether.
std::int64_t grain(std::int64_t classes) {
  return std::max<std::int64_t>(8192 / std::max<std::int64_t>(classes, 1) / 16, 1) * 16;
}

void check_targets(const CrossEntropyForward& call) {
  for (std::int64_t r = 0; r < call.rows; ++r) {
    const std::int32_t target = call.targets[r];
    ADJOINT_CHECK(target == call.ignore || (target >= 0 && target < call.classes), "E-OP-011", Exit::data,
                  fmt::format("cross_entropy: row {}: target {} is out of range; expected 0..{}, or {} to leave it out",
                              r, target, call.classes - 1, call.ignore));
  }
}

template <class T>
Vec<acc_t<T>> get(const T* p, int n) {
  return n == kLanes<acc_t<T>> ? load(p) : load_first(p, n);
}

/// For R rows: shift = the largest element (0 if that is -inf), sum = sum of exp(x - shift).
template <int R, class T>
void sum_exponentials(const T* x, std::int64_t classes, acc_t<T>* shift, acc_t<T>* sum) {
  using A = acc_t<T>;
  constexpr int lanes = kLanes<A>;
  constexpr A kLowest = -std::numeric_limits<A>::infinity();
  const std::int64_t whole = classes / lanes * lanes;
  const int rest = static_cast<int>(classes - whole);
  const VecInt<A> exists = first_lanes<A>(rest);
  const auto tail = [&](const T* row) { return select(exists, load_first(row + whole, rest), broadcast(kLowest)); };
  Vec<A> best[R], total[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) best[r] = broadcast(kLowest);
  // A NaN may be lost here: it comes back with the exponentials.
  const auto keep_larger = [&](int r, Vec<A> v) { best[r] = max<A>(best[r], v); };
  for (std::int64_t i = 0; i < whole; i += lanes)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) keep_larger(r, load(x + r * classes + i));
  if (rest > 0)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) keep_larger(r, tail(x + r * classes));
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const A top = max_lanes<A>(best[r]);
    shift[r] = top == kLowest ? A(0) : top;
    total[r] = Vec<A>{};
  }
  for (std::int64_t i = 0; i < whole; i += lanes)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) total[r] += exp(load(x + r * classes + i) - shift[r]);
  if (rest > 0)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) total[r] += exp(tail(x + r * classes) - shift[r]);  // 0 in the lanes that do not exist
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) sum[r] = sum_lanes<A>(total[r]);
}

template <class T>
void forward_rows(const CrossEntropyForward& call, std::int64_t begin, std::int64_t end) {
  using A = acc_t<T>;
  constexpr int lanes = kLanes<A>;
  const T* x = static_cast<const T*>(call.x);
  A* log_sum_exp = static_cast<A*>(call.log_sum_exp);
  A* loss = static_cast<A*>(call.scratch);
  for (std::int64_t block = begin; block < end; block += lanes) {
    const int rows = static_cast<int>(std::min<std::int64_t>(lanes, end - block));
    A shift[lanes] = {}, sum[lanes] = {};
    int i = 0;
    for (; i + kTogether <= rows; i += kTogether)
      sum_exponentials<kTogether>(x + (block + i) * call.classes, call.classes, shift + i, sum + i);
    for (; i < rows; ++i) sum_exponentials<1>(x + (block + i) * call.classes, call.classes, shift + i, sum + i);
    A log_sum[lanes];
    store(log_sum, log(load(sum)));
    for (i = 0; i < rows; ++i) {
      const std::int64_t row = block + i;
      const std::int32_t target = call.targets[row];
      if (target == call.ignore) {
        log_sum_exp[row] = loss[row] = 0;
        continue;
      }
      log_sum_exp[row] = shift[i] + log_sum[i];
      // Largest minus target first: both may be far larger than their distance to log_sum_exp.
      loss[row] = sum[i] == A(0) ? std::numeric_limits<A>::infinity()
                                 : (shift[i] - static_cast<A>(x[row * call.classes + target])) + log_sum[i];
    }
  }
}

template <class T>
void backward_row(const CrossEntropyBackward& call, std::int64_t row, acc_t<T> factor) {
  using A = acc_t<T>;
  constexpr int lanes = kLanes<A>;
  const T* x = static_cast<const T*>(call.x) + row * call.classes;
  T* dx = static_cast<T*>(call.dx.data) + row * call.classes;
  const bool counts = call.targets[row] != call.ignore;
  if (!counts && call.dx.accumulate) return;
  A shift = static_cast<const A*>(call.log_sum_exp)[row], scale = 1;
  if (counts && !(std::fabs(shift) <= static_cast<A>(kLargeLogSum))) {
    A sum;
    sum_exponentials<1>(x, call.classes, &shift, &sum);
    scale = sum == A(0) ? A(1) : A(1) / sum;  // a row of only -inf has exponentials 0
  }
  const VecInt<A> place = lane_numbers<A>();
  for (std::int64_t i = 0; i < call.classes; i += lanes) {
    const int n = static_cast<int>(std::min<std::int64_t>(lanes, call.classes - i));
    Vec<A> g{};
    if (counts) {
      const Vec<A> p = exp(get(x + i, n) - shift) * scale;
      const auto target = static_cast<typename IntOf<A>::type>(call.targets[row] - i);
      g = factor * select(place == target, p - A(1), p);
    }
    if (n == lanes) {
      put(dx + i, g, call.dx.accumulate);
    } else {
      put_first(dx + i, g, n, call.dx.accumulate);
    }
  }
}

}  // namespace

std::size_t scratch_bytes(const CrossEntropyForward& call) {
  return static_cast<std::size_t>(call.rows) * size_of(accumulator_of(call.dtype));
}

void run(const At& at, const CrossEntropyForward& call) {
  check_targets(call);
  visit_float(call.dtype, [&](auto type) {
    using A = acc_t<typename decltype(type)::type>;
    parallel_for(at, call.rows, grain(call.classes), 4 * call.classes, [&](std::int64_t begin, std::int64_t end) {
      forward_rows<typename decltype(type)::type>(call, begin, end);
    });
    double total = 0.0;
    std::int64_t count = 0;
    for (std::int64_t r = 0; r < call.rows; ++r) {
      total += static_cast<double>(static_cast<const A*>(call.scratch)[r]);
      count += call.targets[r] != call.ignore ? 1 : 0;
    }
    *static_cast<A*>(call.loss) = static_cast<A>(total / static_cast<double>(std::max<std::int64_t>(count, 1)));
    *static_cast<A*>(call.count) = static_cast<A>(count);
  });
}

void run(const At& at, const CrossEntropyBackward& call) {
  if (call.dx.data == nullptr) return;
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const A count = *static_cast<const A*>(call.count);
    const A factor = *static_cast<const A*>(call.dloss) / (count > 0 ? count : A(1));
    parallel_for(at, call.rows, grain(call.classes), 2 * call.classes, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) backward_row<T>(call, r, factor);
    });
  });
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
