#include "kernels/matmul.h"

#include <algorithm>

#include "engine/gpu_libraries.h"
#include "engine/op_support.h"
#include "kernels/reduce.h"

namespace adjoint {
namespace {

void multiply(Device device, Matmul call) {
  call.by_library = gemm_by_library(device);
  launch(device, call);
}

/// A matrix as the kernel wants it: rows contiguous, or columns contiguous (then it is read transposed).
struct Operand {
  Tensor tensor;
  std::int64_t leading;
  bool transposed;
};

/// x [..., r, c] with one leading dimension at most: used in place if either of its last axes is contiguous.
Operand operand(const Tensor& x) {
  const int r = x.rank() - 2, c = x.rank() - 1;
  const std::int64_t rows = x.extent(r), columns = x.extent(c);
  const auto usable = [](std::int64_t inner, std::int64_t leading, std::int64_t width, std::int64_t count) {
    return (inner == 1 || width <= 1) && (leading >= width || count <= 1);
  };
  if (usable(x.stride(c), x.stride(r), columns, rows)) {
    return {x, std::max<std::int64_t>(rows <= 1 ? columns : x.stride(r), std::max<std::int64_t>(columns, 1)), false};
  }
  if (usable(x.stride(r), x.stride(c), rows, columns)) {
    return {x, std::max<std::int64_t>(columns <= 1 ? rows : x.stride(c), std::max<std::int64_t>(rows, 1)), true};
  }
  return {contiguous(x), std::max<std::int64_t>(columns, 1), false};
}

/// c [batches, m, n] = a [batches, m, k] b [batches, k, n].
struct MatmulGradient {
  Saved a, b;
  std::int64_t batches, m, n, k;
  std::int64_t lda, ldb, a_batch, b_batch;
  bool transpose_a, transpose_b;

  void backward(const Gradients& g) const {
    const void* dy = g.incoming();
    const Tensor &ta = a.get("matmul"), &tb = b.get("matmul");
    if (g.wanted(0)) {  // dc b'
      const GradOut da = g.into(0);
      multiply(g.device(), Matmul{.dtype = ta.dtype(),
                                  .batches = batches,
                                  .m = m,
                                  .n = k,
                                  .k = n,
                                  .a = dy,
                                  .lda = std::max<std::int64_t>(n, 1),
                                  .a_batch = m * n,
                                  .b = tb.data(),
                                  .ldb = ldb,
                                  .b_batch = b_batch,
                                  .transpose_b = !transpose_b,
                                  .c = da.data,
                                  .ldc = std::max<std::int64_t>(k, 1),
                                  .c_batch = m * k,
                                  .accumulate = da.accumulate});
    }
    if (g.wanted(1)) {  // a' dc
      const GradOut db = g.into(1);
      multiply(g.device(), Matmul{.dtype = ta.dtype(),
                                  .batches = batches,
                                  .m = k,
                                  .n = n,
                                  .k = m,
                                  .a = ta.data(),
                                  .lda = lda,
                                  .a_batch = a_batch,
                                  .transpose_a = !transpose_a,
                                  .b = dy,
                                  .ldb = std::max<std::int64_t>(n, 1),
                                  .b_batch = m * n,
                                  .c = db.data,
                                  .ldc = std::max<std::int64_t>(n, 1),
                                  .c_batch = k * n,
                                  .accumulate = db.accumulate});
    }
  }
};

/// a [N, m, k], b [N, k, n], or both without N.
Tensor product(const Tensor& a, const Tensor& b) {
  const bool batched = a.rank() == 3;
  const Operand oa = operand(a), ob = operand(b);
  const std::int64_t batches = batched ? a.extent(0) : 1;
  const std::int64_t m = a.extent(-2), k = a.extent(-1), n = b.extent(-1);
  Tensor c =
      batched ? Tensor::empty({batches, m, n}, a.dtype(), a.device()) : Tensor::empty({m, n}, a.dtype(), a.device());
  const std::int64_t a_batch = batched ? oa.tensor.stride(0) : 0, b_batch = batched ? ob.tensor.stride(0) : 0;
  multiply(a.device(), Matmul{.dtype = a.dtype(),
                              .batches = batches,
                              .m = m,
                              .n = n,
                              .k = k,
                              .a = oa.tensor.data(),
                              .lda = oa.leading,
                              .a_batch = a_batch,
                              .transpose_a = oa.transposed,
                              .b = ob.tensor.data(),
                              .ldb = ob.leading,
                              .b_batch = b_batch,
                              .transpose_b = ob.transposed,
                              .c = c.data(),
                              .ldc = std::max<std::int64_t>(n, 1),
                              .c_batch = m * n});
  if (Tape* tape = Tape::recording({&oa.tensor, &ob.tensor})) {
    tape->add({&oa.tensor, &ob.tensor}, {&c},
              MatmulGradient{Saved(oa.tensor), Saved(ob.tensor), batches, m, n, k, oa.leading, ob.leading, a_batch,
                             b_batch, oa.transposed, ob.transposed});
  }
  return c;
}

struct LinearGradient {
  Saved x, weight, lengths;
  std::int64_t rows, in, out, rows_per_length;
  DType dtype;

