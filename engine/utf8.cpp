#include "engine/utf8.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>

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
  std::string head;
  std::string tail;
  const auto append = [](std::string& out, std::string_view part) {
    while (!part.empty()) {
      const std::size_t length = sequence_length(part.substr(0, 4));
      const std::string_view sequence = part.substr(0, length == 0 ? 1 : length);
      if (length == 0 || must_escape(sequence)) {
        for (const char c : sequence) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
      } else {
        out += sequence;
      }
      part.remove_prefix(sequence.size());
    }
  };
  if (text.size() <= limit) {
    append(head, text);
    return head;
  }
  // Cut between characters: a continuation byte never starts a part.
  const auto is_inside = [&](std::size_t i) { return (static_cast<unsigned char>(text[i]) & 0xc0u) == 0x80u; };
  std::size_t head_end = limit / 2;
  std::size_t tail_begin = text.size() - limit / 2;
  for (int i = 0; i < 3 && head_end > 0 && is_inside(head_end); ++i) --head_end;
  for (int i = 0; i < 3 && tail_begin + 1 < text.size() && is_inside(tail_begin); ++i) ++tail_begin;
  append(head, text.substr(0, head_end));
  append(tail, text.substr(tail_begin));
  return head + "…" + tail;
}

std::string in_quotes(std::string_view name) { return "\"" + printable(name, 60) + "\""; }

}  // namespace adjoint
