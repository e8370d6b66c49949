#include "kernels/reduce.h"

#include <algorithm>
#include <limits>

#include "engine/op_support.h"

namespace adjoint {
namespace {

/// Which axes go, and the result's view with the operand's shape.
struct Plan {
  Shape kept;          // reduced axes have extent 1
  Shape result;        // as the caller sees it
  std::int64_t count;  // elements behind one result
};

Plan plan(const char* op, const Tensor& x, const std::vector<std::int64_t>& axes, bool keep) {
  check_operand(op, "x", x);
  bool reduced[kMaxRank] = {};
  for (const std::int64_t axis : axes) {
    const int i = checked_axis(op, axis, x.rank());
    ADJOINT_OP_CHECK(!reduced[i], "E-OP-007", fmt::format("{}: axis {} is named twice", op, axis));
    reduced[i] = true;
  }
  Plan p{x.shape(), {}, 1};
  for (int i = 0; i < x.rank(); ++i) {
    if (axes.empty() || reduced[i]) {
      p.count *= x.extent(i);
      p.kept[i] = 1;
      if (keep) p.result.append(1);
    } else {
      p.result.append(x.extent(i));
    }
  }
  return p;
}

/// A dense result of shape `kept`, seen with shape `full`: stride 0 on the reduced axes.
View spread(void* data, DType dtype, const Shape& kept, const Shape& full) {
  View v{};
  v.data = data;
  v.dtype = dtype;
  v.rank = full.rank();
  dense_strides(kept, v.stride);
  for (int i = 0; i < v.rank; ++i) {
    v.shape[i] = full[i];
    if (kept[i] != full[i] || kept[i] == 1) v.stride[i] = 0;
  }
  return v;
}

View dense_view(void* data, DType dtype, const Shape& shape) {
  View v{};
  v.data = data;
  v.dtype = dtype;
  v.rank = shape.rank();
  for (int i = 0; i < v.rank; ++i) v.shape[i] = shape[i];
  dense_strides(shape, v.stride);
  return v;
}

struct SumGradient {
  Shape kept, full;
  DType dtype;
  double factor;

  void backward(const Gradients& g) const {  // dx (+)= factor dy, repeated
    const GradOut dx = g.into(0);
    const View from = spread(const_cast<void*>(g.incoming()), dtype, kept, full);
    // A reduction over nothing is a copy with a factor, from a view that repeats.
    launch(g.device(), Reduce{.kind = ReduceKind::sum,
                              .x = from,
                              .y = dense_view(dx.data, dtype, full),
                              .factor = factor,
                              .accumulate = dx.accumulate});
  }
};

struct MaxGradient {
  Saved x, y;
  Shape kept, full;

