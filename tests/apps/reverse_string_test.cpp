// The program as a user runs it: commands, files, messages, and the accuracies that the reference set-up must reach.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/apps/program.h"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

using adjoint::testing::Outcome;

class ReverseString : public adjoint::testing::ProgramTest {
 protected:
  ReverseString() : ProgramTest("reverse_string") {}
};

constexpr const char* kSmall =
    "train --letters abc --min-length 2 --max-length 4 --train-strings 60 --validation-strings 20 --hidden 16 --out "
    "run ";
constexpr const char* kTwoEpochs = "--epochs 2 ";

TEST_F(ReverseString, Trains_and_keeps_a_complete_run_folder) {
  const Outcome r = run(std::string(kSmall) + kTwoEpochs + "--json");
  ASSERT_EQ(r.exit, 0) << r.err;
  const json report = json::parse(r.out);
  for (const char* key : {"app", "seed", "device", "parameters", "steps", "elapsed_s", "steps_per_s"})
    EXPECT_TRUE(report.contains(key)) << key;
  for (const char* key : {"token_accuracy", "exact_match", "loss"}) EXPECT_TRUE(report["val"][key].is_number()) << key;
  EXPECT_EQ(report["app"], "reverse_string");
  EXPECT_EQ(report["steps"], 4);
  for (const char* file : {"config.json", "metrics.jsonl", "report.json", "model.safetensors", "train.log"})
    EXPECT_TRUE(fs::exists(folder_ / "run" / file)) << file;
  EXPECT_THAT(r.err, HasSubstr("seed 1"));
  EXPECT_EQ(r.err.find('\r'), std::string::npos);
  EXPECT_EQ(r.err.find('\x1b'), std::string::npos);
}

TEST_F(ReverseString, The_same_seed_gives_the_same_weights_for_any_number_of_threads) {
  std::string first;
  for (const char* threads : {"1", "2", "4"}) {
    fs::remove_all(folder_ / "run");
    ASSERT_EQ(run(std::string(kSmall) + kTwoEpochs + "--threads " + threads).exit, 0);
    // The configuration in the metadata names the threads, so compare what follows the header.
    const std::string file = read("run/model.safetensors");
    std::uint64_t header = 0;
    std::memcpy(&header, file.data(), 8);
    const std::string weights = file.substr(8 + header);
    if (first.empty()) first = weights;
    EXPECT_EQ(first, weights) << threads;
  }
  fs::remove_all(folder_ / "run");
  ASSERT_EQ(run(std::string(kSmall) + kTwoEpochs + "--seed 2").exit, 0);
  const std::string file = read("run/model.safetensors");
  std::uint64_t header = 0;
  std::memcpy(&header, file.data(), 8);
  EXPECT_NE(first, file.substr(8 + header));
}

TEST_F(ReverseString, Predicts_from_arguments_and_standard_input) {
  ASSERT_EQ(run(std::string(kSmall) + kTwoEpochs).exit, 0);
  const Outcome a = run("predict --run run abc cab"), b = run("predict --run run", "abc\ncab\n");
  EXPECT_EQ(a.exit, 0) << a.err;
  EXPECT_EQ(a.out, b.out);
  EXPECT_EQ(std::count(a.out.begin(), a.out.end(), '\n'), 2);
  const Outcome j = run("predict --run run --json abc");
  EXPECT_EQ(json::parse(j.out)["input"], "abc");
}

TEST_F(ReverseString, Shows_the_alignment) {
  ASSERT_EQ(run(std::string(kSmall) + kTwoEpochs).exit, 0);
  const Outcome text = run("attention --run run --format text abca");
  EXPECT_EQ(text.exit, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("rows look at columns"));
  const json whole = json::parse(run("attention --run run --format json abca bc").out);
  EXPECT_EQ(whole["format"], "adjoint.attention");
  ASSERT_EQ(whole["examples"].size(), 2u);
  const json j = whole["examples"][0]["views"][0];
  EXPECT_EQ(j["name"], "Cross");
  EXPECT_EQ(j["right_text"], json({"<s>", "a", "b", "c", "a", "</s>"}));
  EXPECT_EQ(run("attention --run run abca").out, "run/attention.html\n");
  EXPECT_THAT(read("run/attention.html"), HasSubstr("Content-Security-Policy"));
  EXPECT_THAT(read("run/report.html"), HasSubstr("token_accuracy"));
  ASSERT_EQ(j["attn"][0][0].size(), j["left_text"].size());
  for (const json& row : j["attn"][0][0]) {
    double sum = 0;
    for (const double w : row) sum += w;
    EXPECT_NEAR(sum, 1.0, 1e-5);
  }
}

