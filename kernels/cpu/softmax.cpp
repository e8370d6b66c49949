<<<<<<< HEAD
// Softmax and log-softmax over rows that lie one after another.

#include "kernels/softmax.h"

#include <algorithm>
#include <limits>
#include <type_traits>
=======
#include "kernels/softmax.h"

#include <cmath>
#include <limits>
>>>>>>> ec7094d (Add copies, softmax, dropout and random numbers on the CPU)

#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu {
namespace {

<<<<<<< HEAD
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
        [mask](Vec<A> v, A otherwise) { return mask ? v : broadcast(otherwise); });
  }
}

template <class S, bool log_form>
void softmax_row(const S* x, S* y, std::int64_t width) {
  using A = acc_t<S>;
  constexpr A kLowest = -std::numeric_limits<A>::infinity();
  Vec<A> best = broadcast(kLowest);
  over_row<S>(width, [&](std::int64_t i, auto get, auto only) {
    const Vec<A> v = only(get(x + i), kLowest);
    best = (best > v) | (best != best) ? best : v;
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
    const Vec<A> log_sum = broadcast(std::log(sum));
    for_registers<false>(y, width, [=](std::int64_t i, auto get) { return (get(x + i) - shift) - log_sum; });
  } else {
    const Vec<A> scale = broadcast(1 / sum);
    for_registers<false>(y, width, [=](std::int64_t i, auto get) {
      if constexpr (kKeep) {
        return get(y + i) * scale;
      } else {
        return exp(get(x + i) - shift) * scale;
      }
=======
/// Calls f(position, count) for whole registers and then for the rest of a row.
template <class A, class F>
inline void registers(std::int64_t width, F&& f) {
  std::int64_t i = 0;
  for (; i + kLanes<A> <= width; i += kLanes<A>) f(i, kLanes<A>);
  if (i < width) f(i, static_cast<int>(width - i));
}

template <class T>
Vec<acc_t<T>> load_some(const T* p, int n) {
  return n == kLanes<acc_t<T>> ? load(p) : load_first(p, n);
}
template <class T>
void put_some(T* p, Vec<acc_t<T>> v, int n, bool accumulate) {
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
void forward_row(const SoftmaxForward& call, std::int64_t row) {
  using A = acc_t<T>;
  const T* x = static_cast<const T*>(call.x) + row * call.width;
  T* y = static_cast<T*>(call.y) + row * call.width;
  const Vec<A> nothing = broadcast(-std::numeric_limits<A>::infinity());
  Vec<A> best = nothing;
  registers<A>(call.width, [&](std::int64_t i, int n) {
    const Vec<A> v = n == kLanes<A> ? load(x + i) : (first_lanes<A>(n) ? load_first(x + i, n) : nothing);
    best = (v > best) | (v != v) ? v : best;  // a NaN stays: comparisons with it are false
  });
  const A highest = max_lanes<A>(best);
  if (highest == nothing[0]) {  // a row of only -inf: exp(-inf + inf) is not a number
    for (std::int64_t i = 0; i < call.width; ++i) y[i] = static_cast<T>(call.log ? highest : A(0));
    return;
  }
  Vec<A> total{};
  registers<A>(call.width, [&](std::int64_t i, int n) {
    const Vec<A> e = exp(load_some(x + i, n) - highest);
    total += only_first<A>(e, n);
    // A narrower storage type would round twice; those rows are computed again below.
    if (!call.log && sizeof(T) == sizeof(A)) put_some(y + i, e, n, false);
  });
  const A sum = sum_lanes<A>(total);
  if (call.log) {
    const A shift = highest + std::log(sum);
    registers<A>(call.width, [&](std::int64_t i, int n) { put_some(y + i, load_some(x + i, n) - shift, n, false); });
  } else {
    const Vec<A> inverse = broadcast(A(1) / sum);
    registers<A>(call.width, [&](std::int64_t i, int n) {
      const Vec<A> e = sizeof(T) == sizeof(A) ? load_some(y + i, n) : exp(load_some(x + i, n) - highest);
      put_some(y + i, e * inverse, n, false);
>>>>>>> ec7094d (Add copies, softmax, dropout and random numbers on the CPU)
    });
  }
}

<<<<<<< HEAD
template <class S, bool log_form, bool accumulate>
void softmax_backward_row(const S* y, const S* dy, S* dx, std::int64_t width) {
  using A = acc_t<S>;
  Vec<A> total{};
  over_row<S>(width, [&](std::int64_t i, auto get, auto) {
    total += log_form ? get(dy + i) : get(y + i) * get(dy + i);  // missing lanes are 0 in both
  });
  const Vec<A> sum = broadcast(sum_lanes<A>(total));
  for_registers<accumulate>(dx, width, [=](std::int64_t i, auto get) {
    if constexpr (log_form) {
      return get(dy + i) - exp(get(y + i)) * sum;
    } else {
      return get(y + i) * (get(dy + i) - sum);
    }
  });
}

=======
template <class T>
void backward_row(const SoftmaxBackward& call, std::int64_t row) {
  using A = acc_t<T>;
  const std::int64_t begin = row * call.width;
  const T* y = static_cast<const T*>(call.y) + begin;
  const T* dy = static_cast<const T*>(call.dy) + begin;
  T* dx = static_cast<T*>(call.dx.data) + begin;
  Vec<A> total{};
  registers<A>(call.width, [&](std::int64_t i, int n) {
    const Vec<A> g = load_some(dy + i, n);
    total += call.log ? g : g * load_some(y + i, n);
  });
  const A sum = sum_lanes<A>(total);
  registers<A>(call.width, [&](std::int64_t i, int n) {
    const Vec<A> g = load_some(dy + i, n), p = load_some(y + i, n);
    put_some(dx + i, call.log ? g - exp(p) * sum : p * (g - sum), n, call.dx.accumulate);
  });
}

/// Rows to a chunk: about 16 thousand elements, whatever the number of threads.
std::int64_t grain(std::int64_t width) { return width >= 16384 ? 1 : 16384 / (width < 1 ? 1 : width); }

>>>>>>> ec7094d (Add copies, softmax, dropout and random numbers on the CPU)
}  // namespace

void run(const At& at, const SoftmaxForward& call) {
  visit_float(call.dtype, [&](auto type) {
<<<<<<< HEAD
    using S = typename decltype(type)::type;
    const auto row = call.log ? softmax_row<S, true> : softmax_row<S, false>;
    for_rows(at, call.rows, call.width, [&](std::int64_t first) {
      row(static_cast<const S*>(call.x) + first, static_cast<S*>(call.y) + first, call.width);
=======
    using T = typename decltype(type)::type;
    parallel_for(at, call.rows, grain(call.width), call.width, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) forward_row<T>(call, r);
>>>>>>> ec7094d (Add copies, softmax, dropout and random numbers on the CPU)
    });
  });
}

void run(const At& at, const SoftmaxBackward& call) {
<<<<<<< HEAD
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
=======
  if (call.dx.data == nullptr) return;
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    parallel_for(at, call.rows, grain(call.width), call.width, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) backward_row<T>(call, r);
>>>>>>> ec7094d (Add copies, softmax, dropout and random numbers on the CPU)
    });
  });
}

}  // namespace adjoint::cpu
