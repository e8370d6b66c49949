#include "kernels/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

constexpr std::int64_t kGrain = 16384;

/// Calls f(i, load, store) register by register; the last one is partial. load and store know how many lanes count.
template <class A, class F>
void registers(std::int64_t begin, std::int64_t end, F&& f) {
  std::int64_t i = begin;
  for (; i + kLanes<A> <= end; i += kLanes<A>) {
    f(
        i, [](const auto* p) { return load(p); }, [](auto* p, Vec<A> v) { store(p, v); });
  }
  if (i < end) {
    const int n = static_cast<int>(end - i);
    f(
        i, [n](const auto* p) { return load_first(p, n); }, [n](auto* p, Vec<A> v) { store_first(p, v, n); });
  }
}

/// Calls f(begin, end) for parts of a flat buffer, or for each listed row of a table. Listed rows lie anywhere, so that
/// no cache expects them: the next but one of each of `buffers` is asked for.
template <class Call, class F, class... T>
void parts(const At& at, const Call& call, std::int64_t work_per_item, F&& f, const T*... buffers) {
  if (call.rows.count == nullptr) {
    parallel_for(at, call.n, kGrain, work_per_item, f);
    return;
  }
  const std::int64_t width = call.width, grain = std::max<std::int64_t>(kGrain / std::max<std::int64_t>(width, 1), 1);
  parallel_for(at, *call.rows.count, grain, width * work_per_item, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      if (const std::int64_t ahead = i + 2; ahead < end) {
        for (std::int64_t k = 0; k < width; k += 16)
          (__builtin_prefetch(buffers + call.rows.rows[ahead] * width + k, 1), ...);
      }
      f(call.rows.rows[i] * width, (call.rows.rows[i] + 1) * width);
    }
  });
}

template <class T>
double sum_of_squares(const T* g, std::int64_t n) {
  using A = acc_t<T>;
  Vec<double> sum[2] = {};
  std::int64_t i = 0;
  for (; i + 2 * kLanes<double> <= n; i += 2 * kLanes<double>) {
    for (int half = 0; half < 2; ++half) {
      double wide[kLanes<double>];
      for (int k = 0; k < kLanes<double>; ++k)
        wide[k] = static_cast<double>(static_cast<A>(g[i + half * kLanes<double> + k]));
      const Vec<double> v = load(wide);
      sum[half] = multiply_add(v, v, sum[half]);
    }
  }
  double total = sum_lanes<double>(sum[0] + sum[1]);
  for (; i < n; ++i) total += static_cast<double>(static_cast<A>(g[i])) * static_cast<double>(static_cast<A>(g[i]));
  return total;
}

template <class A>
A factor_of(const void* factor) {
  return factor == nullptr ? A(1) : *static_cast<const A*>(factor);
}

std::int64_t chunks_of(std::int64_t n) { return (n + kGrain - 1) / kGrain; }

}  // namespace

std::size_t scratch_bytes(const GlobalNorm& call) {
  return static_cast<std::size_t>(chunks_of(call.n)) * sizeof(double);
}

void run(const At& at, const GlobalNorm& call) {
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const T* g = static_cast<const T*>(call.g);
    // Partial sums in f64: an f32 sum of squares overflows for gradients of 1e19, where the norm is still a number.
    double* partial = static_cast<double*>(call.scratch);
    parallel_for(at, call.n, kGrain, 1, [&](std::int64_t begin, std::int64_t end) {
      partial[begin / kGrain] = sum_of_squares(g + begin, end - begin);
    });
    double total = call.more != nullptr ? std::exchange(*call.more, 0.0) : 0.0;
    for (std::int64_t c = 0; c < chunks_of(call.n); ++c) total += partial[c];
    const double norm = std::sqrt(total);
    *static_cast<A*>(call.norm) = static_cast<A>(norm);
    if (call.factor != nullptr) {
      *static_cast<A*>(call.factor) =
          static_cast<A>(std::isfinite(norm) ? std::min(1.0, call.max_norm / (norm + 1e-6)) : std::nan(""));
    }
  });
}

