// Reductions over any dimensions (reduction.h), the gradient of max, and arg max.

#include "kernels/reduce.h"

#include <cmath>

#include "kernels/cpu/reduction.h"
#include "kernels/pointwise.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

/// The gradient of one group of outputs, walked in row-major order: `found` remembers, for each output, whether its
/// maximum has been met.
template <class S>
void max_backward(const MaxBackward& call, std::int64_t begin, std::int64_t end, std::uint8_t* found,
                  const View& found_view) {
  using A = acc_t<S>;
  Elements<S> x(call.x), y(call.y), dy(call.dy);
  TileBuffer x_buffer, y_buffer, dy_buffer;
  S* const dx = static_cast<S*>(call.dx.data);
  const int inner = found_view.rank - 1;
  const std::int64_t width = found_view.shape[inner], step = found_view.stride[inner];
  for (std::int64_t row = begin; row < end; ++row) {
    std::int64_t position = row, flag = 0;
    for (int i = inner - 1; i >= 0; --i) {
      flag += position % found_view.shape[i] * found_view.stride[i];
      position /= found_view.shape[i];
    }
    for (std::int64_t c = 0; c < width; c += kTile) {
      const std::int64_t n = std::min(kTile, width - c), at = row * width + c;
      const A* const xs = x.fetch(at, n, x_buffer.template as<A>());
      const A* const ys = y.fetch(at, n, y_buffer.template as<A>());
      const A* const dys = dy.fetch(at, n, dy_buffer.template as<A>());
      for (std::int64_t i = 0; i < n; ++i) {
        std::uint8_t& met = found[flag + (c + i) * step];
        const bool here = !met && (xs[i] == ys[i] || (xs[i] != xs[i] && ys[i] != ys[i]));
        met |= here;
        const A slope = here ? dys[i] : A(0);
        dx[at + i] = static_cast<S>(call.dx.accumulate ? static_cast<A>(dx[at + i]) + slope : slope);
      }
    }
  }
}

template <class S>
void arg_max(const At& at, const ArgMax& call) {
  using A = acc_t<S>;
  constexpr int lanes = kLanes<A>;
  const std::int64_t grain = std::max<std::int64_t>(1, kGrain / call.width);
  parallel_for(at, call.rows, grain, call.width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const S* const x = static_cast<const S*>(call.x) + row * call.width;
      Vec<A> best = broadcast(Max::identity<A>);
      std::int64_t i = 0;
      for (; i + lanes <= call.width; i += lanes) best = Max::combine(best, load(x + i));
      if (const int rest = static_cast<int>(call.width - i); rest > 0)
        best = Max::combine(best, select(first_lanes<A>(rest), load_first(x + i, rest), broadcast(Max::identity<A>)));
      const A top = max_lanes<A>(best);
      std::int64_t first = 0;
      while (!(x[first] == top || (top != top && x[first] != x[first]))) ++first;
      call.index[row] = static_cast<std::int32_t>(first);
    }
  });
}

}  // namespace

void run(const At& at, const Reduce& call) {
  if (call.x.count() == 1)
    return run(at, ScaleShift{call.x.dtype, 1, call.x.data, call.y.data, call.factor, 0.0, call.accumulate});
  visit_float(call.x.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    const auto elements = [&] { return Elements<S>(call.x); };
    if (call.kind == ReduceKind::sum) {
      reduce<Sum, S>(at, call.y, call.factor, call.accumulate, elements);
    } else {
      reduce<Max, S>(at, call.y, call.factor, false, elements);
    }
  });
}

void run(const At& at, const MaxBackward& call) {
  // Groups of dimensions that are all kept or all reduced, with strides of the flags: one for each output.
  View flags;
  flags.rank = 0;
  std::int64_t outputs = 1, n = 1;
  for (int i = 0; i < call.y.rank; ++i) {
    const std::int64_t size = call.y.shape[i];
    n *= size;
    if (size == 1) continue;
    const std::int64_t kept = call.y.stride[i] != 0;
    if (flags.rank > 0 && flags.stride[flags.rank - 1] == kept) {
      flags.shape[flags.rank - 1] *= size;
    } else {
      flags.shape[flags.rank] = size;
      flags.stride[flags.rank++] = kept;
    }
  }
  if (n == 0 || !call.dx.data) return;
  if (flags.rank == 0) {
    flags.shape[0] = 1;
    flags.stride[0] = 1;
    flags.rank = 1;
  }
  for (int i = flags.rank - 1; i >= 0; --i) {
    if (flags.stride[i] == 0) continue;
    flags.stride[i] = outputs;
    outputs *= flags.shape[i];
  }
  std::uint8_t* const found = static_cast<std::uint8_t*>(thread_buffer(kPassSlot, static_cast<std::size_t>(outputs)));
  std::memset(found, 0, static_cast<std::size_t>(outputs));

  // Rows of the innermost group are independent between the positions of a leading kept group.
  const std::int64_t rows = n / flags.shape[flags.rank - 1];
  const bool leading_kept = flags.rank > 1 && flags.stride[0] != 0;
  const std::int64_t together = leading_kept ? rows / flags.shape[0] : rows;
  const std::int64_t work = together * flags.shape[flags.rank - 1];
  visit_float(call.x.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    parallel_for(at, rows / together, std::max<std::int64_t>(1, kGrain / work), 2 * work,
                 [&](std::int64_t begin, std::int64_t end) {
                   max_backward<S>(call, begin * together, end * together, found, flags);
                 });
  });
}

void run(const At& at, const ArgMax& call) {
  visit_float(call.dtype, [&](auto type) { arg_max<typename decltype(type)::type>(at, call); });
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
