#include "models/layers.h"

#include <fmt/format.h>

#include <cmath>

namespace adjoint {
namespace {

void check_positive(const char* layer, const char* what, std::int64_t value) {
  ADJOINT_CHECK(value >= 1, "E-CONF-003", Exit::usage,
                fmt::format("{}: {} is {}; expected an integer of at least 1", layer, what, value));
}

}  // namespace

Linear::Linear(const Initializer& init, std::int64_t in, std::int64_t out, bool bias) {
  check_positive("linear", "input width", in);
  check_positive("linear", "output width", out);
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  weight_.set(init.uniform({out, in}, bound));
  add("weight", weight_);
  if (bias) {
    bias_.set(init.uniform({out}, bound));
    add("bias", bias_);
  }
}

Tensor Linear::forward(const Tensor& x, const Tensor& lengths) const {
  const auto name = scope();
  return linear(x, weight_, bias_, lengths);
}

Embedding::Embedding(const Initializer& init, std::int64_t rows, std::int64_t width, std::int64_t padding)
    : padding_(padding) {
  check_positive("embedding", "number of rows", rows);
  check_positive("embedding", "width", width);
  const Tensor table = init.random.normal({rows, width}, 0.0, 1.0, init.dtype);
  if (padding >= 0) {
    const Tensor row = slice(table, 0, padding, padding + 1);
    Tensor(row).copy_from(Tensor::zeros({1, width}, init.dtype, table.device()));
  }
  weight_.set(table);
  add("weight", weight_);
}

std::unique_ptr<Embedding> Embedding::one_hot(const Initializer& init, std::int64_t rows) {
  auto embedding = std::make_unique<Embedding>(init, rows, rows);
  std::vector<double> identity(static_cast<std::size_t>(rows * rows), 0.0);
  for (std::int64_t i = 0; i < rows; ++i) identity[static_cast<std::size_t>(i * rows + i)] = 1.0;
  embedding->weight_.set(
      Tensor::from(std::span<const double>(identity), {rows, rows}, init.dtype, init.random.device()));
  embedding->weight_.set_trainable(false);
  return embedding;
}

Tensor Embedding::forward(const Tensor& ids) const {
  const auto name = scope();
  return embedding(ids, weight_, padding_);
}

LayerNorm::LayerNorm(const Initializer& init, std::int64_t width, double eps) : eps_(eps) {
  check_positive("layer norm", "width", width);
  weight_.set(init.constant({width}, 1.0));
  bias_.set(init.constant({width}, 0.0));
  add("weight", weight_);
  add("bias", bias_);
}

Tensor LayerNorm::forward(const Tensor& x) const {
  const auto name = scope();
  return layer_norm(x, weight_, bias_, eps_);
}

SumAndNorm LayerNorm::forward(const Tensor& x, const Tensor& residual) const {
  const auto name = scope();
  return add_layer_norm(x, residual, weight_, bias_, eps_);
}

Lstm::Lstm(const Initializer& init, std::int64_t input, std::int64_t hidden, Options options)
    : hidden_(hidden), directions_(options.bidirectional ? 2 : 1), options_(options) {
  check_positive("lstm", "input width", input);
  check_positive("lstm", "hidden width", hidden);
  check_positive("lstm", "number of layers", options.layers);
  const double bound = 1.0 / std::sqrt(static_cast<double>(hidden));
  for (std::int64_t layer = 0; layer < options.layers; ++layer) {
    for (std::int64_t d = 0; d < directions_; ++d) {
      Direction& w = *weights_.emplace_back(std::make_unique<Direction>());
      const std::string suffix = fmt::format("_l{}{}", layer, d == 1 ? "_reverse" : "");
      w.w_ih.set(init.uniform({4 * hidden, layer == 0 ? input : hidden * directions_}, bound));
      w.w_hh.set(init.uniform({4 * hidden, hidden}, bound));
      w.b_ih.set(init.uniform({4 * hidden}, bound));
      w.b_hh.set(init.uniform({4 * hidden}, bound));
      add("weight_ih" + suffix, w.w_ih);
      add("weight_hh" + suffix, w.w_hh);
      add("bias_ih" + suffix, w.b_ih);
      add("bias_hh" + suffix, w.b_hh);
    }
  }
}

Lstm::Result Lstm::forward(const Tensor& x, const Tensor& lengths, const State& initial, Generator* random) const {
  const auto name = scope();
  ADJOINT_OP_CHECK(
      initial.h.size() == initial.c.size() && (initial.h.empty() || initial.h.size() == weights_.size()), "E-OP-013",
      fmt::format("lstm: initial state has {} and {} tensors; expected {}, one for each layer and direction",
                  initial.h.size(), initial.c.size(), weights_.size()));
  Result result{x, {}};
  for (std::size_t k = 0; k < weights_.size(); k += static_cast<std::size_t>(directions_)) {
    std::vector<Tensor> y;
    for (std::size_t d = k; d < k + static_cast<std::size_t>(directions_); ++d) {
      const Direction& w = *weights_[d];
      const LstmResult r = lstm(result.y, {w.w_ih, w.w_hh, w.b_ih, w.b_hh},
                                {.h0 = initial.h.empty() ? Tensor() : initial.h[d],
                                 .c0 = initial.c.empty() ? Tensor() : initial.c[d],
                                 .lengths = lengths,
                                 .reverse = d > k});
      y.push_back(r.y);
      result.state.h.push_back(r.h_n);
      result.state.c.push_back(r.c_n);
    }
    result.y = y.size() == 1 ? y[0] : concat(y, -1);
    const bool last = k + static_cast<std::size_t>(directions_) == weights_.size();
    if (!last && training() && options_.dropout > 0) {
      ADJOINT_OP_CHECK(random != nullptr, "E-OP-009",
                       fmt::format("lstm: dropout {} needs a generator in training", options_.dropout));
      result.y = dropout(result.y, options_.dropout, *random);
    }
  }
  return result;
}

}  // namespace adjoint
