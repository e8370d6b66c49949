#include <fmt/ranges.h>

#include <algorithm>

#include "engine/op_support.h"
#include "kernels/copy.h"
#include "kernels/reduce.h"

namespace adjoint {
namespace {

/// The result's elements are elements of x, each at most once: dx at those places (+)= dy.
struct PickGradient {
  View places;  // the result's shape, with strides into a dense dx; data is the byte offset of its first element
  std::int64_t offset;  // in elements of dx
  std::int64_t count;   // elements of dx
  bool covers;          // every element of dx is picked
  bool in_order;        // dx is dy: the same elements, dtype and order
  Shape shape;          // the result's
  DType x_dtype, y_dtype;

  void backward(const Gradients& g) const {
    const void* const dy = g.incoming();
    const GradOut dx = in_order ? g.pass_on(0) : g.into(0);
    if (dx.data == dy) return;
    const bool assign_rest = !dx.accumulate && !covers;
    if (assign_rest) launch(g.device(), Fill{.to = View::flat(dx.data, x_dtype, count), .value = 0.0});
    View from = places, to = places;
    from.data = const_cast<void*>(dy);
    from.dtype = y_dtype;
    dense_strides(shape, from.stride);
    to.data = static_cast<char*>(dx.data) + offset * static_cast<std::int64_t>(size_of(x_dtype));
    to.dtype = x_dtype;
    launch(g.device(), Copy{.from = from, .to = to, .accumulate = dx.accumulate});
  }
};

View places(const Shape& shape, const std::int64_t* strides) {
  View v{};
  v.rank = shape.rank();
  for (int i = 0; i < v.rank; ++i) {
    v.shape[i] = shape[i];
    v.stride[i] = strides[i];
  }
  return v;
}

/// Records y as a pick from x: element i of y is element offset + i·strides of a dense x.
void record_pick(const Tensor& x, Tensor& y, const std::int64_t* strides, std::int64_t offset) {
  Tape* tape = Tape::recording({&x});
  if (tape == nullptr || !is_float(y.dtype())) {
    y.set_slot({});
    return;
  }
  const bool covers = y.count() == x.count();
  std::int64_t dense[kMaxRank];
  dense_strides(y.shape(), dense);
  tape->add({&x}, {&y},
            PickGradient{.places = places(y.shape(), strides),
                         .offset = offset,
                         .count = x.count(),
                         .covers = covers,
                         .in_order = covers && x.dtype() == y.dtype() && std::equal(dense, dense + y.rank(), strides),
                         .shape = y.shape(),
                         .x_dtype = x.dtype(),
                         .y_dtype = y.dtype()});
}

void check_defined(const char* op, const Tensor& x) {
  ADJOINT_OP_CHECK(x.defined(), "E-OP-006", fmt::format("{}: x is undefined; expected a tensor", op));
}

struct BroadcastGradient {
  Shape x_shape, shape;
  DType dtype;

  void backward(const Gradients& g) const {
    const GradOut dx = g.into(0);
    std::int64_t dense[kMaxRank], own[kMaxRank];
    dense_strides(shape, dense);
    dense_strides(x_shape, own);
    View from = places(shape, dense), to = from;
    from.data = const_cast<void*>(g.incoming());
    to.data = dx.data;
    from.dtype = to.dtype = dtype;
    const int shift = shape.rank() - x_shape.rank();
    for (int i = 0; i < to.rank; ++i)
      to.stride[i] = i < shift || (x_shape[i - shift] == 1 && shape[i] != 1) ? 0 : own[i - shift];
    launch(g.device(), Reduce{.kind = ReduceKind::sum, .x = from, .y = to, .accumulate = dx.accumulate});
  }
};

struct ConcatGradient {
  Shape shape;
  int axis;
  std::vector<std::int64_t> begins;  // along the axis, and the end
  DType dtype;

