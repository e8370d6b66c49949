// Softmax and log-softmax over rows that lie one after another.

#include "kernels/softmax.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

constexpr std::int64_t kElements = 8192;  // of a chunk

template <class F>
void for_rows(const At& at, std::int64_t rows, std::int64_t width, F f) {
  if (rows == 0 || width == 0) return;
  parallel_for(at, rows, std::max<std::int64_t>(1, kElements / width), 4 * width,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t row = begin; row < end; ++row) f(row * width);
               });
}

/// Calls f(offset, get, is_lane) over a row; is_lane(v, otherwise) keeps only the lanes that exist.
template <class S, class F>
inline void over_row(std::int64_t width, F f) {
  using A = acc_t<S>;
  constexpr int lanes = kLanes<A>;
  std::int64_t i = 0;
  for (; i + lanes <= width; i += lanes)
    f(
        i, [](const S* p) { return load(p); }, [](Vec<A> v, A) { return v; });
  if (const int rest = static_cast<int>(width - i); rest > 0) {
    const VecInt<A> mask = first_lanes<A>(rest);
    f(
        i, [rest](const S* p) { return load_first(p, rest); },
        [mask](Vec<A> v, A otherwise) { return select(mask, v, broadcast(otherwise)); });
  }
}

template <class S, bool log_form>
void softmax_row(const S* x, S* y, std::int64_t width) {
  using A = acc_t<S>;
  constexpr A kLowest = -std::numeric_limits<A>::infinity();
  Vec<A> best = broadcast(kLowest);
  over_row<S>(width, [&](std::int64_t i, auto get, auto only) {
    const Vec<A> v = only(get(x + i), kLowest);
    best = select((best > v) | (best != best), best, v);
  });
  const A top = max_lanes<A>(best);
  if (top == kLowest) {  // nothing but -inf
    for_registers<false>(y, width, [](std::int64_t, auto) { return broadcast(log_form ? kLowest : A(0)); });
    return;
  }
  const Vec<A> shift = broadcast(top);
  Vec<A> total{};
  constexpr bool kKeep = !log_form && std::is_same_v<S, A>;  // y holds the exponentials until they are divided
  over_row<S>(width, [&](std::int64_t i, auto get, auto only) {
    const Vec<A> e = exp(get(x + i) - shift);
    total += only(e, A(0));
    if constexpr (kKeep) {
      if (i + kLanes<A> <= width) {
        store(y + i, e);
      } else {
        store_first(y + i, e, static_cast<int>(width - i));
      }
    }
  });
  const A sum = sum_lanes<A>(total);
  if constexpr (log_form) {
    const Vec<A> log_sum = log(broadcast(sum));
    for_registers<false>(y, width, [=](std::int64_t i, auto get) { return (get(x + i) - shift) - log_sum; });
  } else {
    const Vec<A> scale = broadcast(1 / sum);
    for_registers<false>(y, width, [=](std::int64_t i, auto get) {
      if constexpr (kKeep) {
        return get(y + i) * scale;
      } else {
        return exp(get(x + i) - shift) * scale;
      }
    });
  }
}

template <class S, bool log_form, bool accumulate>
void softmax_backward_row(const S* y, const S* dy, S* dx, std::int64_t width) {
  using A = acc_t<S>;
  Vec<A> total{};
  over_row<S>(width, [&](std::int64_t i, auto get, auto) {
    // Missing lanes are 0 in both.
    total = log_form ? total + get(dy + i) : multiply_add(get(y + i), get(dy + i), total);
  });
  const Vec<A> sum = broadcast(sum_lanes<A>(total));
  for_registers<accumulate>(dx, width, [=](std::int64_t i, auto get) {
    if constexpr (log_form) {
      return multiply_add(exp(get(y + i)), -sum, get(dy + i));
    } else {
      return get(y + i) * (get(dy + i) - sum);
    }
  });
}

}  // namespace

void run(const At& at, const SoftmaxForward& call) {
  visit_float(call.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    const auto row = call.log ? softmax_row<S, true> : softmax_row<S, false>;
    for_rows(at, call.rows, call.width, [&](std::int64_t first) {
      row(static_cast<const S*>(call.x) + first, static_cast<S*>(call.y) + first, call.width);
    });
  });
}

void run(const At& at, const SoftmaxBackward& call) {
  if (!call.dx.data) return;
  visit_float(call.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    constexpr decltype(&softmax_backward_row<S, false, false>) kRows[2][2] = {
        {softmax_backward_row<S, false, false>, softmax_backward_row<S, false, true>},
        {softmax_backward_row<S, true, false>, softmax_backward_row<S, true, true>}};
    const auto row = kRows[call.log][call.dx.accumulate];
    for_rows(at, call.rows, call.width, [&](std::int64_t first) {
      row(static_cast<const S*>(call.y) + first, static_cast<const S*>(call.dy) + first,
          static_cast<S*>(call.dx.data) + first, call.width);
    });
  });
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
