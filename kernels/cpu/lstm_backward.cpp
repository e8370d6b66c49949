// The way back through an LSTM. Weight gradients are one product over all packed rows, split by columns, after a single
// join. kernels/cpu/lstm_parts.h says who does what.

#include "kernels/cpu/lstm_cell.h"
#include "kernels/cpu/lstm_parts.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

using namespace lstm;

/// Rows of dz that a weight gradient task takes at a time: with the matching columns of the inputs they stay in L2.
constexpr std::int64_t kGradientDepth = 256;
/// Rows of dx of one task.
constexpr std::int64_t kInputGradientRows = 48;
/// From this many rows on, backward packs the weights that the rows are multiplied with.
constexpr std::int64_t kPackFrom = 32;

template <class S>
class Backward {
  using A = acc_t<S>;
  static constexpr int kWidth = kLanes<A>;

 public:
  Backward(const LstmBackward& call, void* scratch)
      : call_(call),
        shape_(call.shape),
        input_(shape_.input),
        hidden_(shape_.hidden),
        groups_(group_count<A>(hidden_)),
        state_row_(padded<A>(hidden_)),
        row_count_(shape_.batch * shape_.time),
        panels_of_x_((input_ + kPanelWidth<A> - 1) / kPanelWidth<A>),
        panels_of_h_((hidden_ + kPanelWidth<A> - 1) / kPanelWidth<A>),
        to_h_(call.w_hh, hidden_, hidden_, shape_.batch < kPackFrom),
        to_x_(call.w_ih, hidden_, input_, row_count_ < kPackFrom) {
    Carver carver(scratch);
    rows_.carve(carver, shape_);
    repeats_.carve(carver, row_count_);
    to_h_.data = carver.take<A>(to_h_.elements());
    if (call.dx.data) to_x_.data = carver.take<A>(to_x_.elements());
    if (wants_weights()) inputs_ = carver.take<A>((panels_of_x_ + panels_of_h_) * row_count_ * kPanelWidth<A>);
    dz_ = carver.take<A>(groups_ * row_count_ * kPanelWidth<A>);
    dh_ = carver.take<A>(shape_.batch * state_row_);
    dc_ = carver.take<A>(shape_.batch * state_row_);
    bytes_ = carver.bytes();
  }
  std::size_t bytes() const { return bytes_; }

  void run(const At& at) {
    rows_.fill(shape_);
    if (wants_weights()) {
      repeats_.find(static_cast<const S*>(call_.x), rows_.x_at, rows_.first[shape_.time], input_);
      for (std::int64_t k = 0; k < repeats_.kinds; ++k) put_inputs(x(repeats_.row[k]), input_, 0, k);
    }
    if (const int parts = parts_of<A>(at, shape_); parts > 1) {
      run_together(at, parts);
    } else {
      run_blocks(at);
    }
    if (call_.dx.data && !call_.dx.accumulate)
      clear_padding(shape_, shape_.x_stride, input_, static_cast<S*>(call_.dx.data));
  }

