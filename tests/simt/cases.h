#pragma once
// The self-test kernels on inputs that expose them, against naive double references.

#include <cstddef>
#include <stdexcept>
#include <vector>

#include "tests/simt/kernels/bug.cuh"
#include "tests/simt/values.h"

namespace adjoint::simt::self_test {

/// A result differs from the reference.
class WrongValue : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Case {
  const char* kernel;
  const char* bug_name;
  Bug bug;
  void (*run)();  // throws WrongValue or Fault
};

/// The kernels' cases: one for each kernel without a bug, one for each planted bug.
std::vector<Case> row_cases();     // layer norm, LSTM cell, cross entropy, tree sum
std::vector<Case> matrix_cases();  // attention, GEMM
std::vector<Case> all_cases();

/// Throws WrongValue unless |got - want| <= tolerance (1 + |want|) everywhere. Kernels sum in f32 and the references in
/// double: 1e-5 is about 100 roundings of f32, more than any of these sums accumulates, and 1000 times below what a
/// dropped or doubled term changes.
void expect_close(const char* what, const std::vector<float>& got, const std::vector<double>& want,
                  double tolerance = 1e-5);

}  // namespace adjoint::simt::self_test
