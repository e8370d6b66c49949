#pragma once
// JSON from untrusted files, read strictly and value by value.

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace adjoint {

/// What is wrong with a JSON text, and at which byte of it.
class JsonError : public std::runtime_error {
 public:
  JsonError(std::size_t position, const std::string& what) : std::runtime_error(what), position_(position) {}
  std::size_t position() const { return position_; }

 private:
  std::size_t position_;
};

/// Reads exactly the grammar of RFC 8259: no comments, trailing commas, leading zeros, byte order mark, lone surrogates
/// or text after the value. The caller asks for what it expects and allocates; the scanner itself keeps one bit for
/// each open bracket, at most `max_depth`. Repeated keys are the caller's to find. The text must be valid UTF-8.
///
/// nlohmann's SAX parser was measured here first: on one long string or a run of spaces it held five to eight times the
/// text, where rejecting a file may cost four times its size, and it took twice the time.
class JsonScanner {
 public:
  enum class Kind { object, array, string, number, literal };

  JsonScanner(std::string_view text, std::size_t max_depth) : text_(text), max_depth_(max_depth) {}

  /// What comes next; throws where no value starts.
  Kind peek();

  void enter_object();
  /// Reads the next key, or the end of the object and returns false.
  bool next_key(std::string& key);

  void enter_array();
  /// Returns true in front of the next element; or reads the end of the array and returns false.
  bool next_element();

  void read_string(std::string& value);
  /// A number as it is written, or true, false, null.
  std::string_view read_number();
  std::string_view read_literal();

  /// Throws unless only whitespace follows.
  void finish();

 private:
  [[noreturn]] void fail(const std::string& expected) const;
  void skip_space();
  bool at(char c) const { return position_ < text_.size() && text_[position_] == c; }
  void expect(char c);
  void enter(char bracket);
  bool next(char closing);
  void skip_digits();
  void append_escape(std::string& value);
  unsigned read_hex4();

  std::string_view text_;
  std::size_t max_depth_;
  std::size_t position_ = 0;
  std::vector<bool> is_first_;  // of each open bracket: nothing read inside it yet
};

}  // namespace adjoint