  void backward(const Gradients& g) const {
    std::int64_t dense[kMaxRank];
    dense_strides(shape, dense);
    for (std::size_t i = 0; i + 1 < begins.size(); ++i) {
      if (!g.wanted(static_cast<int>(i))) continue;
      const GradOut dx = g.into(static_cast<int>(i));
      Shape part = shape;
      part[axis] = begins[i + 1] - begins[i];
      View from = places(part, dense), to = from;
      const std::int64_t offset = begins[i] * dense[axis] * static_cast<std::int64_t>(size_of(dtype));
      from.data = static_cast<char*>(const_cast<void*>(g.incoming())) + offset;
      to.data = dx.data;
      from.dtype = to.dtype = dtype;
      dense_strides(part, to.stride);
      launch(g.device(), Copy{.from = from, .to = to, .accumulate = dx.accumulate});
    }
  }
};

}  // namespace

Tensor reshape(const Tensor& x_in, const std::vector<std::int64_t>& extents) {
  check_defined("reshape", x_in);
  const std::string wanted = fmt::format("[{}]", fmt::join(extents, ","));
  std::int64_t known = 1;
  int open = -1;
  for (std::size_t i = 0; i < extents.size(); ++i) {
    if (extents[i] == -1) {
      ADJOINT_OP_CHECK(open < 0, "E-OP-002", fmt::format("reshape: {} has more than one -1", wanted));
      open = static_cast<int>(i);
    } else {
      ADJOINT_OP_CHECK(extents[i] >= 0, "E-OP-002", fmt::format("reshape: {} has a negative extent", wanted));
      known *= extents[i];
    }
  }
  std::vector<std::int64_t> filled = extents;
  if (open >= 0 && known != 0) filled[static_cast<std::size_t>(open)] = x_in.count() / known;
  const Shape shape = Shape::of(filled.data(), static_cast<int>(open >= 0 && known == 0 ? 0 : filled.size()));
  ADJOINT_OP_CHECK(
      shape.count() == x_in.count() && (open < 0 || known != 0), "E-OP-002",
      fmt::format("reshape: {} elements of shape {} do not fill {}", x_in.count(), text(x_in.shape()), wanted));
  const Tensor x = dense(x_in);
  std::int64_t strides[kMaxRank];
  dense_strides(shape, strides);
  Tensor y = Tensor::view_of(x.storage(), x.data(), shape, strides, x.dtype());
  record_pick(x, y, strides, 0);
  return y;
}

Tensor transpose(const Tensor& x, std::int64_t axis_a, std::int64_t axis_b) {
  check_defined("transpose", x);
  const int a = checked_axis("transpose", axis_a, x.rank()), b = checked_axis("transpose", axis_b, x.rank());
  Shape shape = x.shape();
  std::int64_t strides[kMaxRank], dense[kMaxRank];
  dense_strides(x.shape(), dense);
  std::copy(x.strides(), x.strides() + x.rank(), strides);
  std::swap(shape[a], shape[b]);
  std::swap(strides[a], strides[b]);
  std::swap(dense[a], dense[b]);
  Tensor y = Tensor::view_of(x.storage(), x.data(), shape, strides, x.dtype());
  record_pick(x, y, dense, 0);
  return y;
}

Tensor slice(const Tensor& x, std::int64_t axis_in, std::int64_t begin, std::int64_t end) {
  check_defined("slice", x);
  const int axis = checked_axis("slice", axis_in, x.rank());
  ADJOINT_OP_CHECK(0 <= begin && begin <= end && end <= x.extent(axis), "E-OP-007",
                   fmt::format("slice: range {}..{} of axis {} with extent {}; expected 0 <= begin <= end <= extent",
                               begin, end, axis, x.extent(axis)));
  Shape shape = x.shape();
  shape[axis] = end - begin;
  std::int64_t dense[kMaxRank];
  dense_strides(x.shape(), dense);
  char* data = static_cast<char*>(x.data()) + begin * x.stride(axis) * static_cast<std::int64_t>(size_of(x.dtype()));
  Tensor y = Tensor::view_of(x.storage(), data, shape, x.strides(), x.dtype());
  record_pick(x, y, dense, begin * dense[axis]);
  return y;
}

Tensor broadcast_to(const Tensor& x, const Shape& shape) {
  check_defined("broadcast_to", x);
  Shape joint;
  ADJOINT_OP_CHECK(broadcast(x.shape(), shape, joint) && joint == shape, "E-OP-002",
                   fmt::format("broadcast_to: shape {} does not broadcast to {}", text(x.shape()), text(shape)));
  std::int64_t strides[kMaxRank];
  const int shift = shape.rank() - x.rank();
  for (int i = 0; i < shape.rank(); ++i)
    strides[i] = i < shift || (x.shape()[i - shift] == 1 && shape[i] != 1) ? 0 : x.stride(i - shift);
  Tensor y = Tensor::view_of(x.storage(), x.data(), shape, strides, x.dtype());
  if (Tape* tape = Tape::recording({&x})) tape->add({&x}, {&y}, BroadcastGradient{x.shape(), shape, x.dtype()});
  return y;
}

Tensor contiguous(const Tensor& x) {
  check_defined("contiguous", x);
  if (x.dense()) return x;
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  launch(x.device(), Copy{.from = x.strided_view(), .to = y.strided_view()});
  std::int64_t strides[kMaxRank];
  dense_strides(x.shape(), strides);
  record_pick(x, y, strides, 0);
  return y;
}

Tensor cast(const Tensor& x, DType dtype) {
  check_defined("cast", x);
  Tensor y = Tensor::empty(x.shape(), dtype, x.device());
  launch(x.device(), Copy{.from = x.strided_view(), .to = y.strided_view()});
  std::int64_t strides[kMaxRank];
  dense_strides(x.shape(), strides);
  record_pick(x, y, strides, 0);
  return y;
}

Tensor concat(const std::vector<Tensor>& xs, std::int64_t axis_in) {
  ADJOINT_OP_CHECK(!xs.empty(), "E-OP-002", "concat: no tensors; expected at least one");
  for (const Tensor& x : xs) check_operand("concat", "a part", x, &xs[0]);
  const int axis = checked_axis("concat", axis_in, xs[0].rank());
  Shape shape = xs[0].shape();
  std::vector<std::int64_t> begins{0};
  for (const Tensor& x : xs) {
    Shape like = x.rank() == shape.rank() ? x.shape() : Shape{};
    if (x.rank() == shape.rank()) like[axis] = xs[0].extent(axis);
    ADJOINT_OP_CHECK(
        like == xs[0].shape(), "E-OP-002",
        fmt::format("concat: shapes {} and {} differ outside axis {}", text(xs[0].shape()), text(x.shape()), axis));
    begins.push_back(begins.back() + x.extent(axis));
  }
  shape[axis] = begins.back();
  Tensor y = Tensor::empty(shape, xs[0].dtype(), xs[0].device());
  for (std::size_t i = 0; i < xs.size(); ++i) {
    View to = places(xs[i].shape(), y.strides());
    to.data = static_cast<char*>(y.data()) + begins[i] * y.stride(axis) * static_cast<std::int64_t>(size_of(y.dtype()));
    to.dtype = y.dtype();
    launch(y.device(), Copy{.from = xs[i].strided_view(), .to = to});
  }
  std::vector<const Tensor*> inputs;
  Tape* tape = nullptr;
  for (const Tensor& x : xs) {
    inputs.push_back(&x);
    if (Tape* t = Tape::recording({&x})) tape = t;
  }
  if (tape != nullptr) {
    Tensor* outputs[] = {&y};
    tape->add(std::span<const Tensor* const>(inputs), std::span<Tensor* const>(outputs),
              ConcatGradient{shape, axis, begins, y.dtype()});
  }
  return y;
}

// ---- Records: the oracles index element by element on the host ----

namespace {

/// The result whose element at each position is x at source(position).
template <class Source>
Tensor gather(const Tensor& x, const Shape& shape, Source source) {
  const std::vector<double> from = x.to_vector();
  std::vector<double> to(static_cast<std::size_t>(shape.count()));
  std::int64_t dense[kMaxRank];
  dense_strides(x.shape(), dense);
  std::vector<std::int64_t> at(static_cast<std::size_t>(shape.rank()), 0);
  for (double& value : to) {
    std::vector<std::int64_t> place = source(at);
    std::int64_t index = 0;
    for (int i = 0; i < x.rank(); ++i) index += place[static_cast<std::size_t>(i)] * dense[i];
    value = from[static_cast<std::size_t>(index)];
    for (int i = shape.rank() - 1; i >= 0 && ++at[static_cast<std::size_t>(i)] == shape[i]; --i)
      at[static_cast<std::size_t>(i)] = 0;
  }
  return Tensor::from(std::span<const double>(to), shape, x.dtype());
}

Tensor normal(Generator& random, const Shape& shape) { return random.normal(shape, 0, 1, DType::f64); }

const OpRegistration reshape_registration{
    {.name = "reshape",
     .samples =
         [](Generator& random) {
           const auto sample = [&](const Shape& from, const std::vector<std::int64_t>& to, const Shape& shape) {
             return OpSample{.label = text(from) + " to " + text(shape),
                             .inputs = {normal(random, from)},
                             .run = [to](auto in) { return Tensors{reshape(in[0], to)}; },
                             .reference =
                                 [shape](auto in) {
                                   const std::vector<double> v = in[0].to_vector();
                                   return Tensors{Tensor::from(std::span<const double>(v), shape, in[0].dtype())};
                                 }};
           };
           return std::vector<OpSample>{sample({2, 6}, {3, -1}, {3, 4}), sample({4}, {2, 1, 2}, {2, 1, 2}),
                                        sample({1}, {}, {}), sample({0, 3}, {3, 0}, {3, 0})};
         },
     .bad_inputs =
         [] {
           return std::vector<BadInput>{{"count",
                                         [] {
                                           reshape(Tensor::zeros({2, 3}), {4, 2});
                                         },
                                         "E-OP-002.*6 elements.*\\[4,2\\]"},
                                        {"two open",
                                         [] {
                                           reshape(Tensor::zeros({2, 3}), {-1, -1});
                                         },
                                         "E-OP-002.*more than one -1"},
                                        {"indivisible",
                                         [] {
                                           reshape(Tensor::zeros({2, 3}), {4, -1});
                                         },
                                         "E-OP-002.*6 elements.*\\[4,-1\\]"},
                                        {"seven axes",
                                         [] {
                                           reshape(Tensor::zeros({1}), {1, 1, 1, 1, 1, 1, 1});
                                         },
                                         "E-OP-008.*6 dimensions"}};
         }}};

const OpRegistration transpose_registration{
    {.name = "transpose",
     .samples =
         [](Generator& random) {
           return std::vector<OpSample>{
               {.label = "last two",
                .inputs = {normal(random, {2, 3, 33})},
                .run = [](auto in) { return Tensors{transpose(in[0], -1, -2)}; },
                .reference =
                    [](auto in) {
                      return Tensors{gather(in[0], {2, 33, 3}, [](auto& i) { return std::vector{i[0], i[2], i[1]}; })};
                    }},
               {.label = "first and last",
                .inputs = {normal(random, {4, 2, 5})},
                .run = [](auto in) { return Tensors{transpose(in[0], 0, 2)}; },
                .reference =
                    [](auto in) {
                      return Tensors{gather(in[0], {5, 2, 4}, [](auto& i) { return std::vector{i[2], i[1], i[0]}; })};
                    }}};
         },
     .bad_inputs =
         [] {
           return std::vector<BadInput>{{"axis",
                                         [] {
                                           transpose(Tensor::zeros({2, 3}), 0, 2);
                                         },
                                         "E-OP-007.*axis 2.*-2..1"},
                                        {"negative axis",
                                         [] {
                                           transpose(Tensor::zeros({2, 3}), -3, 0);
                                         },
                                         "E-OP-007.*axis -3"},
                                        {"undefined", [] { transpose(Tensor(), 0, 1); }, "E-OP-006.*undefined"}};
         }}};

const OpRegistration slice_registration{
    {.name = "slice",
     .samples =
         [](Generator& random) {
           return std::vector<OpSample>{
               {.label = "middle axis",
                .inputs = {normal(random, {2, 5, 3})},
                .run = [](auto in) { return Tensors{slice(in[0], 1, 1, 4)}; },
                .reference =
                    [](auto in) {
                      return Tensors{gather(in[0], {2, 3, 3}, [](auto& i) {
                        return std::vector{i[0], i[1] + 1, i[2]};
                      })};
                    }},
               {.label = "twice from one tensor",
                .inputs = {normal(random, {4, 6})},
                .run = [](auto in) { return Tensors{add(slice(in[0], 1, 0, 3), slice(in[0], 1, 2, 5))}; },
                .reference =
                    [](auto in) {
                      return Tensors{add(gather(in[0], {4, 3},
                                                [](auto& i) {
                                                  return std::vector{i[0], i[1]};
                                                }),
                                         gather(in[0], {4, 3}, [](auto& i) {
                                           return std::vector{i[0], i[1] + 2};
                                         }))};
                    },
                .doubles_exactly = false},
               {.label = "nothing",
                .inputs = {normal(random, {3})},
                .run = [](auto in) { return Tensors{slice(in[0], 0, 2, 2)}; },
                .reference = [](auto in) { return Tensors{Tensor::zeros({0}, in[0].dtype())}; }}};
         },
     .bad_inputs =
         [] {
           return std::vector<BadInput>{{"end",
                                         [] {
                                           slice(Tensor::zeros({2, 3}), 1, 1, 4);
                                         },
                                         "E-OP-007.*1..4.*axis 1.*extent 3"},
                                        {"reversed", [] { slice(Tensor::zeros({3}), 0, 2, 1); }, "E-OP-007.*2..1"},
                                        {"axis", [] { slice(Tensor::zeros({3}), 1, 0, 1); }, "E-OP-007.*axis 1"}};
         }}};

const OpRegistration broadcast_registration{
    {.name = "broadcast_to",
     .samples =
         [](Generator& random) {
           return std::vector<OpSample>{
               {.label = "[3,1] to [2,3,4]",
                .inputs = {normal(random, {3, 1})},
                .run =
                    [](auto in) {
                      return Tensors{broadcast_to(in[0], {2, 3, 4})};
                    },
                .reference =
                    [](auto in) {
                      return Tensors{gather(in[0], {2, 3, 4}, [](auto& i) {
                        return std::vector<std::int64_t>{i[1], 0};
                      })};
                    }},
               {.label = "scalar to [5]",
                .inputs = {normal(random, {})},
                .run = [](auto in) { return Tensors{broadcast_to(in[0], {5})}; },
                .reference =
                    [](auto in) {
                      return Tensors{gather(in[0], {5}, [](auto&) { return std::vector<std::int64_t>{}; })};
                    }}};
         },
     .bad_inputs =
         [] {
           return std::vector<BadInput>{
               {"extent", [] { broadcast_to(Tensor::zeros({3}), {4}); }, "E-OP-002.*\\[3\\].*\\[4\\]"},
               {"rank",
                [] {
                  broadcast_to(Tensor::zeros({2, 3}), {3});
                },
                "E-OP-002.*\\[2,3\\].*\\[3\\]"},
               {"undefined", [] { broadcast_to(Tensor(), {3}); }, "E-OP-006.*undefined"}};
         }}};

const OpRegistration concat_registration{
    {.name = "concat",
     .samples =
         [](Generator& random) {
           return std::vector<OpSample>{
               {.label = "last axis",
                .inputs = {normal(random, {2, 3}), normal(random, {2, 1}), normal(random, {2, 33})},
                .run =
                    [](auto in) {
                      return Tensors{concat({in[0], in[1], in[2]}, -1)};
                    },
                .reference =
                    [](auto in) {
                      std::vector<double> out;
                      for (int r = 0; r < 2; ++r)
                        for (const Tensor& x : in) {
                          const std::vector<double> v = slice(x.detached(), 0, r, r + 1).to_vector();
                          out.insert(out.end(), v.begin(), v.end());
                        }
                      return Tensors{Tensor::from(std::span<const double>(out), {2, 37}, in[0].dtype())};
                    }},
               {.label = "one tensor twice, first axis",
                .inputs = {normal(random, {2, 3})},
                .run =
                    [](auto in) {
                      return Tensors{concat({in[0], in[0]}, 0)};
                    },
                .reference =
                    [](auto in) {
                      std::vector<double> v = in[0].to_vector();
                      const std::vector<double> copy = v;
                      v.insert(v.end(), copy.begin(), copy.end());
                      return Tensors{Tensor::from(std::span<const double>(v), {4, 3}, in[0].dtype())};
                    },
                .doubles_exactly = false}};
         },
     .bad_inputs =
         [] {
           return std::vector<BadInput>{{"nothing", [] { concat({}, 0); }, "E-OP-002.*no tensors"},
                                        {"extents",
                                         [] {
                                           concat({Tensor::zeros({2, 3}), Tensor::zeros({3, 3})}, 1);
                                         },
                                         "E-OP-002.*\\[2,3\\].*\\[3,3\\].*axis 1"},
                                        {"dtypes",
                                         [] {
                                           concat({Tensor::zeros({2}), Tensor::zeros({2}, DType::f64)}, 0);
                                         },
                                         "E-OP-006.*f64"}};
         }}};

const OpRegistration contiguous_registration{
    {.name = "contiguous",
     .samples =
         [](Generator& random) {
           return std::vector<OpSample>{
               {.label = "of a transposed view",
                .inputs = {normal(random, {3, 34})},
                .run = [](auto in) { return Tensors{contiguous(transpose(in[0], 0, 1))}; },
                .reference =
                    [](auto in) {
                      return Tensors{gather(in[0], {34, 3}, [](auto& i) { return std::vector{i[1], i[0]}; })};
                    }}};
         },
     .bad_inputs =
         [] {
           return std::vector<BadInput>{{"undefined", [] { contiguous(Tensor()); }, "E-OP-006.*undefined"}};
         }}};

const OpRegistration cast_registration{
    {.name = "cast",
     .samples =
         [](Generator& random) {
           return std::vector<OpSample>{
               {.label = "to f64 and back",
                .inputs = {normal(random, {3, 5})},
                .run = [](auto in) { return Tensors{cast(cast(in[0], DType::f64), in[0].dtype())}; },
                .reference = [](auto in) { return Tensors{in[0]}; }}};
         },
     .bad_inputs =
         [] {
           return std::vector<BadInput>{{"undefined", [] { cast(Tensor(), DType::f32); }, "E-OP-006.*undefined"}};
         }}};

}  // namespace
}  // namespace adjoint
