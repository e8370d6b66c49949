// Who may include whom. The folders are layers; an include against their order fails here, with file and line.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/paths.h"

namespace {

namespace fs = std::filesystem;

const std::map<std::string, std::set<std::string>> kAllowed{
    {"kernels", {"kernels"}},
    {"engine", {"engine", "kernels"}},
    {"models", {"models", "engine"}},
    {"data", {"data"}},
    {"apps", {"apps", "engine", "models", "data"}},
};

/// Where a layer sees no more of another than this.
bool allowed(const std::string& from, const std::string& path) {
  const std::string to = path.substr(0, path.find('/'));
  // The project's errors, types and mathematical functions.
  for (const char* common : {"kernels/base/error.h", "kernels/base/dtype.h", "kernels/base/real_math.h"})
    if (path == common) return true;
  if (kAllowed.at(from).count(to) == 0) return false;
  if (from == "engine" && to == "kernels") {
    // Contracts, and the thread pool's handle behind launch; never an implementation.
    return path.ends_with(".h") && (path.find("/cuda/") == std::string::npos) &&
           (path.find("/simt/") == std::string::npos);
  }
  return true;
}

struct Breach {
  std::string place, include;
};

std::vector<Breach> breaches(const fs::path& root) {
  const std::regex include(R"re(^\s*#\s*include\s*"([^"]+)")re");
  std::vector<Breach> found;
  for (const auto& [folder, unused] : kAllowed) {
    if (!fs::exists(root / folder)) continue;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh") continue;
      std::ifstream in(entry.path());
      int number = 0;
      for (std::string line; std::getline(in, line);) {
        ++number;
        std::smatch match;
        if (!std::regex_search(line, match, include) || allowed(folder, match[1])) continue;
        found.push_back({fs::relative(entry.path(), root).string() + ":" + std::to_string(number), match[1]});
      }
    }
  }
  return found;
}

TEST(Includes, Respect_the_layers) {
  for (const Breach& breach : breaches(adjoint::testing_support::source_dir()))
    ADD_FAILURE() << breach.place << " includes " << breach.include << ", which its folder must not know";
}

TEST(Includes, A_breach_is_found) {
  const fs::path root = fs::path(::testing::TempDir()) / "adjoint_includes";
  fs::create_directories(root / "kernels" / "cpu");
  fs::create_directories(root / "models");
  std::ofstream(root / "kernels" / "cpu" / "bad.cpp") << "// a kernel\n#include \"engine/tensor.h\"\n";
  std::ofstream(root / "models" / "bad.h") << "  #  include \"kernels/matmul.h\"\n";
  std::ofstream(root / "models" / "good.h") << "#include \"engine/ops.h\"\n";
  const std::vector<Breach> found = breaches(root);
  fs::remove_all(root);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].place, "kernels/cpu/bad.cpp:2");
  EXPECT_EQ(found[1].place, "models/bad.h:1");
}

/// Every tensor function declared on the page of ops has a record under its name, so that no op escapes the sweep.
TEST(Coverage, Every_public_op_has_a_record) {
  std::ifstream page(fs::path(adjoint::testing_support::source_dir()) / "engine" / "ops.h");
  std::set<std::string> declared;
  const std::regex declaration(R"(^(?:Tensor|SumAndNorm|LstmResult) ([a-z_0-9]+)\()");
  for (std::string line; std::getline(page, line);) {
    std::smatch match;
    if (std::regex_search(line, match, declaration) && match[1] != "name") declared.insert(match[1]);
  }
  EXPECT_GE(declared.size(), 20u);
  std::set<std::string> recorded;
  const std::regex record(R"re((?:\.name = |record\()"([a-z_0-9]+)")re");
  for (const fs::directory_entry& entry :
       fs::directory_iterator(fs::path(adjoint::testing_support::source_dir()) / "engine" / "ops")) {
    std::stringstream text;
    text << std::ifstream(entry.path()).rdbuf();
    const std::string s = text.str();
    for (std::sregex_iterator i(s.begin(), s.end(), record), end; i != end; ++i) recorded.insert((*i)[1]);
  }
  for (const std::string& op : declared) EXPECT_TRUE(recorded.count(op)) << op << " has no OpRecord";
}

std::string text_of(const fs::path& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(Readme, Shows_the_program_that_is_tested) {
  const std::string readme = text_of(fs::path(adjoint::testing_support::source_dir()) / "README.md");
  const std::string program =
      text_of(fs::path(adjoint::testing_support::source_dir()) / "tests" / "example" / "main.cpp");
  const std::size_t begin = readme.find("```cpp\n") + 7, end = readme.find("```", begin);
  ASSERT_NE(end, std::string::npos);
  EXPECT_EQ(program.substr(program.find('\n') + 1), readme.substr(begin, end - begin));
}

}  // namespace
