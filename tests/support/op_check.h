#pragma once
// Checks of one op sample: its gradient against finite differences, and faults to prove that the check can fail.

#include <string>
#include <vector>

#include "engine/op_record.h"

namespace adjoint::testing {

/// A name for the parameter of a test suite.
std::string test_name(const OpRecord& record);

/// Samples of an op, always the same ones.
std::vector<OpSample> samples_of(const OpRecord& record);

/// Indices of the inputs whose gradient is checked.
std::vector<int> differentiable_inputs(const OpSample& sample);

/// Float inputs in another dtype; integers as they are.
Tensors convert(const Tensors& inputs, DType dtype);

/// Sets all float outputs' gradients to `cotangents` (one per output) and returns the inputs' gradients.
/// Integer outputs have no cotangent: pass an undefined tensor.
using GradientFunction = std::function<Tensors(const OpSample&, const Tensors& inputs, const Tensors& cotangents)>;
Tensors tape_gradients(const OpSample& sample, const Tensors& inputs, const Tensors& cotangents);

/// Random cotangents for a sample's outputs; f64 normal numbers rounded to `dtype`.
Tensors random_cotangents(const Tensors& outputs, std::uint64_t seed);

/// Compares `gradients` with central differences in f64: the whole Jacobian where it has at most 200,000 elements
/// (|numeric - analytic| <= 1e-8 max|J| + 1e-10), and for any size <u, J'v> = <J u, v> in 8 random directions at 1e-7.
/// One direction and no Jacobian where the environment has ADJOINT_TESTS_WATCH_MEMORY: builds that watch memory.
/// Returns what differs, empty if nothing does.
std::string check_gradient(const OpSample& sample, const GradientFunction& gradients);

/// What a wrong backward might do. Each turns a correct gradient function into a faulty one.
struct Fault {
  std::string name;
  /// Whether the fault changes anything for this sample (a transposed scalar is no fault).
  std::function<bool(const OpSample&, int input)> applies;
  std::function<GradientFunction(GradientFunction, int input)> plant;
};
std::vector<Fault> faults();

/// "": equal bits; else where they differ first.
std::string difference_in_bits(const Tensor& a, const Tensor& b);

}  // namespace adjoint::testing
