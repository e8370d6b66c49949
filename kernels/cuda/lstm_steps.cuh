#pragma once
// The LSTM's elementwise kernels: a step of all examples between two products, for weights that no block can hold; and
// what lies before and after the loop over time.

#include "kernels/cuda/lstm_cell.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE::lstm {

constexpr int kThreads = 256;

/// Time t of all examples, one unit a thread. z holds the whole gates but for the biases; h and c [B, H] are the state.
/// Examples without a step at t keep theirs, so time runs the same way for all, whatever their lengths.
template <class S>
__global__ void __launch_bounds__(kThreads) step_forward(Forward<S> x, int t, acc_t<S>* h, acc_t<S>* c) {
  using A = acc_t<S>;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const unsigned hidden = static_cast<unsigned>(x.steps.hidden);
  if (at >= static_cast<std::int64_t>(x.steps.batch) * hidden) return;
  const int b = static_cast<int>(at / hidden);
  const unsigned u = static_cast<unsigned>(at % hidden);
  S* const y = x.y + b * x.y_stride[0] + t * x.y_stride[1] + u;
  if (t >= x.steps.length(b)) {
    *y = S(0.0f);
    return;
  }
  const A* const z = x.z + x.steps.row(b, t) * (4 * hidden) + u;
  const auto gate = [&](unsigned q) {
    return activate(static_cast<int>(q),
                    z[q * hidden] + (load_or_zero(x.b_ih, q * hidden + u) + load_or_zero(x.b_hh, q * hidden + u)));
  };
  const Gates<A> v{gate(0), gate(1), gate(2), gate(3)};
  const A c_before = c[at], c_after = v.f * c_before + v.i * v.g, h_after = v.o * tanh(c_after);
  if (x.saved != nullptr) {
    A* const row = x.saved + x.steps.row(b, t) * (6 * hidden) + u;
    row[0] = v.i;
    row[hidden] = v.f;
    row[2 * hidden] = v.g;
    row[3 * hidden] = v.o;
    row[4 * hidden] = c_before;
    row[5 * hidden] = h[at];
  }
  c[at] = c_after;
  h[at] = h_after;
  *y = static_cast<S>(h_after);
}

/// dz of time t. dh is taken and left 0 for the product that follows to add to; where there is no step it stays, and dz
/// is 0.
template <class S>
__global__ void __launch_bounds__(kThreads) step_backward(Backward<S> x, int t, acc_t<S>* dh, acc_t<S>* dc) {
  using A = acc_t<S>;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const unsigned hidden = static_cast<unsigned>(x.steps.hidden);
  if (at >= static_cast<std::int64_t>(x.steps.batch) * hidden) return;
  const int b = static_cast<int>(at / hidden);
  const unsigned u = static_cast<unsigned>(at % hidden);
  A* const dz = x.dz + x.steps.row(b, t) * (4 * hidden) + u;
  if (t >= x.steps.length(b)) {
    for (unsigned q = 0; q < 4; ++q) dz[q * hidden] = A(0);
    return;
  }
  const A* const row = x.saved + x.steps.row(b, t) * (6 * hidden) + u;
  const Gates<A> v{row[0], row[hidden], row[2 * hidden], row[3 * hidden]};
  const A c_before = row[4 * hidden], tanh_c = tanh(v.f * c_before + v.i * v.g);
  const A dh_now = dh[at] + load_or_zero(x.dy, static_cast<std::size_t>(b * x.y_stride[0] + t * x.y_stride[1] + u));
  const A dc_now = cell_gradient(v, tanh_c, dh_now, dc[at]);
  for (unsigned q = 0; q < 4; ++q) {
    const A d = gate_gradient(static_cast<int>(q), v, c_before, tanh_c, dh_now, dc_now);
    dz[q * hidden] = d;
    if (x.sum != nullptr) x.sum[static_cast<std::size_t>(b) * (4 * hidden) + q * hidden + u] += d;
  }
  dc[at] = dc_now * v.f;
  dh[at] = A(0);
}

/// Rows (b, t) of `width` elements, with strides on one side and dense on the other.
struct Rows {
  std::int64_t count, time, width, stride[2];
  __device__ __forceinline__ std::int64_t place(std::int64_t i) const {
    const std::int64_t row = i / width;
    return row / time * stride[0] + row % time * stride[1] + i % width;
  }
};

/// to [count, width] in acc_t = the rows, or zeros if there are none.
template <class S>
__global__ void __launch_bounds__(kThreads) widen(Rows rows, const S* from, acc_t<S>* to) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < rows.count * rows.width;
       i += step)
    to[i] = from == nullptr ? acc_t<S>(0) : static_cast<acc_t<S>>(from[rows.place(i)]);
}
/// The rows = from, rounded, or + from.
template <class S>
__global__ void __launch_bounds__(kThreads) narrow(Rows rows, const acc_t<S>* from, GradOut to) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < rows.count * rows.width;
       i += step)
    put<S>(to, static_cast<std::size_t>(rows.place(i)), from[i]);
}

/// db_ih and db_hh = the sum of `rows` rows. Of a block's threads 16 take a column each, in 16 shares of the rows.
template <class S>
__global__ void __launch_bounds__(kThreads)
    sum_rows(std::int64_t rows, std::int64_t columns, const acc_t<S>* from, GradOut db_ih, GradOut db_hh) {
  using A = acc_t<S>;
  constexpr int kShares = kThreads / 16;
  __shared__ SharedArray<A, kThreads> part;
  const int share = static_cast<int>(threadIdx.x) / 16;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * 16 + threadIdx.x % 16;
  A sum = A(0);
  if (column < columns)
    for (std::int64_t r = share; r < rows; r += kShares) sum += from[r * columns + column];
  part[threadIdx.x] = sum;
  __syncthreads();
  if (share != 0 || column >= columns) return;
  for (int s = 1; s < kShares; ++s) sum += part[static_cast<std::size_t>(s) * 16 + threadIdx.x];
  put<S>(db_ih, static_cast<std::size_t>(column), sum);
  put<S>(db_hh, static_cast<std::size_t>(column), sum);
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::lstm
