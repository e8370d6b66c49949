#pragma once
// One step of an LSTM for one unit, and what all of its kernels are told.

#include "kernels/base/view.h"
#include "kernels/cuda/compat.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE::lstm {

/// Where the examples' real steps are.
struct Steps {
  int batch, time, hidden;
  const std::int32_t* lengths;  // or null
  bool reverse;

  __device__ __forceinline__ int length(int b) const {
    if (b >= batch) return 0;
    return lengths == nullptr ? time : max(0, min(static_cast<int>(lengths[b]), time));
  }
  __device__ __forceinline__ int time_of(int step, int length) const { return reverse ? length - 1 - step : step; }
  /// The row of z, dz and saved.
  __device__ __forceinline__ std::size_t row(int b, int t) const {
    return static_cast<std::size_t>(b) * static_cast<unsigned>(time) + static_cast<unsigned>(t);
  }
};

/// A row of saved holds i, f, g, o after their activation, then c and h from before the step: [6, H]. So a step back
/// reads one row, and the gradient of W_hh is a product with the rows' last part.
template <class S>
struct Forward {
  Steps steps;
  std::int64_t y_stride[2];
  acc_t<S>* z;  // [B, T, 4H], the inputs' share of the gates
  const S *w_hh, *b_ih, *b_hh, *h0, *c0;
  bool packs;  // rows of w_hh can be read in aligned groups of 4
  S *y, *h_n, *c_n;
  acc_t<S>* saved;  // or null
};

template <class S>
struct Backward {
  Steps steps;
  std::int64_t y_stride[2];
  const S* w_hh;
  const acc_t<S>* saved;
  const S *dy, *dh_n, *dc_n;
  acc_t<S>* dz;   // [B, T, 4H], gradients of the gates before their activation
  acc_t<S>* sum;  // [B, 4H], sums of dz over time
  GradOut dh0, dc0;
};

/// The gate q of i, f, g, o. exp is within 2 ulp, so the error is a few ulp of 1: absolute for g, which is a tanh.
template <class A>
__device__ __forceinline__ A activate(int q, A z) {
  const A s = A(1) / (A(1) + exp(q == 2 ? A(-2) * z : -z));
  return q == 2 ? A(2) * s - A(1) : s;
}

template <class A>
struct Gates {
  A i, f, g, o;
};

/// The gradient of c after the step from those of h and c; tanh_c is of c after the step.
template <class A>
__device__ __forceinline__ A cell_gradient(const Gates<A>& v, A tanh_c, A dh, A dc) {
  return dc + dh * v.o * (A(1) - tanh_c * tanh_c);
}
/// The gradient of gate q before its activation.
template <class A>
__device__ __forceinline__ A gate_gradient(int q, const Gates<A>& v, A c_before, A tanh_c, A dh, A dc) {
  switch (q) {
    case 0: return dc * v.g * (v.i * (A(1) - v.i));
    case 1: return dc * c_before * (v.f * (A(1) - v.f));
    case 2: return dc * v.i * (A(1) - v.g * v.g);
    default: return dh * tanh_c * (v.o * (A(1) - v.o));
  }
}

template <class S>
__device__ __forceinline__ acc_t<S> load_or_zero(const S* from, std::size_t i) {
  return from == nullptr ? acc_t<S>(0) : static_cast<acc_t<S>>(from[i]);
}
template <class S>
__device__ __forceinline__ void put(const GradOut& out, std::size_t i, acc_t<S> value) {
  if (out.data == nullptr) return;
  S* const to = static_cast<S*>(out.data) + i;
  *to = static_cast<S>(out.accumulate ? static_cast<acc_t<S>>(*to) + value : value);
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::lstm
