#include "kernels/embedding.h"

#include <algorithm>

#include "engine/op_support.h"

namespace adjoint {
namespace {

struct EmbeddingGradient {
  Saved ids;
  std::int64_t tokens, rows, width, padding;
  DType dtype;

  void backward(const Gradients& g) const {
    const RowGradOut table = g.into_rows(0);
    launch(g.device(), EmbeddingBackward{.dtype = dtype,
                                         .tokens = tokens,
                                         .rows = rows,
                                         .width = width,
                                         .padding_row = padding,
                                         .ids = static_cast<const std::int32_t*>(ids.data("embedding")),
                                         .dy = g.incoming(),
                                         .dtable = table.gradient,
                                         .touched = table.rows});
  }
};

Tensor ints(const std::vector<std::int32_t>& values, const Shape& shape) {
  return Tensor::from(std::span<const std::int32_t>(values), shape);
}

/// The table's rows, picked on the host; differentiable through slices and a concatenation.
Tensor composite(const Tensor& ids, const Tensor& table, std::int64_t padding) {
  std::vector<Tensor> rows;
  for (const std::int32_t id : ids.to_ints()) {
    const Tensor source = id == padding ? table.detached() : table;
    rows.push_back(slice(source, 0, id, id + 1));
  }
  std::vector<std::int64_t> shape(ids.shape().data(), ids.shape().data() + ids.rank());
  shape.push_back(table.extent(1));
  return reshape(concat(rows, 0), shape);
}

std::vector<OpSample> samples(Generator& random) {
  const auto sample = [&](const char* label, const Tensor& ids, const Shape& table, std::int64_t padding) {
    return OpSample{.label = label,
                    .inputs = {ids, random.normal(table, 0, 1, DType::f64)},
                    .run = [padding](auto in) { return Tensors{embedding(in[0], in[1], padding)}; },
                    .reference = [padding](auto in) { return Tensors{composite(in[0], in[1], padding)}; },
                    .bytes = 8.0 * static_cast<double>(ids.count() * table.back()),
                    .doubles_exactly = false};
  };
  return {sample("a batch with repeated ids", ints({4, 1, 1, 0, 4, 4}, {2, 3}), {5, 3}, -1),
          sample("one id", ints({2}, {1}), {3, 33}, -1),
          sample("with a padding row that no id names", ints({1, 2, 1, 1, 2}, {5}), {3, 17}, 0)};
}

const OpRegistration registration{
    {.name = "embedding", .samples = samples, .bad_inputs = [] {
       const auto table = [](const Shape& s) { return Tensor::zeros(s); };
       return std::vector<BadInput>{
           {"id too large",
            [=] {
              embedding(ints({0, 1, 2, 11}, {2, 2}), table({10, 4}));
            },
            "E-OP-010: embedding: example 1, position 1: index 11, table has 10 rows"},
           {"negative id",
            [=] {
              embedding(ints({-1}, {1}), table({10, 4}));
            },
            "E-OP-010.*index -1.*10 rows"},
           {"float ids",
            [=] {
              embedding(table({2}), table({10, 4}));
            },
            "E-OP-006.*ids is f32; expected i32"},
           {"table of rank 1", [=] { embedding(ints({0}, {1}), table({10})); }, "E-OP-002.*table.*\\[10\\]"},
           {"padding row",
            [=] {
              embedding(ints({0}, {1}), table({10, 4}), 10);
            },
            "E-OP-009.*padding.*10.*-1..9"}};
     }}};

}  // namespace

Tensor embedding(const Tensor& ids_in, const Tensor& table_in, std::int64_t padding) {
  check_operand("embedding", "table", table_in);
  check_ints("embedding", "ids", ids_in, table_in);
  ADJOINT_OP_CHECK(table_in.rank() == 2, "E-OP-002",
                   fmt::format("embedding: table has shape {}; expected [rows,width]", text(table_in.shape())));
  ADJOINT_OP_CHECK(
      padding >= -1 && padding < table_in.extent(0), "E-OP-009",
      fmt::format("embedding: padding row {} is out of range; expected -1..{}", padding, table_in.extent(0) - 1));
  const Tensor ids = dense(ids_in), table = dense(table_in);
  const std::int64_t tokens = ids.count(), rows = table.extent(0), width = table.extent(1);
  Shape shape = ids.shape();
  shape.append(width);
  Tensor y = Tensor::empty(shape, table.dtype(), table.device());
  launch(table.device(),
         EmbeddingForward{.dtype = table.dtype(),
                          .tokens = tokens,
                          .rows = rows,
                          .width = width,
                          .ids_per_example = ids.rank() >= 1 ? std::max<std::int64_t>(ids.extent(-1), 1) : 1,
                          .ids = ids.data_as<std::int32_t>(),
                          .table = table.data(),
                          .y = y.data()});
  if (Tape* tape = Tape::recording({&table}))
    tape->add({&table}, {&y}, EmbeddingGradient{Saved(ids), tokens, rows, width, padding, table.dtype()});
  return y;
}

}  // namespace adjoint
