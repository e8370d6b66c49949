// Bugs in the kernels that ship: planted/edits.txt lists changes of their sources. Each is made in a copy, compiled for
// the executor as a library, and loaded over the kernels of a test program, which must then fail and say why. So the
// tests are shown to see these bugs, and sources without any bug, or any macro for one, are what is compiled elsewhere.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace adjoint::simt {
namespace {

namespace fs = std::filesystem;
using Lines = std::vector<std::string>;

struct Edit {
  std::string name, file, source, program, filter, says;
  Lines before, after;
};

void PrintTo(const Edit& edit, std::ostream* out) { *out << edit.name; }

std::string trimmed(const std::string& line) {
  const std::size_t begin = line.find_first_not_of(" \t");
  return begin == std::string::npos ? "" : line.substr(begin, line.find_last_not_of(" \t\r") + 1 - begin);
}

Lines lines_of(const fs::path& path) {
  std::ifstream in(path);
  if (!in) throw std::runtime_error(path.string() + ": not there");
  Lines lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::vector<Edit> read_edits() {
  std::vector<Edit> edits;
  for (const std::string& line : lines_of(ADJOINT_SOURCE_DIR "/tests/simt/planted/edits.txt")) {
    std::istringstream words(line);
    std::string key, word;
    words >> key;
    if (key.empty() || key.starts_with('#')) continue;
    const std::string rest = trimmed(line.substr(line.find(key) + key.size()));
    if (key == "==") {
      edits.push_back({.name = rest});
      continue;
    }
    if (edits.empty()) throw std::runtime_error("edits.txt: a line before the first ==: " + line);
    Edit& edit = edits.back();
    if (key == "in") {
      words >> edit.file >> word >> edit.source;
      if (edit.source.empty()) edit.source = edit.file;
    } else if (key == "tests") {
      words >> edit.program >> edit.filter;
    } else if (key == "says") {
      edit.says = line.substr(line.find("says ") + 5);
    } else if (key == "-") {
      edit.before.push_back(rest);
    } else if (key == "+") {
      edit.after.push_back(rest);
    } else {
      throw std::runtime_error("edits.txt: neither key nor comment: " + line);
    }
  }
  return edits;
}

const std::vector<Edit>& edits() {
  static const std::vector<Edit> all = read_edits();
  return all;
}

/// The places where the lines stand one after another.
std::vector<std::size_t> places_of(const Lines& lines, const Lines& wanted) {
  std::vector<std::size_t> places;
  for (std::size_t at = 0; at + wanted.size() <= lines.size(); ++at) {
    bool same = true;
    for (std::size_t i = 0; i < wanted.size() && same; ++i) same = trimmed(lines[at + i]) == wanted[i];
    if (same) places.push_back(at);
  }
  return places;
}

struct Result {
  int exit = 0;
  std::string output;
};
Result run(const std::string& command) {
  FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("popen failed");
  Result result;
  std::array<char, 4096> buffer;
  for (std::size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) result.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  result.exit = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

/// What the kernels of that test program are compiled with, so far as it matters to who sees what; a few launches want
/// no optimisation.
std::string options_of(const std::string& program) {
  if (program == "simt_asan") return "-O0 -g1 -fsanitize=address";
  // The checker's calls are answered by the program, so the library is not linked with the sanitizer.
  if (program == "simt_check") return "-O0 -gdwarf-4 -g1 -fsanitize=thread -DADJOINT_SIMT_CHECKER=1";
  return "-O0";
}

class Work {
 public:
  Work() {
    std::string pattern = (fs::temp_directory_path() / "planted_edit_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = pattern;
  }
  ~Work() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// Runs the edit's tests with kernels from its source, with the edit or without.
Result run_tests(const Edit& edit, bool edited) {
  const Work work;
  fs::path source = fs::path(ADJOINT_SOURCE_DIR) / "kernels/cuda" / edit.source;
  if (edited) {
    const fs::path folder = work.path() / "kernels/cuda";
    fs::create_directories(folder);
    const Lines lines = lines_of(fs::path(ADJOINT_SOURCE_DIR) / "kernels/cuda" / edit.file);
    const std::vector<std::size_t> places = places_of(lines, edit.before);
    if (places.size() != 1)
      throw std::runtime_error(edit.file + " has the lines " + std::to_string(places.size()) +
                               " times; expected once; bring edits.txt up to date");
    std::ofstream out(folder / edit.file);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      if (i == places[0])
        for (const std::string& line : edit.after) out << line << '\n';
      if (i < places[0] || i >= places[0] + edit.before.size()) out << lines[i] << '\n';
    }
    out.close();
    if (edit.source == edit.file) source = folder / edit.file;
  }
  const std::string object = (work.path() / "edited.o").string(), library = (work.path() / "edited.so").string();
  // The copy's folder comes first, so that it shadows the header it was made of.
  const std::string compile = std::string(ADJOINT_CXX) + " -std=c++20 -fPIC -w " + options_of(edit.program) + " -I" +
                              work.path().string() + " " ADJOINT_INCLUDES " -x c++ -c " + source.string() + " -o " +
                              object;
  const Result compiled = run(compile);
  if (compiled.exit != 0) throw std::runtime_error("does not compile: " + compiled.output);
  // Functions of the library are its own, data (the table of entries, the executor's state) is the program's.
  const std::string sanitizer = edit.program == "simt_asan" ? "-fsanitize=address " : "";
  const Result linked =
      run(std::string(ADJOINT_CXX) + " -shared -Wl,-Bsymbolic-functions " + sanitizer + object + " -o " + library);
  if (linked.exit != 0) throw std::runtime_error("does not link: " + linked.output);
  return run("ADJOINT_EDITED_KERNELS=" + library +
             " ASAN_OPTIONS=detect_odr_violation=0:detect_leaks=0 GTEST_THROW_ON_FAILURE=1 timeout 120 " +
             ADJOINT_PROGRAMS "/" + edit.program + "_tests '--gtest_filter=" + edit.filter + "'");
}

bool is_built(const std::string& program) { return fs::exists(ADJOINT_PROGRAMS "/" + program + "_tests"); }

class PlantedEdit : public ::testing::TestWithParam<Edit> {};

TEST_P(PlantedEdit, Is_caught) {
  const Edit& edit = GetParam();
  if (!is_built(edit.program)) GTEST_SKIP() << edit.program << "_tests: not built by this compiler";
  const Result result = run_tests(edit, true);
  EXPECT_NE(result.exit, 0) << "nobody saw it";
  std::smatch seen;
  const std::regex says("[^\n]*(" + edit.says + ")[^\n]*");
  ASSERT_TRUE(std::regex_search(result.output, seen, says)) << "expected: " << edit.says << "\nsaid:\n"
                                                            << result.output.substr(0, 4000);
  std::printf("%s: %.160s\n", edit.program.c_str(), trimmed(seen.str()).c_str());
}

std::string test_name(const ::testing::TestParamInfo<Edit>& info) {
  std::string name;
  for (const char c : info.param.name) name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name;
}
INSTANTIATE_TEST_SUITE_P(Kernels, PlantedEdit, ::testing::ValuesIn(edits()), test_name);

/// The way there is no bug itself: in each program, kernels without an edit pass the same tests.
class UneditedKernels : public ::testing::TestWithParam<std::string> {};
TEST_P(UneditedKernels, Pass) {
  if (!is_built(GetParam())) GTEST_SKIP() << GetParam() << "_tests: not built by this compiler";
  for (auto edit = edits().rbegin(); edit != edits().rend(); ++edit) {
    if (edit->program != GetParam()) continue;
    const Result result = run_tests(*edit, false);
    EXPECT_EQ(result.exit, 0) << result.output.substr(0, 4000);
    EXPECT_NE(result.output.find("PASSED"), std::string::npos);
    return;
  }
  FAIL() << "no edit is for this program";
}
INSTANTIATE_TEST_SUITE_P(Programs, UneditedKernels, ::testing::Values("simt_asan", "simt_check", "simt_contract"),
                         [](const auto& info) { return info.param; });

TEST(PlantedEdits, Are_of_every_kind_of_kernel) {
  std::set<std::string> sources;
  for (const Edit& edit : edits()) sources.insert(edit.source);
  EXPECT_GE(edits().size(), 20u);
  for (const auto& entry : fs::directory_iterator(ADJOINT_SOURCE_DIR "/kernels/cuda"))
    if (entry.path().extension() == ".cu")
      EXPECT_TRUE(sources.contains(entry.path().filename().string())) << entry.path().filename();
}

}  // namespace
}  // namespace adjoint::simt
