#pragma once
// Trainable tensors, and the flat buffers that hold a model's.

#include <cstdint>
#include <string>
#include <vector>

#include "engine/tape.h"
#include "engine/tensor.h"

namespace adjoint {

class Module;

/// A tensor that training changes, and its gradient. Modules hold parameters by value; neither copies nor moves.
class Parameter {
 public:
  Parameter() = default;
  explicit Parameter(Tensor initial) { set(std::move(initial)); }
  Parameter(const Parameter&) = delete;
  Parameter& operator=(const Parameter&) = delete;

  /// Gives the parameter its (dense, float) tensor. Before it joins a ParameterSet.
  void set(Tensor initial);
  /// A parameter that is not trainable is a constant to tapes and optimizers, and is still saved with the model.
  void set_trainable(bool trainable) { trainable_ = trainable; }
  bool trainable() const { return trainable_; }

  /// The value, on the tape that records on this thread if any.
  Tensor value() const;
  operator Tensor() const { return value(); }
  const Shape& shape() const { return value_.shape(); }
  /// The gathered gradient; zeros before any backward.
  Tensor gradient() const;
  /// Sets the gradient to zero: the next backward assigns instead of adding.
  void clear_gradient() { cleared_ = true; }
  /// Writes the zeros of a cleared gradient that no backward has assigned since.
  void finish_gradient() const;

 private:
  friend class Tape;
  friend class ParameterSet;
  GradOut gradient_destination();

  Tensor value_;
  mutable Tensor gradient_;
  mutable bool cleared_ = true;
  bool trainable_ = true;
  mutable Tensor::TapeSlot slot_;
};

struct NamedParameter {
  std::string name;  ///< path from the root: "encoder.weight_ih_l0"
  Parameter* parameter;
};

/// The trainable parameters of a model, moved into one flat buffer for values and one for gradients, so that zeroing,
/// norm, clipping and the optimizer are one call each. Slices start at multiples of 64 bytes; the gaps stay zero.
class ParameterSet {
 public:
  /// Throws E-OP-006 if the trainable parameters differ in dtype or device, E-CONF-006 if there are none.
  explicit ParameterSet(Module& model);
  ParameterSet(const ParameterSet&) = delete;
  ParameterSet& operator=(const ParameterSet&) = delete;

  const std::vector<NamedParameter>& parameters() const { return parameters_; }
  /// Number of trainable elements, gaps not counted.
  std::int64_t count() const { return count_; }
  const Tensor& values() const { return values_; }        ///< flat [n]
  const Tensor& gradients() const { return gradients_; }  ///< flat [n]
  void clear_gradients();
  void finish_gradients() const;

 private:
  std::vector<NamedParameter> parameters_;
  std::int64_t count_ = 0;
  Tensor values_;
  Tensor gradients_;
};

}  // namespace adjoint
