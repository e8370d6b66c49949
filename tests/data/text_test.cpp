#include "data/text.h"

#include <gtest/gtest.h>

#include "data/sha256.h"

namespace adjoint::data {
namespace {

using Strings = std::vector<std::string>;

TEST(Utf8, Accepts_every_code_point_and_its_neighbours_at_each_length) {
  for (const char* text : {"", "plain", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
                           "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "שלום", "日本"}) {
    EXPECT_EQ(find_invalid_utf8(text), std::nullopt) << text;
  }
}

TEST(Utf8, Names_the_byte_where_the_first_bad_character_starts) {
  const std::pair<std::string, size_t> cases[] = {{"ab\x80", 2},
                                                  {"\xc0\xaf", 0},
                                                  {"\xc1\xbf", 0},
                                                  {"\xc3", 0},
                                                  {"a\xc3(", 1},
                                                  {"\xe0\x9f\xbf", 0},
                                                  {"\xed\xa0\x80", 0},
                                                  {"xyz\xe2\x82", 3},
                                                  {"\xf0\x8f\xbf\xbf", 0},
                                                  {"\xf4\x90\x80\x80", 0},
                                                  {"\xf5\x80\x80\x80", 0},
                                                  {"é\xff", 2},
                                                  {"\xf8\x88\x80\x80\x80", 0}};
  for (const auto& [text, offset] : cases) EXPECT_EQ(find_invalid_utf8(text), offset) << printable(text);
}

TEST(Printable, Shows_control_and_format_characters_as_bytes) {
  EXPECT_EQ(printable("a\x1b]0;b\n"), "a\\x1b]0;b\\x0a");
  EXPECT_EQ(printable("x\xe2\x80\xae y"), "x\\xe2\\x80\\xae y");  // U+202E, right-to-left override
  EXPECT_EQ(printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(printable("שלום"), "שלום");
  EXPECT_EQ(printable("abcdef", 3), "abc…");
}

TEST(LowerCase, Follows_Unicode) { EXPECT_EQ(lower_case("ÀÉ Σ Ж Straße \xff"), "àé σ ж straße \xef\xbf\xbd"); }

TEST(Tokenizer, Splits_words_and_single_punctuation) {
  const Tokenizer words;
  EXPECT_EQ(words.tokens("You Won't  Believe #7: \"Wow\"!!"),
            (Strings{"you", "won", "'", "t", "believe", "#", "7", ":", "\"", "wow", "\"", "!", "!"}));
  EXPECT_EQ(words.tokens("snake_case\tKimi Räikkönen\xc2\xa0wins"),
            (Strings{"snake_case", "kimi", "räikkönen", "wins"}));
  EXPECT_EQ(words.tokens("cafe\xcc\x81 ‘rape’"), (Strings{"cafe\xcc\x81", "‘", "rape", "’"}));
  EXPECT_EQ(words.tokens(" \n"), Strings{});
  EXPECT_EQ(words.tokens("a\xff"
                         "b"),
            (Strings{"a", "\xef\xbf\xbd", "b"}));
  EXPECT_EQ((Tokenizer{.keep_case = true}.tokens("Big News")), (Strings{"Big", "News"}));
}

TEST(Tokenizer, Splits_characters) {
  const Tokenizer characters{.kind = TokenKind::characters};
  EXPECT_EQ(characters.tokens("  Hé \t o "), (Strings{"h", "é", " ", "o"}));
}

TEST(Sha256, Gives_the_published_digests) {
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

}  // namespace
}  // namespace adjoint::data
