// The scanner against a general JSON library: the same texts are accepted and mean the same.

#include "engine/json_scanner.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <random>

namespace adjoint {
namespace {

using Json = nlohmann::json;
using Kind = JsonScanner::Kind;

Json build(JsonScanner& scanner) {
  std::string text;
  switch (scanner.peek()) {
    case Kind::object: {
      Json object = Json::object();
      scanner.enter_object();
      while (scanner.next_key(text)) object[text] = build(scanner);
      return object;
    }
    case Kind::array: {
      Json array = Json::array();
      scanner.enter_array();
      while (scanner.next_element()) array.push_back(build(scanner));
      return array;
    }
    case Kind::string: scanner.read_string(text); return text;
    case Kind::number: return Json::parse(scanner.read_number());
    case Kind::literal: return Json::parse(scanner.read_literal());
  }
  return {};
}

std::optional<Json> scan(std::string_view text, std::size_t max_depth = 64) {
  JsonScanner scanner(text, max_depth);
  try {
    Json value = build(scanner);
    scanner.finish();
    return value;
  } catch (const JsonError& error) {
    EXPECT_LE(error.position(), text.size());
    return std::nullopt;
  }
}

TEST(JsonScanner, Agrees_with_the_library_on_every_short_text) {
  constexpr std::string_view alphabet = "{}[]:,\"\\01-.eu \n";
  std::string text;
  std::size_t accepted = 0;
  const auto visit = [&](auto& self, std::size_t length) -> void {
    if (!text.empty()) {
      const bool expected = Json::accept(text);
      ASSERT_EQ(scan(text).has_value(), expected) << text;
      accepted += expected;
    }
    if (length == 0) return;
    for (const char c : alphabet) {
      text.push_back(c);
      self(self, length - 1);
      text.pop_back();
      if (::testing::Test::HasFatalFailure()) return;
    }
  };
  visit(visit, 4);
  EXPECT_GT(accepted, 500u);
}

TEST(JsonScanner, Agrees_with_the_library_on_damaged_texts) {
  const std::string seeds[] = {
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}   )",
      R"( [ 1 , -0.5e+3,true,false , null, {"a":[{}],"b":[]}, "\u00e9\uD83D\uDE00\"\\\/\b\f\n\r\t" ] )",
      "{\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\":[[[[1E2]]]],\"x\":\"\"}",
  };
  constexpr std::string_view pieces = "{}[]:,\"\\/0123456789-+.eEuabfnrtlsd \t\n\r\x01\x1f\x7f";
  std::mt19937 random(9);
  int accepted = 0;
  for (int i = 0; i < 60'000; ++i) {
    std::string text = seeds[random() % std::size(seeds)];
    for (unsigned edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      const char piece = pieces[random() % pieces.size()];
      switch (random() % 3) {
        case 0: text[at] = piece; break;
        case 1: text.insert(at, 1, piece); break;
        case 2: text.erase(at, 1 + random() % 3); break;
      }
      if (text.empty()) text = "0";
    }
    std::optional<Json> expected;
    try {
      expected = Json::parse(text);
    } catch (const Json::out_of_range&) {
      continue;  // a number that no double holds: legal JSON, and the library's own limit
    } catch (const Json::parse_error& error) {
      // Encoding is checked before scanning, so texts that an edit made invalid are not the scanner's.
      if (std::string_view(error.what()).find("UTF-8") != std::string_view::npos) continue;
    }
    const std::optional<Json> value = scan(text);
    ASSERT_EQ(value.has_value(), expected.has_value()) << text;
    if (value) {
      ASSERT_EQ(*value, *expected) << text;
      ++accepted;
    }
  }
  EXPECT_GT(accepted, 5000);
}

TEST(JsonScanner, Rejects_what_the_library_lets_pass) {
  for (const std::string& text :
       {std::string("{}\0", 3), std::string("{}\0garbage", 10), std::string("\xef\xbb\xbf{}")}) {
    EXPECT_TRUE(Json::accept(text));
    EXPECT_FALSE(scan(text).has_value());
  }
}

TEST(JsonScanner, Bounds_its_depth) {
  const std::string open(5, '[');
  const std::string close(5, ']');
  EXPECT_TRUE(scan(open + close, 5).has_value());
  EXPECT_FALSE(scan(open + close, 4).has_value());
  EXPECT_TRUE(scan("[[[]],[[]]]", 3).has_value()) << "depth is what is open, not what was opened";
}

TEST(JsonScanner, Names_the_byte_that_is_wrong) {
  const struct {
    std::string_view text;
    std::size_t position;
    std::string_view what;
  } cases[] = {
      {"{", 1, "unexpected end; expected a key in quotes"},
      {"[1,]", 3, "unexpected ']'; expected a value"},
      {"[1 2]", 3, "unexpected '2'; expected ',' or ']'"},
      {"\"\\ud800x\"", 1, "lone surrogate"},
      {"\"a\n\"", 2, "unexpected '\\x0a'; expected the end of the string, whose control characters are escaped"},
      {"\"\\ud800\\u0041\"", 1, "lone surrogate"},
      {"\"\\udc00\"", 1, "lone surrogate"},
      {"01", 1, "unexpected '1'; expected the end"},
      {"[[[", 2, "nested deeper than 2"},
  };
  for (const auto& c : cases) {
    JsonScanner scanner(c.text, 2);
    try {
      build(scanner);
      scanner.finish();
      ADD_FAILURE() << "accepted " << c.text;
    } catch (const JsonError& error) {
      EXPECT_EQ(error.position(), c.position) << c.text;
      EXPECT_EQ(error.what(), c.what) << c.text;
    }
  }
}

}  // namespace
}  // namespace adjoint