  void backward(const Gradients& g) const {
    const char* op = "linear";
    const void* dy = g.incoming();
    const auto* row_lengths = static_cast<const std::int32_t*>(lengths.data(op));
    const auto at_least_1 = [](std::int64_t n) { return n < 1 ? std::int64_t{1} : n; };
    if (g.wanted(0)) {
      const GradOut dx = g.into(0);
      multiply(g.device(), Matmul{.dtype = dtype,
                                  .m = rows,
                                  .n = in,
                                  .k = out,
                                  .a = dy,
                                  .lda = at_least_1(out),
                                  .b = weight.data(op),
                                  .ldb = at_least_1(in),
                                  .c = dx.data,
                                  .ldc = at_least_1(in),
                                  .accumulate = dx.accumulate,
                                  .row_lengths = row_lengths,
                                  .rows_per_length = rows_per_length});
    }
    // A library that multiplies may sum the rows of dy on the way; it assigns the sums.
    const GradOut db = g.wanted(2) ? g.into(2) : GradOut{};
    const bool with_weight =
        g.wanted(1) && g.wanted(2) && !db.accumulate && row_lengths == nullptr && gemm_by_library(g.device());
    if (g.wanted(1)) {
      const GradOut dw = g.into(1);
      multiply(g.device(), Matmul{.dtype = dtype,
                                  .m = out,
                                  .n = in,
                                  .k = rows,
                                  .a = dy,
                                  .lda = at_least_1(out),
                                  .transpose_a = true,
                                  .b = x.data(op),
                                  .ldb = at_least_1(in),
                                  .c = dw.data,
                                  .ldc = at_least_1(in),
                                  .accumulate = dw.accumulate,
                                  .row_lengths = row_lengths,
                                  .rows_per_length = rows_per_length,
                                  .a_sums = with_weight ? db.data : nullptr});
    }
    if (g.wanted(2) && !with_weight) {
      if (row_lengths == nullptr) {
        View from{const_cast<void*>(dy), dtype, 2, {rows, out}, {out, 1}};
        View to{db.data, dtype, 2, {rows, out}, {0, 1}};
        launch(g.device(), Reduce{.kind = ReduceKind::sum, .x = from, .y = to, .accumulate = db.accumulate});
      } else {  // ones' dy, so that padded rows stay out of the sum
        const Tensor ones = Tensor::full({rows, 1}, 1.0, dtype, g.device());
        multiply(g.device(), Matmul{.dtype = dtype,
                                    .m = 1,
                                    .n = out,
                                    .k = rows,
                                    .a = ones.data(),
                                    .lda = 1,
                                    .transpose_a = true,
                                    .b = dy,
                                    .ldb = at_least_1(out),
                                    .c = db.data,
                                    .ldc = at_least_1(out),
                                    .accumulate = db.accumulate,
                                    .row_lengths = row_lengths,
                                    .rows_per_length = rows_per_length});
      }
    }
  }
};

/// x [..., in] weight' + bias, for the op of that name. gelu: gets gelu_tanh of that from the library, and bias its
/// gradient from there.
Tensor rows_product(const char* op, const Tensor& x_in, const Tensor& weight_in, const Tensor& bias_in,
                    const Tensor& lengths, Tensor* gelu) {
  check_operand(op, "x", x_in);
  check_operand(op, "weight", weight_in, &x_in);
  const auto shapes = [&] {
    return fmt::format("{}: x {} and weight {}", op, text(x_in.shape()), text(weight_in.shape()));
  };
  ADJOINT_OP_CHECK(x_in.rank() >= 1 && weight_in.rank() == 2, "E-OP-001",
                   shapes() + ": expected [...,in] and [out,in]");
  const std::int64_t in = x_in.shape().back(), out = weight_in.extent(0);
  ADJOINT_OP_CHECK(weight_in.extent(1) == in, "E-OP-001",
                   shapes() + fmt::format(": inner sizes {} and {} differ", in, weight_in.extent(1)));
  if (bias_in.defined()) {
    check_operand(op, "bias", bias_in, &x_in);
    check_shape(op, "bias", bias_in, {out});
  }
  if (lengths.defined()) {
    check_ints(op, "lengths", lengths, x_in);
    ADJOINT_OP_CHECK(x_in.rank() == 3 && lengths.shape() == Shape{x_in.extent(0)} && lengths.dense(), "E-OP-002",
                     fmt::format("{}: lengths {} for x {}; expected [B] for x [B,T,in]", op, text(lengths.shape()),
                                 text(x_in.shape())));
  }
  const Tensor x = dense(x_in), weight = dense(weight_in), bias = bias_in.defined() ? dense(bias_in) : Tensor();
  const std::int64_t rows = x.shape().rows();
  const std::int64_t rows_per_length = lengths.defined() ? x.extent(1) : 0;
  Tensor y = Tensor::empty(x.shape().with_last(out), x.dtype(), x.device());
  if (gelu != nullptr) *gelu = Tensor::empty(y.shape(), y.dtype(), y.device());
  multiply(x.device(), Matmul{.dtype = x.dtype(),
                              .m = rows,
                              .n = out,
                              .k = in,
                              .a = x.data(),
                              .lda = std::max<std::int64_t>(in, 1),
                              .b = weight.data(),
                              .ldb = std::max<std::int64_t>(in, 1),
                              .transpose_b = true,
                              .c = y.data(),
                              .ldc = std::max<std::int64_t>(out, 1),
                              .bias = bias.data(),
                              .row_lengths = static_cast<const std::int32_t*>(lengths.data()),
                              .rows_per_length = rows_per_length,
                              .gelu = gelu != nullptr ? gelu->data() : nullptr});
  const Tensor added = gelu != nullptr ? Tensor() : bias;
  if (Tape* tape = Tape::recording({&x, &weight, &added})) {
    tape->add({&x, &weight, &added}, {&y},
              LinearGradient{Saved(x), Saved(weight), Saved(lengths), rows, in, out, rows_per_length, x.dtype()});
  }
  return y;
}

// ---- Records ----

/// Host loops in double.
Tensor naive(const Tensor& a, const Tensor& b, const Shape& shape) {
  const std::vector<double> x = a.to_vector(), y = b.to_vector();
  const std::int64_t m = a.extent(-2), k = a.extent(-1), n = b.extent(-1);
  std::vector<double> z(static_cast<std::size_t>(shape.count()), 0.0);
  for (std::size_t q = 0; q < (m * n == 0 ? 0 : z.size() / static_cast<std::size_t>(m * n)); ++q)
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t p = 0; p < k; ++p)
          z[q * static_cast<std::size_t>(m * n) + static_cast<std::size_t>(i * n + j)] +=
              x[q * static_cast<std::size_t>(m * k) + static_cast<std::size_t>(i * k + p)] *
              y[q * static_cast<std::size_t>(k * n) + static_cast<std::size_t>(p * n + j)];
  return Tensor::from(std::span<const double>(z), shape, a.dtype());
}

Shape with_batch(const Shape& batch, std::int64_t r, std::int64_t c) {
  Shape s = batch;
  s.append(r);
  s.append(c);
  return s;
}

Shape batch_of(const Tensor& x) { return Shape::of(x.shape().data(), x.rank() - 2); }

std::vector<OpSample> matmul_samples(Generator& random) {
  std::vector<OpSample> samples;
  const std::pair<Shape, Shape> shapes[] = {{{2, 3}, {3, 4}},          {{1, 1}, {1, 1}},    {{33, 17}, {17, 5}},
                                            {{3, 2, 5}, {3, 5, 4}},    {{2, 3, 4}, {4, 2}}, {{2, 2}, {3, 2, 2}},
                                            {{2, 1, 2, 3}, {3, 3, 2}}, {{0, 3}, {3, 2}},    {{2, 0}, {0, 3}},
                                            {{2, 3}, {3, 0}},          {{1, 31}, {31, 33}}};
  for (const auto& [a, b] : shapes) {
    samples.push_back({.label = text(a) + " x " + text(b),
                       .inputs = {random.normal(a, 0, 1, DType::f64), random.normal(b, 0, 1, DType::f64)},
                       .run = [](auto in) { return Tensors{matmul(in[0], in[1])}; },
                       .reference =
                           [](auto in) {
                             Shape batch;
                             broadcast(batch_of(in[0]), batch_of(in[1]), batch);
                             const std::int64_t m = in[0].extent(-2), k = in[0].extent(-1), n = in[1].extent(-1);
                             return Tensors{naive(broadcast_to(in[0].detached(), with_batch(batch, m, k)),
                                                  broadcast_to(in[1].detached(), with_batch(batch, k, n)),
                                                  with_batch(batch, m, n))};
                           },
                       .flops = 2.0 * static_cast<double>(a.count() * b.back())});
  }
  samples.push_back({.label = "transposed operands",
                     .inputs = {random.normal({5, 3}, 0, 1, DType::f64), random.normal({4, 5}, 0, 1, DType::f64)},
                     .run = [](auto in) { return Tensors{matmul(transpose(in[0], 0, 1), transpose(in[1], 0, 1))}; },
                     .reference =
                         [](auto in) {
                           return Tensors{naive(contiguous(transpose(in[0].detached(), 0, 1)),
                                                contiguous(transpose(in[1].detached(), 0, 1)), {3, 4})};
                         }});
  return samples;
}

std::vector<OpSample> linear_samples(Generator& random) {
  const auto normal = [&](const Shape& s) { return random.normal(s, 0, 1, DType::f64); };
  const std::vector<std::int32_t> lengths{3, 0, 1};
  return {{.label = "with bias",
           .inputs = {normal({2, 3, 5}), normal({4, 5}), normal({4})},
           .run = [](auto in) { return Tensors{linear(in[0], in[1], in[2])}; },
           .reference = [](auto in) { return Tensors{add(matmul(in[0], transpose(in[1], 0, 1)), in[2])}; }},
          {.label = "without bias",
           .inputs = {normal({33, 7}), normal({17, 7})},
           .run = [](auto in) { return Tensors{linear(in[0], in[1])}; },
           .reference = [](auto in) { return Tensors{matmul(in[0], transpose(in[1], 0, 1))}; }},
          {.label = "with lengths",
           .inputs = {normal({3, 4, 5}), normal({6, 5}), normal({6}), Tensor::from(std::span(lengths), {3})},
           .run = [](auto in) { return Tensors{linear(in[0], in[1], in[2], in[3])}; },
           .reference =
               [](auto in) {
                 std::vector<double> keep;
                 for (const std::int32_t n : in[3].to_ints())
                   for (int t = 0; t < 4; ++t) keep.push_back(t < n ? 1.0 : 0.0);
                 const Tensor mask = Tensor::from(std::span<const double>(keep), {3, 4, 1}, in[0].dtype());
                 return Tensors{mul(add(matmul(in[0], transpose(in[1], 0, 1)), in[2]), mask)};
               }},
          {.label = "no rows",
           .inputs = {normal({0, 5}), normal({4, 5}), normal({4})},
           .run = [](auto in) { return Tensors{linear(in[0], in[1], in[2])}; },
           .reference = [](auto in) { return Tensors{add(matmul(in[0], transpose(in[1], 0, 1)), in[2])}; }}};
}

std::vector<OpSample> linear_gelu_tanh_samples(Generator& random) {
  const auto normal = [&](const Shape& s) { return random.normal(s, 0, 1, DType::f64); };
  std::vector<OpSample> samples;
  for (const auto& [x, out] : {std::pair{Shape{2, 3, 5}, 8}, {Shape{33, 7}, 17}, {Shape{0, 5}, 8}, {Shape{1, 1}, 1}})
    samples.push_back(
        {.label = "x" + text(x),
         .inputs = {normal(x), normal({out, x.back()}), normal({out})},
         .run = [](auto in) { return Tensors{linear_gelu_tanh(in[0], in[1], in[2])}; },
         .reference = [](auto in) { return Tensors{gelu_tanh(add(matmul(in[0], transpose(in[1], 0, 1)), in[2]))}; }});
  return samples;
}

const OpRegistration matmul_registration{
    {.name = "matmul", .samples = matmul_samples, .bad_inputs = [] {
       const auto zeros = [](const Shape& s) { return Tensor::zeros(s); };
       return std::vector<BadInput>{
           {"inner sizes",
            [=] {
              matmul(zeros({3, 4}), zeros({5, 6}));
            },
            "E-OP-001: matmul: left \\[3,4\\] and right \\[5,6\\]: inner sizes 4 and 5 differ"},
           {"a vector",
            [=] {
              matmul(zeros({3}), zeros({3, 2}));
            },
            "E-OP-001.*\\[3\\].*two axes"},
           {"batch",
            [=] {
              matmul(zeros({2, 3, 4}), zeros({3, 4, 5}));
            },
            "E-OP-001.*\\[2,3,4\\].*\\[3,4,5\\].*leading"},
           {"dtypes",
            [=] {
              matmul(zeros({2, 2}), Tensor::zeros({2, 2}, DType::f64));
            },
            "E-OP-006.*right is f64"}};
     }}};
const OpRegistration linear_registration{
    {.name = "linear", .samples = linear_samples, .bad_inputs = [] {
       const auto zeros = [](const Shape& s) { return Tensor::zeros(s); };
       return std::vector<BadInput>{{"inner sizes",
                                     [=] {
                                       linear(zeros({16, 127}), zeros({64, 128}));
                                     },
                                     "E-OP-001: linear: x \\[16,127\\] and weight \\[64,128\\].*127 and 128"},
                                    {"bias",
                                     [=] {
                                       linear(zeros({2, 3}), zeros({4, 3}), zeros({3}));
                                     },
                                     "E-OP-002.*bias.*\\[3\\].*\\[4\\]"},
                                    {"lengths without time",
                                     [=] {
                                       linear(zeros({2, 3}), zeros({4, 3}), {}, Tensor::zeros({2}, DType::i32));
                                     },
                                     "E-OP-002.*lengths.*\\[B,T,in\\]"},
                                    {"float lengths",
                                     [=] {
                                       linear(zeros({2, 3, 3}), zeros({4, 3}), {}, zeros({2}));
                                     },
                                     "E-OP-006.*lengths is f32"}};
     }}};
const OpRegistration linear_gelu_tanh_registration{
    {.name = "linear_gelu_tanh", .samples = linear_gelu_tanh_samples, .bad_inputs = [] {
       const auto zeros = [](const Shape& s) { return Tensor::zeros(s); };
       return std::vector<BadInput>{{"inner sizes",
                                     [=] {
                                       linear_gelu_tanh(zeros({16, 127}), zeros({64, 128}), zeros({64}));
                                     },
                                     "E-OP-001: linear_gelu_tanh: x \\[16,127\\] and weight \\[64,128\\]"},
                                    {"bias",
                                     [=] {
                                       linear_gelu_tanh(zeros({2, 3}), zeros({4, 3}), zeros({3}));
                                     },
                                     "E-OP-002.*bias.*\\[3\\].*\\[4\\]"},
                                    {"no bias",
                                     [=] {
                                       linear_gelu_tanh(zeros({2, 3}), zeros({4, 3}), {});
                                     },
                                     "E-OP-006.*bias"}};
     }}};

}  // namespace