  void backward(const Gradients& g) const {
    const Tensor &tx = x.get("max"), &ty = y.get("max");
    launch(g.device(), MaxBackward{.x = tx.strided_view(),
                                   .y = spread(ty.data(), ty.dtype(), kept, full),
                                   .dy = spread(const_cast<void*>(g.incoming()), ty.dtype(), kept, full),
                                   .dx = g.into(0)});
  }
};

Tensor sum_of(const Tensor& x, const Plan& p, double factor) {
  Tensor y = Tensor::empty(p.result, x.dtype(), x.device());
  launch(x.device(), Reduce{.kind = ReduceKind::sum,
                            .x = x.strided_view(),
                            .y = spread(y.data(), y.dtype(), p.kept, x.shape()),
                            .factor = factor});
  if (Tape* tape = Tape::recording({&x})) tape->add({&x}, {&y}, SumGradient{p.kept, x.shape(), x.dtype(), factor});
  return y;
}

// ---- Records ----

/// Host loops: combines the elements behind each result.
template <class Combine>
Tensor fold(const Tensor& x, const std::vector<std::int64_t>& axes, bool keep, double start, Combine combine) {
  const Plan p = plan("fold", x, axes, keep);
  const std::vector<double> values = x.to_vector();
  std::vector<double> out(static_cast<std::size_t>(p.result.count()), start);
  std::int64_t dense[kMaxRank];
  dense_strides(p.kept, dense);
  std::vector<std::int64_t> at(static_cast<std::size_t>(x.rank()), 0);
  for (const double value : values) {
    std::int64_t index = 0;
    for (int i = 0; i < x.rank(); ++i)
      if (p.kept[i] != 1) index += at[static_cast<std::size_t>(i)] * dense[i];
    double& o = out[static_cast<std::size_t>(index)];
    o = combine(o, value);
    for (int i = x.rank() - 1; i >= 0 && ++at[static_cast<std::size_t>(i)] == x.extent(i); --i)
      at[static_cast<std::size_t>(i)] = 0;
  }
  return Tensor::from(std::span<const double>(out), p.result, x.dtype());
}

using Reduction = Tensor (*)(const Tensor&, const std::vector<std::int64_t>&, bool);

OpRecord record(const char* name, Reduction op, bool allow_empty,
                std::function<Tensor(const Tensor&, const std::vector<std::int64_t>&, bool)> oracle) {
  const auto samples = [=](Generator& random) {
    std::vector<OpSample> samples;
    struct Case {
      Shape shape;
      std::vector<std::int64_t> axes;
      bool keep;
    };
    std::vector<Case> cases = {
        {{}, {}, false},       {{1}, {}, true},           {{7}, {}, false},        {{3, 33}, {-1}, false},
        {{33, 3}, {0}, false}, {{4, 5, 6}, {0, 2}, true}, {{4, 5, 6}, {1}, false}, {{2, 3, 2, 3}, {1, 3}, false},
        {{129, 2}, {0}, true}, {{2, 128}, {}, false}};
    if (allow_empty) {
      cases.push_back({{0, 3}, {0}, false});
      cases.push_back({{3, 0}, {0}, false});
    }
    for (const Case& c : cases) {
      samples.push_back(
          {.label = fmt::format("{} over {} axes{}", text(c.shape), c.axes.size(), c.keep ? ", kept" : ""),
           .inputs = {random.normal(c.shape, 0, 1, DType::f64)},
           .run = [op, c](auto in) { return Tensors{op(in[0], c.axes, c.keep)}; },
           .reference = [oracle, c](auto in) { return Tensors{oracle(in[0].detached(), c.axes, c.keep)}; },
           .flops = static_cast<double>(c.shape.count()),
           .bytes = 4.0 * static_cast<double>(c.shape.count())});
    }
    return samples;
  };
  const auto bad = [=] {
    return std::vector<BadInput>{
        {"axis",
         [=] {
           op(Tensor::zeros({2, 3}), {2}, false);
         },
         "E-OP-007.*axis 2.*-2..1"},
        {"axis twice",
         [=] {
           op(Tensor::zeros({2, 3}), {0, -2}, false);
         },
         "E-OP-007.*twice"},
        {"integers", [=] { op(Tensor::zeros({2}, DType::i32), {}, false); }, "E-OP-006.*x is i32"},
        allow_empty ? BadInput{"undefined", [=] { op(Tensor(), {}, false); }, "E-OP-006.*undefined"}
                    : BadInput{"empty axis",
                               [=] {
                                 op(Tensor::zeros({2, 0}), {1}, false);
                               },
                               fmt::format("E-OP-004.*{}: .*empty", name)}};
  };
  return {.name = name, .samples = samples, .bad_inputs = bad};
}

const OpRegistration sum_registration{record("sum", sum, true, [](const Tensor& x, auto& axes, bool keep) {
  return fold(x, axes, keep, 0.0, [](double a, double b) { return a + b; });
})};
const OpRegistration mean_registration{record("mean", mean, false, [](const Tensor& x, auto& axes, bool keep) {
  const double n = static_cast<double>(plan("mean", x, axes, keep).count);
  return fold(x, axes, keep, 0.0, [n](double a, double b) { return a + b / n; });
})};
const OpRegistration max_registration{record("max", max, false, [](const Tensor& x, auto& axes, bool keep) {
  return fold(x, axes, keep, -std::numeric_limits<double>::infinity(),
              [](double a, double b) { return a > b ? a : b; });
})};

const OpRegistration argmax_registration{
    {.name = "argmax",
     .samples =
         [](Generator& random) {
           std::vector<OpSample> samples;
           for (const Shape& shape : {Shape{5}, Shape{3, 33}, Shape{2, 3, 1}, Shape{0, 4}})
             samples.push_back({.label = text(shape),
                                .inputs = {random.normal(shape, 0, 1, DType::f64)},
                                .run = [](auto in) { return Tensors{argmax(in[0])}; },
                                .reference =
                                    [](auto in) {
                                      const std::vector<double> v = in[0].to_vector();
                                      const std::size_t width = static_cast<std::size_t>(in[0].extent(-1));
                                      std::vector<std::int32_t> index;
                                      for (std::size_t r = 0; r < v.size(); r += width)
                                        index.push_back(static_cast<std::int32_t>(
                                            std::max_element(v.begin() + static_cast<std::ptrdiff_t>(r),
                                                             v.begin() + static_cast<std::ptrdiff_t>(r + width)) -
                                            v.begin() - static_cast<std::ptrdiff_t>(r)));
                                      return Tensors{Tensor::from(std::span<const std::int32_t>(index),
                                                                  in[0].shape().without(in[0].rank() - 1))};
                                    },
                                .check_gradient = false});
           return samples;
         },
     .bad_inputs =
         [] {
           return std::vector<BadInput>{
               {"a scalar", [] { argmax(Tensor::zeros({})); }, "E-OP-002.*argmax: x is a scalar"},
               {"empty rows",
                [] {
                  argmax(Tensor::zeros({2, 0}));
                },
                "E-OP-004.*argmax: .*empty"},
               {"integers", [] { argmax(Tensor::zeros({2}, DType::i32)); }, "E-OP-006.*x is i32"}};
         },
     .differentiable = false}};

}  // namespace

Tensor sum(const Tensor& x, const std::vector<std::int64_t>& axes, bool keep) {
  return sum_of(x, plan("sum", x, axes, keep), 1.0);
}

Tensor mean(const Tensor& x, const std::vector<std::int64_t>& axes, bool keep) {
  const Plan p = plan("mean", x, axes, keep);
  ADJOINT_OP_CHECK(p.count > 0, "E-OP-004",
                   fmt::format("mean: shape {} is empty over the reduced axes", text(x.shape())));
  return sum_of(x, p, 1.0 / static_cast<double>(p.count));
}

Tensor max(const Tensor& x, const std::vector<std::int64_t>& axes, bool keep) {
  const Plan p = plan("max", x, axes, keep);
  ADJOINT_OP_CHECK(p.count > 0, "E-OP-004",
                   fmt::format("max: shape {} is empty over the reduced axes", text(x.shape())));
  Tensor y = Tensor::empty(p.result, x.dtype(), x.device());
  launch(x.device(),
         Reduce{.kind = ReduceKind::max, .x = x.strided_view(), .y = spread(y.data(), y.dtype(), p.kept, x.shape())});
  if (Tape* tape = Tape::recording({&x})) tape->add({&x}, {&y}, MaxGradient{Saved(x), Saved(y), p.kept, x.shape()});
  return y;
}

Tensor argmax(const Tensor& x_in) {
  check_operand("argmax", "x", x_in);
  ADJOINT_OP_CHECK(x_in.rank() >= 1, "E-OP-002", "argmax: x is a scalar; expected at least one axis");
  const std::int64_t width = x_in.shape().back();
  ADJOINT_OP_CHECK(width > 0 || x_in.shape().rows() == 0, "E-OP-004",
                   fmt::format("argmax: shape {} is empty over the last axis", text(x_in.shape())));
  const Tensor x = dense(x_in);
  Tensor index = Tensor::empty(x.shape().without(x.rank() - 1), DType::i32, x.device());
  launch(x.device(), ArgMax{.dtype = x.dtype(),
                            .rows = x.shape().rows(),
                            .width = width,
                            .x = x.data(),
                            .index = index.data_as<std::int32_t>()});
  return index;
}

}  // namespace adjoint
