#include "kernels/cross_entropy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/error.h"
#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu {
namespace {

std::int64_t grain(std::int64_t classes) { return classes >= 8192 ? 1 : 8192 / (classes < 1 ? 1 : classes); }

void check_targets(const CrossEntropyForward& call) {
  for (std::int64_t r = 0; r < call.rows; ++r) {
    const std::int32_t target = call.targets[r];
    ADJOINT_CHECK(target == call.ignore || (target >= 0 && target < call.classes), "E-OP-011", Exit::data,
                  fmt::format("cross_entropy: row {}: target {} is out of range; expected 0..{}, or {} to leave it out",
                              r, target, call.classes - 1, call.ignore));
  }
}

/// log(sum(exp(x))) of a row; -inf for a row of only -inf.
template <class T>
acc_t<T> log_sum_exp(const T* x, std::int64_t n) {
  using A = acc_t<T>;
  constexpr int lanes = kLanes<A>;
  const Vec<A> nothing = broadcast(-std::numeric_limits<A>::infinity());
  const auto get = [&](std::int64_t i) {
    return i + lanes <= n
               ? load(x + i)
               : (first_lanes<A>(static_cast<int>(n - i)) ? load_first(x + i, static_cast<int>(n - i)) : nothing);
  };
  Vec<A> best = nothing;
  for (std::int64_t i = 0; i < n; i += lanes) {
    const Vec<A> v = get(i);
    best = (v > best) | (v != v) ? v : best;
  }
  const A highest = max_lanes<A>(best);
  if (highest == nothing[0]) return highest;
  Vec<A> total{};
  for (std::int64_t i = 0; i < n; i += lanes) {
    const Vec<A> e = exp(get(i) - highest);
    total += i + lanes <= n ? e : (first_lanes<A>(static_cast<int>(n - i)) ? e : Vec<A>{});
  }
  return highest + std::log(sum_lanes<A>(total));
}

}  // namespace

std::size_t scratch_bytes(const CrossEntropyForward& call) {
  return static_cast<std::size_t>(call.rows) * sizeof(double);
}

void run(const At& at, const CrossEntropyForward& call) {
  check_targets(call);
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const T* x = static_cast<const T*>(call.x);
    A* lse = static_cast<A*>(call.log_sum_exp);
    A* loss = static_cast<A*>(call.scratch);
    parallel_for(at, call.rows, grain(call.classes), call.classes, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const bool counts = call.targets[r] != call.ignore;
        lse[r] = counts ? log_sum_exp(x + r * call.classes, call.classes) : A(0);
        loss[r] = counts ? lse[r] - static_cast<A>(x[r * call.classes + call.targets[r]]) : A(0);
      }
    });
    double total = 0, count = 0;
    for (std::int64_t r = 0; r < call.rows; ++r) {
      total += static_cast<double>(loss[r]);
      count += call.targets[r] != call.ignore ? 1 : 0;
    }
    *static_cast<A*>(call.loss) = static_cast<A>(total / (count > 0 ? count : 1));
    *static_cast<A*>(call.count) = static_cast<A>(count);
  });
}

void run(const At& at, const CrossEntropyBackward& call) {
  if (call.dx.data == nullptr) return;
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    constexpr int lanes = kLanes<A>;
    const A count = *static_cast<const A*>(call.count);
    const A scale = *static_cast<const A*>(call.dloss) / (count > 0 ? count : A(1));
    parallel_for(at, call.rows, grain(call.classes), call.classes, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const T* x = static_cast<const T*>(call.x) + r * call.classes;
        T* dx = static_cast<T*>(call.dx.data) + r * call.classes;
        const bool counts = call.targets[r] != call.ignore;
        if (!counts && call.dx.accumulate) continue;
        const A shift = static_cast<const A*>(call.log_sum_exp)[r], factor = counts ? scale : A(0);
        // The target's own element is taken out of the vector, so that it too is rounded once.
        VecInt<A> place;
        for (int k = 0; k < lanes; ++k) place[k] = k;
        for (std::int64_t i = 0; i < call.classes; i += lanes) {
          const int n = static_cast<int>(std::min<std::int64_t>(lanes, call.classes - i));
          Vec<A> g{};
          if (counts) {
            const Vec<A> p = exp((n == lanes ? load(x + i) : load_first(x + i, n)) - shift);
            const auto target = static_cast<typename IntOf<A>::type>(call.targets[r] - i);
            g = factor * (place == target ? p - A(1) : p);
          }
          if (n == lanes) {
            put(dx + i, g, call.dx.accumulate);
          } else {
            put_first(dx + i, g, n, call.dx.accumulate);
          }
        }
      }
    });
  });
}

}  // namespace adjoint::cpu