 private:
  void run_blocks(const At& at) const {
    const std::int64_t width = (call_.dx.data ? input_ : 0) + hidden_;
    parallel_for(at, groups_, 1, width * kPanelWidth<A>, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t g = begin; g < end; ++g) pack(g);
    });
    const std::int64_t blocks = block_count(shape_), gates = 4 * hidden_, rows = rows_.first[shape_.time];
    parallel_for(at, blocks, 1, row_count_ / std::max<std::int64_t>(blocks, 1) * gates * hidden_,
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t b = begin; b < end; ++b) run(Block(shape_, b));
                 });

    // Each row of dx is a sum of its own, so its cut may follow from the number of rows that are there.
    const std::int64_t panels = wants_weights() ? panels_of_x_ + panels_of_h_ : 0;
    const std::int64_t weight_tasks = groups_ * panels;
    const std::int64_t dx_tasks = call_.dx.data ? (rows + kInputGradientRows - 1) / kInputGradientRows : 0;
    parallel_for(at, weight_tasks + dx_tasks, 1, kInputGradientRows * gates * input_,
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t task = begin; task < end; ++task) {
                     if (task < weight_tasks) {
                       weight_gradient(task / panels, task % panels);
                     } else {
                       const std::int64_t first = (task - weight_tasks) * kInputGradientRows;
                       input_gradient(first, std::min(rows, first + kInputGradientRows));
                     }
                   }
                 });
  }

  /// All threads on the one block. A part's columns of dh are those of its units, so the cell's gradients dz are all
  /// that the threads exchange.
  void run_together(const At& at, int parts) const {
    const Block block(shape_, 0);
    const std::int64_t steps = block.steps(shape_, rows_), rows = rows_.first[shape_.time];
    at.pool->run_steps(steps + 2, parts, [&](std::int64_t k, int part) {
      const Units units = units_of<A>(hidden_, part, parts);
      const std::int64_t s = steps - k;  // the time step, from the last on
      if (k == 0) {
        for (std::int64_t g = units.begin; g < units.end; ++g) pack(g);
        if (part == 0) start(block);
        return;
      }
      if (k > 1 && (s >= 0 || call_.dh0.data)) carry(block, s + 1, units);
      if (s >= 0) {
        cells(block, s, units);
        return;
      }
      if (wants_weights())
        for (std::int64_t g = units.begin; g < units.end; ++g)
          for (std::int64_t panel = 0; panel < panels_of_x_ + panels_of_h_; ++panel) weight_gradient(g, panel);
      if (call_.dx.data) input_gradient(rows * part / parts, rows * (part + 1) / parts);
    });
    finish(block);
  }

  bool wants_weights() const { return call_.dw_ih.data || call_.dw_hh.data || call_.db_ih.data || call_.db_hh.data; }
  const S* x(std::int64_t row) const { return static_cast<const S*>(call_.x) + rows_.x_at[row]; }
  A* saved(std::int64_t row) const { return static_cast<A*>(const_cast<void*>(call_.saved)) + row * 6 * hidden_; }
  A* dz(std::int64_t group, std::int64_t row) const { return dz_ + (group * row_count_ + row) * kPanelWidth<A>; }
  /// A row of one panel of inputs.
  A* inputs(std::int64_t panel, std::int64_t row) const {
    return inputs_ + panel * row_count_ * kPanelWidth<A> + row * row_step<A>(kPanelVectors);
  }

  void pack(std::int64_t group) const {
    to_h_.pack(group);
    if (call_.dx.data) to_x_.pack(group);
  }

  void run(Block block) const {
    start(block);
    for (std::int64_t s = block.steps(shape_, rows_) - 1; s >= 0; --s) {
      cells(block, s, {0, groups_});
      if (s > 0 || call_.dh0.data) carry(block, s, {0, groups_});
    }
    finish(block);
  }

  A* dh(std::int64_t j) const { return dh_ + j * state_row_; }
  A* dc(std::int64_t j) const { return dc_ + j * state_row_; }

  void start(Block block) const {
    std::fill(dh(block.begin), dh(block.end), A(0));
    std::fill(dc(block.begin), dc(block.end), A(0));
    for (std::int64_t j = block.begin; j < block.end; ++j) {
      if (call_.dh_n) copy_state<S>(call_.dh_n, rows_.order[j], dh(j), hidden_);
      if (call_.dc_n) copy_state<S>(call_.dc_n, rows_.order[j], dc(j), hidden_);
    }
  }
  void cells(Block block, std::int64_t s, Units units) const {
    for (std::int64_t j = block.begin; j < block.begin + block.active(rows_, s); ++j) cell(s, j, units);
  }
  /// dh of the step before s, from dz of step s.
  void carry(Block block, std::int64_t s, Units units) const {
    for (std::int64_t g = units.begin; g < units.end; g += kPanelVectors)
      multiply_dz(rows_.first[s] + block.begin, block.active(rows_, s), to_h_, g / kPanelVectors,
                  dh(block.begin) + g * kWidth, state_row_);
  }
  void finish(Block block) const {
    for (std::int64_t j = block.begin; j < block.end; ++j) {
      put_state<S>(dh(j), rows_.order[j], call_.dh0.data, hidden_, call_.dh0.accumulate);
      put_state<S>(dc(j), rows_.order[j], call_.dc0.data, hidden_, call_.dc0.accumulate);
    }
  }

  /// Step s of the example at sorted position j, some units; also lays down the row [x | h before] that the weight
  /// gradients need.
  void cell(std::int64_t s, std::int64_t j, Units units) const {
    const std::int64_t b = rows_.order[j], row = rows_.first[s] + j;
    const bool has_next = s < shape_.time - 1 && j < rows_.active[s + 1];
    BackwardCell<S> cell{.hidden = hidden_,
                         .saved = saved(row),
                         .c_first = nullptr,
                         .c_before = nullptr,
                         .dy = call_.dy ? static_cast<const S*>(call_.dy) + rows_.y_at[row] : nullptr,
                         .dh = dh(j),
                         .dc = dc(j),
                         .dz = dz(0, row),
                         .dz_group = row_count_ * kPanelWidth<A>,
                         .h_next = nullptr};
    if (s > 0) {
      cell.c_before = saved(rows_.first[s - 1] + j) + 4 * hidden_;
    } else if (call_.c0) {
      cell.c_first = static_cast<const S*>(call_.c0) + b * hidden_;
    }
    if (wants_weights()) {
      if (units.begin == 0) {
        if (repeats_.kinds == 0) put_inputs(x(row), input_, 0, row);
        if (s == 0)
          put_inputs(call_.h0 ? static_cast<const S*>(call_.h0) + b * hidden_ : nullptr, hidden_, panels_of_x_, row);
      }
      if (has_next) cell.h_next = inputs(panels_of_x_, rows_.first[s + 1] + j);
      cell.h_next_panel = row_count_ * kPanelWidth<A>;
      cell.h_next_vector = vector_step<A>(row_count_);
    }
    backward_cell(cell, units.begin, units.end);
  }

  /// Row `row` of the panels from `panel` on: n elements, or zeros if there are none to copy; whole registers.
  void put_inputs(const S* from, std::int64_t n, std::int64_t panel, std::int64_t row) const {
    for (std::int64_t i = 0; i < n; i += kWidth)
      store(inputs(panel + i / kPanelWidth<A>, row) + i % kPanelWidth<A> / kWidth * vector_step<A>(row_count_),
            from ? load_up_to(from + i, n - i) : Vec<A>{});
  }

  /// c [rows, columns of the panel] = the gate gradients of some rows times one panel of weights.
  void multiply_dz(std::int64_t row, std::int64_t rows, const GateRowPanels<S>& weights, std::int64_t panel, A* c,
                   std::int64_t c_row) const {
    Product<A> product{.a = dz(0, row),
                       .a_row = kPanelWidth<A>,
                       .a_outer = row_count_ * kPanelWidth<A>,
                       .a_inner = 1,
                       .a_middle = kWidth,
                       .outer = groups_,
                       .inner = kPanelWidth<A>,
                       .b = weights.data,
                       .b_outer = 0,
                       .b_inner = 0,
                       .b_next = 0,
                       .from = nullptr,
                       .from_row = 0,
                       .c = c,
                       .c_row = c_row};
    weights.place(panel, product);
    multiply_rows(rows, weights.vectors(panel), product);
  }

  void input_gradient(std::int64_t begin, std::int64_t end) const {
    alignas(64) A c[kInputGradientRows * kPanelWidth<A>];
    S* dx = static_cast<S*>(call_.dx.data);
    for (std::int64_t p = 0; p < to_x_.count(); ++p) {
      multiply_dz(begin, end - begin, to_x_, p, c, kPanelWidth<A>);
      const std::int64_t column = p * kPanelWidth<A>, width = std::min(kPanelWidth<A>, input_ - column);
      for (std::int64_t row = begin; row < end; ++row)
        for (std::int64_t k = 0; k < width; k += kWidth)
          put_up_to(dx + rows_.x_at[row] + column + k, load(c + (row - begin) * kPanelWidth<A> + k), width - k,
                    call_.dx.accumulate);
    }
  }

  /// The gradients of a group's rows of W_ih or W_hh, for the columns of one panel of the inputs [x | h]: the sum over
  /// all packed rows of dz' * input. What a sequence starts from is 0 without h0, so the rows of the first step add
  /// nothing to W_hh.
  void weight_gradient(std::int64_t group, std::int64_t panel) const {
    if (panel == 0) bias_gradient(group);
    const bool recurrent = panel >= panels_of_x_;
    const GradOut& out = recurrent ? call_.dw_hh : call_.dw_ih;
    if (!out.data) return;
    const std::int64_t width = recurrent ? hidden_ : input_, unit = group * kWidth;
    const std::int64_t column = (recurrent ? panel - panels_of_x_ : panel) * kPanelWidth<A>;
    const std::int64_t columns = std::min(kPanelWidth<A>, width - column), vectors = group_count<A>(columns);
    const bool by_kind = !recurrent && repeats_.kinds > 0;
    const A* left = by_kind ? dz_of_kinds(group) : dz(group, 0);
    const std::int64_t rows = by_kind ? repeats_.kinds : rows_.first[shape_.time];
    const std::int64_t first = recurrent && !call_.h0 ? rows_.first[std::min<std::int64_t>(1, shape_.time)] : 0;
    alignas(64) A sums[kPanelWidth<A> * kPanelWidth<A>];
    for (std::int64_t row = first; row == first || row < rows; row += kGradientDepth)
      multiply_rows(kPanelWidth<A>, static_cast<int>(vectors),
                    Product<A>{.a = left + row * kPanelWidth<A>,
                               .a_row = 1,
                               .a_outer = 0,
                               .a_inner = kPanelWidth<A>,
                               .outer = 1,
                               .inner = std::min(kGradientDepth, rows - row),
                               .b = inputs(panel, row),
                               .b_outer = 0,
                               .b_inner = row_step<A>(kPanelVectors),
                               .b_next = vector_step<A>(row_count_),
                               .from = row > first ? sums : nullptr,
                               .from_row = kPanelWidth<A>,
                               .c = sums,
                               .c_row = kPanelWidth<A>});
    S* w = static_cast<S*>(out.data) + unit * width + column;
    for (int q = 0; q < 4; ++q)
      for (std::int64_t u = 0; u < std::min<std::int64_t>(kWidth, hidden_ - unit); ++u)
        for (std::int64_t k = 0; k < columns; k += kWidth)
          put_up_to(w + (q * hidden_ + u) * width + k, load(sums + (q * kWidth + u) * kPanelWidth<A> + k), columns - k,
                    out.accumulate);
  }

  /// Per kind of inputs the sum of dz over its rows: what the kind's input is multiplied with.
  const A* dz_of_kinds(std::int64_t group) const {
    const std::int64_t elements = repeats_.kinds * kPanelWidth<A>;
    A* sums = static_cast<A*>(thread_buffer(0, static_cast<std::size_t>(elements) * sizeof(A)));
    std::fill(sums, sums + elements, A(0));
    for (std::int64_t row = 0; row < rows_.first[shape_.time]; ++row) {
      A* sum = sums + repeats_.kind[row] * kPanelWidth<A>;
      for (std::int64_t k = 0; k < kPanelWidth<A>; k += kWidth)
        store(sum + k, load(sum + k) + load(dz(group, row) + k));
    }
    return sums;
  }

  /// The gradients of a group's rows of b: the sum of dz over all packed rows.
  void bias_gradient(std::int64_t group) const {
    if (!call_.db_ih.data && !call_.db_hh.data) return;
    Vec<A> sum[4] = {};
    for (std::int64_t row = 0; row < rows_.first[shape_.time]; ++row)
      for (int q = 0; q < 4; ++q) sum[q] += load(dz(group, row) + q * kWidth);
    const std::int64_t unit = group * kWidth;
    for (const GradOut& out : {call_.db_ih, call_.db_hh})
      if (S* to = static_cast<S*>(out.data))
        for (int q = 0; q < 4; ++q) put_up_to(to + q * hidden_ + unit, sum[q], hidden_ - unit, out.accumulate);
  }

  const LstmBackward& call_;
  const LstmShape& shape_;
  std::int64_t input_, hidden_, groups_, state_row_, row_count_, panels_of_x_, panels_of_h_;
  Rows rows_;
  Repeats repeats_;
  GateRowPanels<S> to_h_, to_x_;
  A* inputs_ = nullptr;  // panels of x (a row each, or a kind), then of h before: each [rows, 4 vectors]
  A* dz_;                // per group [rows, 4 vectors]: gradients of the gates before their activation
  A* dh_;                // [B, padded(H)]
  A* dc_;
  std::size_t bytes_;
};

}  // namespace

void run(const At& at, const LstmBackward& call) {
  visit_float(call.shape.dtype, [&]<class S>(Type<S>) { Backward<S>(call, call.scratch).run(at); });
}
std::size_t scratch_bytes(const LstmBackward& call) {
  return visit_float(call.shape.dtype, [&]<class S>(Type<S>) { return Backward<S>(call, nullptr).bytes(); });
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
