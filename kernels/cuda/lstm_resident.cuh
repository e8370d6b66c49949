#pragma once
// A block runs some examples through all of their steps with the recurrent weights on chip, so that a step needs
// neither other blocks nor a launch: one barrier, and h (backward: dz) passed through shared memory.
//
// Four lanes do a unit. Forward each sums a quarter of h for all four gates; three shuffles then leave lane q with gate
// q, which it activates and saves. Backward lane q sums over the rows of gate q. A thread holds kH weights either way,
// in registers up to kH = 96; of 128 half lie in shared memory, and two examples a block share reading them.
//
// Floor of a step at kH = 64, one example a block: 16384 multiply-adds on 128 lanes, 128 cycles, beside a chain of 16
// multiply-adds, six shuffles, two exponentials and a barrier. Expected on an H200, not measured: at most 0.35 us
// forward and 0.7 us backward.

#include "kernels/cuda/lstm_cell.cuh"
#include "kernels/cuda/vector.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE::lstm {

/// What a thread holds of the weights, in packs of 4, all in registers but for kH = 128.
template <class A, int kH>
struct Weights {
  static constexpr int kPacks = kH / 4, kHeld = kH <= 96 ? kPacks : 16, kThreads = 4 * kH;
  Pack<A, 4> held[kHeld];
  Pack<A, 4>* laid;  // [kPacks - kHeld, kThreads] in shared memory; each thread reads what it wrote

  __device__ __forceinline__ explicit Weights(Smem& smem) : laid(nullptr) {
    if constexpr (kHeld < kPacks) laid = smem.take<Pack<A, 4>>(shared_packs()) + threadIdx.x;
  }
  static constexpr std::size_t shared_packs() { return (kPacks - kHeld) * kThreads; }

  /// Sets pack i to read(i).
  template <class F>
  __device__ __forceinline__ void fill(F read) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) held[i] = read(i);
#pragma unroll 1
    for (int i = kHeld; i < kPacks; ++i) laid[(i - kHeld) * kThreads] = read(i);
  }
  /// f(i, pack i …, pack i + n - 1) for every n-th i. Those in shared memory are read as they are needed: all at once
  /// would take the registers of the others.
  template <int n, class F>
  __device__ __forceinline__ void for_each(F f) const {
    Pack<A, 4> packs[n];
#pragma unroll
    for (int i = 0; i < kHeld; i += n) {
#pragma unroll
      for (int j = 0; j < n; ++j) packs[j] = held[i + j];
      f(i, packs);
    }
#pragma unroll 1
    for (int i = kHeld; i < kPacks; i += n) {
#pragma unroll
      for (int j = 0; j < n; ++j) packs[j] = laid[(i - kHeld + j) * kThreads];
      f(i, packs);
    }
  }
};

constexpr int rows_of(int width) { return width <= 96 ? 1 : 2; }
constexpr int kAhead = 2;  // steps whose inputs are on their way
/// A row of gate gradients in shared memory: spreads the four gates over the banks.
constexpr int gate_row(int width) { return width + 8; }

template <class A, int kH>
constexpr std::size_t forward_shared_bytes() {
  return (2 * rows_of(kH) * kH + 4 * Weights<A, kH>::shared_packs()) * sizeof(A);
}
template <class A, int kH>
constexpr std::size_t backward_shared_bytes() {
  return (2 * rows_of(kH) * 4 * gate_row(kH) + 4 * Weights<A, kH>::shared_packs()) * sizeof(A);
}

/// What lane q + j of each four lanes has, for j = 0 … 3.
template <class A>
__device__ __forceinline__ Gates<A> gather(A mine) {
  const int first = lane_id() & ~3;
  return {__shfl_sync(0xffffffffu, mine, first), __shfl_sync(0xffffffffu, mine, first + 1),
          __shfl_sync(0xffffffffu, mine, first + 2), __shfl_sync(0xffffffffu, mine, first + 3)};
}

/// In lane q of each four lanes the sum over the four of v[q].
template <class A>
__device__ __forceinline__ A sum_of_gate(int q, const A (&v)[4]) {
  const bool upper = (q & 2) != 0, odd = (q & 1) != 0;
  A even_gate = upper ? v[2] : v[0], odd_gate = upper ? v[3] : v[1];
  even_gate += __shfl_xor_sync(0xffffffffu, upper ? v[0] : v[2], 2);
  odd_gate += __shfl_xor_sync(0xffffffffu, upper ? v[1] : v[3], 2);
  return (odd ? odd_gate : even_gate) + __shfl_xor_sync(0xffffffffu, odd ? even_gate : odd_gate, 1);
}

template <class S, int kH>
__global__ void __launch_bounds__(4 * kH) run_forward(Forward<S> x) {
  using A = acc_t<S>;
  constexpr int kRows = rows_of(kH);
  Smem smem;
  A* const states = smem.take<A>(2 * kRows * kH);  // h before and after the step, in turn
  Weights<A, kH> weights(smem);
  const Steps& steps = x.steps;
  const int hidden = steps.hidden, u = static_cast<int>(threadIdx.x) / 4, q = static_cast<int>(threadIdx.x) % 4;
  const int b0 = static_cast<int>(blockIdx.x) * kRows;
  const bool real = u < hidden;  // the other units compute zeros

  // Pack 4 i + gate: what that gate of the unit takes from h[16 i + 4 q …].
  weights.fill([&](int i) {
    const int k = i / 4 * 16 + 4 * q;
    const S* const from = x.w_hh + static_cast<std::size_t>(i % 4 * hidden + u) * static_cast<unsigned>(hidden) + k;
    Pack<A, 4> pack{};
    if (x.packs && real && k < hidden) {
      load_pack(from, pack.element);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (real && k + e < hidden) pack.element[e] = static_cast<A>(from[e]);
    }
    return pack;
  });

  int length[kRows], last = 0;
  A c[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    length[r] = steps.length(b0 + r);
    last = max(last, length[r]);
    const bool there = real && b0 + r < steps.batch;
    const std::size_t at = static_cast<std::size_t>(b0 + r) * static_cast<unsigned>(hidden) + u;
    c[r] = there ? load_or_zero(x.c0, at) : A(0);
    if (q == 0) states[r * kH + u] = there ? load_or_zero(x.h0, at) : A(0);
  }
  const A bias = real ? load_or_zero(x.b_ih, q * hidden + u) + load_or_zero(x.b_hh, q * hidden + u) : A(0);
  const auto input = [&](int r, int step) {
    if (step >= length[r] || !real) return A(0);
    const std::size_t row = steps.row(b0 + r, steps.time_of(step, length[r]));
    return x.z[row * static_cast<unsigned>(4 * hidden) + q * hidden + u];
  };
  A ahead[kAhead][kRows];  // of this step and the next
#pragma unroll
  for (int d = 0; d < kAhead; ++d)
#pragma unroll
    for (int r = 0; r < kRows; ++r) ahead[d][r] = input(r, d);
  __syncthreads();

  for (int s = 0; s < last; ++s) {
    const A* const before = states + (s & 1) * kRows * kH;
    A* const after = states + (~s & 1) * kRows * kH;
    A sum[kRows][4] = {};
    weights.template for_each<4>([&](int i, const Pack<A, 4>(&w)[4]) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const Pack<A, 4> from = *reinterpret_cast<const Pack<A, 4>*>(before + r * kH + 4 * (i + q));
#pragma unroll
        for (int e = 0; e < 4; ++e)
#pragma unroll
          for (int g = 0; g < 4; ++g) sum[r][g] += w[g].element[e] * from.element[e];
      }
    });
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const A gate = activate(q, ahead[0][r] + bias + sum_of_gate(q, sum[r]));
#pragma unroll
      for (int d = 1; d < kAhead; ++d) ahead[d - 1][r] = ahead[d][r];
      ahead[kAhead - 1][r] = input(r, s + kAhead);
      const Gates<A> v = gather(gate);
      const A c_after = v.f * c[r] + v.i * v.g;
      A h = before[r * kH + u];
      if (s < length[r]) {
        const A h_before = h;
        h = v.o * tanh(c_after);
        if (real) {
          const int t = steps.time_of(s, length[r]);
          if (x.saved != nullptr) {
            A* const row = x.saved + steps.row(b0 + r, t) * static_cast<unsigned>(6 * hidden) + u;
            row[q * hidden] = gate;
            if (q == 0) row[4 * hidden] = c[r];
            if (q == 1) row[5 * hidden] = h_before;
          }
          if (q == 2) x.y[(b0 + r) * x.y_stride[0] + t * x.y_stride[1] + u] = static_cast<S>(h);
        }
        c[r] = c_after;
      }
      if (q == 0) after[r * kH + u] = h;
    }
    __syncthreads();
  }

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int b = b0 + r;
    if (!real || b >= steps.batch) continue;
    const std::size_t at = static_cast<std::size_t>(b) * static_cast<unsigned>(hidden) + u;
    if (q == 0 && x.h_n != nullptr) x.h_n[at] = static_cast<S>(states[((last & 1) * kRows + r) * kH + u]);
    if (q == 1 && x.c_n != nullptr) x.c_n[at] = static_cast<S>(c[r]);
    for (int t = length[r] + q; t < steps.time; t += 4) x.y[b * x.y_stride[0] + t * x.y_stride[1] + u] = S(0.0f);
  }
}

template <class S, int kH>
__global__ void __launch_bounds__(4 * kH, kH == 64 && sizeof(acc_t<S>) == 4 ? 2 : 1) run_backward(Backward<S> x) {
  using A = acc_t<S>;
  constexpr int kRows = rows_of(kH), kGateRow = gate_row(kH);
  Smem smem;
  A* const gates = smem.take<A>(2 * kRows * 4 * kGateRow);  // dz of this step and of the one before, in turn
  Weights<A, kH> weights(smem);
  const Steps& steps = x.steps;
  const int hidden = steps.hidden, u = static_cast<int>(threadIdx.x) / 4, q = static_cast<int>(threadIdx.x) % 4;
  const int b0 = static_cast<int>(blockIdx.x) * kRows;
  const bool real = u < hidden;

  // Pack i: what h[u] gives to gate q of the units 4 i ….
  weights.fill([&](int i) {
    Pack<A, 4> pack{};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int unit = 4 * i + e;
      if (real && unit < hidden)
        pack.element[e] =
            static_cast<A>(x.w_hh[static_cast<std::size_t>(q * hidden + unit) * static_cast<unsigned>(hidden) + u]);
    }
    return pack;
  });

  int length[kRows], last = 0;
  A dh[kRows], dc[kRows], total[kRows] = {};  // dh and dc the same in the four lanes
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    length[r] = steps.length(b0 + r);
    last = max(last, length[r]);
    const bool there = real && b0 + r < steps.batch;
    const std::size_t at = static_cast<std::size_t>(b0 + r) * static_cast<unsigned>(hidden) + u;
    dh[r] = there ? load_or_zero(x.dh_n, at) : A(0);
    dc[r] = there ? load_or_zero(x.dc_n, at) : A(0);
  }
  struct Inputs {
    A gate, c_before, dy;
  };
  const auto inputs = [&](int r, int step) {
    if (step < 0 || step >= length[r] || !real) return Inputs{A(0), A(0), A(0)};
    const int t = steps.time_of(step, length[r]);
    const A* const row = x.saved + steps.row(b0 + r, t) * static_cast<unsigned>(6 * hidden) + u;
    return Inputs{row[q * hidden], row[4 * hidden],
                  load_or_zero(x.dy, static_cast<std::size_t>((b0 + r) * x.y_stride[0] + t * x.y_stride[1] + u))};
  };
  Inputs ahead[kAhead][kRows];
#pragma unroll
  for (int d = 0; d < kAhead; ++d)
#pragma unroll
    for (int r = 0; r < kRows; ++r) ahead[d][r] = inputs(r, last - 1 - d);

  for (int s = last - 1; s >= 0; --s) {
    A* const to = gates + (s & 1) * kRows * 4 * kGateRow;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Inputs now = ahead[0][r];
#pragma unroll
      for (int d = 1; d < kAhead; ++d) ahead[d - 1][r] = ahead[d][r];
      ahead[kAhead - 1][r] = inputs(r, s - kAhead);
      const Gates<A> v = gather(now.gate);
      const A tanh_c = tanh(v.f * now.c_before + v.i * v.g);
      const A dh_now = dh[r] + now.dy, dc_now = cell_gradient(v, tanh_c, dh_now, dc[r]);
      A dz = A(0);
      if (s < length[r]) {
        dz = gate_gradient(q, v, now.c_before, tanh_c, dh_now, dc_now);
        dc[r] = dc_now * v.f;
        total[r] += dz;
        if (real) {
          const std::size_t row = steps.row(b0 + r, steps.time_of(s, length[r]));
          x.dz[row * static_cast<unsigned>(4 * hidden) + q * hidden + u] = dz;
        }
      }
      to[(r * 4 + q) * kGateRow + u] = dz;
    }
    __syncthreads();
    A sum[kRows][4] = {};
    weights.template for_each<1>([&](int i, const Pack<A, 4>(&w)[1]) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const Pack<A, 4> from = *reinterpret_cast<const Pack<A, 4>*>(to + (r * 4 + q) * kGateRow + 4 * i);
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[r][e] += w[0].element[e] * from.element[e];
      }
    });
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      A all = (sum[r][0] + sum[r][1]) + (sum[r][2] + sum[r][3]);
      all += __shfl_xor_sync(0xffffffffu, all, 1);
      all += __shfl_xor_sync(0xffffffffu, all, 2);
      if (s < length[r]) dh[r] = all;
    }
  }

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int b = b0 + r;
    if (!real || b >= steps.batch) continue;
    const std::size_t at = static_cast<std::size_t>(b) * static_cast<unsigned>(hidden) + u;
    if (q == 0) put<S>(x.dh0, at, dh[r]);
    if (q == 1) put<S>(x.dc0, at, dc[r]);
    if (x.sum != nullptr)
      x.sum[static_cast<std::size_t>(b) * static_cast<unsigned>(4 * hidden) + q * hidden + u] = total[r];
  }
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::lstm
