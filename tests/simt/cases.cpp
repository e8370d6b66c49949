#include "tests/simt/cases.h"

#include <cmath>
#include <string>

namespace adjoint::simt::self_test {

std::vector<Case> all_cases() {
  std::vector<Case> cases = row_cases();
  for (const Case& c : matrix_cases()) cases.push_back(c);
  return cases;
}

void expect_close(const char* what, const std::vector<float>& got, const std::vector<double>& want, double tolerance) {
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (std::isinf(want[i]) && static_cast<double>(got[i]) == want[i]) continue;
    double error = std::abs(got[i] - want[i]) / (1 + std::abs(want[i]));
    if (!(error <= tolerance)) {
      throw WrongValue(std::string(what) + "[" + std::to_string(i) + "] is " + std::to_string(got[i]) + ", expected " +
                       std::to_string(want[i]) + "; error " + std::to_string(error / tolerance) +
                       " times the tolerance");
    }
  }
}

}  // namespace adjoint::simt::self_test
