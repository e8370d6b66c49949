// The rules for kernel sources (docs/kernel_testing.md) that a text search can see.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace adjoint {
namespace {

namespace fs = std::filesystem;

struct Rule {
  const char* pattern;
  const char* why;
  const char* breach;  // a line that breaks it
};

const Rule kRules[] = {
    {R"(__shared__(?!\s+SharedArray\s*<))", "shared memory comes from Smem::take or SharedArray",
     "__shared__ float part[8];"},
    {R"(\basm\b)", "inline PTX belongs into kernels/cuda/ptx.h", R"(asm volatile("bar.sync 0;");)"},
    {R"(<<<)", "kernels are started with launch()", "kernel<<<grid, block>>>(x);"},
    {R"(__CUDA_ARCH__|__CUDACC__)", "a kernel has no code of its own for one compiler", "#ifdef __CUDA_ARCH__"},
    {R"(__activemask)", "a mask is written down, not asked for", "unsigned mask = __activemask();"},
    {R"(\b__(shfl|shfl_up|shfl_down|shfl_xor|ballot|any|all)\s*\()", "collectives in their _sync forms",
     "x += __shfl_down(x, 16);"},
    {R"(cooperative_groups)", "no cooperative groups: the executor has none", "namespace cg = cooperative_groups;"},
    {R"(__constant__|__managed__)", "parameters by value or by pointer", "__constant__ float table[16];"},
    {R"(__device__\s+(static\s+)?(unsigned\s+)?[\w:]+\s+\w+\s*(=|;|\[))", "no device globals",
     "__device__ unsigned int counter = 0;"},
    {R"(\bcuda[A-Z]\w*\s*\()", "the CUDA runtime is reached through compat.h", "cudaMemsetAsync(x, 0, n, stream);"},
    {R"(#\s*include\s*<(cuda|cublas|cudnn|cub/|thrust/|mma|cooperative))",
     "a source that calls CUDA libraries is a .cpp file", "#include <cuda_runtime.h>"},
    {R"(\b(threadIdx|blockDim)\.[yz]\b)", "blocks are one-dimensional", "int row = threadIdx.y;"},
};

/// Comments blanked out, lines kept.
std::string without_comments(const std::string& text) {
  std::string out = text;
  for (std::size_t i = 0; i + 1 < out.size(); ++i) {
    bool line = out[i] == '/' && out[i + 1] == '/', block = out[i] == '/' && out[i + 1] == '*';
    if (!line && !block) continue;
    std::size_t end = line ? out.find('\n', i) : out.find("*/", i + 2);
    end = end == std::string::npos ? out.size() : line ? end : end + 2;
    for (; i < end; ++i) {
      if (out[i] != '\n') out[i] = ' ';
    }
    --i;
  }
  return out;
}

std::vector<std::string> breaches(const std::string& file, const std::string& text) {
  std::vector<std::string> found;
  std::istringstream lines(without_comments(text));
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    for (const Rule& rule : kRules) {
      if (std::regex_search(line, std::regex(rule.pattern))) {
        found.push_back(file + ":" + std::to_string(number) + ": " + rule.why + ": " + line);
      }
    }
  }
  return found;
}

/// Of every .cu and .cuh in the folder.
std::vector<std::string> breaches_in(const fs::path& folder, int* files) {
  std::vector<std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".cu" && entry.path().extension() != ".cuh") continue;
    std::ostringstream text;
    text << std::ifstream(entry.path()).rdbuf();
    for (std::string& breach : breaches(entry.path().filename().string(), text.str())) found.push_back(breach);
    ++*files;
  }
  return found;
}

TEST(KernelRules, Are_kept_by_the_kernels) {
  int files = 0;
  EXPECT_THAT(breaches_in(fs::path(ADJOINT_SOURCE_DIR) / "kernels/cuda", &files), ::testing::IsEmpty());
  EXPECT_THAT(breaches_in(fs::path(ADJOINT_SOURCE_DIR) / "tests/simt/kernels", &files), ::testing::IsEmpty());
  EXPECT_GE(files, 7) << "the self-test kernels alone are seven files";
}

