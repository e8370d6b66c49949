// Every function of kernels/pointwise_functions.h, forward and backward, as one loop over contiguous elements for each
// storage type. Dense operands go straight to it; others are walked tile by tile (strided.h) into the same loop.

#include "kernels/pointwise.h"

#include <algorithm>

#include "kernels/cpu/reduction.h"
#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/strided.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/reduce.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

// ---- The functions on registers ----

// What a function's text does not mention is an unused parameter here.
#define ADJOINT_FUNCTION(name, forward_text, derivative_text)                                       \
  struct name##_function {                                                                          \
    template <class T>                                                                              \
    ADJOINT_INLINE static Vec<T> value([[maybe_unused]] Vec<T> x) {                                 \
      using M [[maybe_unused]] = VectorMath<T>;                                                     \
      [[maybe_unused]] const Vec<T> zero{}, one = broadcast(T(1));                                  \
      return forward_text;                                                                          \
    }                                                                                               \
    template <class T>                                                                              \
    ADJOINT_INLINE static Vec<T> derivative([[maybe_unused]] Vec<T> x, [[maybe_unused]] Vec<T> y) { \
      using M [[maybe_unused]] = VectorMath<T>;                                                     \
      [[maybe_unused]] const Vec<T> zero{}, one = broadcast(T(1));                                  \
      return derivative_text;                                                                       \
    }                                                                                               \
  };
ADJOINT_UNARY_FUNCTIONS(ADJOINT_FUNCTION)
#undef ADJOINT_FUNCTION

#define ADJOINT_FUNCTION(name, forward_text, derivative_a, derivative_b)                            \
  struct name##_function {                                                                          \
    template <class T>                                                                              \
    ADJOINT_INLINE static Vec<T> value(Vec<T> a, Vec<T> b) {                                        \
      using M [[maybe_unused]] = VectorMath<T>;                                                     \
      return forward_text;                                                                          \
    }                                                                                               \
    template <int operand, class T>                                                                 \
    ADJOINT_INLINE static Vec<T> derivative([[maybe_unused]] Vec<T> a, [[maybe_unused]] Vec<T> b) { \
      using M [[maybe_unused]] = VectorMath<T>;                                                     \
      [[maybe_unused]] const Vec<T> zero{}, one = broadcast(T(1));                                  \
      if constexpr (operand == 0) {                                                                 \
        return derivative_a;                                                                        \
      } else {                                                                                      \
        return derivative_b;                                                                        \
      }                                                                                             \
    }                                                                                               \
  };
ADJOINT_BINARY_FUNCTIONS(ADJOINT_FUNCTION)
#undef ADJOINT_FUNCTION

// ---- Loops over contiguous elements ----

template <class F, class S>
void unary_forward(const void* x, void* y, std::int64_t n) {
  const S* const xs = static_cast<const S*>(x);
  for_registers<false>(static_cast<S*>(y), n,
                       [=](std::int64_t i, auto get) { return F::template value<acc_t<S>>(get(xs + i)); });
}

template <class F, class S, bool accumulate>
void unary_backward(const void* x, const void* y, const void* dy, void* dx, std::int64_t n) {
  const S *const xs = static_cast<const S*>(x), *const ys = static_cast<const S*>(y),
                 *const dys = static_cast<const S*>(dy);
  for_registers<accumulate>(static_cast<S*>(dx), n, [=](std::int64_t i, auto get) {
    return get(dys + i) * F::template derivative<acc_t<S>>(get(xs + i), get(ys + i));
  });
}

/// An operand of a binary loop: contiguous elements (step 1), or one register's worth of a repeated one (step 0).
struct Operand {
  const void* data;
  std::int64_t step;

  Operand from(std::int64_t bytes) const { return {static_cast<const char*>(data) + bytes * step, step}; }
};

template <class F, class S>
void binary_forward(Operand a, Operand b, void* y, std::int64_t n) {
  const S *const as = static_cast<const S*>(a.data), *const bs = static_cast<const S*>(b.data);
  for_registers<false>(static_cast<S*>(y), n, [=](std::int64_t i, auto get) {
    return F::template value<acc_t<S>>(get(as + i * a.step), get(bs + i * b.step));
  });
}

template <class F, int operand, class S, class Out, bool accumulate>
void binary_backward(Operand a, Operand b, const void* dy, void* d, std::int64_t n) {
  const S *const as = static_cast<const S*>(a.data), *const bs = static_cast<const S*>(b.data),
                 *const dys = static_cast<const S*>(dy);
  for_registers<accumulate>(static_cast<Out*>(d), n, [=](std::int64_t i, auto get) {
    return get(dys + i) * F::template derivative<operand, acc_t<S>>(get(as + i * a.step), get(bs + i * b.step));
  });
}

// ---- Tables: kind, then dtype (f64, f32, bf16 are the first three) ----

