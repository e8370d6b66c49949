#pragma once
// UTF-8, lower case and tokens.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace adjoint::data {

/// Follows RFC 3629 one byte at a time: no overlong form, no surrogate, nothing above U+10FFFF.
class Utf8Checker {
 public:
  /// False if `byte` cannot come next; the checker then stands at the start of a character again.
  bool accept(unsigned char byte);
  bool inside_character() const { return left_ != 0; }

 private:
  int left_ = 0;
  unsigned char low_ = 0x80;
  unsigned char high_ = 0xbf;
};

/// Offset of the first character that is not valid UTF-8, if there is one.
std::optional<size_t> find_invalid_utf8(std::string_view text);

/// For messages and terminals: control and format characters and invalid bytes as \xNN, cut after `limit` bytes.
std::string printable(std::string_view text, size_t limit = 60);

/// One code point for one code point (Unicode's simple mapping); invalid bytes become U+FFFD.
std::string lower_case(std::string_view text);

enum class TokenKind { words, characters };

struct Tokenizer {
  TokenKind kind = TokenKind::words;
  bool keep_case = false;

  /// words: a run of letters, marks, digits and '_' is a token, every other visible character is one by itself
  /// (the regular expression \w+|[^\w\s]). characters: every code point is a token, a run of spaces one " ".
  std::vector<std::string> tokens(std::string_view text) const;
};

}  // namespace adjoint::data