/// The word that the pattern captures, of each line that it matches in the folder's files.
std::set<std::string> words(const std::string& pattern, const fs::path& folder, const std::string& extension) {
  std::set<std::string> found;
  const std::regex use(pattern);
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != extension) continue;
    std::ifstream file(entry.path());
    for (std::string line; std::getline(file, line);)
      if (std::smatch match; std::regex_search(line, match, use)) found.insert(match[1]);
  }
  return found;
}

/// Of the second set, what is not in the first.
std::vector<std::string> missing_from(const std::set<std::string>& have, const std::set<std::string>& wanted) {
  std::vector<std::string> missing;
  std::set_difference(wanted.begin(), wanted.end(), have.begin(), have.end(), std::back_inserter(missing));
  return missing;
}

// All machine code from 8.0 on is assembled from one translation, for which a test for a newer one is never true
// (docs/decisions/0007-one-ptx-from-sm-80-on.md).
TEST(KernelRules, No_source_asks_for_an_architecture_newer_than_the_one_it_is_translated_for) {
  const std::regex asks(R"(__CUDA_ARCH__\s*(?:[<>=!]=?)\s*(\d+))");
  std::ifstream in(fs::path(ADJOINT_SOURCE_DIR) / "kernels/cuda/ptx.h");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  std::set<std::string> asked;
  for (std::sregex_iterator it(text.begin(), text.end(), asks), end; it != end; ++it) asked.insert((*it)[1]);
  EXPECT_THAT(asked, ::testing::ElementsAre("800"));
}

TEST(KernelRules, Every_call_of_a_contract_has_a_GPU_kernel) {
  const fs::path kernels = fs::path(ADJOINT_SOURCE_DIR) / "kernels";
  const std::set<std::string> calls = words(R"(^ADJOINT_CPU_KERNEL\((\w+)\))", kernels, ".h");
  const std::set<std::string> entered = words(R"(^ADJOINT_GPU_KERNEL\((\w+)\))", kernels / "cuda", ".cu");
  std::set<std::string> known = words(R"(^struct (\w+) \{)", kernels / "cuda", ".h");  // what no CPU needs
  known.insert(calls.begin(), calls.end());
  ASSERT_GE(calls.size(), 34u);
  EXPECT_THAT(missing_from(known, entered), ::testing::IsEmpty()) << "entered without a contract";
  EXPECT_THAT(missing_from(entered, calls), ::testing::IsEmpty()) << "no GPU kernel";
}

TEST(KernelRules, Are_each_broken_by_a_planted_file) {
  fs::path folder = fs::path(::testing::TempDir()) / ("adjoint_rules_" + std::to_string(getpid()));
  fs::create_directories(folder);
  for (const Rule& rule : kRules) {
    std::ofstream(folder / "planted.cu") << "// a comment may say anything: <<< asm __shared__ float x;\n"
                                         << "  " << rule.breach << "\n";
    int files = 0;
    std::vector<std::string> found = breaches_in(folder, &files);
    EXPECT_THAT(found, ::testing::Contains(::testing::StartsWith("planted.cu:2: " + std::string(rule.why))));
    EXPECT_THAT(found, ::testing::Each(::testing::StartsWith("planted.cu:2: "))) << "a comment was taken for code";
  }
  fs::remove_all(folder);
}

TEST(KernelRules, Let_what_they_ask_for_pass) {
  for (const char* line :
       {"__shared__ SharedArray<float, kThreads / 32> part;", "launch(kernel, grid, block, 0, stream);",
        "__device__ __forceinline__ float load(const float* p) { return *p; }",
        "template <class T> __device__ T sum(T v);", "int i = threadIdx.x + blockDim.x * blockIdx.y;",
        "v += __shfl_down_sync(0xffffffffu, v, 16);", "#include \"kernels/cuda/compat.h\""}) {
    EXPECT_THAT(breaches("good.cu", line), ::testing::IsEmpty());
  }
}

}  // namespace
}  // namespace adjoint
