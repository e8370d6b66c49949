// Reading a safetensors header's JSON. Nothing in here trusts the text: each number is checked before it is used, and
// nothing is allocated that the length of the text does not pay for.

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "engine/checked_size.h"
#include "engine/safetensors_format.h"
#include "engine/utf8.h"

namespace adjoint::safetensors_format {
namespace {

// What the JSON parser would let pass, or would spend too much memory on.
void check_text(std::string_view text, const Rejecter& reject) {
  if (text.starts_with("\xef\xbb\xbf")) {
    reject("E-CKPT-005", fmt::format("header is not valid JSON at byte {}: byte order mark", kLengthBytes));
  }
  const std::size_t invalid = find_invalid_utf8(text);
  if (invalid != text.size()) {
    reject("E-CKPT-004", fmt::format("byte {}: header is not valid UTF-8", kLengthBytes + invalid));
  }
  const std::size_t nul = text.find('\0');  // the parser would take it for the end of the input
  if (nul != std::string_view::npos) {
    reject("E-CKPT-005", fmt::format("header is not valid JSON at byte {}: NUL byte", kLengthBytes + nul));
  }
  std::size_t quote = text.find('"');
  while (quote != std::string_view::npos) {
    std::size_t end = quote + 1;
    while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
    if (end - quote > kMaxLiteralBytes) {
      reject("E-CKPT-018", fmt::format("the string at byte {} is longer than the limit of {} bytes",
                                       kLengthBytes + quote, kMaxLiteralBytes));
    }
    quote = end < text.size() ? text.find('"', end + 1) : std::string_view::npos;
  }
}

// The events of the JSON parser, turned into entries. Keys of every object are compared, since the parser itself takes
// repeated ones; tensor names are compared after sorting, which needs less memory.
class HeaderReader {
 public:
  HeaderReader(SafetensorsHeader& header, std::size_t text_bytes, const Rejecter& reject)
      : header_(header), text_bytes_(text_bytes), reject_(reject) {
    constexpr std::size_t shortest_entry = 50;  // "":{"dtype":"U8","shape":[],"data_offsets":[0,0]},
    header_.tensors.reserve(std::min(kMaxTensors, text_bytes / shortest_entry));
  }

  bool null() { return scalar({Scalar::null}); }
  bool boolean(bool value) { return scalar({value ? Scalar::true_value : Scalar::false_value}); }
  bool number_integer(std::int64_t value) {
    const std::string text = fmt::format("{}", value);
    return scalar({Scalar::number, 0, &text});
  }
  bool number_unsigned(std::uint64_t value) { return scalar({Scalar::count, value}); }
  bool number_float(double, const std::string& text) { return scalar({Scalar::number, 0, &text}); }
  bool string(std::string& text) { return scalar({Scalar::text, 0, &text}); }
  bool binary(std::vector<std::uint8_t>&) { return false; }  // not in JSON

  bool start_object(std::size_t) {
    descend();
    switch (where_) {
      case Where::start: where_ = Where::top; break;
      case Where::top: start_entry(); break;
      case Where::metadata: reject_metadata_value();
      case Where::entry:
        if (field_ != Field::unknown) reject_field("an object");
        [[fallthrough]];
      case Where::unknown:
        enter_unknown();
        unknown_keys_.emplace_back();
        break;
      case Where::shape:
      case Where::offsets: reject_field("an object");
    }
    return true;
  }

  bool end_object() {
    --depth_;
    switch (where_) {
      case Where::entry:
        finish_entry();
        where_ = Where::top;
        break;
      case Where::metadata: where_ = Where::top; break;
      case Where::unknown:
        unknown_keys_.pop_back();
        leave_unknown();
        break;
      default: break;
    }
    return true;
  }

