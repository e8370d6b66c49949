// The LSTM over a whole sequence. kernels/cpu/lstm_parts.h says who does what.

#include "kernels/cpu/lstm_cell.h"
#include "kernels/cpu/lstm_parts.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

using namespace lstm;

template <class S>
class Forward {
  using A = acc_t<S>;
  static constexpr int kWidth = kLanes<A>;

 public:
  Forward(const LstmForward& call, void* scratch)
      : call_(call),
        shape_(call.shape),
        input_(shape_.input),
        hidden_(shape_.hidden),
        groups_(group_count<A>(hidden_)),
        z_row_(input_ + padded<A>(hidden_)) {
    Carver carver(scratch);
    rows_.carve(carver, shape_);
    repeats_.carve(carver, shape_.batch * shape_.time);
    panels_ = carver.take<A>(groups_ * (input_ + hidden_) * kPanelWidth<A>);
    bias_ = carver.take<A>(groups_ * kPanelWidth<A>);
    c_ = carver.take<A>(shape_.batch * padded<A>(hidden_));
    inputs_[0] = carver.take<A>(shape_.batch * z_row_);
    inputs_[1] = carver.take<A>(shape_.batch * z_row_);
    const std::int64_t rows = shape_.batch * shape_.time;
    projected_ = carver.take<A>((small() ? rows : Repeats::most_kinds(rows)) * groups_ * kPanelWidth<A>);
    bytes_ = carver.bytes();
  }
  std::size_t bytes() const { return bytes_; }

