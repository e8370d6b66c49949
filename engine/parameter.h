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
  /// Of a table [rows, width] that only embedding() reads: gradients of steps reach few of its rows, and the optimizer
  /// then updates those alone (docs/decisions/0005). Before it joins a ParameterSet.
  void set_row_sparse(bool row_sparse);
  bool row_sparse() const { return row_sparse_; }

  /// The value, on the tape that records on this thread if any.
  Tensor value() const;
  operator Tensor() const { return value(); }
  const Shape& shape() const { return value_.shape(); }
  /// The gathered gradient; zeros before any backward.
  Tensor gradient() const;
  /// Sets the gradient to zero: the next backward assigns instead of adding.
  void clear_gradient();
  /// Writes the zeros of a cleared gradient that no backward has assigned since.
  void finish_gradient() const;

 private:
  friend class Tape;
  friend class Gradients;
  friend class ParameterSet;
  GradOut gradient_destination();
  RowGradOut row_gradient_destination();
  void make_row_gradient() const;
  RowList rows() const;

  Tensor value_;
  mutable Tensor gradient_;
  mutable bool cleared_ = true;
  bool trainable_ = true;
  bool row_sparse_ = false;
  mutable Tensor row_list_;  // u8: what RowList points to; of row-sparse ones, whose gradient is zero in all other rows
  mutable Tensor::TapeSlot slot_;
};

struct NamedParameter {
  std::string name;  ///< path from the root: "encoder.weight_ih_l0"
  Parameter* parameter;
};

/// The trainable parameters of a model, moved into one flat buffer for values and one for gradients, so that zeroing,
/// norm, clipping and the optimizer are one call each. Slices start at multiples of 64 bytes; the gaps stay zero.
/// Tables with row-sparse gradients come last, and are handled one by one.
class ParameterSet {
 public:
  /// Throws E-OP-006 if the trainable parameters differ in dtype or device, E-CONF-006 if there are none.
  explicit ParameterSet(Module& model);
  ParameterSet(const ParameterSet&) = delete;
  ParameterSet& operator=(const ParameterSet&) = delete;

  const std::vector<NamedParameter>& parameters() const { return parameters_; }
  /// Number of trainable elements, gaps not counted.
  std::int64_t count() const { return count_; }
  /// A table with row-sparse gradients: where it begins in the flat buffers, and the rows that have one now.
  struct Table {
    std::int64_t begin, width;
    RowList rows;
  };
  const std::vector<Table>& tables() const { return tables_; }
  /// Elements of the flat buffers before the first table.
  std::int64_t dense_extent() const { return dense_extent_; }
  const Tensor& values() const { return values_; }        ///< flat [n]
  const Tensor& gradients() const { return gradients_; }  ///< flat [n]
  void clear_gradients();
  void finish_gradients() const;

 private:
  std::vector<NamedParameter> parameters_;
  std::vector<Table> tables_;
  std::int64_t count_ = 0;
  std::int64_t dense_extent_ = 0;
  Tensor values_;
  Tensor gradients_;
};

}  // namespace adjoint
