// Results depend on no function of the C library that rounds differently from version to version: what the product
// computes with, it has itself (kernels/base/real_math.h, kernels/cpu/simd_math.h). Square roots are exact.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <string>
#include <vector>

#include "tests/support/paths.h"

namespace {

namespace fs = std::filesystem;

const std::regex kCall(
    R"re(std::(exp|exp2|expm1|log|log2|log10|log1p|pow|sin|cos|tan|asin|acos|atan|atan2|sinh|cosh|tanh|erf|erfc|cbrt|hypot)f?\()re");

/// Where it may be called, and why.
const std::map<std::string, std::string> kExceptions{
    {"engine/ops/pointwise.cpp", "the oracle that the kernels are tested against"},
    {"apps/common/sweep_page.cpp", "places of a drawing's marks"},
};

struct Call {
  std::string place, text;
};

/// Calls of std::log( and the like. Plain log( is another function of that name: the CPU kernels' own.
std::vector<Call> calls(const fs::path& root, const std::vector<std::string>& folders) {
  std::vector<Call> found;
  for (const std::string& folder : folders) {
    if (!fs::exists(root / folder)) continue;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".h" && extension != ".cpp") continue;
      const std::string name = fs::relative(entry.path(), root).string();
      if (kExceptions.count(name) > 0) continue;
      std::ifstream in(entry.path());
      int number = 0;
      for (std::string line; std::getline(in, line);) {
        ++number;
        line = line.substr(0, line.find("//"));
        std::smatch match;
        if (std::regex_search(line, match, kCall)) found.push_back({name + ":" + std::to_string(number), match[0]});
      }
    }
  }
  return found;
}

TEST(Libm, Is_not_called_where_results_depend_on_it) {
  const fs::path root = adjoint::testing_support::source_dir();
  for (const Call& call : calls(root, {"kernels/base", "kernels/cpu", "engine", "models", "data", "apps"}))
    ADD_FAILURE() << call.place << ": " << call.text << "…); expected a function of kernels/base/real_math.h";
  for (const auto& [file, reason] : kExceptions) EXPECT_TRUE(fs::exists(root / file)) << file << ": " << reason;
}

TEST(Libm, Is_found_where_it_is_called) {
  const fs::path root = fs::temp_directory_path() / "adjoint_libm_test";
  fs::create_directories(root / "engine");
  std::ofstream(root / "engine" / "bad.cpp") << "// std::exp(1)\ndouble f(double x) { return std::exp(x); }\n";
  const std::vector<Call> found = calls(root, {"engine"});
  fs::remove_all(root);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].place, "engine/bad.cpp:2");
}

}  // namespace
