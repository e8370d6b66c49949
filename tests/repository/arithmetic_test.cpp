// What the compiler was told about arithmetic, and what it made of it: nothing is fused that the source does not fuse,
// what the source fuses is, and no level of processor leaves code of its own where another would run it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/paths.h"

namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

fs::path build_folder() { return fs::path(adjoint::testing_support::program_dir()).parent_path(); }

/// What a command prints; empty if it fails.
std::string output_of(const std::string& command) {
  FILE* const pipe = popen((command + " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return "";
  std::string text;
  std::array<char, 1 << 16> part;
  while (const std::size_t n = std::fread(part.data(), 1, part.size(), pipe)) text.append(part.data(), n);
  return pclose(pipe) == 0 ? text : "";
}

int count(const std::string& text, const std::string& what) {
  int n = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

/// Sources of the product below a folder of the project.
bool is_product(const std::string& file) {
  const std::string root = adjoint::testing_support::source_dir() + "/";
  if (!file.starts_with(root)) return false;
  const std::string folder = file.substr(root.size(), file.find('/', root.size()) - root.size());
  return std::set<std::string>{"kernels", "engine", "models", "data", "apps"}.count(folder) > 0;
}

/// Complaints about the commands that compile the product.
std::vector<std::string> complaints(const nlohmann::json& commands) {
  std::vector<std::string> found;
  std::map<std::string, std::set<std::string>> levels;
  const std::regex level("-march=(x86-64-v[0-9])");
  for (const auto& entry : commands) {
    const std::string file = entry["file"], command = entry["command"];
    const bool unity = file.find("/Unity/") != std::string::npos;  // of any folder
    if (file.ends_with(".cu") || command.find("/tests/") != std::string::npos || !(unity || is_product(file))) continue;
    if (command.find("-ffp-contract=off") == std::string::npos) found.push_back(file + ": lacks -ffp-contract=off");
    for (const char* flag : {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-fassociative-math",
                             "-freciprocal-math", "-ffp-contract=fast"})
      if (command.find(flag) != std::string::npos) found.push_back(file + ": has " + flag);
    std::smatch match;
    if (std::regex_search(command, match, level)) {
      if (file.find("/kernels/cpu/") == std::string::npos) found.push_back(file + ": is compiled for a level");
      if (!levels[file].insert(match[1]).second) found.push_back(file + ": is compiled twice for a level");
    }
  }
#if defined(__x86_64__)
  for (const auto& [file, compiled] : levels)
    if (compiled.size() != 3) found.push_back(file + ": is not compiled for all three levels");
  if (levels.empty()) found.push_back("no source is compiled for a level");
#endif
  return found;
}

TEST(Arithmetic, Is_what_the_source_states_in_every_compile_command) {
  std::ifstream in(build_folder() / "compile_commands.json");
  if (!in) GTEST_SKIP() << "no compile_commands.json; configure with a preset";
  const nlohmann::json commands = nlohmann::json::parse(in);
  EXPECT_GT(commands.size(), 50u);
  for (const std::string& complaint : complaints(commands)) ADD_FAILURE() << complaint;
}

TEST(Arithmetic, Complains_of_commands_that_leave_it_to_the_compiler) {
  const std::string source = adjoint::testing_support::source_dir() + "/kernels/cpu/softmax.cpp";
  const auto entry = [&](const char* flags) { return nlohmann::json{{"file", source}, {"command", flags}}; };
  EXPECT_FALSE(complaints(nlohmann::json::array({entry("c++ -march=x86-64-v3")})).empty());
  EXPECT_FALSE(
      complaints(nlohmann::json::array({entry("c++ -ffp-contract=off -ffast-math -march=x86-64-v3")})).empty());
  EXPECT_FALSE(complaints(nlohmann::json::array({entry("c++ -ffp-contract=off -march=x86-64-v3")})).empty())
      << "two levels are missing";
}

#if defined(__x86_64__)

struct LevelObject {
  const char* name;
  const char* tile;         ///< part of the mangled name of the f32 tile that large products use
  const char* instruction;  ///< in its loop; null: none is fused
  const char* registers;
  int fused;

  friend void PrintTo(const LevelObject& level, std::ostream* out) { *out << level.name; }
};
constexpr LevelObject kLevels[] = {{"x86_64_v4", "packed_tileIfLi14ELi2E", "vfmadd", "zmm", 28},
                                   {"x86_64_v3", "packed_tileIfLi6ELi1E", "vfmadd", "ymm", 12},
                                   {"x86_64_v2", "packed_tileIfLi2ELi1E", nullptr, "xmm", 0}};

class OfLevel : public ::testing::TestWithParam<LevelObject> {
 protected:
  std::string object() const {
    return (build_folder() / "kernels" / ("kernels_" + std::string(GetParam().name) + ".o")).string();
  }
  /// The instructions of the first function whose mangled name has that part.
  std::string disassembly(const std::string& part) const {
    std::istringstream symbols(output_of("nm " + object()));
    for (std::string line; std::getline(symbols, line);)
      if (line.find(part) != std::string::npos && line.find('.') == std::string::npos)
        return output_of("objdump -d --no-show-raw-insn --disassemble=" + line.substr(line.rfind(' ') + 1) + " " +
                         object());
    return "";
  }
};

TEST_P(OfLevel, Products_fuse_what_they_state_in_registers_of_the_level) {
  if (output_of("objdump --version").empty()) GTEST_SKIP() << "no objdump (binutils)";
  const std::string code = disassembly(GetParam().tile);
  ASSERT_FALSE(code.empty()) << "no tile " << GetParam().tile << " in " << object();
  EXPECT_THAT(code, HasSubstr(GetParam().registers));
  if (GetParam().instruction != nullptr) {
    EXPECT_GE(count(code, GetParam().instruction), GetParam().fused);
  } else {
    EXPECT_THAT(code, Not(HasSubstr("vfm")));
    EXPECT_THAT(code, Not(HasSubstr("ymm")));
  }
}

TEST_P(OfLevel, The_whole_object_has_no_wider_or_fused_instruction_than_the_level) {
  if (output_of("objdump --version").empty()) GTEST_SKIP() << "no objdump (binutils)";
  const std::string code = output_of("objdump -d --no-show-raw-insn " + object());
  ASSERT_GT(code.size(), 100'000u);
  if (GetParam().registers != std::string("zmm")) {
    EXPECT_EQ(count(code, "%zmm"), 0);
  }
  if (GetParam().registers == std::string("xmm")) {
    EXPECT_EQ(count(code, "%ymm"), 0);
    EXPECT_EQ(count(code, "vfm") + count(code, "vfnm"), 0);
  }
}

/// Names that a linker would share with other objects, outside of the level's namespace.
std::vector<std::string> shared_names(const std::string& object, const std::string& level) {
  std::vector<std::string> found;
  std::istringstream symbols(output_of("nm --defined-only " + object));
  for (std::string line; std::getline(symbols, line);) {
    const std::size_t at = line.rfind(' ');
    const char kind = at > 0 ? line[at - 1] : '?';
    const std::string name = line.substr(at + 1);
    const bool shared = (kind >= 'A' && kind <= 'Z') || kind == 'u';
    const std::string own = "N7adjoint3cpu" + std::to_string(level.size()) + level;  // mangled
    if (shared && !name.starts_with("_Z" + own) && !name.starts_with("_ZZ" + own)) found.push_back(name);
  }
  return found;
}

TEST_P(OfLevel, No_name_but_the_levels_own_is_visible_to_the_linker) {
  if (output_of("nm --version").empty()) GTEST_SKIP() << "no nm (binutils)";
  ASSERT_TRUE(fs::exists(object())) << object();
  EXPECT_THAT(shared_names(object(), GetParam().name), ::testing::IsEmpty());
  // Before the names are taken away, sources do share some: the check above can fail.
  const fs::path raw = build_folder() / "kernels" / "CMakeFiles" /
                       ("adjoint_kernels_" + std::string(GetParam().name) + ".dir") / "cpu" / "embedding.cpp.o";
  if (fs::exists(raw)) {
    EXPECT_THAT(shared_names(raw.string(), GetParam().name), Not(::testing::IsEmpty()));
  }
}

INSTANTIATE_TEST_SUITE_P(Arithmetic, OfLevel, ::testing::ValuesIn(kLevels),
                         [](const auto& info) { return info.param.name; });
#endif

}  // namespace
