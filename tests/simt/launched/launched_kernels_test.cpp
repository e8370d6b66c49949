// Whether the tests launch every kernel that ships, in every instance. The other tests of the plain build run before
// this one and leave a list of what they launched; the programs' symbols are what there is.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace adjoint::simt {
namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

/// Names of the functions that are declared `__global__ void … name(`.
Names kernels_in(const std::string& source) {
  Names names;
  const std::string start = "__global__ void";
  for (std::size_t at = source.find(start); at != std::string::npos; at = source.find(start, at)) {
    at += start.size();
    // The bounds have parentheses of their own; the name is the word before the others.
    if (const std::size_t bounds = source.find_first_not_of(" \n", at);
        source.compare(bounds, 17, "__launch_bounds__") == 0) {
      at = source.find('(', bounds);
      for (int depth = 0; at < source.size(); ++at) {
        if (source[at] == '(') ++depth;
        if (source[at] == ')' && --depth == 0) break;
      }
      ++at;
    }
    const std::size_t begin = source.find_first_not_of(" \n", at);
    names.insert(source.substr(begin, source.find('(', begin) - begin));
  }
  return names;
}

Names shipped_kernels() {
  Names names;
  for (const auto& entry : fs::directory_iterator(ADJOINT_SOURCE_DIR "/kernels/cuda")) {
    if (entry.path().extension() != ".cu" && entry.path().extension() != ".cuh") continue;
    std::ifstream in(entry.path());
    names.merge(kernels_in({std::istreambuf_iterator<char>(in), {}}));
  }
  return names;
}

/// "gather<float, 4>(long)" of "void adjoint::simt::(anonymous namespace)::gather<float, 4>(long)"; "" of what is no
/// kernel of these names. Parameters tell kernels of one name apart.
std::string instance(std::string symbol, const Names& kernels) {
  const auto drop = [&](const std::string& noise) {
    for (std::size_t at = symbol.find(noise); at != std::string::npos; at = symbol.find(noise, at))
      symbol.erase(at, noise.size());
  };
  if (symbol.starts_with("void ")) symbol.erase(0, 5);
  if (!symbol.starts_with("adjoint::simt::")) return "";
  for (const char* noise : {"(anonymous namespace)::", "adjoint::simt::", "adjoint::"}) drop(noise);
  if (symbol.find("[clone") != std::string::npos) return "";
  const std::string name = symbol.substr(0, symbol.find_first_of("<("));
  if (name.find("self_test") != std::string::npos || name.find(' ') != std::string::npos) return "";
  if (!kernels.contains(name.substr(name.rfind(':') + 1))) return "";  // npos + 1 is 0
  return symbol;
}

/// The kernels' instances in a program, by their place in it.
std::multimap<std::size_t, std::string> instances_in(const std::string& program, const Names& kernels) {
  std::multimap<std::size_t, std::string> found;
  FILE* const pipe = popen((ADJOINT_NM " -C --defined-only " + program).c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("popen failed");
  std::array<char, 16384> line;
  while (std::fgets(line.data(), line.size(), pipe) != nullptr) {
    const std::string text(line.data());
    if (text.size() < 20 || std::string("tTwW").find(text[17]) == std::string::npos) continue;
    const std::string name = instance(text.substr(19, text.find('\n') - 19), kernels);
    if (!name.empty()) found.emplace(std::stoull(text.substr(0, 16), nullptr, 16), name);
  }
  pclose(pipe);
  return found;
}

TEST(LaunchedKernels, Are_all_that_ship) {
  const Names kernels = shipped_kernels();
  ASSERT_GE(kernels.size(), 40u);
  std::map<std::string, std::set<std::size_t>> launched;  // by program and time, as the executor writes them
  {
    std::ifstream in(ADJOINT_LAUNCHED);
    ASSERT_TRUE(in) << ADJOINT_LAUNCHED << " is not there; run this test with ctest, after those that it needs";
    std::string program, time, place;
    while (in >> program >> time >> place) launched[program + " " + time].insert(std::stoull(place, nullptr, 16));
  }
  Names all, done;
  for (const char* program : {"simt_tests", "simt_contract_tests", "simt_engine_tests"}) {
    const std::string path = std::string(ADJOINT_PROGRAMS "/") + program;
    const std::set<std::size_t>& places =
        launched[path + " " + std::to_string(fs::last_write_time(path).time_since_epoch().count())];
    EXPECT_FALSE(places.empty()) << program << " launched nothing";
    for (const auto& [place, name] : instances_in(path, kernels)) {
      all.insert(name);
      if (places.contains(place)) done.insert(name);
    }
  }
  EXPECT_GE(all.size(), kernels.size());
  std::printf("%zu kernels, %zu instances\n", kernels.size(), all.size());
  std::vector<std::string> never;
  std::set_difference(all.begin(), all.end(), done.begin(), done.end(), std::back_inserter(never));
  EXPECT_THAT(never, ::testing::IsEmpty());
  fs::remove(ADJOINT_LAUNCHED);
}

TEST(LaunchedKernels, Are_known_by_their_names) {
  EXPECT_THAT(kernels_in("__global__ void one(int a) {}\ntemplate <class T>\n"
                         "__global__ void __launch_bounds__(kT, f(2) ? 1 : 2)\n    two(T* x);"),
              ::testing::ElementsAre("one", "two"));
  const Names kernels{"gather", "list_rows"};
  EXPECT_EQ(
      instance("void adjoint::simt::(anonymous namespace)::gather<adjoint::bf16, 4>(long, adjoint::bf16*)", kernels),
      "gather<bf16, 4>(long, bf16*)");
  EXPECT_EQ(instance("adjoint::simt::(anonymous namespace)::list_rows(long)", kernels), "list_rows(long)");
  EXPECT_EQ(instance("adjoint::simt::self_test::gather(long)", kernels), "");
  EXPECT_EQ(instance("std::_Function_handler<void (), gather>::_M_invoke()", kernels), "");
  EXPECT_EQ(instance("adjoint::cpu::gather<float>(long)", kernels), "");
  EXPECT_EQ(instance("adjoint::simt::scatter(long)", kernels), "");
}

}  // namespace
}  // namespace adjoint::simt
