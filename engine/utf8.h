#pragma once
// UTF-8 from untrusted files: is it valid, and how is it put into a message.

#include <cstddef>
#include <string>
#include <string_view>

namespace adjoint {

/// Offset of the first byte that is not part of valid UTF-8 (overlong forms, surrogates and values above U+10FFFF are
/// invalid), or text.size() when all of it is valid.
std::size_t find_invalid_utf8(std::string_view text);

/// The text as it may be shown on one line of a terminal: control characters, direction overrides and invalid bytes
/// become \xNN, and what would then be longer than `limit` bytes loses its middle.
std::string printable(std::string_view text, std::size_t limit = 70);

/// A name from a file, printable and in quotes.
std::string in_quotes(std::string_view name);

}  // namespace adjoint
