#pragma once
// The chain that measures the cost of an op: 20 links of y * w + b, which are 40 ops, run in four ways.

#include <vector>

#include "bench/measure.h"
#include "engine/generator.h"
#include "engine/launch.h"
#include "engine/ops.h"
#include "engine/step.h"
#include "engine/tape.h"
#include "kernels/copy.h"
#include "kernels/pointwise.h"

namespace adjoint::bench {

constexpr int kLinks = 20;
constexpr int kChainOps = 2 * kLinks;

class OpChain {
 public:
  OpChain(std::int64_t rows, std::int64_t columns, std::uint64_t seed) : random_(seed) {
    const Shape shape{rows, columns};
    x_ = random_.normal(shape, 0, 1);
    // Weights near 1 keep a chain of 20 products so, and its gradients: subnormals or infinities would time something
    // else, and cost some processors a hundred cycles each.
    w_ = random_.normal(shape, 1, 0.05);
    b_ = random_.normal(shape, 0, 1);
    dy_ = Tensor::full(shape, 1.0);
  }

  Tensor forward() const { return chain(x_, w_, b_); }

  void record() {
    const auto recording = tape_.record();
    chain(tape_.watch(x_), tape_.watch(w_), tape_.watch(b_));
  }

  /// Gradients of x, w and b.
  std::vector<Tensor> forward_backward() { return forward_backward(x_); }

  /// The same, replayed.
  void replay() { step_({x_}); }

  /// The same kernel calls, made directly on memory that is already there.
  void kernels() {
    const std::int64_t n = x_.count();
    const auto at = [](const Tensor& t) { return t.view(); };
    if (values_.empty()) {
      for (int i = 0; i <= kChainOps; ++i) values_.push_back(Tensor::empty(x_.shape()));
      dw_ = Tensor::empty(x_.shape());
      db_ = Tensor::empty(x_.shape());
      for (Tensor& d : flow_) d = Tensor::empty(x_.shape());
    }
    const View w = at(w_), b = at(b_);
    run(cpu_at(), Copy{.from = at(x_), .to = at(values_[0])});
    for (std::size_t i = 0; i < kChainOps; i += 2) {
      run(cpu_at(), BinaryForward{.kind = BinaryKind::mul, .a = at(values_[i]), .b = w, .y = at(values_[i + 1])});
      run(cpu_at(), BinaryForward{.kind = BinaryKind::add, .a = at(values_[i + 1]), .b = b, .y = at(values_[i + 2])});
    }
    run(cpu_at(), Copy{.from = at(dy_), .to = at(flow_[0])});
    const auto gradient = [&](BinaryKind kind, int operand, const View& a, const View& other, const Tensor& dy,
                              const Tensor& d, bool accumulate) {
      run(cpu_at(), BinaryBackward{.kind = kind,
                                   .operand = operand,
                                   .a = a,
                                   .b = other,
                                   .dy = dy.data(),
                                   .d = View::flat(d.data(), DType::f32, n),
                                   .accumulate = accumulate});
    };
    for (std::size_t i = kChainOps; i > 0; i -= 2) {
      const bool again = i < kChainOps;
      const View sum = at(values_[i - 1]), in = at(values_[i - 2]);
      gradient(BinaryKind::add, 0, sum, b, flow_[0], flow_[1], false);
      gradient(BinaryKind::add, 1, sum, b, flow_[0], db_, again);
      gradient(BinaryKind::mul, 0, in, w, flow_[1], flow_[0], false);
      gradient(BinaryKind::mul, 1, in, w, flow_[1], dw_, again);
    }
  }

 private:
  static Tensor chain(const Tensor& x, const Tensor& w, const Tensor& b) {
    Tensor y = x;
    for (int i = 0; i < kLinks; ++i) y = y * w + b;
    return y;
  }

  std::vector<Tensor> forward_backward(const Tensor& input) {
    Tensor x, w, b, y;
    {
      const auto recording = tape_.record();
      x = tape_.watch(input);
      w = tape_.watch(w_);
      b = tape_.watch(b_);
      y = chain(x, w, b);
    }
    tape_.backward(y, dy_);
    return {tape_.gradient(x), tape_.gradient(w), tape_.gradient(b)};
  }

  Generator random_;
  Tensor x_, w_, b_, dy_;
  Tape tape_;
  Step step_{[this](std::span<const Tensor> in) { return forward_backward(in[0]); }};
  std::vector<Tensor> values_;
  Tensor flow_[2], dw_, db_;
};

}  // namespace adjoint::bench
