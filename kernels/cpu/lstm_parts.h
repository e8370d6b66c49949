#pragma once
// What the LSTM's two directions share: how threads divide a call, and rows to and from the caller's arrays.
//
// Blocks of examples run all steps on their own (no meeting of the threads per step). A batch of one block is cut by
// units instead: each part keeps its share of the weights in its core's cache, and the threads meet after each time
// step. Either way each element is the same sum.

#include <algorithm>

#include "kernels/cpu/lstm_panels.h"
#include "kernels/cpu/lstm_repeats.h"
#include "kernels/cpu/lstm_rows.h"
#include "kernels/cpu/strided.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/lstm.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm {

/// Below this batch a tile of one step is nearly empty: the input projection of all steps is one product before them,
/// so that a step reads W_hh alone, and threads share the steps. From it on, both halves of a gate in one tile are
/// faster.
constexpr std::int64_t kSmallBatch = 4;
/// A time step that reads fewer weights than this is too short for threads to meet after it.
constexpr std::int64_t kWeightsOfStep = 32'000;

/// The groups of units that a part of a call takes.
struct Units {
  std::int64_t begin, end;
};
/// The cut into parts follows whole panels of 4 vectors of units, which is how backward reads W_hh.
template <class A>
Units units_of(std::int64_t hidden, int part, int parts) {
  const std::int64_t groups = group_count<A>(hidden), panels = (groups + kPanelVectors - 1) / kPanelVectors;
  return {std::min(panels * part / parts * kPanelVectors, groups),
          std::min(panels * (part + 1) / parts * kPanelVectors, groups)};
}
/// How many threads take a call's steps together; 1 where they rather take blocks of examples or none is worth it.
template <class A>
int parts_of(const At& at, const LstmShape& shape) {
  if (shape.batch == 0 || shape.batch >= kSmallBatch || 4 * shape.hidden * shape.hidden < kWeightsOfStep) return 1;
  const std::int64_t panels = (group_count<A>(shape.hidden) + kPanelVectors - 1) / kPanelVectors;
  return static_cast<int>(std::min<std::int64_t>(at.pool->most_parts(), panels));
}

template <class S>
void copy_row(const S* from, acc_t<S>* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes<acc_t<S>>) store_up_to(to + i, load_up_to(from + i, n - i), n - i);
}
/// The row `index` of a [B, n] matrix, or zeros if there is none.
template <class S>
void copy_state(const void* from, std::int64_t index, acc_t<S>* to, std::int64_t n) {
  if (from) {
    copy_row(static_cast<const S*>(from) + index * n, to, n);
  } else {
    std::fill(to, to + n, acc_t<S>(0));
  }
}
template <class S>
void put_state(const acc_t<S>* from, std::int64_t index, void* to, std::int64_t n, bool accumulate = false) {
  if (!to) return;
  S* row = static_cast<S*>(to) + index * n;
  for (std::int64_t i = 0; i < n; i += kLanes<acc_t<S>>) put_up_to(row + i, load(from + i), n - i, accumulate);
}

/// Zeros in the padded steps of a [B, T, n] array.
template <class S>
void clear_padding(const LstmShape& shape, const std::int64_t stride[2], std::int64_t n, S* data) {
  if (!shape.lengths) return;
  for (std::int64_t b = 0; b < shape.batch; ++b) {
    const std::int64_t length = Rows::length(shape, b);
    clear_rows(data + b * stride[0] + length * stride[1], shape.time - length, n, stride[1]);
  }
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm
