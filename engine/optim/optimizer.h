#pragma once
// Optimizers. One call over a model's flat buffers; what changes between steps lies in device memory, so that a whole
// training step can be recorded and replayed.

#include <memory>
#include <vector>

#include "engine/parameter.h"

namespace adjoint {

/// Of a table with row-sparse gradients (Parameter::set_row_sparse) a step updates the rows that it has gradients for
/// and leaves all others as they are, moments and weight decay included: "lazy", as torch.optim.SparseAdam. The step
/// number in Adam's bias correction counts all steps.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Completes the gradients, clips them if a limit is set, updates the parameters, and clears the gradients.
  void step();
  /// Takes effect at the next step. Not while a step is recorded (it is read from memory at each replay).
  void set_learning_rate(double rate);
  double learning_rate() const { return rate_; }
  /// Norm of all gradients before clipping, as of the last step(); undefined without a clip limit.
  const Tensor& gradient_norm() const { return norm_; }
  /// Everything that step() changes, by name, for checkpoints and Step.
  std::vector<std::pair<std::string, Tensor>> state() const;

 protected:
  /// max_norm 0: no clipping.
  Optimizer(ParameterSet& parameters, double rate, double max_norm);
  /// Updates n elements of the flat buffers from `begin` on, or the listed rows of the table that begins there.
  virtual void update(const void* factor, std::int64_t begin, std::int64_t n, std::int64_t width,
                      const RowList& rows) = 0;
  /// Element `begin` of a flat buffer.
  static void* at(const Tensor& flat, std::int64_t begin);

  ParameterSet& parameters_;
  Tensor rate_value_;  // f64 []
  Tensor step_;        // i64 in u8[8]
  std::vector<std::pair<std::string, Tensor>> moments_;

 private:
  double rate_;
  double max_norm_;
  Tensor norm_;
  Tensor factor_;
  Tensor table_squares_;  // f64 [], zero between steps
};

struct SgdOptions {
  double learning_rate = 0.1;
  double momentum = 0.0;
  double weight_decay = 0.0;
  bool nesterov = false;
  double max_norm = 0.0;
};
class Sgd final : public Optimizer {
 public:
  Sgd(ParameterSet& parameters, const SgdOptions& options);

 private:
  void update(const void* factor, std::int64_t begin, std::int64_t n, std::int64_t width, const RowList& rows) override;
  SgdOptions options_;
};

struct AdamOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;
  bool decoupled = true;  ///< AdamW; false adds the decay to the gradient (Adam)
  double max_norm = 0.0;
};
class Adam final : public Optimizer {
 public:
  Adam(ParameterSet& parameters, const AdamOptions& options);

 private:
  void update(const void* factor, std::int64_t begin, std::int64_t n, std::int64_t width, const RowList& rows) override;
  AdamOptions options_;
};

/// A moving average of a model's parameters over its training steps, which judges better than the last ones.
class WeightAverage {
 public:
  /// decay in [0, 1): about 1 / (1 - decay) steps count. Starts from the parameters as they are.
  WeightAverage(ParameterSet& parameters, double decay);
  /// Starts again from the parameters as they are now.
  void restart();
  /// Takes the parameters of now into the average. After each step of the optimizer; may be recorded.
  void update();
  /// Exchanges the parameters and their average: once before what should see the average, once after.
  void swap();
  /// Everything that update() changes, by name.
  std::vector<std::pair<std::string, Tensor>> state() const;

 private:
  ParameterSet& parameters_;
  double decay_;
  Tensor average_;
  Tensor step_;
};

}  // namespace adjoint
