#include "data/word_vectors.h"

#include <gtest/gtest.h>

#include <clocale>
#include <cmath>

#include "tests/data/gzip.h"
#include "tests/data/support.h"

namespace adjoint::data {
namespace {

class GloVe : public ::testing::Test {
 protected:
  WordVectors read(const std::string& bytes, int64_t width = 0) {
    return read_word_vectors(folder_.write("glove.txt", bytes), vocabulary_, width);
  }
  void refuses(const std::string& bytes, const std::string& pattern, int64_t width = 0) {
    expect_error([&] { read(bytes, width); }, Exit::data, pattern);
  }
  std::vector<float> row(const WordVectors& vectors, const std::string& token) {
    const auto start = vectors.values.begin() + vocabulary_.id(token) * vectors.width;
    return {start, start + vectors.width};
  }

  TemporaryFolder folder_;
  const Vocabulary vocabulary_ = Vocabulary::build({{"the", 5}, {"cat", 4}, {". . .", 3}, {"zebra", 2}});
};

TEST_F(GloVe, Fills_the_rows_of_the_vocabulary) {
  const WordVectors vectors = read(gzip("the 1 -2.5 3e-1\nnever 9 9 9\ncat 0 1e-50 .5 \nthe 7 7 7\n"));
  EXPECT_EQ(vectors.width, 3);
  ASSERT_EQ(vectors.values.size(), 24u);
  EXPECT_EQ(row(vectors, "the"), (std::vector<float>{1, -2.5f, 0.3f}));
  EXPECT_EQ(row(vectors, "cat"), (std::vector<float>{0, 0, 0.5f}));
  EXPECT_EQ(row(vectors, "[PAD]"), (std::vector<float>{0, 0, 0}));
  EXPECT_EQ(vectors.found, 2);
  EXPECT_EQ(vectors.missing, (std::vector<std::string>{". . .", "zebra"}));
  EXPECT_DOUBLE_EQ(vectors.coverage(), 0.5);
  // numbers 1 -2.5 .3 0 0 .5: mean -.116667, mean of squares 1.265
  EXPECT_NEAR(vectors.sigma, 1.118655, 1e-6);
  for (const float value : row(vectors, "zebra")) EXPECT_TRUE(value != 0 && std::abs(value) < 8 * vectors.sigma);
  EXPECT_NE(row(vectors, "zebra"), row(vectors, "[UNK]"));
}

TEST_F(GloVe, Takes_the_last_fields_as_the_vector) {
  const WordVectors vectors = read("the 1 2\n. . . 3 4\n");
  EXPECT_EQ(row(vectors, ". . ."), (std::vector<float>{3, 4}));
  EXPECT_EQ(vectors.found, 2);
}

TEST_F(GloVe, Leaves_a_missing_row_zero_if_asked) {
  const std::string path = folder_.write("glove.txt", "cat 1 2\n");
  const WordVectors vectors = read_word_vectors(path, vocabulary_, 0, MissingRows::zero);
  EXPECT_EQ(row(vectors, "cat"), (std::vector<float>{1, 2}));
  EXPECT_EQ(row(vectors, "zebra"), (std::vector<float>{0, 0}));
  EXPECT_EQ(vectors.missing, (std::vector<std::string>{"the", ". . .", "zebra"}));
}

TEST_F(GloVe, Draws_a_missing_row_by_seed_and_id_alone) {
  const WordVectors first = read("the 1 2\n");
  const WordVectors second = read("the 1 2\ncat 1 2\n");
  EXPECT_EQ(first.sigma, second.sigma);
  EXPECT_EQ(row(first, "zebra"), row(second, "zebra"));
}

TEST_F(GloVe, Refuses_a_wrong_number_of_numbers) {
  std::string line = "the";
  for (int i = 0; i < 300; ++i) line += " 0.5";
  refuses(line + "\n" + line.substr(0, line.size() - 4) + "\n", "E-GLOVE-001.*glove\\.txt:2:.*300.*299");
  refuses("the 1 2\n", "E-GLOVE-001.*:1:.*50 numbers, found 2", 50);
  refuses("400000 50\nthe 1 2\n", "E-GLOVE-001.*:1:.*word2vec header");
  refuses("the\n", "E-GLOVE-001.*:1: 0 numbers");
  refuses("\n", "E-DATA-001.*not one word vector");
}

TEST_F(GloVe, Refuses_what_is_not_a_finite_number) {
  for (const char* number : {"nan", "inf", "-inf", "1,5", "1e400", "1e39", "", "0x1p3", "1.5f", "+"}) {
    refuses("the 1 2\ncat 1 " + std::string(number) + " 5\n",
            "E-GLOVE-002.*glove\\.txt:2:.*column 7:.*number [12] of 2", 2);
  }
  refuses("the 1\xff 2\n", "E-DATA-005.*:1:6:");
}

TEST_F(GloVe, Does_not_depend_on_the_locale) {
  const std::string before = std::setlocale(LC_ALL, nullptr);
  const bool comma =
      std::setlocale(LC_ALL, "de_DE.UTF-8") != nullptr || std::setlocale(LC_ALL, "fr_FR.UTF-8") != nullptr;
  const std::vector<float> values = row(read("the 1.5 2\n"), "the");
  std::setlocale(LC_ALL, before.c_str());
  EXPECT_EQ(values, (std::vector<float>{1.5f, 2}));
  if (!comma) GTEST_SKIP() << "no locale with a decimal comma is installed; read in the C locale only";
}

TEST_F(GloVe, Of_the_public_sample_covers_its_words) {
  const std::string path = real_data("glove/glove.6B.50d-8k.txt");
  ADJOINT_NEED_REAL_DATA(path);
  const WordVectors vectors = read_word_vectors(path, vocabulary_);
  EXPECT_EQ(vectors.width, 50);
  EXPECT_EQ(vectors.missing, (std::vector<std::string>{"cat", ". . .", "zebra"}));
  EXPECT_FLOAT_EQ(row(vectors, "the")[0], 0.418f);
}

}  // namespace
}  // namespace adjoint::data