  bool start_array(std::size_t) {
    descend();
    switch (where_) {
      case Where::start:
      case Where::unknown: enter_unknown(); break;
      case Where::top: reject_not_object("an array");
      case Where::metadata: reject_metadata_value();
      case Where::entry:
        if (field_ == Field::dtype) reject_field("an array");
        if (field_ == Field::shape) where_ = Where::shape;
        if (field_ == Field::offsets) where_ = Where::offsets;
        if (field_ == Field::unknown) enter_unknown();
        break;
      case Where::shape:
      case Where::offsets: reject_field("an array");
    }
    return true;
  }

  bool end_array() {
    --depth_;
    if (where_ == Where::unknown) {
      leave_unknown();
      if (where_ == Where::start) reject_not_object("an array");
    } else {
      if (where_ == Where::offsets && offsets_seen_ != 2) reject_field(fmt::format("{} numbers", offsets_seen_));
      where_ = Where::entry;
    }
    return true;
  }

  bool key(std::string& text) {
    switch (where_) {
      case Where::top: top_key(text); break;
      case Where::metadata: metadata_key(text); break;
      case Where::entry: entry_key(text); break;
      default: remember(unknown_keys_.back(), text, "key"); break;
    }
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while parsing value - unexpected
    // end of input; expected …": what follows the place is worth repeating.
    std::string_view text = error.what();
    const std::size_t syntax = text.find("syntax error ");
    text.remove_prefix(syntax == std::string_view::npos ? text.find("] ") + 2 : syntax + 13);
    const std::size_t at = std::min(position == 0 ? 0 : position - 1, text_bytes_);
    reject_("E-CKPT-005",
            fmt::format("header is not valid JSON at byte {}: {}", kLengthBytes + at, printable(text, 160)));
  }

  void finish() {
    if (unknown_count_ > header_.notes.size()) {
      header_.notes.push_back(fmt::format("{} unknown fields in all", unknown_count_));
    }
  }

 private:
  enum class Where { start, top, metadata, entry, shape, offsets, unknown };
  enum class Field { none, dtype, shape, offsets, unknown };
  struct Scalar {
    enum Kind { null, true_value, false_value, count, number, text } kind;
    std::uint64_t value = 0;
    const std::string* literal = nullptr;  // of a number that is no count, or a text

    std::string shown() const {
      switch (kind) {
        case null: return "null";
        case true_value: return "true";
        case false_value: return "false";
        case count: return fmt::format("{}", value);
        case number: return printable(*literal, 40);
        case text: return in_quotes(*literal);
      }
      return {};
    }
  };

  std::string tensor_place() const { return "tensor " + in_quotes(tensor_.name); }

  [[noreturn]] void reject_not_object(const std::string& found) const {
    const std::string what = where_ == Where::start ? "header" : "entry " + in_quotes(name_);
    if (name_is_metadata_) reject_metadata_value();
    reject_("E-CKPT-005", fmt::format("{} is {} in the header's JSON (before byte {}); expected an object", what, found,
                                      kLengthBytes + text_bytes_));
  }
  [[noreturn]] void reject_metadata_value() const {
    const std::string which = where_ == Where::metadata ? fmt::format(": value of {}", in_quotes(metadata_key_)) : "";
    reject_("E-CKPT-016",
            fmt::format("{}{} has the wrong type; expected an object whose values are strings", kMetadata, which));
  }
  [[noreturn]] void reject_field(const std::string& found) const {
    switch (field_) {
      case Field::dtype:
        reject_("E-CKPT-007",
                fmt::format("{}: dtype is {}; expected a string, one of {}", tensor_place(), found, file_dtype_list()));
      case Field::shape:
        reject_("E-CKPT-009", fmt::format("{}: shape holds {}; expected an array in which each extent is a "
                                          "non-negative integer",
                                          tensor_place(), found));
      default:
        reject_("E-CKPT-009", fmt::format("{}: data_offsets holds {}; expected an array of two offsets, each a "
                                          "non-negative integer",
                                          tensor_place(), found));
    }
  }

