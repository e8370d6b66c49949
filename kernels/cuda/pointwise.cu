// Every function of kernels/pointwise_functions.h. The kind is a run-time argument that all threads share, so the list
// costs one kernel a dtype and form, not one a function. Bound by memory: 2 or 3 streams forward, 3 or 4 backward.

#include "kernels/pointwise.h"

#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/reduction.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {

template <class S>
struct UnaryValue {
  UnaryKind kind;

  template <class A, int n>
  __device__ __forceinline__ void operator()(const A (&in)[1][n], A (&out)[n]) const {
    using M = Math<S>;
    [[maybe_unused]] const A zero = A(0), one = A(1);
    switch (kind) {
#define ADJOINT_CASE(name, forward, derivative)     \
  case UnaryKind::name:                             \
    _Pragma("unroll") for (int k = 0; k < n; ++k) { \
      const A x = in[0][k];                         \
      out[k] = forward;                             \
    }                                               \
    break;
      ADJOINT_UNARY_FUNCTIONS(ADJOINT_CASE)
#undef ADJOINT_CASE
    }
  }
};

/// Of x, y, dy.
template <class S>
struct UnarySlope {
  UnaryKind kind;

  template <class A, int n>
  __device__ __forceinline__ void operator()(const A (&in)[3][n], A (&out)[n]) const {
    using M [[maybe_unused]] = Math<S>;
    [[maybe_unused]] const A zero = A(0), one = A(1);
    switch (kind) {
#define ADJOINT_CASE(name, forward, derivative)     \
  case UnaryKind::name:                             \
    _Pragma("unroll") for (int k = 0; k < n; ++k) { \
      [[maybe_unused]] const A x = in[0][k];        \
      [[maybe_unused]] const A y = in[1][k];        \
      out[k] = in[2][k] * (derivative);             \
    }                                               \
    break;
      ADJOINT_UNARY_FUNCTIONS(ADJOINT_CASE)
#undef ADJOINT_CASE
    }
  }
};

template <class S>
struct BinaryValue {
  BinaryKind kind;

  template <class A, int n>
  __device__ __forceinline__ void operator()(const A (&in)[2][n], A (&out)[n]) const {
    using M = Math<S>;
    switch (kind) {
#define ADJOINT_CASE(name, forward, by_a, by_b)     \
  case BinaryKind::name:                            \
    _Pragma("unroll") for (int k = 0; k < n; ++k) { \
      const A a = in[0][k], b = in[1][k];           \
      out[k] = forward;                             \
    }                                               \
    break;
      ADJOINT_BINARY_FUNCTIONS(ADJOINT_CASE)
#undef ADJOINT_CASE
    }
  }
};

/// Of a, b, dy.
template <class S>
struct BinarySlope {
  BinaryKind kind;
  int operand;

  template <class A, int n>
  __device__ __forceinline__ void operator()(const A (&in)[3][n], A (&out)[n]) const {
    using M [[maybe_unused]] = Math<S>;
    [[maybe_unused]] const A zero = A(0), one = A(1);
    switch (kind) {
#define ADJOINT_CASE(name, forward, by_a, by_b)             \
  case BinaryKind::name:                                    \
    _Pragma("unroll") for (int k = 0; k < n; ++k) {         \
      [[maybe_unused]] const A a = in[0][k];                \
      [[maybe_unused]] const A b = in[1][k];                \
      out[k] = in[2][k] * (operand == 0 ? (by_a) : (by_b)); \
    }                                                       \
    break;
      ADJOINT_BINARY_FUNCTIONS(ADJOINT_CASE)
#undef ADJOINT_CASE
    }
  }
};

template <class A>
struct ScaleAndShift {
  A factor, offset;

  template <int n>
  __device__ __forceinline__ void operator()(const A (&in)[1][n], A (&out)[n]) const {
#pragma unroll
    for (int k = 0; k < n; ++k) out[k] = factor * in[0][k] + offset;
  }
};

void run(const At& at, const UnaryForward& call) {
  const View views[] = {call.x, call.y};
  visit_float(call.y.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    run_elementwise<S, 1>(stream_of(at), views, false, UnaryValue<S>{call.kind});
  });
}
ADJOINT_GPU_KERNEL(UnaryForward)

void run(const At& at, const UnaryBackward& call) {
  if (call.dx.data == nullptr) return;
  const DType dtype = call.x.dtype;
  const auto dense = [&](const void* data) { return dense_like(call.x, data, dtype); };
  // What the derivative does not read is not read from memory: the lines of dy are there already.
  const DerivativeReads reads = kUnaryReads[static_cast<int>(call.kind)];
  const View views[] = {reads.first ? call.x : dense(call.dy), dense(reads.second ? call.y : call.dy), dense(call.dy),
                        dense(call.dx.data)};
  visit_float(dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    run_elementwise<S, 3>(stream_of(at), views, call.dx.accumulate, UnarySlope<S>{call.kind});
  });
}
ADJOINT_GPU_KERNEL(UnaryBackward)

void run(const At& at, const BinaryForward& call) {
  const View views[] = {call.a, call.b, call.y};
  visit_float(call.y.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    run_elementwise<S, 2>(stream_of(at), views, false, BinaryValue<S>{call.kind});
  });
}
ADJOINT_GPU_KERNEL(BinaryForward)

/// a, b, dy, d of the gradient, where what the derivative does not read is dy.
struct BinaryViews {
  View view[4];

  explicit BinaryViews(const BinaryBackward& call) {
    const DerivativeReads reads = kBinaryReads[static_cast<int>(call.kind)][call.operand];
    const View dy = dense_like(call.d, call.dy, call.d.dtype);
    view[0] = reads.first ? call.a : dy;
    view[1] = reads.second ? call.b : dy;
    view[2] = dy;
    view[3] = call.d;
  }
};

std::size_t scratch_bytes(const At&, const BinaryBackward& call) { return reduction_scratch(call.d); }
ADJOINT_GPU_SCRATCH(BinaryBackward)

void run(const At& at, const BinaryBackward& call) {
  const BinaryViews views(call);
  visit_float(call.d.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    const BinarySlope<S> slope{call.kind, call.operand};
    if (is_reduced(call.d)) {
      run_reduction<S, S, Sum, 3>(stream_of(at), views.view, slope, 1.0, call.accumulate, call.scratch);
    } else {
      run_elementwise<S, 3>(stream_of(at), views.view, call.accumulate, slope);
    }
  });
}
ADJOINT_GPU_KERNEL(BinaryBackward)

void run(const At& at, const ScaleShift& call) {
  const View views[] = {View::flat(const_cast<void*>(call.x), call.dtype, call.n),
                        View::flat(call.y, call.dtype, call.n)};
  visit_float(call.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using A = acc_t<S>;
    run_elementwise<S, 1>(stream_of(at), views, call.accumulate,
                          ScaleAndShift<A>{static_cast<A>(call.factor), static_cast<A>(call.offset)});
  });
}
ADJOINT_GPU_KERNEL(ScaleShift)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