  void run(const At& at) {
    rows_.fill(shape_);
    repeats_.find(static_cast<const S*>(call_.x), rows_.x_at, rows_.first[shape_.time], input_);
    if (const int parts = parts_of<A>(at, shape_); parts > 1) {
      run_together(at, parts);
    } else {
      const std::int64_t weights = (input_ + hidden_) * kPanelWidth<A>;
      parallel_for(at, groups_, 1, weights, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t g = begin; g < end; ++g) pack(g);
        project({begin, end});
      });
      const std::int64_t blocks = block_count(shape_);
      const std::int64_t work = shape_.time * weights * groups_ * kRowsOfTile;
      parallel_for(at, blocks, 1, work, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t b = begin; b < end; ++b) run(Block(shape_, b));
      });
    }
    clear_padding(shape_, shape_.y_stride, hidden_, static_cast<S*>(call_.y));
  }

 private:
  A* panel(std::int64_t group) const { return panels_ + group * (input_ + hidden_) * kPanelWidth<A>; }

  void pack(std::int64_t group) const {
    pack_gate_columns(static_cast<const S*>(call_.w_ih), hidden_, input_, group, panel(group), input_ + hidden_);
    pack_gate_columns(static_cast<const S*>(call_.w_hh), hidden_, hidden_, group,
                      panel(group) + input_ * row_step<A>(kPanelVectors), input_ + hidden_);
    for (int q = 0; q < 4; ++q) {
      const std::int64_t unit = group * kWidth, units = hidden_ - unit;
      Vec<A> sum = {};
      if (call_.b_ih) {
        sum = load_up_to(static_cast<const S*>(call_.b_ih) + q * hidden_ + unit, units) +
              load_up_to(static_cast<const S*>(call_.b_hh) + q * hidden_ + unit, units);
      }
      store(bias_ + group * kPanelWidth<A> + q * kWidth, sum);
    }
  }

  void run(Block block) const {
    start(block);
    const std::int64_t steps = block.steps(shape_, rows_);
    for (std::int64_t s = 0; s < steps; ++s) {
      advance(block, s, {0, groups_});
      finish(block, s + 1);
    }
  }

  /// All threads on the one block. The states that a step was the last for are handed out during the next step, which
  /// leaves them as they are.
  void run_together(const At& at, int parts) const {
    const Block block(shape_, 0);
    const std::int64_t steps = block.steps(shape_, rows_);
    at.pool->run_steps(steps + 1, parts, [&](std::int64_t s, int part) {
      const Units units = units_of<A>(hidden_, part, parts);
      if (s == 0) {
        for (std::int64_t g = units.begin; g < units.end; ++g) pack(g);
        project(units);
        if (part == 0) start(block);
      } else {
        advance(block, s - 1, units);
        if (part == 0 && s > 1) finish(block, s - 1);
      }
    });
    if (steps > 0) finish(block, steps);
  }

  A* inputs(Block block, std::int64_t s) const { return inputs_[s % 2] + block.begin * z_row_; }
  A* c(Block block) const { return c_ + block.begin * padded<A>(hidden_); }

  void start(Block block) const {
    const std::int64_t c_row = padded<A>(hidden_);
    for (std::int64_t j = block.begin; j < block.end; ++j) {
      const std::int64_t b = rows_.order[j], i = j - block.begin;
      A* to = c(block) + i * c_row;
      std::fill(to, to + c_row, A(0));
      if (call_.c0) copy_state<S>(call_.c0, b, to, hidden_);
      copy_state<S>(call_.h0, b, inputs(block, 0) + i * z_row_ + input_, hidden_);
    }
    finish(block, 0);
  }

  /// Step s of some units. Input rows are [x | h]: one product with the packed [W_ih | W_hh]' gives the gates.
  void advance(Block block, std::int64_t s, Units units) const {
    const std::int64_t n = block.active(rows_, s), row = rows_.first[s] + block.begin;
    A *now = inputs(block, s), *next = inputs(block, s + 1);
    if (!projects())
      for (std::int64_t i = 0; i < n; ++i) copy_row(x(row + i), now + i * z_row_, input_);
    // The first step has no recurrent half when it starts from zeros.
    const std::int64_t width = s == 0 && !call_.h0 ? input_ : input_ + hidden_;
    step(row, static_cast<int>(n), width, units, now, next, c(block));
  }

  /// Hands out the states of the block's examples of length s.
  void finish(Block block, std::int64_t s) const {
    const std::int64_t end = s == 0 ? block.end - block.begin : block.active(rows_, s - 1);
    for (std::int64_t i = block.active(rows_, s); i < end; ++i) {
      const std::int64_t b = rows_.order[block.begin + i];
      put_state<S>(inputs(block, s) + i * z_row_ + input_, b, call_.h_n, hidden_);
      put_state<S>(c(block) + i * padded<A>(hidden_), b, call_.c_n, hidden_);
    }
  }

  /// `inputs` elements of a row of `now` take part.
  void step(std::int64_t row, int rows, std::int64_t inputs, Units units, const A* now, A* next, A* c) const {
    alignas(64) A z[kMostRows * kPanelWidth<A>];
    const std::int64_t done = projects() ? input_ : 0;  // inputs that `from` holds already
    Product<A> product{
        .a = now + done,
        .a_row = z_row_,
        .a_outer = 0,
        .a_inner = 1,
        .outer = 1,
        .inner = inputs - done,
        .b = panel(units.begin) + done * row_step<A>(kPanelVectors),
        .b_outer = 0,
        .b_inner = row_step<A>(kPanelVectors),
        .b_next = vector_step<A>(input_ + hidden_),
        .from = (projects() ? projected(repeats_.kinds > 0 ? 0 : row) : bias_) + units.begin * kPanelWidth<A>,
        .from_row = projects() ? projected(1) - projected(0) : 0,
        .from_at = repeats_.kinds > 0 ? repeats_.kind + row : nullptr,
        .c = z,
        .c_row = kPanelWidth<A>};
    const ForwardCell<S> cell{.hidden = hidden_,
                              .saved = call_.saved ? static_cast<A*>(call_.saved) + row * 6 * hidden_ : nullptr,
                              .z = z,
                              .c = c,
                              .c_row = padded<A>(hidden_),
                              .h = next + input_,
                              .h_row = z_row_,
                              .y = static_cast<S*>(call_.y),
                              .y_at = rows_.y_at + row};
    for (std::int64_t g = units.begin; g < units.end; ++g) {
      multiply_rows(rows, kPanelVectors, product);
      forward_cell(cell, g, rows);
      product.b += (input_ + hidden_) * kPanelWidth<A>;
      product.from += kPanelWidth<A>;
    }
  }

  bool small() const { return shape_.batch < kSmallBatch; }
  /// Whether the input's half of the gates is computed before the steps: of all rows, or of one of each kind.
  bool projects() const { return small() || repeats_.kinds > 0; }
  A* projected(std::int64_t row) const { return projected_ + row * groups_ * kPanelWidth<A>; }
  const S* x(std::int64_t row) const { return static_cast<const S*>(call_.x) + rows_.x_at[row]; }

  /// projected = bias + x W_ih' for some units; the same chain of additions as in the tile that does both halves.
  void project(Units units) const {
    if (!projects()) return;
    constexpr std::int64_t kTogether = 96;
    const std::int64_t all = repeats_.kinds > 0 ? repeats_.kinds : rows_.first[shape_.time];
    A* inputs = static_cast<A*>(thread_buffer(0, static_cast<std::size_t>(kTogether * input_) * sizeof(A)));
    for (std::int64_t first = 0; first < all; first += kTogether) {
      const std::int64_t rows = std::min(kTogether, all - first);
      for (std::int64_t r = 0; r < rows; ++r)
        copy_row(x(repeats_.kinds > 0 ? repeats_.row[first + r] : first + r), inputs + r * input_, input_);
      for (std::int64_t g = units.begin; g < units.end; ++g)
        multiply_rows(rows, kPanelVectors,
                      Product<A>{.a = inputs,
                                 .a_row = input_,
                                 .a_outer = 0,
                                 .a_inner = 1,
                                 .outer = 1,
                                 .inner = input_,
                                 .b = panel(g),
                                 .b_outer = 0,
                                 .b_inner = row_step<A>(kPanelVectors),
                                 .b_next = vector_step<A>(input_ + hidden_),
                                 .from = bias_ + g * kPanelWidth<A>,
                                 .from_row = 0,
                                 .c = projected(first) + g * kPanelWidth<A>,
                                 .c_row = groups_ * kPanelWidth<A>});
    }
  }

  const LstmForward& call_;
  const LstmShape& shape_;
  std::int64_t input_, hidden_, groups_, z_row_;
  Rows rows_;
  Repeats repeats_;
  A* panels_;     // per group [I + H, 4 vectors]
  A* bias_;       // per group 4 vectors
  A* c_;          // [B, padded(H)]
  A* inputs_[2];  // [B, I + padded(H)] of this step and of the next
  A* projected_;  // per row, or per kind of rows, and group 4 vectors
  std::size_t bytes_;
};

}  // namespace

void run(const At& at, const LstmForward& call) {
  visit_float(call.shape.dtype, [&]<class S>(Type<S>) { Forward<S>(call, call.scratch).run(at); });
}
std::size_t scratch_bytes(const LstmForward& call) {
  return visit_float(call.shape.dtype, [&]<class S>(Type<S>) { return Forward<S>(call, nullptr).bytes(); });
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