void run(const At&, const RowSquares& call) {
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    for (std::int64_t i = 0; i < *call.rows.count; ++i)
      *call.sum += sum_of_squares(static_cast<const T*>(call.g) + call.rows.rows[i] * call.width, call.width);
  });
}

void run(const At&, const RowsClear& call) {
  const std::size_t bytes = static_cast<std::size_t>(call.width) * size_of(call.dtype);
  for (std::int64_t i = 0; i < *call.rows.count; ++i) {
    const std::size_t row = static_cast<std::size_t>(call.rows.rows[i]);
    if (bytes > 0) std::memset(static_cast<char*>(call.g) + row * bytes, 0, bytes);
    call.rows.listed[row] = 0;
  }
  *call.rows.count = 0;
}

void run(const At&, const StepAdvance& call) { ++*call.step; }

void run(const At& at, const SgdUpdate& call) {
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    T* p = static_cast<T*>(call.p);
    const T* g = static_cast<const T*>(call.g);
    T* v = static_cast<T*>(call.v);
    const A rate = static_cast<A>(*call.lr), factor = factor_of<A>(call.factor);
    const A momentum = static_cast<A>(call.momentum), decay = static_cast<A>(call.weight_decay);
    parts(
        at, call, 1,
        [&](std::int64_t begin, std::int64_t end) {
          registers<A>(begin, end, [&](std::int64_t i, auto get, auto set) {
            const Vec<A> value = get(p + i);
            Vec<A> d = multiply_add(decay, value, factor * get(g + i));
            if (momentum != 0) {
              const Vec<A> velocity = multiply_add(momentum, get(v + i), d);
              set(v + i, velocity);
              d = call.nesterov ? multiply_add(momentum, velocity, d) : velocity;
            }
            set(p + i, multiply_add(-rate, d, value));
          });
        },
        p, g, v);
  });
}

void run(const At& at, const AdamUpdate& call) {
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    T* p = static_cast<T*>(call.p);
    const T* g = static_cast<const T*>(call.g);
    A* m = static_cast<A*>(call.m);
    A* v = static_cast<A*>(call.v);
    const double lr = *call.lr;
    const A factor = factor_of<A>(call.factor);
    const A b1 = static_cast<A>(call.beta1), b2 = static_cast<A>(call.beta2), eps = static_cast<A>(call.eps);
    const A rest1 = static_cast<A>(1 - call.beta1), rest2 = static_cast<A>(1 - call.beta2);
    const A rate = static_cast<A>(lr / (1 - real::power(call.beta1, *call.step)));
    const A correction = static_cast<A>(1 / std::sqrt(1 - real::power(call.beta2, *call.step)));
    const A shrink = static_cast<A>(call.decoupled ? 1 - lr * call.weight_decay : 1);
    const A decay = static_cast<A>(call.decoupled ? 0 : call.weight_decay);
    parts(
        at, call, 4,
        [&](std::int64_t begin, std::int64_t end) {
          registers<A>(begin, end, [&](std::int64_t i, auto get, auto set) {
            const Vec<A> value = get(p + i);
            const Vec<A> gradient = multiply_add(decay, value, factor * get(g + i));
            const Vec<A> first = multiply_add(b1, get(m + i), rest1 * gradient);
            const Vec<A> second = multiply_add(b2, get(v + i), rest2 * (gradient * gradient));
            set(m + i, first);
            set(v + i, second);
            set(p + i,
                multiply_add(shrink, value, -rate * first / multiply_add(sqrt(second), correction, broadcast(eps))));
          });
        },
        p, g, m, v);
  });
}

void run(const At& at, const AverageUpdate& call) {
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    T* a = static_cast<T*>(call.a);
    const T* p = static_cast<const T*>(call.p);
    const double t = static_cast<double>(*call.step);
    const A rest = static_cast<A>(1 - std::min(call.decay, (1 + t) / (10 + t)));
    parallel_for(at, call.n, kGrain, 1, [&](std::int64_t begin, std::int64_t end) {
      registers<A>(begin, end, [&](std::int64_t i, auto get, auto set) {
        const Vec<A> average = get(a + i);
        set(a + i, multiply_add(rest, get(p + i) - average, average));
      });
    });
  });
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