  void descend() {
    if (++depth_ > kMaxDepth) reject_("E-CKPT-005", fmt::format("header's JSON is nested deeper than {}", kMaxDepth));
  }
  void enter_unknown() {
    if (where_ != Where::unknown) around_unknown_ = where_;
    where_ = Where::unknown;
    ++unknown_depth_;
  }
  void leave_unknown() {
    if (--unknown_depth_ == 0) where_ = around_unknown_;
  }

  void remember(std::set<std::string>& keys, const std::string& text, const char* noun) {
    if (keys.size() == kMaxUnknownKeys) {
      reject_("E-CKPT-018", fmt::format("{}: more unknown fields than the limit {}", tensor_place(), kMaxUnknownKeys));
    }
    if (!keys.insert(text).second) {
      reject_("E-CKPT-006", fmt::format("{}: duplicate {} {}", tensor_place(), noun, in_quotes(text)));
    }
  }

  void top_key(const std::string& text) {
    name_is_metadata_ = text == kMetadata;
    if (name_is_metadata_) {
      if (std::exchange(metadata_seen_, true)) reject_("E-CKPT-006", fmt::format("duplicate \"{}\"", kMetadata));
      return;
    }
    if (text.size() > kMaxNameBytes) {
      reject_("E-CKPT-018",
              fmt::format("tensor name {} has {} bytes; limit {}", in_quotes(text), text.size(), kMaxNameBytes));
    }
    if (header_.tensors.size() == kMaxTensors) {
      reject_("E-CKPT-018", fmt::format("header has more tensors than the limit {}", kMaxTensors));
    }
    name_ = text;
  }

  void metadata_key(const std::string& text) {
    if (header_.metadata.size() == kMaxMetadataKeys) {
      reject_("E-CKPT-018", fmt::format("{} has more keys than the limit {}", kMetadata, kMaxMetadataKeys));
    }
    metadata_key_ = text;
    if (header_.metadata.contains(text)) {
      reject_("E-CKPT-006", fmt::format("{}: duplicate key {}", kMetadata, in_quotes(text)));
    }
  }

  void entry_key(const std::string& text) {
    const auto known = [&](Field field, bool& seen) {
      field_ = field;
      if (std::exchange(seen, true)) {
        reject_("E-CKPT-006", fmt::format("{}: duplicate field {}", tensor_place(), in_quotes(text)));
      }
    };
    if (text == "dtype") return known(Field::dtype, has_dtype_);
    if (text == "shape") return known(Field::shape, has_shape_);
    if (text == "data_offsets") return known(Field::offsets, has_offsets_);
    field_ = Field::unknown;
    remember(entry_unknown_keys_, text, "field");
    constexpr std::size_t listed = 8;
    if (unknown_count_++ < listed) {
      header_.notes.push_back(fmt::format("{}: unknown field {} ignored", tensor_place(), in_quotes(text)));
    }
  }

  void start_entry() {
    if (name_is_metadata_) {
      where_ = Where::metadata;
      return;
    }
    where_ = Where::entry;
    tensor_ = TensorInfo{};
    tensor_.name = name_;
    field_ = Field::none;
    has_dtype_ = has_shape_ = has_offsets_ = false;
    offsets_seen_ = 0;
    entry_unknown_keys_.clear();
  }

  bool scalar(const Scalar& value) {
    switch (where_) {
      case Where::start: reject_not_object(value.shown());
      case Where::top:
        if (name_is_metadata_ && value.kind == Scalar::null) break;  // as absent
        reject_not_object(value.shown());
      case Where::metadata:
        if (value.kind != Scalar::text) reject_metadata_value();
        header_.metadata.emplace(metadata_key_, *value.literal);
        break;
      case Where::entry:
        if (field_ == Field::unknown) break;
        if (field_ != Field::dtype || value.kind != Scalar::text) reject_field(value.shown());
        set_dtype(*value.literal);
        break;
      case Where::shape:
        if (value.kind != Scalar::count) reject_field(value.shown());
        if (tensor_.shape.size() == kMaxRank) {
          reject_("E-CKPT-018", fmt::format("{}: rank is over the limit {}", tensor_place(), kMaxRank));
        }
        tensor_.shape.push_back(value.value);
        break;
      case Where::offsets:
        if (value.kind != Scalar::count) reject_field(value.shown());
        if (offsets_seen_ == 2) reject_field("more than two numbers");
        (offsets_seen_++ == 0 ? tensor_.begin : tensor_.end) = value.value;
        break;
      case Where::unknown: break;
    }
    return true;
  }