using UnaryForwardLoop = void (*)(const void*, void*, std::int64_t);
using UnaryBackwardLoop = void (*)(const void*, const void*, const void*, void*, std::int64_t);
using BinaryForwardLoop = void (*)(Operand, Operand, void*, std::int64_t);
using BinaryBackwardLoop = void (*)(Operand, Operand, const void*, void*, std::int64_t);

#define ADJOINT_ROW(name, ...) \
  {unary_forward<name##_function, double>, unary_forward<name##_function, float>, unary_forward<name##_function, bf16>},
constexpr UnaryForwardLoop kUnaryForward[][3] = {ADJOINT_UNARY_FUNCTIONS(ADJOINT_ROW)};
#undef ADJOINT_ROW

template <class F, class S>
constexpr UnaryBackwardLoop kAssignOrAdd[2] = {unary_backward<F, S, false>, unary_backward<F, S, true>};
#define ADJOINT_ROW(name, ...) \
  {kAssignOrAdd<name##_function, double>, kAssignOrAdd<name##_function, float>, kAssignOrAdd<name##_function, bf16>},
constexpr const UnaryBackwardLoop* kUnaryBackward[][3] = {ADJOINT_UNARY_FUNCTIONS(ADJOINT_ROW)};
#undef ADJOINT_ROW

#define ADJOINT_ROW(name, ...)                                                      \
  {binary_forward<name##_function, double>, binary_forward<name##_function, float>, \
   binary_forward<name##_function, bf16>},
constexpr BinaryForwardLoop kBinaryForward[][3] = {ADJOINT_BINARY_FUNCTIONS(ADJOINT_ROW)};
#undef ADJOINT_ROW

/// Into the gradient's dtype: assign, add; and (kWiden) into acc_t, for a sum to follow.
constexpr int kWiden = 2;
template <class F, int operand, class S>
constexpr BinaryBackwardLoop kSlopes[3] = {binary_backward<F, operand, S, S, false>,
                                           binary_backward<F, operand, S, S, true>,
                                           binary_backward<F, operand, S, acc_t<S>, false>};
#define ADJOINT_ROW(name, ...)                                                                                   \
  {{kSlopes<name##_function, 0, double>, kSlopes<name##_function, 0, float>, kSlopes<name##_function, 0, bf16>}, \
   {kSlopes<name##_function, 1, double>, kSlopes<name##_function, 1, float>, kSlopes<name##_function, 1, bf16>}},
constexpr const BinaryBackwardLoop* kBinaryBackward[][2][3] = {ADJOINT_BINARY_FUNCTIONS(ADJOINT_ROW)};
#undef ADJOINT_ROW

// ---- Layouts ----

constexpr std::int64_t kAtOnce = 4096;  // below it, not even the chunking is worth its instructions

/// Scalar operations an element counts for: half as many f64 lie in a register, and their functions are longer.
std::int64_t work(DType dtype) { return dtype == DType::f64 ? 8 : 1; }

template <class F>
inline void flat(const At& at, DType dtype, std::int64_t n, F f) {
  if (n <= kAtOnce) [[likely]] {
    f(std::int64_t{0}, n);
  } else {
    parallel_for(at, n, kGrain, work(dtype), [&](std::int64_t begin, std::int64_t end) { f(begin, end - begin); });
  }
}

inline const char* offset(const void* p, std::int64_t bytes) { return static_cast<const char*>(p) + bytes; }
inline char* offset(void* p, std::int64_t bytes) { return static_cast<char*>(p) + bytes; }

/// One register full of a repeated element, so that a loop can read it with step 0.
struct Repeated {
  alignas(64) unsigned char bytes[kVectorBytes];

  Operand fill(const View& v) {
    const std::size_t size = size_of(v.dtype);
    for (std::size_t i = 0; i < kVectorBytes; i += size) std::memcpy(bytes + i, v.data, size);
    return {bytes, 0};
  }
};

/// Reads a binary function's operand of any layout.
class Input {
 public:
  explicit Input(const View& v)
      : walk_(v), repeated_(is_repeated(v)), size_(static_cast<std::int64_t>(size_of(v.dtype))) {
    if (repeated_) {
      register_.fill(v);
      return;
    }
    // A short row repeated: enough copies of it in a row that a tile can start at any of its elements.
    period_ = walk_.period();
    if (period_ > kTile) period_ = 0;
    if (period_ == 0) return;
    const std::int64_t need = period_ + std::min(kTile, v.count());
    std::memcpy(rows_, v.data, static_cast<std::size_t>(period_ * size_));
    for (std::int64_t have = period_, more; have < need; have += more) {
      more = std::min(have, need - have);
      std::memcpy(rows_ + have * size_, rows_, static_cast<std::size_t>(more * size_));
    }
  }
  void seek(std::int64_t position) {
    if (period_ > 0) {
      phase_ = position % period_;
    } else if (!repeated_) {
      walk_.seek(position);
    }
  }
  std::int64_t tile(std::int64_t limit) const { return repeated_ || period_ > 0 ? limit : walk_.tile(limit); }
  Operand read(std::int64_t n) {
    if (repeated_) return {register_.bytes, 0};
    if (period_ > 0) {
      const Operand row{rows_ + phase_ * size_, 1};
      phase_ = (phase_ + n) % period_;
      return row;
    }
    return {walk_.read(n, rows_), 1};
  }

 private:
  Walk walk_;
  bool repeated_;
  std::int64_t size_;
  std::int64_t period_ = 0;
  std::int64_t phase_ = 0;
  Repeated register_;
  alignas(64) unsigned char rows_[2 * kTile * 8];
};

/// dy times the slope, in acc_t: what the gradient of a broadcast operand sums.
template <class S>
class Slopes {
 public:
  using A = acc_t<S>;

  Slopes(BinaryBackwardLoop loop, const View& a, const View& b, const void* dy)
      : loop_(loop), a_(a), b_(b), dy_(static_cast<const S*>(dy)) {}

  const A* fetch(std::int64_t begin, std::int64_t n, A* buffer) {
    a_.seek(begin);
    b_.seek(begin);
    const Operand a = a_.read(n), b = b_.read(n);
    loop_(a, b, dy_ + begin, buffer, n);
    return buffer;
  }

 private:
  BinaryBackwardLoop loop_;
  Input a_, b_;
  const S* dy_;
};

}  // namespace

void run(const At& at, const UnaryForward& call) {
  const UnaryForwardLoop loop = kUnaryForward[static_cast<int>(call.kind)][static_cast<int>(call.y.dtype)];
  const Extent y = extent(call.y);
  const std::int64_t size = static_cast<std::int64_t>(size_of(call.y.dtype));
  if (y.n <= 1) return y.n == 1 ? loop(call.x.data, call.y.data, 1) : void();
  if (y.dense && extent(call.x).dense) {
    return flat(at, call.y.dtype, y.n, [&](std::int64_t begin, std::int64_t n) {
      loop(offset(call.x.data, begin * size), offset(call.y.data, begin * size), n);
    });
  }
  View from = call.x, to = call.y;
  order_by(to, from);
  parallel_for(at, y.n, kGrain, work(to.dtype), [&](std::int64_t begin, std::int64_t end) {
    Walk in(from), out(to);
    in.seek(begin);
    out.seek(begin);
    TileBuffer in_buffer, out_buffer;
    for (std::int64_t i = begin, n; i < end; i += n) {
      n = out.tile(in.tile(std::min(kTile, end - i)));
      const void* const x_tile = in.read(n, in_buffer.bytes);
      if (void* const y_tile = out.in_place(n)) {
        loop(x_tile, y_tile, n);
      } else {
        loop(x_tile, out_buffer.bytes, n);
        out.write(n, out_buffer.bytes);
      }
    }
  });
}

void run(const At& at, const UnaryBackward& call) {
  const DType dtype = call.x.dtype;
  const UnaryBackwardLoop loop =
      kUnaryBackward[static_cast<int>(call.kind)][static_cast<int>(dtype)][call.dx.accumulate];
  const Extent x = extent(call.x);
  const std::int64_t size = static_cast<std::int64_t>(size_of(dtype));
  if (x.n == 0 || !call.dx.data) return;
  const auto piece = [&](const void* x_tile, std::int64_t begin, std::int64_t n) {
    const std::int64_t skip = begin * size;
    loop(x_tile, offset(call.y, skip), offset(call.dy, skip), offset(call.dx.data, skip), n);
  };
  if (x.dense) {
    return flat(at, dtype, x.n,
                [&](std::int64_t begin, std::int64_t n) { piece(offset(call.x.data, begin * size), begin, n); });
  }
  parallel_for(at, x.n, kGrain, work(dtype), [&](std::int64_t begin, std::int64_t end) {
    Walk in(call.x);
    in.seek(begin);
    TileBuffer buffer;
    for (std::int64_t i = begin, n; i < end; i += n) {
      n = in.tile(std::min(kTile, end - i));
      piece(in.read(n, buffer.bytes), i, n);
    }
  });
}

void run(const At& at, const BinaryForward& call) {
  const DType dtype = call.y.dtype;
  const BinaryForwardLoop loop = kBinaryForward[static_cast<int>(call.kind)][static_cast<int>(dtype)];
  const Extent y = extent(call.y);
  const std::int64_t size = static_cast<std::int64_t>(size_of(dtype));
  if (y.n <= 1) return y.n == 1 ? loop({call.a.data, 1}, {call.b.data, 1}, call.y.data, 1) : void();
  const Extent a = extent(call.a), b = extent(call.b);
  if (y.dense && (a.dense || is_repeated(call.a)) && (b.dense || is_repeated(call.b))) {
    Repeated a_register, b_register;
    const Operand va = a.dense ? Operand{call.a.data, 1} : a_register.fill(call.a);
    const Operand vb = b.dense ? Operand{call.b.data, 1} : b_register.fill(call.b);
    return flat(at, dtype, y.n, [&](std::int64_t begin, std::int64_t n) {
      loop(va.from(begin * size), vb.from(begin * size), offset(call.y.data, begin * size), n);
    });
  }
  View from_a = call.a, from_b = call.b, to = call.y;
  order_by(to, from_a, from_b);
  parallel_for(at, y.n, kGrain, work(dtype), [&](std::int64_t begin, std::int64_t end) {
    Input in_a(from_a), in_b(from_b);
    Walk out(to);
    in_a.seek(begin);
    in_b.seek(begin);
    out.seek(begin);
    TileBuffer buffer;
    for (std::int64_t i = begin, n; i < end; i += n) {
      n = out.tile(in_b.tile(in_a.tile(std::min(kTile, end - i))));
      const Operand va = in_a.read(n), vb = in_b.read(n);
      if (void* const y_tile = out.in_place(n)) {
        loop(va, vb, y_tile, n);
      } else {
        loop(va, vb, buffer.bytes, n);
        out.write(n, buffer.bytes);
      }
    }
  });
}

void run(const At& at, const BinaryBackward& call) {
  const DType dtype = call.d.dtype;
  const BinaryBackwardLoop* const loops =
      kBinaryBackward[static_cast<int>(call.kind)][call.operand][static_cast<int>(dtype)];
  const Extent d = extent(call.d);
  if (d.n == 1) return loops[call.accumulate]({call.a.data, 1}, {call.b.data, 1}, call.dy, call.d.data, 1);
  const std::int64_t size = static_cast<std::int64_t>(size_of(dtype));

  if (!d.dense) {                                                        // the operand was repeated
    if (call.kind == BinaryKind::add || call.kind == BinaryKind::sub) {  // slope ±1: a plain sum
      View dy = call.d;
      dy.data = const_cast<void*>(call.dy);
      for (std::int64_t i = dy.rank - 1, stride = 1; i >= 0; stride *= dy.shape[i--]) dy.stride[i] = stride;
      const double sign = call.kind == BinaryKind::sub && call.operand == 1 ? -1.0 : 1.0;
      return run(at, Reduce{ReduceKind::sum, dy, call.d, sign, call.accumulate});
    }
    return visit_float(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      reduce<Sum, S>(at, call.d, 1.0, call.accumulate,
                     [&] { return Slopes<S>(loops[kWiden], call.a, call.b, call.dy); });
    });
  }

  if (d.n == 0) return;
  const Extent a = extent(call.a), b = extent(call.b);
  const BinaryBackwardLoop loop = loops[call.accumulate];
  const auto piece = [&](Operand va, Operand vb, std::int64_t begin, std::int64_t n) {
    loop(va, vb, offset(call.dy, begin * size), offset(call.d.data, begin * size), n);
  };
  if ((a.dense || is_repeated(call.a)) && (b.dense || is_repeated(call.b))) {
    Repeated a_register, b_register;
    const Operand va = a.dense ? Operand{call.a.data, 1} : a_register.fill(call.a);
    const Operand vb = b.dense ? Operand{call.b.data, 1} : b_register.fill(call.b);
    return flat(at, dtype, d.n, [&](std::int64_t begin, std::int64_t n) {
      piece(va.from(begin * size), vb.from(begin * size), begin, n);
    });
  }
  parallel_for(at, d.n, kGrain, work(dtype), [&](std::int64_t begin, std::int64_t end) {
    Input in_a(call.a), in_b(call.b);
    in_a.seek(begin);
    in_b.seek(begin);
    for (std::int64_t i = begin, n; i < end; i += n) {
      n = in_b.tile(in_a.tile(std::min(kTile, end - i)));
      const Operand va = in_a.read(n), vb = in_b.read(n);
      piece(va, vb, i, n);
    }
  });
}

void run(const At& at, const ScaleShift& call) {
  visit_float(call.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using A = acc_t<S>;
    flat(at, call.dtype, call.n, [&](std::int64_t begin, std::int64_t n) {
      const S* const x = static_cast<const S*>(call.x) + begin;
      S* const y = static_cast<S*>(call.y) + begin;
      const Vec<A> factor = broadcast(static_cast<A>(call.factor)), shift = broadcast(static_cast<A>(call.offset));
      const auto f = [=](std::int64_t i, auto get) { return multiply_add(factor, get(x + i), shift); };
      call.accumulate ? for_registers<true>(y, n, f) : for_registers<false>(y, n, f);
    });
  });
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
