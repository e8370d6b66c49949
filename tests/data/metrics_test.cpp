#include "data/metrics.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "data/batches.h"
#include "data/dataset.h"
#include "data/naive_bayes.h"
#include "data/vocabulary.h"
#include "tests/data/support.h"
#include "tests/support/paths.h"

namespace adjoint::data {
namespace {

std::vector<std::string> split(const std::string& text) { return Tokenizer{.keep_case = true}.tokens(text); }

TEST(Confusion, Gives_the_textbook_ratios) {
  Confusion confusion(2);
  for (const auto& [truth, predicted, times] :
       std::vector<std::array<int, 3>>{{1, 1, 6}, {1, 0, 2}, {0, 1, 3}, {0, 0, 9}}) {
    for (int i = 0; i < times; ++i) confusion.add(truth, predicted);
  }
  EXPECT_EQ(confusion.total(), 20);
  EXPECT_DOUBLE_EQ(confusion.accuracy(), 15.0 / 20);
  EXPECT_DOUBLE_EQ(confusion.precision(1), 6.0 / 9);
  EXPECT_DOUBLE_EQ(confusion.recall(1), 6.0 / 8);
  EXPECT_DOUBLE_EQ(confusion.f1(1), 12.0 / 17);  // 2tp / (2tp + fp + fn)
  EXPECT_DOUBLE_EQ(confusion.f1(0), 18.0 / 23);
  EXPECT_DOUBLE_EQ(confusion.macro_f1(), (12.0 / 17 + 18.0 / 23) / 2);
}

TEST(Confusion, Is_zero_where_nothing_was_counted) {
  Confusion confusion(3);
  EXPECT_EQ(confusion.accuracy(), 0);
  confusion.add(0, 0);
  EXPECT_EQ(confusion.precision(2), 0);
  EXPECT_EQ(confusion.f1(2), 0);
  EXPECT_DOUBLE_EQ(confusion.macro_f1(), 1.0 / 3);
  expect_error([&] { confusion.add(0, 3); }, Exit::data, "E-OP-010.*prediction 3.*0\\.\\.2");
}

TEST(Bleu, Gives_values_worked_out_by_hand) {
  EXPECT_DOUBLE_EQ(bleu4({split("a b c d e")}, {split("a b c d e")}), 1);
  // 5/6 4/5 3/4 2/3, brevity exp(1 - 7/6)
  EXPECT_NEAR(bleu4({split("a b c d e f")}, {split("a b c d e g h")}), std::pow(1.0 / 3, 0.25) * std::exp(-1.0 / 6),
              1e-12);
  // what comes twice counts once if the reference has it once: 4/8 3/7 2/6 1/5
  EXPECT_NEAR(bleu4({split("a b c d a b c d")}, {split("a b c d e f g h")}), std::pow(1.0 / 70, 0.25), 1e-12);
  EXPECT_EQ(bleu4({split("the cat sat there")}, {split("the cat sat here")}), 0);  // no 4-gram in common
  // a corpus counts n-grams together: (6+2)/(6+3) (5+1)/(5+2) (4+0)/(4+1) 3/3, longer than the references
  EXPECT_NEAR(bleu4({split("a b c d e f"), split("x y q")}, {split("a b c d e f"), split("x y")}),
              std::pow(8.0 / 9 * 6 / 7 * 4 / 5, 0.25), 1e-12);
  EXPECT_EQ(bleu4({}, {}), 0);
  expect_error([] { bleu4({{"a"}}, {}); }, Exit::data, "E-OP-001.*bleu4: 1 hypotheses and 0 references");
}

TEST(ExactMatch, Counts_equal_sequences) {
  EXPECT_DOUBLE_EQ(exact_match({{"a", "b"}, {"a"}, {}, {"c"}}, {{"a", "b"}, {"a", "b"}, {}, {"d"}}), 0.5);
  EXPECT_EQ(exact_match({}, {}), 0);
}

TEST(NaiveBayes, Follows_the_formula) {
  // Class 0 saw tokens 0 0 1, class 1 saw 2: with one added, p(0|0) = 3/6, p(0|1) = 1/4.
  const std::vector<std::vector<int32_t>> sequences = {{0, 0, 1}, {2}, {1, 2}};
  const std::vector<int32_t> labels = {0, 1, 1};
  const NaiveBayes model(sequences, labels, std::vector<int64_t>{0, 1}, 3, 2);
  EXPECT_EQ(model.predict(std::vector<int32_t>{0}), 0);
  EXPECT_EQ(model.predict(std::vector<int32_t>{2}), 1);     // 1/6 against 2/4
  EXPECT_EQ(model.predict(std::vector<int32_t>{1, 2}), 1);  // 2/6 1/6 against 1/4 2/4
  // (1/4)^2 2/4 against (2/6)^2 1/6; without the added counts it would be class 0
  EXPECT_EQ(model.predict(std::vector<int32_t>{1, 1, 2}), 1);
  // (2/6)^4 1/6 against (1/4)^4 2/4
  EXPECT_EQ(model.predict(std::vector<int32_t>{1, 1, 1, 1, 2}), 0);
  expect_error([&] { model.predict(std::vector<int32_t>{3}); }, Exit::data, "E-OP-010.*token id 3.*0\\.\\.2");
}

// F1 of naive Bayes on a fifth of the data, its vocabulary from the other four.
double floor_f1(const Dataset& dataset, uint64_t seed) {
  const Split parts = stratified_split(dataset.labels, 0, 0.2, seed);
  std::vector<std::vector<std::string>> tokens;
  for (const std::string& text : dataset.texts) tokens.push_back(Tokenizer{}.tokens(text));
  TokenCounts counts;
  for (const int64_t example : parts.train) {
    for (const std::string& token : tokens[example]) ++counts[token];
  }
  const Vocabulary vocabulary = Vocabulary::build(counts);
  std::vector<std::vector<int32_t>> sequences;
  for (const auto& text : tokens) sequences.push_back(vocabulary.encode(text));
  const NaiveBayes model(sequences, dataset.labels, parts.train, vocabulary.size(), 2);
  return model.evaluate(sequences, dataset.labels, parts.test).f1(1);
}

TEST(NaiveBayes, Reaches_the_known_floor_on_the_public_headlines) {
  const std::string folder = real_data("clickbait");
  ADJOINT_NEED_REAL_DATA(folder);
  EXPECT_NEAR(floor_f1(read_dataset(folder), 1), 0.977, 0.004);
}

TEST(NaiveBayes, Can_tell_the_bundled_headlines_apart) {
  const Dataset dataset = read_dataset(testing_support::source_dir() + "/data/samples/headlines.tsv");
  double sum = 0;
  for (uint64_t seed = 0; seed < 10; ++seed) sum += floor_f1(dataset, seed) / 10;
  EXPECT_GT(sum, 0.9);
}

}  // namespace
}  // namespace adjoint::data