TEST_F(ReverseString, Refuses_bad_input_with_one_line) {
  struct Case {
    const char* arguments;
    int exit;
    const char* pattern;
  };
  ASSERT_EQ(run(std::string(kSmall) + kTwoEpochs).exit, 0);
  ASSERT_EQ(
      run(std::string("train --letters abc --min-length 2 --max-length 4 --train-strings 60 --validation-strings 20 ") +
          "--hidden 16 --epochs 1 --attention none --out plain")
          .exit,
      0);
  for (const Case& c :
       std::initializer_list<Case>{{"train --hiden 3", 2, "E-CLI-001.*--hiden.*--hidden"},
                                   {"train --epochs abc", 2, "E-CLI-002.*--epochs.*integer"},
                                   {"train --device cuda --out gpu", 7, "E-GPU-001.*no CUDA device.*--device=cpu"},
                                   {"train --device cpu --gemm-backend cublaslt --out gpu", 7,
                                    "E-GPU-009.*cuBLASLt works on GPUs, and this runs on cpu"},
                                   {"train --device cpu --lstm-backend cudnn --out gpu", 7,
                                    "E-GPU-009.*cuDNN works on GPUs.*--lstm-backend=own"},
                                   {"train --device cpu --attention-backend cudnn --out gpu", 7,
                                    "E-GPU-009.*cuDNN works on GPUs.*--attention-backend=own"},
                                   {"train --out run", 4, "E-IO-007"},
                                   {"train --letters aa --out x", 2, "E-DATA-009"},
                                   {"train --letters ab --min-length 1 --max-length 2 --out x", 2, "E-DATA-009"},
                                   {"train --bidirectional --hidden 15 --out x", 2, "E-CONF-005.*15"},
                                   {"train --require accuracy --out x", 2, "E-CLI-006"},
                                   {"predict --run run xyz", 3, "E-DATA-010"},
                                   {"predict --run nowhere abc", 4, "E-IO-001.*nowhere"},
                                   {"predict abc", 4, "E-IO-008.*train"},
                                   {"attention --run plain abc", 2, "E-CONF-007.*no attention"}}) {
    const Outcome r = run(c.arguments);
    EXPECT_EQ(r.exit, c.exit) << c.arguments << ": " << r.err;
    EXPECT_THAT(r.err, ::testing::ContainsRegex(c.pattern)) << c.arguments;
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
  }
}

TEST_F(ReverseString, A_damaged_model_file_is_refused) {
  ASSERT_EQ(run(std::string(kSmall) + kTwoEpochs).exit, 0);
  std::string file = read("run/model.safetensors");
  file[file.size() - 5] = static_cast<char>(file[file.size() - 5] ^ 4);
  std::ofstream(folder_ / "run" / "model.safetensors", std::ios::binary) << file;
  const Outcome r = run("predict --run run abc");
  EXPECT_EQ(r.exit, 3);
  EXPECT_THAT(r.err, ::testing::ContainsRegex("E-CKPT-014.*checksum"));
}

TEST_F(ReverseString, Dry_run_overfit_max_steps_and_requirements_do_what_they_say) {
  const Outcome dry = run(std::string(kSmall) + kTwoEpochs + "--dry-run");
  EXPECT_EQ(dry.exit, 0);
  EXPECT_FALSE(fs::exists(folder_ / "run"));
  EXPECT_THAT(dry.out, HasSubstr("parameters"));
  const Outcome few = run(std::string(kSmall) + kTwoEpochs + "--max-steps 1 --json");
  EXPECT_EQ(json::parse(few.out)["steps"], 1);
  fs::remove_all(folder_ / "run");
  const Outcome unmet = run(std::string(kSmall) + kTwoEpochs + "--require 'exact_match>=0.999'");
  EXPECT_EQ(unmet.exit, 8);
  fs::remove_all(folder_ / "run");
  const Outcome over = run(std::string(kSmall) + "--overfit-batch --epochs 200 --json");
  ASSERT_EQ(over.exit, 0) << over.err;
  EXPECT_LT(json::parse(over.out)["last_loss"].get<double>(), 0.05);
}

// ---- What must come out (one seed of each row; bench/practical10.py runs ten) ----

TEST_F(ReverseString, Default_run_reaches_its_accuracy_on_unseen_strings) {
  const Outcome r = run("train --out run --json");
  ASSERT_EQ(r.exit, 0) << r.err;
  EXPECT_GE(json::parse(r.out)["val"]["exact_match"].get<double>(), 0.995);
  const json j = json::parse(run("attention --run run --format json abcdefgh").out)["examples"][0]["views"][0];
  ASSERT_EQ(j["left_text"].size(), 9u);
  int mirrored = 0;
  for (int t = 0; t < 8; ++t) {
    const std::vector<double> row = j["attn"][0][0][static_cast<std::size_t>(t)];
    mirrored += std::max_element(row.begin(), row.end()) - row.begin() == 8 - t ? 1 : 0;
  }
  EXPECT_GE(mirrored, 7) << "the alignment is not an anti-diagonal";
}

json practical10(const Outcome& r) {
  EXPECT_EQ(r.exit, 0) << r.err;
  return json::parse(r.out)["val"];
}

TEST_F(ReverseString, Practical10_without_attention) {
  const json val = practical10(run("train --preset practical10 --attention none --out run --json"));
  EXPECT_GE(val["token_accuracy"].get<double>(), 0.79);
  EXPECT_LE(val["token_accuracy"].get<double>(), 0.90);
  EXPECT_GE(val["exact_match"].get<double>(), 0.33);
  EXPECT_LE(val["exact_match"].get<double>(), 0.54);
}
TEST_F(ReverseString, Practical10_with_attention) {
  const json val = practical10(run("train --preset practical10 --out run --json"));
  EXPECT_GE(val["token_accuracy"].get<double>(), 0.99);
  EXPECT_GE(val["exact_match"].get<double>(), 0.97);
}
TEST_F(ReverseString, Practical10_with_attention_and_bidirectional_encoder) {
  // A single seed's exact match has a standard deviation of .01 around .99: the band is for a mean.
  double exact = 0;
  for (int seed = 1; seed <= 4; ++seed) {
    const json val = practical10(run(
        fmt::format("train --preset practical10 --bidirectional --seed {0} --threads 1 --out run{0} --json", seed)));
    EXPECT_GE(val["token_accuracy"].get<double>(), 0.99) << "seed " << seed;
    exact += val["exact_match"].get<double>() / 4;
  }
  EXPECT_GE(exact, 0.98);
}

}  // namespace
