// The clickbait program as a user runs it: bad inputs with their errors, and what runs are good for.

#include <nlohmann/json.hpp>

#include "tests/apps/program.h"
#include "tests/data/gzip.h"

namespace adjoint::testing {
namespace {

using nlohmann::json;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class Clickbait : public ProgramTest {
 protected:
  Clickbait() : ProgramTest("clickbait") {}
  static std::string rows(int n) {
    std::string text = "label,text\n";
    for (int i = 0; i < n; ++i) text += i % 2 == 0 ? "0,plain words here\n" : "1,you will not believe\n";
    return text;
  }
};

TEST_F(Clickbait, Refuses_bad_data_with_one_line) {
  const std::string packed = data::gzip(rows(200));
  std::string crc = packed;
  crc[crc.size() - 6] ^= 1;
  std::string vectors = "you 1 2 3\n. . . 1 2 3\nwill 1 2\n";
  write("short.txt", vectors);
  struct Case {
    const char* name;
    std::string content;
    const char* options;
    const char* pattern;
  };
  const std::vector<Case> cases{
      {"empty.csv", "", "", "E-DATA-001.*empty.csv.*no examples"},
      {"header.csv", "label,text\n", "", "E-DATA-001.*header.csv.*no examples"},
      {"ragged.csv", rows(15) + "0,a,b,c\n", "", "E-DATA-002.*ragged.csv:17:.*expected 2.*found 4"},
      {"quote.csv", rows(4) + "0,\"open\n0,x\n", "", "E-DATA-003.*quote opened at line 6"},
      {"label.csv", rows(4) + "2,x\n", "--classes 0,1", "E-DATA-004.*label.csv:6:.*label.*expected one of"},
      {"spam.csv", rows(4) + "spam,x\n", "--classes 0,1", "E-DATA-004.*:6:.*spam.*expected one of"},
      {"nul.csv", rows(2) + std::string("0,a\0b\n", 6), "", "E-DATA-005.*nul.csv:4:4:.*byte 0x00"},
      {"utf8.csv", rows(2) + "0,a\xff\n", "", "E-DATA-005.*utf8.csv:4:4:.*byte 0xff"},
      {"utf16.csv", std::string("\xff\xfel\0a\0", 6), "", "E-DATA-006.*UTF-16"},
      {"long.csv", rows(2) + "0," + std::string(3 << 20, 'x') + "\n", "", "E-DATA-007.*line 4.*longer than"},
      {"cut.csv.gz", packed.substr(0, packed.size() / 2), "", "E-GZ-001.*ended before the end of the stream"},
      {"crc.csv.gz", crc, "", "E-GZ-002.*CRC"},
      {"bomb.csv.gz", data::gzip(rows(2) + "0," + std::string(4000, 'x') + "\n"), "--max-inflated 1000",
       "E-GZ-003.*--max-inflated"},
      {"plain.csv.gz", rows(4), "", "E-GZ-004.*not gzip"},
      {"good.csv", rows(60), "--positive 1 --embeddings short.txt", "E-GLOVE-001.*short.txt:3:.*3.*2"},
  };
  for (const Case& c : cases) {
    write(c.name, c.content);
    const Outcome r = run(std::string("train --data ") + c.name + " --out run " + c.options);
    EXPECT_EQ(r.exit, 3) << c.name << ": " << r.err;
    EXPECT_THAT(r.err, ContainsRegex(c.pattern)) << c.name;
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
    EXPECT_LE(r.err.size(), 401u) << r.err;
    EXPECT_FALSE(fs::exists(folder_ / "run")) << c.name;
    EXPECT_TRUE(read(c.name) == c.content) << c.name << " was changed";
  }
}

TEST_F(Clickbait, Reads_vectors_of_tokens_with_spaces_and_refuses_bad_numbers) {
  write("t.csv", rows(60));
  const std::string train = "train --data t.csv --positive 1 --epochs 1 --threads 1 -q ";
  write("v.txt", "you 1 2 3\n. . . 1 2 3\n");
  EXPECT_EQ(run(train + "--embeddings v.txt --out a").exit, 0);
  for (const char* bad : {"nan", "1,5", "1e400"}) {
    write("v.txt", std::string("you 1 2 3\nwill 1 ") + bad + " 3\n");
    const Outcome r = run(train + "--embeddings v.txt --out b");
    EXPECT_EQ(r.exit, 3);
    EXPECT_THAT(r.err, ContainsRegex("E-GLOVE-002.*v.txt:2:.*column [0-9]+")) << bad;
  }
  ASSERT_EQ(run(train + "--out c").exit, 0);
  write("c/vocab.txt", "[PAD]\t0\n[UNK]\t-1\n");
  const Outcome r = run("predict c x");
  EXPECT_EQ(r.exit, 3);
  EXPECT_THAT(r.err, ContainsRegex("E-VOC-002.*id -1.*0\\.\\."));
}

TEST_F(Clickbait, Reports_what_programs_read) {
  const Outcome r = run("train --threads 1 --epochs 2 --json -q --out run");
  ASSERT_EQ(r.exit, 0) << r.err;
  const json j = json::parse(r.out);
  for (const char* key : {"app", "model", "seed", "device", "parameters", "train_s"})
    EXPECT_TRUE(j.contains(key)) << key;
  for (const char* key : {"accuracy", "precision", "recall", "f1"}) EXPECT_TRUE(j["test"][key].is_number()) << key;
  EXPECT_EQ(j["test"]["confusion"].size(), 2u);
  EXPECT_TRUE(j["floor"]["f1"].is_number());
  const json again = json::parse(run("eval run --json").out);
  EXPECT_EQ(again["test"]["f1"], j["test"]["f1"]);
  EXPECT_EQ(again["errors"], j["errors"]);
  EXPECT_GT(j["errors"].size(), 0u);
  EXPECT_THAT(run("predict run", "a \x1b]0;title\n").out, HasSubstr("\\x1b"));
}

TEST_F(Clickbait, Starts_from_a_language_model_and_says_what_it_took) {
  ASSERT_EQ(run("train --objective lm --threads 1 --epochs 1 --hidden 16 -q --out lm").exit, 0);
  const Outcome r =
      run("train --init-from lm --model lstm-encoder --hidden 16 --epochs 1 --threads 1 --json --out run");
  ASSERT_EQ(r.exit, 0) << r.err;
  EXPECT_THAT(r.err,
              ContainsRegex("from lm: lstm.weight_ih_l0 .* of [0-9]+ word vectors; fresh: .*head.output.weight"));
  EXPECT_EQ(json::parse(r.out)["init_from"]["taken"].size(), 4u);
  struct Case {
    const char* arguments;
    int exit;
    const char* pattern;
  };
  for (const Case& c : {Case{"train --init-from lm --hidden 8", 3, "E-CKPT-019.*lstm.weight_ih_l0.*file \\[64,128\\]"},
                        Case{"train --init-from lm --model ffnn", 2, "E-CONF-009.*no LSTM"},
                        Case{"train --init-from nothing", 4, "E-IO-001.*nothing/model.safetensors"},
                        Case{"train --objective lm --bidirectional", 2, "E-CONF-009.*--bidirectional"},
                        Case{"eval lm", 2, "E-CONF-009.*language model"}}) {
    const Outcome bad = run(c.arguments);
    EXPECT_EQ(bad.exit, c.exit) << bad.err;
    EXPECT_THAT(bad.err, ContainsRegex(c.pattern));
  }
  fs::remove(folder_ / "lm" / "vocab.txt");
  EXPECT_THAT(run("train --init-from lm --hidden 16").err, ContainsRegex("E-IO-001.*lm/vocab.txt"));
}

TEST_F(Clickbait, Ends_as_it_was_asked_to) {
  const std::string train = "train --threads 1 -q --epochs 1000 --early-stop 0 ";
  for (const auto& [signal, exit] : {std::pair{"INT", 130}, std::pair{"TERM", 143}}) {
    const std::string out = std::string("run") + signal;
    EXPECT_EQ(run(train + "--out " + out, "", std::string("timeout --preserve-status -s ") + signal + " 0.7").exit,
              exit);
    EXPECT_EQ(run("predict " + out + " words").exit, 0);
  }
  EXPECT_EQ(json::parse(run(train + "--max-time 0.2 --json --out t").out)["ending"], "max-time");
  EXPECT_EQ(run("train --threads 1 -q --epochs 1 --require 'f1>=1.1' --out r").exit, 8);
  EXPECT_THAT(run("train --threads 1 --dry-run").out, HasSubstr("one batch: loss"));
  EXPECT_FALSE(fs::exists(folder_ / "runs"));
  const json over =
      json::parse(run("train --threads 1 -q --overfit-batch --dropout 0 --word-dropout 0 --json --out o").out);
  EXPECT_LT(over["last_loss"].get<double>(), 0.01);
  EXPECT_THAT(run("train --threads 1 -q --epochs 1 --profile --out p").out, HasSubstr("LstmBackward"));
}

}  // namespace
}  // namespace adjoint::testing
