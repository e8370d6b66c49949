#include "kernels/pointwise.h"

#include <array>
#include <cmath>
#include <numbers>

#include "engine/op_support.h"

namespace adjoint {
namespace {

constexpr const char* kUnaryNames[] = {
#define ADJOINT_NAME(name, ...) #name,
    ADJOINT_UNARY_FUNCTIONS(ADJOINT_NAME)};
constexpr const char* kBinaryNames[] = {ADJOINT_BINARY_FUNCTIONS(ADJOINT_NAME)
#undef ADJOINT_NAME
};

// ---- Ops ----

/// X: Saved, or SavedData if x is dense.
template <class X>
struct UnaryGradient {
  UnaryKind kind;
  DType dtype;
  X x;
  SavedData y;
  Shape shape;

  View x_view(const char* op, void* dy) const {
    const std::int64_t n = shape.count();
    if constexpr (std::is_same_v<X, SavedData>) {
      void* const data = x.get(op, shape);
      return View::flat(data != nullptr ? data : dy, dtype, n);
    } else {
      return x.get(op).view();
    }
  }
  void backward(const Gradients& g) const {
    const char* op = kUnaryNames[static_cast<int>(kind)];
    void* const dy = const_cast<void*>(g.incoming());
    // Where the derivative does not read an operand, any readable memory of its size serves.
    const void* const y_data = y ? y.get(op, shape) : dy;
    launch(g.device(), UnaryBackward{.kind = kind, .x = x_view(op, dy), .y = y_data, .dy = dy, .dx = g.pass_on(0)});
  }
};

Tensor unary(UnaryKind kind, const Tensor& x) {
  const char* op = kUnaryNames[static_cast<int>(kind)];
  check_operand(op, "x", x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  launch(x.device(), UnaryForward{.kind = kind, .x = x.view(), .y = x.dense() ? y.view() : y.strided_view()});
  if (Tape* tape = Tape::recording({&x})) {
    const DerivativeReads reads = kUnaryReads[static_cast<int>(kind)];
    const auto add = [&]<class X>(X saved_x) {
      tape->add(
          {&x}, {&y},
          UnaryGradient<X>{kind, x.dtype(), std::move(saved_x), reads.second ? SavedData(y) : SavedData(), x.shape()});
    };
    if (reads.first && !x.dense()) {
      add(Saved(x));
    } else {
      add(reads.first ? SavedData(x) : SavedData());
    }
  }
  return y;
}

/// x's memory seen with the result's shape: stride 0 where it is repeated.
View expanded(const Tensor& x, const Shape& shape) {
  View v;
  v.data = x.data();
  v.dtype = x.dtype();
  v.rank = shape.rank();
  const int shift = shape.rank() - x.rank();
  for (int i = 0; i < v.rank; ++i) {
    v.shape[i] = shape[i];
    const bool repeated = i < shift || (x.shape()[i - shift] == 1 && shape[i] != 1);
    v.stride[i] = repeated ? 0 : x.stride(i - shift);
  }
  return v;
}

/// Whether ∂y/∂a is 1.
constexpr bool passes_on(BinaryKind kind) { return kind == BinaryKind::add || kind == BinaryKind::sub; }

/// What the gradients of both operands read.
constexpr DerivativeReads reads_of(BinaryKind kind) {
  const DerivativeReads(&by)[2] = kBinaryReads[static_cast<int>(kind)];
  return {by[0].first || by[1].first, by[0].second || by[1].second};
}

/// Of dense operands of one shape.
struct FlatBinaryGradient {
  BinaryKind kind;
  DType dtype;
  SavedData a, b;
  Shape shape;

  void backward(const Gradients& g) const {
    const char* op = kBinaryNames[static_cast<int>(kind)];
    void* const dy = const_cast<void*>(g.incoming());
    const std::int64_t n = shape.count();
    // What the derivative does not read is not saved: any readable memory of that size serves.
    void* const a_data = a ? a.get(op, shape) : dy;
    void* const b_data = b ? b.get(op, shape) : dy;
    for (const int i : {1, 0}) {
      if (!g.wanted(i)) continue;
      const GradOut out = i == 0 && passes_on(kind) ? g.pass_on(0) : g.into(i);
      if (out.data == dy) return;
      launch(g.device(), BinaryBackward{.kind = kind,
                                        .operand = i,
                                        .a = View::flat(a_data, dtype, n),
                                        .b = View::flat(b_data, dtype, n),
                                        .dy = dy,
                                        .d = View::flat(out.data, dtype, n),
                                        .accumulate = out.accumulate});
    }
  }
};

struct BinaryGradient {
  BinaryKind kind;
  Saved a, b;
  Shape a_shape, b_shape, shape;
  DType dtype;

  void backward(const Gradients& g) const {
    const char* op = kBinaryNames[static_cast<int>(kind)];
    const bool flat = a_shape == shape && b_shape == shape;
    const void* dy = g.incoming();
    const auto operand = [&](const Saved& saved) {
      const Tensor& x = saved.get(op);
      if (!x.defined()) {  // not read by the derivative: anything of the right extent will do
        View v = View::flat(const_cast<void*>(dy), dtype, shape.count());
        if (!flat) {
          v.rank = shape.rank();
          for (int i = 0; i < v.rank; ++i) v.shape[i] = shape[i];
          dense_strides(shape, v.stride);
        }
        return v;
      }
      return flat && x.dense() ? x.view() : expanded(x, shape);
    };
    View va = operand(a), vb = operand(b);
    if (va.rank != vb.rank) {  // one is dense and flat, the other strided
      if (a.get(op).defined()) va = expanded(a.get(op), shape);
      if (b.get(op).defined()) vb = expanded(b.get(op), shape);
    }
    for (const int i : {1, 0}) {
      if (!g.wanted(i)) continue;
      const Shape& own = i == 0 ? a_shape : b_shape;
      const GradOut out = i == 0 && passes_on(kind) && own == shape ? g.pass_on(0) : g.into(i);
      if (out.data == dy) return;
      View d = va;
      d.data = out.data;
      if (va.rank == shape.rank() && !(flat && va.rank == 1)) {
        std::int64_t strides[kMaxRank];
        dense_strides(own, strides);
        const int shift = shape.rank() - own.rank();
        for (int k = 0; k < d.rank; ++k)
          d.stride[k] = k < shift || (own[k - shift] == 1 && shape[k] != 1) ? 0 : strides[k - shift];
      } else {
        d.stride[0] = 1;
      }
      launch(
          g.device(),
          BinaryBackward{.kind = kind, .operand = i, .a = va, .b = vb, .dy = dy, .d = d, .accumulate = out.accumulate});
    }
  }
};

Tensor flat_binary(BinaryKind kind, const Tensor& a, const Tensor& b) {
  Tensor y = Tensor::empty(a.shape(), a.dtype(), a.device());
  const std::int64_t n = y.count();
  launch(a.device(), BinaryForward{.kind = kind,
                                   .a = View::flat(a.data(), a.dtype(), n),
                                   .b = View::flat(b.data(), a.dtype(), n),
                                   .y = View::flat(y.data(), a.dtype(), n)});
  if (Tape* tape = Tape::recording({&a, &b})) {
    const DerivativeReads reads = reads_of(kind);
    tape->add({&a, &b}, {&y},
              FlatBinaryGradient{kind, a.dtype(), reads.first ? SavedData(a) : SavedData(),
                                 reads.second ? SavedData(b) : SavedData(), a.shape()});
  }
  return y;
}

Tensor binary(BinaryKind kind, const Tensor& a, const Tensor& b) {
  const char* op = kBinaryNames[static_cast<int>(kind)];
  check_operand(op, "left", a);
  check_operand(op, "right", b, &a);
  if (a.shape() == b.shape() && a.dense() && b.dense()) return flat_binary(kind, a, b);
  Shape shape = a.shape();
  if (a.shape() != b.shape()) {
    ADJOINT_OP_CHECK(
        broadcast(a.shape(), b.shape(), shape), "E-OP-002",
        fmt::format("{}: shapes {} and {} do not broadcast; expected equal extents, or 1, from the last axis on", op,
                    text(a.shape()), text(b.shape())));
  }
  Tensor y = Tensor::empty(shape, a.dtype(), a.device());
  launch(a.device(),
         BinaryForward{.kind = kind, .a = expanded(a, shape), .b = expanded(b, shape), .y = y.strided_view()});
  if (Tape* tape = Tape::recording({&a, &b})) {
    const DerivativeReads reads = reads_of(kind);
    tape->add({&a, &b}, {&y},
              BinaryGradient{kind, reads.first ? Saved(a) : Saved(), reads.second ? Saved(b) : Saved(), a.shape(),
                             b.shape(), shape, a.dtype()});
  }
  return y;
}

// ---- Records ----

/// The scalar math of the oracle: the C library in double.
struct HostMath {
  static double select(bool c, double a, double b) { return c ? a : b; }
  static double sqrt(double x) { return std::sqrt(x); }
  static double exp(double x) { return std::exp(x); }
  static double log(double x) { return std::log(x); }
  static double tanh(double x) { return std::tanh(x); }
  static double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
  static double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
  static double gelu_tanh(double x) {
    return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
  }
};

double unary_value(UnaryKind kind, double x) {
  using M = HostMath;
  [[maybe_unused]] const double one = 1.0, zero = 0.0;
  switch (kind) {
#define ADJOINT_CASE(name, forward, ...) \
  case UnaryKind::name: return forward;
    ADJOINT_UNARY_FUNCTIONS(ADJOINT_CASE)
#undef ADJOINT_CASE
  }
  return 0.0;
}

double binary_value(BinaryKind kind, double a, double b) {
  using M = HostMath;
  [[maybe_unused]] const double one = 1.0, zero = 0.0;
  switch (kind) {
#define ADJOINT_CASE(name, forward, ...) \
  case BinaryKind::name: return forward;
    ADJOINT_BINARY_FUNCTIONS(ADJOINT_CASE)
#undef ADJOINT_CASE
  }
  return 0.0;
}

/// Values away from 0 (where abs and relu have a kink, and reciprocal a pole); positive where f(-1) is not a number.
Tensor argument(UnaryKind kind, const Shape& shape, Generator& random) {
  std::vector<double> values = random.uniform(shape, 0.2, 2.5, DType::f64).to_vector();
  if (!std::isnan(unary_value(kind, -1.0)))
    for (std::size_t i = 0; i < values.size(); i += 2) values[i] = -values[i];
  return Tensor::from(std::span<const double>(values), shape, DType::f64);
}

OpRecord unary_record(UnaryKind kind) {
  return {.name = kUnaryNames[static_cast<int>(kind)],
          .samples =
              [kind](Generator& random) {
                std::vector<OpSample> samples;
                for (const Shape& shape : {Shape{}, Shape{1}, Shape{0}, Shape{7}, Shape{3, 33}, Shape{2, 3, 2, 5}}) {
                  samples.push_back({.label = "x" + text(shape),
                                     .inputs = {argument(kind, shape, random)},
                                     .run = [kind](auto in) { return Tensors{unary(kind, in[0])}; },
                                     .reference =
                                         [kind](auto in) {
                                           std::vector<double> v = in[0].to_vector();
                                           for (double& x : v) x = unary_value(kind, x);
                                           return Tensors{
                                               Tensor::from(std::span<const double>(v), in[0].shape(), in[0].dtype())};
                                         },
                                     .flops = static_cast<double>(shape.count()),
                                     .bytes = 8.0 * static_cast<double>(shape.count())});
                }
                return samples;
              },
          .bad_inputs =
              [kind] {
                return std::vector<BadInput>{
                    {"integers", [kind] { unary(kind, Tensor::zeros({2}, DType::i32)); }, "E-OP-006.*x is i32"},
                    {"bytes", [kind] { unary(kind, Tensor::zeros({2}, DType::u8)); }, "E-OP-006.*x is u8"},
                    {"undefined", [kind] { unary(kind, Tensor()); }, "E-OP-006.*x is undefined"}};
              }};
}

OpRecord binary_record(BinaryKind kind) {
  const auto samples = [kind](Generator& random) {
    std::vector<OpSample> samples;
    const std::pair<Shape, Shape> shapes[] = {
        {{}, {}},         {{5}, {5}},          {{3, 33}, {3, 33}}, {{4, 5}, {5}}, {{4, 5}, {}},
        {{4, 1}, {1, 5}}, {{2, 3, 4}, {3, 1}}, {{1}, {7}},         {{0, 3}, {3}}, {{2, 1, 3, 1}, {4, 1, 5}},
        {{3}, {65, 3}},   {{1, 1}, {129, 33}}};
    for (const auto& [a, b] : shapes) {
      Tensor x = random.uniform(a, 0.3, 2.0, DType::f64), y = random.uniform(b, -2.3, -0.4, DType::f64);
      samples.push_back({.label = text(a) + " and " + text(b),
                         .inputs = {x, y},
                         .run = [kind](auto in) { return Tensors{binary(kind, in[0], in[1])}; },
                         .reference =
                             [kind](auto in) {
                               Shape shape;
                               broadcast(in[0].shape(), in[1].shape(), shape);
                               std::vector<double> l = broadcast_to(in[0].detached(), shape).to_vector();
                               const std::vector<double> r = broadcast_to(in[1].detached(), shape).to_vector();
                               for (std::size_t i = 0; i < l.size(); ++i) l[i] = binary_value(kind, l[i], r[i]);
                               return Tensors{Tensor::from(std::span<const double>(l), shape, in[0].dtype())};
                             },
                         .flops = static_cast<double>(x.count()),
                         .bytes = 12.0 * static_cast<double>(x.count())});
    }
    return samples;
  };
  const auto bad = [kind] {
    const auto zeros = [](const Shape& s, DType dtype = DType::f32) { return Tensor::zeros(s, dtype); };
    return std::vector<BadInput>{
        {"shapes",
         [=] {
           binary(kind, zeros({2, 3}), zeros({2, 4}));
         },
         "E-OP-002.*\\[2,3\\].*\\[2,4\\]"},
        {"dtypes", [=] { binary(kind, zeros({2}), zeros({2}, DType::f64)); }, "E-OP-006.*right is f64; expected f32"},
        {"integers", [=] { binary(kind, zeros({2}, DType::i32), zeros({2})); }, "E-OP-006.*left is i32"},
        {"undefined", [=] { binary(kind, zeros({2}), Tensor()); }, "E-OP-006.*right is undefined"}};
  };
  return {.name = kBinaryNames[static_cast<int>(kind)], .samples = samples, .bad_inputs = bad};
}

#define ADJOINT_REGISTER(name, ...) const OpRegistration name##_registration{unary_record(UnaryKind::name)};
ADJOINT_UNARY_FUNCTIONS(ADJOINT_REGISTER)
#undef ADJOINT_REGISTER
#define ADJOINT_REGISTER(name, ...) const OpRegistration name##_registration{binary_record(BinaryKind::name)};
ADJOINT_BINARY_FUNCTIONS(ADJOINT_REGISTER)
#undef ADJOINT_REGISTER

const OpRegistration scale_shift_registration{
    {.name = "scale_shift",
     .samples =
         [](Generator& random) {
           return std::vector<OpSample>{
               {.label = "factor and offset",
                .inputs = {random.normal({3, 17}, 0, 1, DType::f64)},
                .run = [](auto in) { return Tensors{scale_shift(in[0], -1.5, 0.25)}; },
                .reference =
                    [](auto in) {
                      std::vector<double> v = in[0].to_vector();
                      for (double& x : v) x = x * -1.5 + 0.25;
                      return Tensors{Tensor::from(std::span<const double>(v), in[0].shape(), in[0].dtype())};
                    }},
               {.label = "empty",
                .inputs = {Tensor::zeros({0}, DType::f64)},
                .run = [](auto in) { return Tensors{scale_shift(in[0], 2.0, 1.0)}; },
                .reference = [](auto in) { return Tensors{in[0]}; }}};
         },
     .bad_inputs =
         [] {
           return std::vector<BadInput>{
               {"integers", [] { scale_shift(Tensor::zeros({2}, DType::i32), 2, 0); }, "E-OP-006.*x is i32"},
               {"bytes", [] { scale_shift(Tensor::zeros({2}, DType::u8), 2, 0); }, "E-OP-006.*x is u8"},
               {"undefined", [] { scale_shift(Tensor(), 2, 0); }, "E-OP-006.*x is undefined"}};
         }}};

}  // namespace

#define ADJOINT_DEFINE(name, ...) \
  Tensor name(const Tensor& x) { return unary(UnaryKind::name, x); }
ADJOINT_UNARY_FUNCTIONS(ADJOINT_DEFINE)
#undef ADJOINT_DEFINE
#define ADJOINT_DEFINE(name, ...) \
  Tensor name(const Tensor& a, const Tensor& b) { return binary(BinaryKind::name, a, b); }
ADJOINT_BINARY_FUNCTIONS(ADJOINT_DEFINE)
#undef ADJOINT_DEFINE

namespace {

struct ScaleGradient {
  std::int64_t n;
  DType dtype;
  double factor;
  void backward(const Gradients& g) const {
    const void* const dy = g.incoming();
    const GradOut dx = factor == 1.0 ? g.pass_on(0) : g.into(0);
    if (dx.data == dy) return;
    launch(g.device(), ScaleShift{.dtype = dtype,
                                  .n = n,
                                  .x = dy,
                                  .y = dx.data,
                                  .factor = factor,
                                  .offset = 0.0,
                                  .accumulate = dx.accumulate});
  }
};

}  // namespace

Tensor scale_shift(const Tensor& x_in, double factor, double offset) {
  check_operand("scale_shift", "x", x_in);
  const Tensor x = dense(x_in);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  launch(
      x.device(),
      ScaleShift{.dtype = x.dtype(), .n = x.count(), .x = x.data(), .y = y.data(), .factor = factor, .offset = offset});
  if (Tape* tape = Tape::recording({&x})) tape->add({&x}, {&y}, ScaleGradient{x.count(), x.dtype(), factor});
  return y;
}

}  // namespace adjoint