  void set_dtype(const std::string& text) {
    const auto dtype = file_dtype(text);
    if (!dtype) {
      reject_("E-CKPT-007", fmt::format("{}: dtype {} is unknown; expected one of {}", tensor_place(), in_quotes(text),
                                        file_dtype_list()));
    }
    tensor_.dtype = *dtype;
  }

  void finish_entry() {
    const auto require = [&](bool present, const char* field, const char* code) {
      if (!present) reject_(code, fmt::format("{}: field \"{}\" is missing", tensor_place(), field));
    };
    require(has_dtype_, "dtype", "E-CKPT-007");
    require(has_shape_, "shape", "E-CKPT-009");
    require(has_offsets_, "data_offsets", "E-CKPT-009");
    const std::uint64_t bytes = size_from_shape();
    const auto offsets = [&] { return fmt::format("[{},{}]", tensor_.begin, tensor_.end); };
    if (tensor_.begin > tensor_.end) {
      reject_("E-CKPT-010", fmt::format("{}: data_offsets {} end before they begin", tensor_place(), offsets()));
    }
    if (tensor_.bytes() != bytes) {
      reject_("E-CKPT-010",
              fmt::format("{}: shape {} of {} needs {} bytes; data_offsets {} hold {}", tensor_place(),
                          shape_text(tensor_.shape), name(tensor_.dtype), bytes, offsets(), tensor_.bytes()));
    }
    header_.tensors.push_back(std::move(tensor_));
  }

  // A zero extent must not hide that the others overflow: they are multiplied without it.
  std::uint64_t size_from_shape() const {
    CheckedSize bits(bits_of(tensor_.dtype));
    bool empty = false;
    bool too_large = false;
    for (const std::uint64_t extent : tensor_.shape) {
      too_large |= extent > kMaxExtent;
      empty |= extent == 0;
      if (extent != 0) bits *= extent;
    }
    if (too_large || bits.overflowed()) {
      reject_("E-CKPT-008", fmt::format("{}: shape {} of {}: its size overflows; expected extents up to 2^48 - 1 and a "
                                        "size below 2^61 bytes",
                                        tensor_place(), shape_text(tensor_.shape), name(tensor_.dtype)));
    }
    if (empty) return 0;
    if (bits.value() % 8 != 0) {
      reject_("E-CKPT-010", fmt::format("{}: shape {} of {} is {} bits; expected whole bytes", tensor_place(),
                                        shape_text(tensor_.shape), name(tensor_.dtype), bits.value()));
    }
    return bits.value() / 8;
  }

  SafetensorsHeader& header_;
  const std::size_t text_bytes_;
  const Rejecter& reject_;
  Where where_ = Where::start;
  int depth_ = 0;

  std::string name_;  // the last key of the header's object
  bool name_is_metadata_ = false;
  bool metadata_seen_ = false;
  std::string metadata_key_;

  TensorInfo tensor_;
  Field field_ = Field::none;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  int offsets_seen_ = 0;
  std::set<std::string> entry_unknown_keys_;

  Where around_unknown_ = Where::start;
  int unknown_depth_ = 0;
  std::vector<std::set<std::string>> unknown_keys_;  // of the unknown objects around this place
  std::size_t unknown_count_ = 0;
};

}  // namespace

void read_entries(std::string_view text, SafetensorsHeader& header, const Rejecter& reject) {
  check_text(text, reject);
  HeaderReader reader(header, text.size(), reject);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
  reader.finish();
}

}  // namespace adjoint::safetensors_format
