#pragma once
// Layers: parameters with a forward. Names and shapes are those of torch.nn, so files are exchangeable.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/generator.h"
#include "engine/module.h"
#include "engine/ops.h"

namespace adjoint {

/// How and where a layer makes its parameters.
struct Initializer {
  Generator& random;
  DType dtype = DType::f32;

  /// Uniform in ±bound.
  Tensor uniform(const Shape& shape, double bound) const { return random.uniform(shape, -bound, bound, dtype); }
  Tensor constant(const Shape& shape, double value) const { return Tensor::full(shape, value, dtype, random.device()); }
};

/// y = x weight' + bias. weight [out, in], bias [out], both uniform in ±1/sqrt(in).
class Linear final : public Module {
 public:
  Linear(const Initializer& init, std::int64_t in, std::int64_t out, bool bias = true);
  /// x [..., in]: [..., out]. lengths: see linear() in engine/ops.h.
  Tensor forward(const Tensor& x, const Tensor& lengths = {}) const;
  Parameter& weight() { return weight_; }
  Parameter& bias() { return bias_; }
  const Parameter& weight() const { return weight_; }
  const Parameter& bias() const { return bias_; }

 private:
  Parameter weight_;
  Parameter bias_;
};

/// Rows of a table. weight [rows, width], from N(0, 1).
class Embedding final : public Module {
 public:
  /// padding (-1: none): the row that stays zero.
  Embedding(const Initializer& init, std::int64_t rows, std::int64_t width, std::int64_t padding = -1);
  /// A frozen table in which row i is the i-th unit vector.
  static std::unique_ptr<Embedding> one_hot(const Initializer& init, std::int64_t rows);
  /// ids i32 [...]: [..., width].
  Tensor forward(const Tensor& ids) const;
  Parameter& weight() { return weight_; }

 private:
  Parameter weight_;
  std::int64_t padding_;
};

/// gamma and beta are called weight and bias, as in torch.
class LayerNorm final : public Module {
 public:
  LayerNorm(const Initializer& init, std::int64_t width, double eps = 1e-5);
  /// x [..., width].
  Tensor forward(const Tensor& x) const;
  /// The sum of x and a residual of the same shape, and its norm, in one call.
  SumAndNorm forward(const Tensor& x, const Tensor& residual) const;

 private:
  Parameter weight_;
  Parameter bias_;
  double eps_;
};

struct LstmLayerOptions {
  std::int64_t layers = 1;
  bool bidirectional = false;
  double dropout = 0.0;  ///< between layers, in training
};

/// torch.nn.LSTM with batch_first: weight_ih_l0 [4H, I], weight_hh_l0 [4H, H], bias_ih_l0, bias_hh_l0 [4H], "_reverse"
/// for the second direction; gates i, f, g, o; all uniform in ±1/sqrt(H). Layer k > 0 reads the states of both
/// directions.
class Lstm final : public Module {
 public:
  using Options = LstmLayerOptions;
  Lstm(const Initializer& init, std::int64_t input, std::int64_t hidden, Options options = {});

  struct State {
    std::vector<Tensor> h;  ///< [B, H] for each layer and direction, directions side by side
    std::vector<Tensor> c;
  };
  struct Result {
    Tensor y;  ///< [B, T, H], or [B, T, 2H]: forward states first; zeros at padded steps
    State state;
  };
  /// x [B, T, I]; lengths i32 [B] or undefined; an empty state means zeros. `random`: needed for dropout in training.
  Result forward(const Tensor& x, const Tensor& lengths = {}, const State& initial = {},
                 Generator* random = nullptr) const;

  std::int64_t hidden() const { return hidden_; }
  std::int64_t output_width() const { return hidden_ * directions_; }

 private:
  struct Direction {
    Parameter w_ih, w_hh, b_ih, b_hh;
  };
  std::int64_t hidden_;
  std::int64_t directions_;
  Options options_;
  std::vector<std::unique_ptr<Direction>> weights_;  // layer by layer, directions side by side
};

}  // namespace adjoint
