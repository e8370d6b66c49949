#pragma once
// Every op's record: what tests and benchmarks need to know about it. They iterate the registry and never name an op.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/generator.h"
#include "engine/tensor.h"

namespace adjoint {

using Tensors = std::vector<Tensor>;
using TensorFunction = std::function<Tensors(std::span<const Tensor>)>;

/// One use of an op on small tensors. Inputs are f64 (or i32) on the CPU; the tests convert them to other dtypes,
/// layouts and devices, so `run` must take whatever it is given.
struct OpSample {
  std::string label;
  Tensors inputs;
  TensorFunction run;
  /// The same result from plainer ops or host loops: the oracle. Gets the same inputs (also in other dtypes).
  TensorFunction reference;
  /// Inputs whose gradient is checked; empty: every float input.
  std::vector<int> differentiable = {};
  /// What the op costs: floating-point operations and bytes that must move (for f32); 0: not stated.
  double flops = 0;
  double bytes = 0;
  /// False for a sample that is only forward (a result that is not differentiable at these inputs).
  bool check_gradient = true;
  /// False if one input's gradient has several terms that are added one by one: then twice is double only up to
  /// rounding.
  bool doubles_exactly = true;
};

/// A call that must throw before anything is allocated or launched.
struct BadInput {
  std::string label;
  std::function<void()> run;
  std::string message;  ///< POSIX extended expression that code and message ("E-OP-001: …") must match
};

struct OpRecord {
  std::string name;
  std::function<std::vector<OpSample>(Generator&)> samples;
  std::function<std::vector<BadInput>()> bad_inputs;
  bool differentiable = true;
};

/// All records, sorted by name.
std::vector<const OpRecord*> op_records();

/// Registers a record at start-up: `const OpRegistration registration{{.name = …}};` at the end of the op's file.
class OpRegistration {
 public:
  explicit OpRegistration(OpRecord record);
};

}  // namespace adjoint
