#pragma once
// Plain or gzip text files as bytes and as lines, with places for messages and limits against hostile files.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/text.h"
#include "kernels/base/error.h"

namespace adjoint::data {

enum class BadRows { error, skip };

struct ReadOptions {
  BadRows on_bad_row = BadRows::error;        ///< skip still fails when more than 1 % of the rows are bad (E-DATA-008)
  uint64_t max_inflated = uint64_t{1} << 34;  ///< of a gzip file, in bytes
  uint64_t max_field = uint64_t{1} << 20;     ///< a line, or one field of a table, in bytes
};

/// What was read from one file.
struct ReadSummary {
  std::string path;
  int64_t rows = 0;     ///< used
  int64_t blank = 0;    ///< lines or rows without text
  int64_t skipped = 0;  ///< bad ones, left out because the caller asked for that
  std::string first_problem{};
};

/// The bytes of a file, inflated where it is gzip (by its name or its first bytes), line ends as '\n', a UTF-8 byte
/// order mark left out. Checks every byte: what is not UTF-8 is kept for `take_bad_byte`. Throws E-IO-001 (open),
/// E-IO-003 (not a regular file), E-IO-004 (read), E-DATA-006 (UTF-16) and E-GZ-001 to -004.
class TextSource {
 public:
  explicit TextSource(std::string path, uint64_t max_inflated = ReadOptions{}.max_inflated);
  ~TextSource();

  /// The next byte, -1 at the end.
  int get() {
    if (position_ == end_ || utf8_.inside_character()) return get_any();
    const unsigned char byte = buffer_[position_];
    const bool plain = (byte >= ' ' && byte < 0x80) || (byte == '\n' && !after_return_);
    if (!plain) return get_any();
    ++position_;
    advance(byte);
    after_return_ = false;
    return byte;
  }
  /// Of the byte that `get` gave last; both from 1, columns in bytes.
  int64_t line() const { return line_; }
  int64_t column() const { return column_; }
  const std::string& path() const { return path_; }

  /// The first NUL or invalid UTF-8 since the last call, as E-DATA-005.
  std::optional<Error> take_bad_byte();

  /// Throws E-DATA-007 for `what` ("text", "a field") on that line, or E-GZ-003 if a gzip bomb is why it is so long.
  [[noreturn]] void refuse_long(int64_t line, const std::string& what, uint64_t max_bytes);

 private:
  class Bytes;

  int get_any();
  void advance(unsigned char byte) {
    if (line_ended_) ++line_, column_ = 0;
    ++column_;
    line_ended_ = byte == '\n';
  }
  bool fill();
  void check(unsigned char byte);
  void note_bad_byte(int64_t column, unsigned char byte);

  std::string path_;
  std::unique_ptr<Bytes> bytes_;
  std::vector<unsigned char> buffer_;
  size_t position_ = 0, end_ = 0;
  int64_t line_ = 1, column_ = 0;
  bool line_ended_ = false, after_return_ = false;
  Utf8Checker utf8_;
  int64_t character_column_ = 0;  // where the character that is being read starts
  unsigned char character_byte_ = 0;
  std::optional<Error> bad_byte_;
};

/// Applies the policy on bad rows.
class BadRowPolicy {
 public:
  BadRowPolicy(BadRows policy, ReadSummary& summary) : policy_(policy), summary_(summary) {}
  /// Throws `error`, or counts it.
  void row_is_bad(const Error& error);
  /// To be called at the end of the file. Throws E-DATA-008 above 1 %.
  void finish() const;

 private:
  BadRows policy_;
  ReadSummary& summary_;
};

std::string_view trimmed(std::string_view text);

/// Calls `use(line, number)` for every good line that is not blank, without the spaces around it. Throws what
/// TextSource throws, E-DATA-005 (bad bytes) and E-DATA-007 (line too long).
ReadSummary read_lines(const std::string& path, const ReadOptions& options,
                       const std::function<void(std::string&& line, int64_t number)>& use);

/// One line as it stands, false at the end. Throws E-DATA-007 above `max_bytes`.
bool read_line(TextSource& source, uint64_t max_bytes, std::string& line);

}  // namespace adjoint::data
