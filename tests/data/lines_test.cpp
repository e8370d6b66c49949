#include "data/lines.h"

#include <gtest/gtest.h>

#include "tests/data/gzip.h"
#include "tests/data/support.h"

namespace adjoint::data {
namespace {

using Strings = std::vector<std::string>;

Strings lines_of(const std::string& path, const ReadOptions& options = {}) {
  Strings lines;
  read_lines(path, options, [&](std::string&& line, int64_t) { lines.push_back(std::move(line)); });
  return lines;
}

TEST(ReadLines, Knows_every_line_end_and_drops_blanks_and_the_byte_order_mark) {
  const TemporaryFolder folder;
  const std::string path = folder.write("a.txt", "\xef\xbb\xbfone\n\n two \r\n\r\nthree\rfour\n \t\nfive");
  std::vector<int64_t> numbers;
  const ReadSummary summary = read_lines(path, {}, [&](std::string&&, int64_t number) { numbers.push_back(number); });
  EXPECT_EQ(lines_of(path), (Strings{"one", "two", "three", "four", "five"}));
  EXPECT_EQ(numbers, (std::vector<int64_t>{1, 3, 5, 6, 8}));
  EXPECT_EQ(summary.rows, 5);
  EXPECT_EQ(summary.blank, 3);
}

TEST(ReadLines, Reads_any_number_of_gzip_members_under_any_name) {
  const TemporaryFolder folder;
  const std::string text = gzip("one\ntw") + gzip("") + gzip("o\nthree\n");
  EXPECT_EQ(lines_of(folder.write("a.gz", text)), (Strings{"one", "two", "three"}));
  EXPECT_EQ(lines_of(folder.write("a.txt", text)), (Strings{"one", "two", "three"}));
  std::string large;
  for (int i = 0; i < 60000; ++i) large += "line " + std::to_string(i * 7919 % 60000) + "\n";
  EXPECT_EQ(lines_of(folder.write("large.gz", gzip(large))).size(), 60000u);
}

TEST(ReadLines, Says_where_a_byte_is_not_text) {
  const TemporaryFolder folder;
  const auto refuses = [&](const std::string& bytes, const std::string& pattern) {
    const std::string path = folder.write("bad.txt", bytes);
    expect_error([&] { lines_of(path); }, Exit::data, "E-DATA-005.*bad\\.txt" + pattern);
  };
  refuses(
      "fine\nab\xff"
      "c\n",
      ":2:3: invalid UTF-8 \\(byte 0xff\\).*expected UTF-8");
  refuses(std::string("x\n\ny\0z", 6), ":3:2: NUL \\(byte 0x00\\)");
  refuses("caf\xc3", ":1:4:.*byte 0xc3");
  refuses("\xe2\x82\nnext", ":1:1:.*byte 0xe2");
  refuses("a\xed\xa0\x80", ":1:2:.*byte 0xed");
}

TEST(ReadLines, Refuses_UTF_16) {
  const TemporaryFolder folder;
  for (const std::string& bytes : {std::string("\xff\xfe"
                                               "a\0",
                                               4),
                                   std::string("\xfe\xff\0a", 4)}) {
    const std::string path = folder.write("wide.txt", bytes);
    expect_error([&] { lines_of(path); }, Exit::data, "E-DATA-006.*wide\\.txt.*UTF-16.*expected UTF-8");
  }
}

TEST(ReadLines, Limits_the_length_of_a_line) {
  const TemporaryFolder folder;
  const ReadOptions options{.max_field = 1000};
  const std::string fits = folder.write("fits.txt", std::string(1000, 'a') + "\n");
  EXPECT_EQ(lines_of(fits, options).size(), 1u);
  for (const bool skip : {false, true}) {
    const std::string path = folder.write("long.txt", "ok\n" + std::string(1001, 'a'));
    const ReadOptions policy{.on_bad_row = skip ? BadRows::skip : BadRows::error, .max_field = 1000};
    expect_error([&] { lines_of(path, policy); }, Exit::data, "E-DATA-007.*line 2.*longer than 1000");
  }
}

TEST(ReadLines, Skips_bad_lines_on_request_but_not_many) {
  const TemporaryFolder folder;
  std::string bytes;
  for (int i = 0; i < 198; ++i) bytes += "good\n";
  const std::string path = folder.write("mixed.txt", bytes + "\xff\n\xfe\n");
  const ReadSummary summary = read_lines(path, {.on_bad_row = BadRows::skip}, [](std::string&&, int64_t) {});
  EXPECT_EQ(summary.rows, 198);
  EXPECT_EQ(summary.skipped, 2);
  EXPECT_NE(summary.first_problem.find(":199:1:"), std::string::npos) << summary.first_problem;
  const std::string worse = folder.write("worse.txt", bytes + "\xff\n\xfe\n\xfe\n");
  expect_error([&] { lines_of(worse, {.on_bad_row = BadRows::skip}); }, Exit::data,
               "E-DATA-008.*3 bad rows beside 198.*at most 1 %.*E-DATA-005.*:199:1:");
}

TEST(ReadLines, Refuses_what_is_not_a_file) {
  const TemporaryFolder folder;
  expect_error([&] { lines_of(folder.path("none.txt")); }, Exit::io, "E-IO-001.*none\\.txt.*No such file");
  expect_error([&] { lines_of(folder.path(".")); }, Exit::io, "E-IO-003.*not a regular file");
}

TEST(Gzip, Cut_short_anywhere_is_refused) {
  const TemporaryFolder folder;
  const std::string whole = gzip("one headline\nand another\n") + gzip("a second member\n");
  const size_t first = gzip("one headline\nand another\n").size();
  for (size_t length = 0; length < whole.size(); ++length) {
    if (length == first) continue;
    const std::string path = folder.write("cut.gz", whole.substr(0, length));
    expect_error([&] { lines_of(path); }, Exit::data, "E-GZ-001.*cut\\.gz.*ended before the end of the stream");
  }
}

TEST(Gzip, Checks_contents_and_size_of_every_member) {
  const TemporaryFolder folder;
  const std::string one = gzip("one headline\n");
  const std::string good = one + gzip("another headline\n") + one;
  const size_t second_end = good.size() - one.size();
  const auto flipped = [&](size_t position) {
    std::string bytes = good;
    bytes[position] ^= 1;
    return folder.write("damaged.gz", bytes);
  };
  expect_error([&] { lines_of(flipped(second_end - 8)); }, Exit::data, "E-GZ-002.*member 2.*CRC");
  expect_error([&] { lines_of(flipped(second_end - 4)); }, Exit::data, "E-GZ-002.*member 2.*ISIZE");
  // A flipped bit of the compressed data or the trailer is an error, or one of the few that fill the last byte.
  int unnoticed = 0;
  for (size_t bit = 10 * 8; bit < one.size() * 8; ++bit) {
    std::string bytes = one;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    try {
      EXPECT_EQ(lines_of(folder.write("bit.gz", bytes)), Strings{"one headline"}) << "bit " << bit;
      ++unnoticed;
    } catch (const Error& error) {
      EXPECT_TRUE(error.code().starts_with("E-GZ-")) << error.line();
    }
  }
  EXPECT_LT(unnoticed, 8);
}

TEST(Gzip, Refuses_plain_text_and_trailing_bytes) {
  const TemporaryFolder folder;
  expect_error([&] { lines_of(folder.write("a.gz", "plain text\n")); }, Exit::data, "E-GZ-004.*a\\.gz.*not gzip.*0x70");
  expect_error([&] { lines_of(folder.write("a.gz", "\x1f plain")); }, Exit::data, "E-GZ-004.*not gzip");
  expect_error([&] { lines_of(folder.write("a.gz", gzip("x\n") + "junk")); }, Exit::data,
               "E-GZ-004.*not gzip after member 1.*0x6a");
}

TEST(Gzip, Stops_at_a_bomb_early) {
  const TemporaryFolder folder;
  for (const char fill : {'\0', '\n'}) {
    const std::string member = gzip(std::string(8 << 20, fill));
    std::string bomb;
    for (int i = 0; i < 20; ++i) bomb += member;
    const std::string path = folder.write("bomb.gz", bomb);
    expect_error([&] { lines_of(path); }, Exit::data,
                 "E-GZ-003.*bomb\\.gz.*more than 671[0-9]{5} \\(ratio 10[0-9][0-9]:1.*--max-inflated");
  }
  const std::string path = folder.write("big.gz", gzip("some text\n" + std::string(3000, 'x')));
  expect_error([&] { lines_of(path, {.max_inflated = 2000}); }, Exit::data,
               "E-GZ-003.*ratio.*2000 bytes.*--max-inflated");
}

}  // namespace
}  // namespace adjoint::data
