#include "engine/utf8.h"

#include <gtest/gtest.h>

#include "engine/checked_size.h"

namespace adjoint {
namespace {

TEST(Utf8, Finds_the_first_invalid_byte) {
  const struct {
    std::string_view text;
    std::size_t invalid;  // npos: none
  } cases[] = {
      {"", std::string_view::npos},
      {"plain ASCII of more than eight bytes", std::string_view::npos},
      {"\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf",
       std::string_view::npos},
      {"12345678901234\x80", 14},  // a continuation byte alone
      {"ab\xc0\x80", 2},           // overlong NUL
      {"ab\xc1\xbf", 2},
      {"ab\xe0\x9f\xbf", 2},      // overlong
      {"ab\xed\xa0\x80", 2},      // surrogate
      {"ab\xf0\x8f\xbf\xbf", 2},  // overlong
      {"ab\xf4\x90\x80\x80", 2},  // above U+10FFFF
      {"ab\xf5\x80\x80\x80", 2},
      {"ab\xff", 2},
      {"1234567\xe2\x82", 7},  // cut at the end
      {"1234567\xc3", 7},
      {"1234567\xf0\x9f\x98", 7},
      {"\xe2\x28\xa1", 0},
      {"\xf0\x9f\x98\x41", 0},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(find_invalid_utf8(c.text), std::min(c.invalid, c.text.size())) << printable(c.text);
  }
}

// Every sequence of one to three bytes against the definition: decode, then refuse what has a shorter form, surrogates
// and what continues wrongly.
TEST(Utf8, Agrees_with_the_definition_on_every_short_sequence) {
  const auto is_valid = [](const unsigned char* p, std::size_t size) {
    while (size > 0) {
      const std::size_t length = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
      if (length == 0 || length > size) return false;
      unsigned code = length == 1 ? p[0] : p[0] & (0x7fu >> length);
      for (std::size_t i = 1; i < length; ++i) {
        if (p[i] >> 6 != 2) return false;
        code = code << 6 | (p[i] & 0x3fu);
      }
      const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
      if (code < least[length] || (code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) return false;
      p += length;
      size -= length;
    }
    return true;
  };
  for (unsigned all = 0; all < 1u << 24; all += 1 + (all & 0xff) % 7) {  // most third bytes, all first and second ones
    const unsigned char bytes[] = {static_cast<unsigned char>(all >> 16), static_cast<unsigned char>(all >> 8),
                                   static_cast<unsigned char>(all)};
    const std::string_view text(reinterpret_cast<const char*>(bytes), 3);
    ASSERT_EQ(find_invalid_utf8(text) == text.size(), is_valid(bytes, 3)) << printable(text);
  }
}

TEST(Utf8, Prints_nothing_that_a_terminal_would_act_on) {
  EXPECT_EQ(printable("a\x1b[31m\n\x7f"), "a\\x1b[31m\\x0a\\x7f");
  EXPECT_EQ(printable("caf\xc3\xa9"), "caf\xc3\xa9");
  EXPECT_EQ(printable("\xc2\x9b"), "\\xc2\\x9b");           // CSI as a C1 control
  EXPECT_EQ(printable("\xe2\x80\xae"), "\\xe2\\x80\\xae");  // right-to-left override
  EXPECT_EQ(printable("\xe2\x81\xa7"), "\\xe2\\x81\\xa7");  // right-to-left isolate
  EXPECT_EQ(printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(printable("0123456789", 10), "0123456789");
  EXPECT_EQ(printable("0123456789a", 10), "01234…6789a");
  EXPECT_EQ(printable("0123\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", 10), "0123…\xc3\xa9\xc3\xa9");
  EXPECT_EQ(printable("\x01\x01\x01\x01", 8), "\\x01…\\x01") << "the limit is on what is shown";
  EXPECT_EQ(printable(std::string(100'000, '\x01'), 10), "\\x01…\\x01");
  EXPECT_EQ(printable(std::string(1000, 'a') + "\xe2\x82\xac", 6), "aaa…\xe2\x82\xac");
  EXPECT_EQ(in_quotes("w"), "\"w\"");
}

TEST(CheckedSize, Stays_overflowed_once_it_was) {
  CheckedSize size(std::uint64_t{1} << 32);
  size *= 1u << 31;
  EXPECT_FALSE(size.overflowed());
  EXPECT_EQ(size.value(), std::uint64_t{1} << 63);
  CheckedSize sum = size;
  sum += (std::uint64_t{1} << 63) - 1;
  EXPECT_FALSE(sum.overflowed());
  sum += 1;
  EXPECT_TRUE(sum.overflowed());
  size *= 2;
  EXPECT_TRUE(size.overflowed());
  size *= 0;
  EXPECT_TRUE(size.overflowed());
}

}  // namespace
}  // namespace adjoint
