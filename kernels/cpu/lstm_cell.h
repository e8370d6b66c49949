#pragma once
// The pointwise half of an LSTM step, forward and backward, on groups of one register of units.

#include <cstdint>

#include "kernels/cpu/lstm_tile.h"
#include "kernels/cpu/simd_math.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm {

/// A row of `saved`, 6H elements: the gates after their activation, per group of `units` units i, f, g, o, then c and
/// tanh(c) of all units. The last group is narrower when H is not a multiple of the register, so nothing is padded.
template <class A>
struct SavedRow {
  A* data;
  std::int64_t hidden, group;

  std::int64_t units() const { return std::min<std::int64_t>(kLanes<A>, hidden - group * kLanes<A>); }
  A* gate(int q) const { return data + 4 * kLanes<A> * group + q * units(); }
  A* c() const { return data + 4 * hidden + group * kLanes<A>; }
  A* tanh_c() const { return data + 5 * hidden + group * kLanes<A>; }
};

template <class S>
struct ForwardCell {
  std::int64_t hidden;
  acc_t<S>* saved;    ///< of the first row, or null
  const acc_t<S>* z;  ///< [rows, 4 registers] gates before their activation
  acc_t<S>* c;        ///< state, of the first row
  std::int64_t c_row;
  acc_t<S>* h;  ///< new hidden state in acc_t, of the first row
  std::int64_t h_row;
  S* y;
  const std::int64_t* y_at;  ///< of the first row
};

/// The cell of one group of units for a few rows.
template <class S>
[[gnu::noinline]] void forward_cell(const ForwardCell<S>& cell, std::int64_t group, int rows) {
  using A = acc_t<S>;
  constexpr int kWidth = kLanes<A>;
  for (int r = 0; r < rows; ++r) {
    const A* z = cell.z + r * kPanelVectors * kWidth;
    A* c_at = cell.c + r * cell.c_row + group * kWidth;
    const Vec<A> i = sigmoid(load(z)), f = sigmoid(load(z + kWidth));
    const Vec<A> g = tanh(load(z + 2 * kWidth)), o = sigmoid(load(z + 3 * kWidth));
    const Vec<A> c = multiply_add(f, load(c_at), i * g);
    const Vec<A> tanh_c = tanh(c), h = o * tanh_c;
    store(c_at, c);
    store(cell.h + r * cell.h_row + group * kWidth, h);
    const SavedRow<A> saved{cell.saved + (cell.saved ? r * 6 * cell.hidden : 0), cell.hidden, group};
    const std::int64_t units = saved.units();
    store_up_to(cell.y + cell.y_at[r] + group * kWidth, h, units);
    if (cell.saved) {
      store_up_to(saved.gate(0), i, units);
      store_up_to(saved.gate(1), f, units);
      store_up_to(saved.gate(2), g, units);
      store_up_to(saved.gate(3), o, units);
      store_up_to(saved.c(), c, units);
      store_up_to(saved.tanh_c(), tanh_c, units);
    }
  }
}

/// One row of the backward step. The padded units of the last group read zeros and so get zero gradients.
template <class S>
struct BackwardCell {
  std::int64_t hidden;
  acc_t<S>* saved;
  const S* c_first;          ///< c before the step, when it is the first: a row of c0, or null (zeros)
  const acc_t<S>* c_before;  ///< c before the step, else null
  const S* dy;               ///< or null
  const acc_t<S>* dh;        ///< gradient of h from the later step
  acc_t<S>* dc;              ///< gradient of c, in: of the step's result, out: of what it started from
  acc_t<S>* dz;              ///< gradient of the gates before activation, group 0 of this row
  std::int64_t dz_group;     ///< distance of the groups
  acc_t<S>* h_next;          ///< where h of this step goes as input of the next one, in panels of 4 vectors; or null
  std::int64_t h_next_panel = 0, h_next_vector = 0;  ///< distance of the panels and of their vectors
};

/// The groups of units [begin, end).
template <class S>
void backward_cell(const BackwardCell<S>& cell, std::int64_t begin, std::int64_t end) {
  using A = acc_t<S>;
  constexpr int kWidth = kLanes<A>;
  for (std::int64_t group = begin; group < end; ++group) {
    const SavedRow<A> saved{cell.saved, cell.hidden, group};
    const std::int64_t units = saved.units(), u = group * kWidth;
    const Vec<A> i = load_up_to(saved.gate(0), units), f = load_up_to(saved.gate(1), units);
    const Vec<A> g = load_up_to(saved.gate(2), units), o = load_up_to(saved.gate(3), units);
    const Vec<A> tanh_c = load_up_to(saved.tanh_c(), units);
    Vec<A> c = {};
    if (cell.c_before) {
      c = load_up_to(cell.c_before + u, units);
    } else if (cell.c_first) {
      c = load_up_to(cell.c_first + u, units);
    }
    Vec<A> dh = load(cell.dh + u);
    if (cell.dy) dh += load_up_to(cell.dy + u, units);
    const Vec<A> dc = multiply_add(dh * o, multiply_add(-tanh_c, tanh_c, broadcast(A(1))), load(cell.dc + u));
    A* dz = cell.dz + group * cell.dz_group;
    store(dz, dc * g * (i * (A(1) - i)));
    store(dz + kWidth, dc * c * (f * (A(1) - f)));
    store(dz + 2 * kWidth, dc * i * multiply_add(-g, g, broadcast(A(1))));
    store(dz + 3 * kWidth, dh * tanh_c * (o * (A(1) - o)));
    store(cell.dc + u, dc * f);
    if (cell.h_next)
      store(cell.h_next + group / kPanelVectors * cell.h_next_panel + group % kPanelVectors * cell.h_next_vector,
            o * tanh_c);
  }
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm
