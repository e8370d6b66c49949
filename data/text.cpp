#include "data/text.h"

#include <fmt/format.h>
#include <utf8proc.h>

namespace adjoint::data {

namespace {

constexpr int32_t kReplacement = 0xfffd;

struct CodePoint {
  int32_t value;  // -1 where the bytes are not UTF-8
  size_t bytes;
};

CodePoint decode(std::string_view text) {
  int32_t value = -1;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const utf8proc_ssize_t used = utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size()), &value);
  if (used <= 0) return {-1, 1};
  return {value, static_cast<size_t>(used)};
}

void append(std::string& text, int32_t value) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t used = utf8proc_encode_char(value, bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(used));
}

enum class Kind { space, word, other };

Kind kind_of(int32_t value) {
  if (value == '_') return Kind::word;
  const utf8proc_category_t category = utf8proc_category(value);
  if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NO)
    return Kind::word;  // letters, marks, numbers
  if (category >= UTF8PROC_CATEGORY_ZS && category <= UTF8PROC_CATEGORY_CF) return Kind::space;  // also control, format
  return Kind::other;
}

}  // namespace

bool Utf8Checker::accept(unsigned char byte) {
  if (left_ != 0) {
    const bool fits = byte >= low_ && byte <= high_;
    left_ = fits ? left_ - 1 : 0;
    low_ = 0x80;
    high_ = 0xbf;
    return fits;
  }
  if (byte < 0x80) return true;
  if (byte < 0xc2 || byte > 0xf4) return false;
  left_ = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
  if (byte == 0xe0) low_ = 0xa0;   // overlong
  if (byte == 0xed) high_ = 0x9f;  // surrogates
  if (byte == 0xf0) low_ = 0x90;   // overlong
  if (byte == 0xf4) high_ = 0x8f;  // above U+10FFFF
  return true;
}

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  Utf8Checker checker;
  size_t start = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!checker.inside_character()) start = i;
    if (!checker.accept(static_cast<unsigned char>(text[i]))) return start;
  }
  return checker.inside_character() ? std::optional(start) : std::nullopt;
}

std::string printable(std::string_view text, size_t limit) {
  std::string out;
  while (!text.empty()) {
    if (out.size() >= limit) return out + "…";
    const CodePoint point = decode(text);
    const bool shown = point.value == ' ' || (point.value >= 0 && kind_of(point.value) != Kind::space);
    for (const char byte : text.substr(0, point.bytes)) {
      shown ? out += byte : out += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
    }
    text.remove_prefix(point.bytes);
  }
  return out;
}

std::string lower_case(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const CodePoint point = decode(text);
    append(out, point.value < 0 ? kReplacement : utf8proc_tolower(point.value));
    text.remove_prefix(point.bytes);
  }
  return out;
}

std::vector<std::string> Tokenizer::tokens(std::string_view text) const {
  const std::string lowered = keep_case ? std::string() : lower_case(text);
  if (!keep_case) text = lowered;
  std::vector<std::string> out;
  Kind previous = Kind::space;
  while (!text.empty()) {
    const CodePoint point = decode(text);
    const Kind current = point.value < 0 ? Kind::other : kind_of(point.value);
    if (kind == TokenKind::characters) {
      if (current != Kind::space) {
        if (previous == Kind::space && !out.empty()) out.emplace_back(" ");
        append(out.emplace_back(), point.value < 0 ? kReplacement : point.value);
      }
    } else if (current != Kind::space) {
      if (current == Kind::other || previous != Kind::word) out.emplace_back();
      append(out.back(), point.value < 0 ? kReplacement : point.value);
    }
    previous = current;
    text.remove_prefix(point.bytes);
  }
  return out;
}

}  // namespace adjoint::data
