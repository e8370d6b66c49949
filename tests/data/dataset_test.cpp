#include "data/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/data/gzip.h"
#include "tests/data/support.h"
#include "tests/support/paths.h"

namespace adjoint::data {
namespace {

using Strings = std::vector<std::string>;

class Table : public ::testing::Test {
 protected:
  Dataset read(const std::string& bytes, const DatasetOptions& options = {}, const std::string& name = "t.csv") {
    return read_dataset(folder_.write(name, bytes), options);
  }
  void refuses(const std::string& bytes, const std::string& pattern, const DatasetOptions& options = {},
               const std::string& name = "t.csv") {
    expect_error([&] { read(bytes, options, name); }, Exit::data, pattern);
  }
  TemporaryFolder folder_;
};

TEST_F(Table, Follows_RFC_4180) {
  const Dataset dataset = read(
      "id,text,label\r\n"
      "1,\"with, comma and \"\"quotes\"\"\",b\r\n"
      "2,\"two\r\nlines\",a\r\n"
      "3,plain with 5\" inch,\"a\"\r\n"
      "\r\n"
      "4,\"\",a\n"
      "5, last without line end ,b");
  EXPECT_EQ(dataset.texts,
            (Strings{"with, comma and \"quotes\"", "two\nlines", "plain with 5\" inch", "last without line end"}));
  EXPECT_EQ(dataset.labels, (std::vector<int32_t>{1, 0, 0, 1}));
  EXPECT_EQ(dataset.classes, (Strings{"a", "b"}));
  EXPECT_EQ(dataset.sources.at(0).rows, 4);
  EXPECT_EQ(dataset.sources.at(0).blank, 2);
}

TEST_F(Table, Takes_quotes_in_TSV_as_they_are_and_names_for_missing_headers) {
  const DatasetOptions options{.columns = {"id", "label", "text"}};
  const Dataset dataset = read(gzip("0\tpos\t\"So, it goes\n1\tneg\tsays \"no\"\n"), options, "t.tsv.gz");
  EXPECT_EQ(dataset.texts, (Strings{"\"So, it goes", "says \"no\""}));
  EXPECT_EQ(dataset.classes, (Strings{"neg", "pos"}));
  EXPECT_EQ(dataset.labels, (std::vector<int32_t>{1, 0}));
}

TEST_F(Table, Puts_the_positive_class_last) {
  EXPECT_EQ(read("text,label\nx,clickbait\ny,other\n").classes, (Strings{"other", "clickbait"}));
  const Dataset given = read("text,label\nx,b\n", {.classes = {"c", "b", "a"}});
  EXPECT_EQ(given.classes, (Strings{"c", "b", "a"}));
  EXPECT_EQ(given.labels, (std::vector<int32_t>{1}));
}

TEST_F(Table, Refuses_empty_data) {
  for (const char* bytes : {"", "text,label\n", "text,label", "text,label\n\n , \n"}) {
    refuses(bytes, "E-DATA-001.*t\\.csv.*no examples.*--text-column and --label-column");
  }
}

TEST_F(Table, Names_the_row_with_the_wrong_number_of_columns) {
  std::string bytes = "id,text,label\n";
  for (int i = 2; i < 17; ++i) bytes += "1,x,a\n";
  refuses(bytes + "1,x,a,more\n", "E-DATA-002.*:17:.*expected 3.*found 4");
  refuses(bytes + "1,x\n", "E-DATA-002.*:17:.*expected 3.*found 2");
  refuses(bytes + "1,\"two\nlines\",a\n1\n", "E-DATA-002.*:19:.*expected 3.*found 1");
  refuses("headline,label\nx,a\n", "E-DATA-002.*:1:.*no column \"text\".*\"headline\", \"label\".*--text-column");
  refuses("text,kind\nx,a\n", "E-DATA-002.*no column \"label\".*--label-column");
}

TEST_F(Table, Names_the_quote_that_is_wrong) {
  refuses("text,label\nfine,a\n\"never closed,a\nnext,b\n", "E-DATA-003.*:3:1:.*quote opened at line 3.*never closed");
  refuses("text,label\n\"closed\" early,a\n",
          "E-DATA-003.*:2:9:.*0x20 after the closing quote.*quote opened at line 2");
  refuses("text,label\n\"" + std::string(3000, 'x'), "E-DATA-007.*line 2.*quote opened at line 2.*longer than 2000",
          {.read = {.max_field = 2000}});
}

TEST_F(Table, Names_the_label_that_is_not_a_class) {
  const DatasetOptions options{.classes = {"0", "1"}};
  refuses("text,label\nx,0\ny,2\n", "E-DATA-004.*:3:.*label \"2\".*expected one of \"0\", \"1\"", options);
  refuses("text,label\nx,spam\x1b[2J\n", "E-DATA-004.*:2:.*label \"spam.x1b.*expected one of", options);
  refuses("text,label\nx,\n", "E-DATA-004.*:2:.*label \"\".*expected one of");
}

TEST_F(Table, Refuses_bad_bytes_and_huge_fields) {
  refuses("text,label\nx,a\ny\xff,a\n", "E-DATA-005.*t\\.csv:3:2:.*\\(byte 0xff\\)");
  refuses("text,label,x\nx,a," + std::string("\0", 1) + "\n", "E-DATA-005.*:2:5:.*\\(byte 0x00\\)");
  refuses("text,label\n" + std::string(2001, 'x') + ",a\n", "E-DATA-007.*line 2.*a field longer than 2000",
          {.read = {.max_field = 2000}});
  refuses(std::string(70000, ',') + "\n", "E-DATA-007.*line 1.*header.*longer than 65536");
  refuses("text,label\na,b" + std::string(17 << 20, ','), "E-DATA-007.*line 2.*a row longer than 16777216");
  refuses("\xff\xfet\0", "E-DATA-006.*UTF-16");
}

TEST_F(Table, Skips_bad_rows_on_request_but_not_many) {
  std::string bytes = "text,label\n";
  for (int i = 0; i < 300; ++i) bytes += "x,a\n";
  const DatasetOptions options{.classes = {"a", "b"}, .read = {.on_bad_row = BadRows::skip}};
  const std::string bad = "x,a,b\n\"x\"y,a\nx,spam\n";
  const Dataset dataset = read(bytes + bad + "last,b\n", options);
  EXPECT_EQ(dataset.texts.size(), 301u);
  EXPECT_EQ(dataset.texts.back(), "last");
  EXPECT_EQ(dataset.sources.at(0).skipped, 3);
  EXPECT_NE(dataset.sources.at(0).first_problem.find("E-DATA-002"), std::string::npos);
  refuses(bytes + bad + "\xff,a\n", "E-DATA-008.*4 bad rows beside 300 good.*at most 1 %", options);
}

TEST(Headlines, Need_both_files) {
  const TemporaryFolder folder;
  expect_error([&] { read_dataset(folder.path(".")); }, Exit::data,
               "E-DATA-001.*no examples.*expected clickbait_data\\(\\.gz\\) and non_clickbait_data\\(\\.gz\\)");
  folder.write("clickbait_data", "One\n\nTwo\n");
  expect_error([&] { read_dataset(folder.path(".")); }, Exit::data, "E-DATA-001.*non_clickbait_data is not there");
  folder.write("non_clickbait_data.gz", gzip("\nThree\n"));
  const Dataset dataset = read_dataset(folder.path("."));
  EXPECT_EQ(dataset.texts, (Strings{"One", "Two", "Three"}));
  EXPECT_EQ(dataset.labels, (std::vector<int32_t>{1, 1, 0}));
  EXPECT_EQ(dataset.classes, (Strings{"other", "clickbait"}));
}

TEST(Headlines, Of_the_public_corpus_are_all_read) {
  const std::string folder = real_data("clickbait");
  ADJOINT_NEED_REAL_DATA(folder);
  const Dataset dataset = read_dataset(folder);
  ASSERT_EQ(dataset.sources.size(), 2u);
  EXPECT_EQ(dataset.sources[0].rows, 15999);
  EXPECT_EQ(dataset.sources[0].blank, 16001);
  EXPECT_EQ(dataset.sources[1].rows, 16001);
  EXPECT_EQ(dataset.sources[1].blank, 10000);
  size_t longest = 0, total = 0;
  std::map<std::string, int> counts;
  for (const std::string& text : dataset.texts) {
    const Strings tokens = Tokenizer{}.tokens(text);
    longest = std::max(longest, tokens.size());
    total += tokens.size();
    for (const std::string& token : tokens) ++counts[token];
  }
  EXPECT_EQ(longest, 28u);
  EXPECT_EQ(total, 323207u);  // 10.1 a headline
  EXPECT_EQ(counts.size(), 22832u);
  EXPECT_EQ(std::ranges::count_if(counts, [](const auto& entry) { return entry.second >= 2; }), 12895);
}

TEST(Sample, Holds_both_kinds_without_repeats) {
  const Dataset dataset = read_dataset(testing_support::source_dir() + "/data/samples/headlines.tsv");
  EXPECT_EQ(dataset.classes, (Strings{"other", "clickbait"}));
  EXPECT_GE(dataset.texts.size(), 400u);
  EXPECT_NEAR(static_cast<double>(std::ranges::count(dataset.labels, 1)) / static_cast<double>(dataset.labels.size()),
              0.5, 0.02);
  const std::set<std::string> distinct(dataset.texts.begin(), dataset.texts.end());
  EXPECT_EQ(distinct.size(), dataset.texts.size());
  EXPECT_EQ(dataset.sources.at(0).blank, 0);
}

TEST(Reviews, Of_the_public_sample_are_all_read) {
  const std::string path = real_data("reviews/reviews-1000.tsv");
  ADJOINT_NEED_REAL_DATA(path);
  const Dataset dataset = read_dataset(path, {.columns = {"id", "label", "text"}});
  EXPECT_EQ(dataset.classes, (Strings{"neg", "pos"}));
  EXPECT_EQ(dataset.texts.size(), 1000u);
  EXPECT_EQ(std::ranges::count(dataset.labels, 1), 500);
}

}  // namespace
}  // namespace adjoint::data
