#pragma once
// Between the callers' weight matrices [4H, K] (gate q of unit u is row q*H + u) and panels that hold, per group of one
// register of units, the four gates side by side: column q*lanes + lane of a group.

#include <cstdint>

#include "kernels/cpu/lstm_tile.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm {

template <class A>
constexpr std::int64_t kPanelWidth = kPanelVectors* kLanes<A>;

template <class A>
constexpr std::int64_t group_count(std::int64_t hidden) {
  return (hidden + kLanes<A> - 1) / kLanes<A>;
}
/// A row of `columns` elements, rounded up to whole registers.
template <class A>
constexpr std::int64_t padded(std::int64_t columns) {
  return group_count<A>(columns) * kLanes<A>;
}

/// panel(k, column) = w(row of column, k) for the `width` columns of w [4H, width]; zeros for units past H. The panel
/// has `rows` in all.
template <class S>
void pack_gate_columns(const S* w, std::int64_t hidden, std::int64_t width, std::int64_t group, acc_t<S>* panel,
                       std::int64_t rows) {
  using A = acc_t<S>;
  constexpr int kWidth = kLanes<A>;
  const std::int64_t unit = group * kWidth;
  for (int q = 0; q < 4; ++q)
    for (std::int64_t k = 0; k < width; k += kWidth) {
      Square<A> square;
      load_square(w + (q * hidden + unit) * width + k, width, hidden - unit, width - k, square);
      transpose<A>(square);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i)
        if (i < width - k) store(panel + (k + i) * row_step<A>(kPanelVectors) + q * vector_step<A>(rows), square[i]);
    }
}

/// The weights in their other role, dz * w with sums over the gates: panels of up to 4 vectors of columns of w, each
/// with 4*padded(H) rows in the order of dz; zeros for units past H and columns past `width`. Where few rows of dz meet
/// weights of whole vectors, the panels are read where they lie in w: packing them would cost more than it saves.
template <class S>
struct GateRowPanels {
  using A = acc_t<S>;
  const S* w;
  std::int64_t hidden, width;
  bool in_place;
  A* data;  ///< unused if in place

  GateRowPanels(const void* weights, std::int64_t hidden, std::int64_t width, bool few_rows)
      : w(static_cast<const S*>(weights)),
        hidden(hidden),
        width(width),
        in_place(std::is_same_v<S, A> && few_rows && hidden % kLanes<A> == 0 && width % kLanes<A> == 0),
        data(nullptr) {}

  std::int64_t gates() const { return 4 * padded<A>(hidden); }
  std::int64_t elements() const { return in_place ? 0 : gates() * padded<A>(width); }
  std::int64_t count() const { return (padded<A>(width) + kPanelWidth<A> - 1) / kPanelWidth<A>; }
  int vectors(std::int64_t panel) const {
    return static_cast<int>(std::min<std::int64_t>(kPanelVectors, group_count<A>(width) - panel * kPanelVectors));
  }
  A* panel(std::int64_t index) const { return data + index * gates() * kPanelWidth<A>; }

  /// Sets where a product with a panel finds it: gate q of unit u is row q*H + u of w, and u-th of q-th in dz's groups.
  void place(std::int64_t index, Product<A>& product) const {
    if constexpr (std::is_same_v<S, A>)
      if (in_place) {
        product.b = w + index * kPanelWidth<A>;
        product.b_inner = width;
        product.b_next = kLanes<A>;
        product.b_middle = hidden * width;
        product.b_outer = kLanes<A> * width;
        product.middle = 4;
        product.inner = kLanes<A>;
        return;
      }
    product.b = panel(index);
    product.b_inner = row_step<A>(vectors(index));
    product.b_next = vector_step<A>(gates());
    product.b_outer = kPanelWidth<A> * product.b_inner;
  }

  /// Fills the rows of one group of units in all panels.
  void pack(std::int64_t group) const {
    if (in_place) return;
    constexpr int kWidth = kLanes<A>;
    const std::int64_t unit = group * kWidth;
    for (std::int64_t p = 0; p < count(); ++p) {
      const int n = vectors(p);
      A* row = panel(p) + group * kPanelWidth<A> * row_step<A>(n);
      for (int q = 0; q < 4; ++q)
        for (std::int64_t u = unit; u < unit + kWidth; ++u, row += row_step<A>(n))
          for (int j = 0; j < n; ++j) {
            const std::int64_t column = p * kPanelWidth<A> + j * kWidth;
            store(row + j * vector_step<A>(gates()),
                  u < hidden ? load_up_to(w + (q * hidden + u) * width + column, width - column) : Vec<A>{});
          }
    }
  }
};

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm
