#include "engine/json_scanner.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/utf8.h"

namespace adjoint {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

void append_utf8(std::string& value, unsigned code) {
  const auto put = [&](unsigned byte) { value += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6);
    put(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3f));
    put(0x80 | (code & 0x3f));
  } else {
    put(0xf0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3f));
    put(0x80 | (code >> 6 & 0x3f));
    put(0x80 | (code & 0x3f));
  }
}

}  // namespace

void JsonScanner::fail(const std::string& expected) const {
  if (position_ >= text_.size()) throw JsonError(text_.size(), "unexpected end; expected " + expected);
  throw JsonError(position_,
                  fmt::format("unexpected '{}'; expected {}", printable(text_.substr(position_, 1)), expected));
}

void JsonScanner::skip_space() {
  while (at(' ') || at('\n') || at('\r') || at('\t')) ++position_;
}

void JsonScanner::expect(char c) {
  if (!at(c)) fail(fmt::format("'{}'", c));
  ++position_;
}

JsonScanner::Kind JsonScanner::peek() {
  skip_space();
  if (position_ >= text_.size()) fail("a value");
  switch (text_[position_]) {
    case '{': return Kind::object;
    case '[': return Kind::array;
    case '"': return Kind::string;
    case 't':
    case 'f':
    case 'n': return Kind::literal;
    default:
      if (at('-') || is_digit(text_[position_])) return Kind::number;
      fail("a value");
  }
}

void JsonScanner::enter(char bracket) {
  skip_space();
  expect(bracket);
  if (is_first_.size() == max_depth_) throw JsonError(position_ - 1, fmt::format("nested deeper than {}", max_depth_));
  is_first_.push_back(true);
}

// Over the comma to the next member, or over the closing bracket.
bool JsonScanner::next(char closing) {
  skip_space();
  if (at(closing)) {
    ++position_;
    is_first_.pop_back();
    return false;
  }
  if (!is_first_.back()) {
    if (!at(',')) fail(fmt::format("',' or '{}'", closing));
    ++position_;
    skip_space();
  }
  is_first_.back() = false;
  return true;
}

void JsonScanner::enter_object() { enter('{'); }

void JsonScanner::enter_array() { enter('['); }

bool JsonScanner::next_key(std::string& key) {
  if (!next('}')) return false;
  if (!at('"')) fail("a key in quotes");
  read_string(key);
  skip_space();
  expect(':');
  return true;
}

bool JsonScanner::next_element() { return next(']'); }

void JsonScanner::read_string(std::string& value) {
  skip_space();
  expect('"');
  std::size_t end = position_;
  while (end < text_.size() && text_[end] != '"') end += text_[end] == '\\' ? 2 : 1;
  value.clear();
  value.reserve(std::min(end, text_.size()) - position_);  // an escape is never shorter than what it stands for
  while (true) {
    const std::size_t begin = position_;
    while (position_ < text_.size() && !at('"') && !at('\\') && static_cast<unsigned char>(text_[position_]) >= 0x20) {
      ++position_;
    }
    value.append(text_, begin, position_ - begin);
    if (at('"')) break;
    if (!at('\\')) fail("the end of the string, whose control characters are escaped");
    ++position_;
    append_escape(value);
  }
  ++position_;
}

void JsonScanner::append_escape(std::string& value) {
  constexpr std::string_view letters = "\"\\/bfnrt";
  constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
  const std::size_t simple = position_ < text_.size() ? letters.find(text_[position_]) : std::string_view::npos;
  if (simple != std::string_view::npos) {
    value += meanings[simple];
    ++position_;
    return;
  }
  if (!at('u')) fail("an escape");
  const std::size_t begin = position_ - 1;
  unsigned code = read_hex4();
  if (code >= 0xdc00 && code <= 0xdfff) throw JsonError(begin, "lone surrogate");
  if (code >= 0xd800 && code <= 0xdbff) {
    if (text_.substr(position_, 2) != "\\u") throw JsonError(begin, "lone surrogate");
    ++position_;
    const unsigned low = read_hex4();
    if (low < 0xdc00 || low > 0xdfff) throw JsonError(begin, "lone surrogate");
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }
  append_utf8(value, code);
}

// The four digits after a 'u'.
unsigned JsonScanner::read_hex4() {
  unsigned code = 0;
  for (int i = 0; i < 4; ++i) {
    ++position_;
    const char c = position_ < text_.size() ? text_[position_] : '\0';
    if (is_digit(c)) {
      code = code * 16 + static_cast<unsigned>(c - '0');
    } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
      code = code * 16 + static_cast<unsigned>((c | 0x20) - 'a') + 10;
    } else {
      fail("four hexadecimal digits");
    }
  }
  ++position_;
  return code;
}

void JsonScanner::skip_digits() {
  const std::size_t begin = position_;
  while (position_ < text_.size() && is_digit(text_[position_])) ++position_;
  if (position_ == begin) fail("a digit");
}

std::string_view JsonScanner::read_number() {
  skip_space();
  const std::size_t begin = position_;
  if (at('-')) ++position_;
  if (at('0')) {
    ++position_;
  } else {
    skip_digits();
  }
  if (at('.')) {
    ++position_;
    skip_digits();
  }
  if (at('e') || at('E')) {
    ++position_;
    if (at('+') || at('-')) ++position_;
    skip_digits();
  }
  return text_.substr(begin, position_ - begin);
}

std::string_view JsonScanner::read_literal() {
  skip_space();
  for (const std::string_view literal : {"true", "false", "null"}) {
    if (text_.substr(position_, literal.size()) == literal) {
      position_ += literal.size();
      return literal;
    }
  }
  fail("true, false or null");
}

void JsonScanner::finish() {
  skip_space();
  if (position_ != text_.size()) fail("the end");
}

}  // namespace adjoint
