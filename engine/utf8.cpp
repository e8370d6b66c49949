#include "engine/utf8.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <iterator>
#include <vector>

namespace adjoint {
namespace {

// Length in bytes of the well-formed sequence at the start of `text` (Unicode, table 3-7), or 0.
std::size_t sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto within = [&](std::size_t i, unsigned low, unsigned high) { return byte(i) >= low && byte(i) <= high; };
  const unsigned first = byte(0);
  if (text.empty()) return 0;
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return within(1, 0x80, 0xbf) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    const unsigned low = first == 0xe0 ? 0xa0 : 0x80;   // shorter forms exist below
    const unsigned high = first == 0xed ? 0x9f : 0xbf;  // surrogates above
    return within(1, low, high) && within(2, 0x80, 0xbf) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const unsigned low = first == 0xf0 ? 0x90 : 0x80;
    const unsigned high = first == 0xf4 ? 0x8f : 0xbf;
    return within(1, low, high) && within(2, 0x80, 0xbf) && within(3, 0x80, 0xbf) ? 4 : 0;
  }
  return 0;
}

// C0 and C1 controls, DEL, and the characters that reorder or break a line: U+2028 to U+202E, U+2066 to U+2069.
bool must_escape(std::string_view sequence) {
  const unsigned char first = static_cast<unsigned char>(sequence[0]);
  if (sequence.size() == 1) return first < 0x20 || first == 0x7f;
  const unsigned char second = static_cast<unsigned char>(sequence[1]);
  if (sequence.size() == 2) return first == 0xc2 && second < 0xa0;
  if (sequence.size() != 3 || first != 0xe2) return false;
  const unsigned char third = static_cast<unsigned char>(sequence[2]);
  return (second == 0x80 && third >= 0xa8 && third <= 0xae) || (second == 0x81 && third >= 0xa6 && third <= 0xa9);
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0u) == 0x80u; }

// Character by character.
std::vector<std::string> escaped(std::string_view text) {
  std::vector<std::string> characters;
  while (!text.empty()) {
    const std::size_t length = sequence_length(text.substr(0, 4));
    const std::string_view sequence = text.substr(0, length == 0 ? 1 : length);
    std::string& character = characters.emplace_back();
    if (length == 0 || must_escape(sequence)) {
      for (const char c : sequence) character += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      character = sequence;
    }
    text.remove_prefix(sequence.size());
  }
  return characters;
}

// The start of one text and the end of another, half of `limit` bytes each.
std::string shorten(const std::vector<std::string>& head, const std::vector<std::string>& tail, std::size_t limit) {
  std::string start;
  for (auto next = head.begin(); next != head.end() && start.size() + next->size() <= limit / 2; ++next) start += *next;
  auto first = tail.end();
  for (std::size_t size = 0; first != tail.begin() && size + std::prev(first)->size() <= limit / 2; --first) {
    size += std::prev(first)->size();
  }
  start += "…";
  for (; first != tail.end(); ++first) start += *first;
  return start;
}

}  // namespace

std::size_t find_invalid_utf8(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t word;
    while (text.size() - at >= sizeof word) {
      std::memcpy(&word, text.data() + at, sizeof word);
      if (word & 0x8080808080808080u) break;
      at += sizeof word;
    }
    if (at == text.size()) break;
    const std::size_t length = sequence_length(text.substr(at, 4));
    if (length == 0) return at;
    at += length;
  }
  return text.size();
}

std::string printable(std::string_view text, std::size_t limit) {
  // A character takes at most four times its bytes, so what lies further inside a long text cannot be shown.
  if (text.size() > 4 * limit) {
    std::size_t tail = text.size() - 2 * limit;
    while (tail < text.size() && is_continuation(text[tail])) ++tail;
    return shorten(escaped(text.substr(0, 2 * limit)), escaped(text.substr(tail)), limit);
  }
  const std::vector<std::string> characters = escaped(text);
  std::string whole;
  for (const std::string& character : characters) whole += character;
  return whole.size() <= limit ? whole : shorten(characters, characters, limit);
}

std::string in_quotes(std::string_view name) { return fmt::format("\"{}\"", printable(name, 48)); }

}  // namespace adjoint