Tensor matmul(const Tensor& a_in, const Tensor& b_in) {
  check_operand("matmul", "left", a_in);
  check_operand("matmul", "right", b_in, &a_in);
  const auto shapes = [&] {
    return fmt::format("matmul: left {} and right {}", text(a_in.shape()), text(b_in.shape()));
  };
  ADJOINT_OP_CHECK(a_in.rank() >= 2 && b_in.rank() >= 2, "E-OP-001", shapes() + ": expected at least two axes each");
  const std::int64_t m = a_in.extent(-2), k = a_in.extent(-1), n = b_in.extent(-1);
  ADJOINT_OP_CHECK(k == b_in.extent(-2), "E-OP-001",
                   shapes() + fmt::format(": inner sizes {} and {} differ", k, b_in.extent(-2)));
  Shape batch;
  ADJOINT_OP_CHECK(broadcast(batch_of(a_in), batch_of(b_in), batch), "E-OP-001",
                   shapes() + ": leading axes do not broadcast");
  if (batch.rank() == 0) return product(a_in, b_in);
  const std::vector<std::int64_t> result([&] {
    std::vector<std::int64_t> s(batch.data(), batch.data() + batch.rank());
    s.insert(s.end(), {m, n});
    return s;
  }());
  if (b_in.rank() == 2)
    return reshape(product(reshape(a_in, {batch.count() * m, k}), b_in), result);  // one tall product
  const auto folded = [&](const Tensor& x, std::int64_t r, std::int64_t c) {
    const Tensor full = batch_of(x) == batch ? x : broadcast_to(x, with_batch(batch, r, c));
    return full.rank() == 3 ? full : reshape(full, {batch.count(), r, c});
  };
  return reshape(product(folded(a_in, m, k), folded(b_in, k, n)), result);
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& lengths) {
  return rows_product("linear", x, weight, bias, lengths, nullptr);
}

Tensor linear_gelu_tanh(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const char* op = "linear_gelu_tanh";
  check_operand(op, "x", x);
  check_operand(op, "bias", bias, &x);
  if (!gemm_by_library(x.device())) return bias_gelu_tanh(rows_product(op, x, weight, {}, {}, nullptr), bias);
  Tensor y;
  const Tensor sum = rows_product(op, x, weight, bias, {}, &y);
  note_gelu_tanh(sum, bias, y);
  return y;
}

}  // namespace adjoint
