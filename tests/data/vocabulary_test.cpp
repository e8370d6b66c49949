#include "data/vocabulary.h"

#include <gtest/gtest.h>

#include "tests/data/support.h"

namespace adjoint::data {
namespace {

using Strings = std::vector<std::string>;

Strings tokens_of(const Vocabulary& vocabulary) {
  Strings tokens;
  for (int64_t id = 0; id < vocabulary.size(); ++id) tokens.push_back(vocabulary.token(id));
  return tokens;
}

TEST(Vocabulary, Ranks_by_count_and_then_by_bytes) {
  const TokenCounts counts = {{"b", 3}, {"a", 3}, {"rare", 1}, {"é", 5}, {"z", 2}, {"[UNK]", 9}};
  EXPECT_EQ(tokens_of(Vocabulary::build(counts)),
            (Strings{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "é", "a", "b", "z", "rare"}));
  EXPECT_EQ(tokens_of(Vocabulary::build(counts, {.min_count = 3})),
            (Strings{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "é", "a", "b"}));
  EXPECT_EQ(tokens_of(Vocabulary::build(counts, {.max_size = 7, .extra_specials = {"<s>", "</s>"}})),
            (Strings{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "</s>", "é"}));
}

TEST(Vocabulary, Encodes_unknown_tokens_as_such) {
  const Vocabulary vocabulary = Vocabulary::build({{"a", 1}, {"b", 2}});
  EXPECT_EQ(vocabulary.encode(Strings{"a", "never", "b"}), (std::vector<int32_t>{5, 1, 4}));
  EXPECT_EQ(vocabulary.pad_id(), 0);
  EXPECT_EQ(vocabulary.unknown_id(), 1);
  expect_error([&] { vocabulary.token(-1); }, Exit::data, "E-VOC-002.*id -1.*0\\.\\.5");
  expect_error([&] { vocabulary.token(6); }, Exit::data, "E-VOC-002.*id 6.*0\\.\\.5");
}

TEST(Vocabulary, Comes_back_from_its_file_with_its_fingerprint) {
  const TemporaryFolder folder;
  const Vocabulary vocabulary = Vocabulary::build({{"a", 1}, {"שלום", 2}, {" ", 3}, {"\"", 1}});
  const Vocabulary again = Vocabulary::read(folder.write("vocab.txt", vocabulary.text()));
  EXPECT_EQ(tokens_of(again), tokens_of(vocabulary));
  EXPECT_EQ(again.fingerprint(), vocabulary.fingerprint());
  EXPECT_EQ(again.fingerprint().size(), 64u);
  EXPECT_NE(Vocabulary::build({{"a", 3}, {"שלום", 2}, {" ", 3}, {"\"", 1}}).fingerprint(), vocabulary.fingerprint());
}

TEST(Vocabulary, Reads_ids_and_other_places_of_the_special_tokens) {
  const TemporaryFolder folder;
  const Vocabulary by_id =
      Vocabulary::read(folder.write("vocab.txt", "a\t4\n[PAD]\t0\n[UNK]\t1\n[SEP]\t3\n[CLS]\t2\n"));
  EXPECT_EQ(tokens_of(by_id), (Strings{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"}));
  const Vocabulary bert =
      Vocabulary::read(folder.write("vocab.txt", "[PAD]\r\n[unused0]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\nthe\r\n"));
  EXPECT_EQ(bert.unknown_id(), 2);
  EXPECT_EQ(bert.id("the"), 5);
}

TEST(Vocabulary, Refuses_bad_files) {
  const TemporaryFolder folder;
  const std::string specials = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n";
  const auto refuses = [&](const std::string& bytes, const std::string& pattern) {
    const std::string path = folder.write("vocab.txt", bytes);
    expect_error([&] { Vocabulary::read(path); }, Exit::data, pattern);
  };
  refuses("", "E-VOC-001.*vocab\\.txt.*no token \\[PAD]");
  refuses("[PAD]\n[UNK]\n[SEP]\nthe\n", "E-VOC-001.*no token \\[CLS].*4 tokens");
  refuses("[PAD]\t0\n[UNK]\t-1\n", "E-VOC-002.*vocab\\.txt:2:.*id -1.*0\\.\\.1");
  refuses("[PAD]\t0\n[UNK]\t2\n", "E-VOC-002.*:2:.*id 2;.*0\\.\\.1");
  refuses("[PAD]\t0\n[UNK]\t0\n", "E-VOC-002.*:2:.*id 0 a second time.*0\\.\\.1");
  refuses("[PAD]\t0\n[UNK]\t1x\n", "E-VOC-002.*:2:.*id 1x");
  refuses("[PAD]\t0\n[UNK]\n", "E-VOC-002.*:2:");
  refuses(specials + "a\nb\na\n", "E-VOC-003.*id 6.*\"a\" is there already");
  refuses(specials + "\na\n", "E-VOC-003.*id 4.*empty");
  refuses(specials + "a\xff\n", "E-DATA-005.*vocab\\.txt:5:2:.*0xff");
  refuses(specials + std::string(65537, 'a'), "E-DATA-007.*line 5.*longer than 65536");
  expect_error([] { Vocabulary::build({{"a\tb", 1}}); }, Exit::data, "E-VOC-003.*a.*x09b.*tab");
}

}  // namespace
}  // namespace adjoint::data
