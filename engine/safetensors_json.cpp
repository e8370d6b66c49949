// Reading the entries of a safetensors header. Nothing in here trusts the text: each number is checked before it is
// used, and nothing is allocated that the length of the text does not pay for.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>

#include "engine/checked_size.h"
#include "engine/json_scanner.h"
#include "engine/safetensors_format.h"
#include "engine/utf8.h"

namespace adjoint::safetensors_format {
namespace {

using Kind = JsonScanner::Kind;

// Digits only and in range: 2.0, 2e0 and -0 are no counts.
bool parse_count(std::string_view text, std::uint64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

class EntryReader {
 public:
  EntryReader(std::string_view text, SafetensorsHeader& header, const Rejecter& reject)
      : json_(text, kMaxDepth), header_(header), reject_(reject) {
    constexpr std::size_t shortest_entry = 50;  // "":{"dtype":"U8","shape":[],"data_offsets":[0,0]},
    header_.tensors.reserve(std::min(kMaxTensors, text.size() / shortest_entry));
  }

  void read() {
    if (json_.peek() != Kind::object) {
      reject_("E-CKPT-005", fmt::format("header is {}; expected an object", describe()));
    }
    json_.enter_object();
    bool has_metadata = false;
    std::string key;
    while (json_.next_key(key)) {
      if (key != kMetadata) {
        read_tensor(std::move(key));
      } else if (std::exchange(has_metadata, true)) {
        reject_("E-CKPT-006", fmt::format("duplicate \"{}\"", kMetadata));
      } else {
        read_metadata();
      }
    }
    json_.finish();
    if (unknown_fields_ > header_.notes.size()) {
      header_.notes.push_back(fmt::format("{} unknown fields in all", unknown_fields_));
    }
  }

 private:
  std::string tensor_place() const { return fmt::format("tensor {}", in_quotes(tensor_.name)); }

  // The next value as a message shows it. Reading it first finds errors of syntax, which go before errors of meaning.
  std::string describe() {
    std::string text;
    switch (json_.peek()) {
      case Kind::object: skip_unknown(); return "an object";
      case Kind::array: skip_unknown(); return "an array";
      case Kind::number: return printable(json_.read_number(), 40);
      case Kind::literal: return std::string(json_.read_literal());
      case Kind::string: json_.read_string(text); break;
    }
    return in_quotes(text);
  }

  // Recursion is bounded: the scanner refuses to enter more than kMaxDepth brackets.
  void skip_unknown() {
    std::string text;
    switch (json_.peek()) {
      case Kind::object: {
        std::set<std::string> keys;
        json_.enter_object();
        while (json_.next_key(text)) {
          remember(keys, text, "key");
          skip_unknown();
        }
        break;
      }
      case Kind::array:
        json_.enter_array();
        while (json_.next_element()) skip_unknown();
        break;
      case Kind::string: json_.read_string(text); break;
      case Kind::number: json_.read_number(); break;
      case Kind::literal: json_.read_literal(); break;
    }
  }

  void remember(std::set<std::string>& keys, const std::string& key, const char* noun) {
    if (keys.size() == kMaxUnknownKeys) {
      reject_("E-CKPT-018", fmt::format("{}: more unknown fields than the limit {}", tensor_place(), kMaxUnknownKeys));
    }
    if (!keys.insert(key).second) {
      reject_("E-CKPT-006", fmt::format("{}: duplicate {} {}", tensor_place(), noun, in_quotes(key)));
    }
  }

  void read_metadata() {
    const auto reject_type = [&](const std::string& where, const std::string& found) {
      reject_("E-CKPT-016",
              fmt::format("{}{} is {}; expected an object whose values are strings", kMetadata, where, found));
    };
    if (json_.peek() != Kind::object) {
      const std::string found = describe();
      if (found == "null") return;  // as absent
      reject_type("", found);
    }
    json_.enter_object();
    std::string key;
    std::string value;
    while (json_.next_key(key)) {
      if (header_.metadata.size() == kMaxMetadataKeys) {
        reject_("E-CKPT-018", fmt::format("{} has more keys than the limit {}", kMetadata, kMaxMetadataKeys));
      }
      if (json_.peek() != Kind::string) reject_type(fmt::format(": value of {}", in_quotes(key)), describe());
      json_.read_string(value);
      const auto [at, is_new] = header_.metadata.try_emplace(std::move(key), std::move(value));
      if (!is_new) reject_("E-CKPT-006", fmt::format("{}: duplicate key {}", kMetadata, in_quotes(at->first)));
    }
  }

  void read_tensor(std::string name) {
    if (name.size() > kMaxNameBytes) {
      reject_("E-CKPT-018",
              fmt::format("tensor name {} has {} bytes; limit {}", in_quotes(name), name.size(), kMaxNameBytes));
    }
    if (header_.tensors.size() == kMaxTensors) {
      reject_("E-CKPT-018", fmt::format("header has more tensors than the limit {}", kMaxTensors));
    }
    tensor_ = TensorInfo{};
    tensor_.name = std::move(name);
    if (json_.peek() != Kind::object) {
      reject_("E-CKPT-005", fmt::format("entry {} is {}; expected an object", in_quotes(tensor_.name), describe()));
    }
    bool has_dtype = false;
    bool has_shape = false;
    bool has_offsets = false;
    const auto first = [&](bool& seen) {
      if (std::exchange(seen, true)) {
        reject_("E-CKPT-006", fmt::format("{}: duplicate field {}", tensor_place(), in_quotes(field_)));
      }
    };
    std::set<std::string> unknown;
    json_.enter_object();
    while (json_.next_key(field_)) {
      if (field_ == "dtype") {
        first(has_dtype);
        read_dtype();
      } else if (field_ == "shape") {
        first(has_shape);
        read_shape();
      } else if (field_ == "data_offsets") {
        first(has_offsets);
        read_offsets();
      } else {
        remember(unknown, field_, "field");
        note_unknown();
        skip_unknown();
      }
    }
    const auto require = [&](bool present, const char* field, const char* code) {
      if (!present) reject_(code, fmt::format("{}: field \"{}\" is missing", tensor_place(), field));
    };
    require(has_dtype, "dtype", "E-CKPT-007");
    require(has_shape, "shape", "E-CKPT-009");
    require(has_offsets, "data_offsets", "E-CKPT-009");
    check_size();
    header_.tensors.push_back(std::move(tensor_));
  }

  void note_unknown() {
    constexpr std::size_t listed = 8;
    if (unknown_fields_++ < listed) {
      header_.notes.push_back(fmt::format("{}: unknown field {} ignored", tensor_place(), in_quotes(field_)));
    }
  }

  void read_dtype() {
    if (json_.peek() != Kind::string) {
      reject_("E-CKPT-007", fmt::format("{}: dtype is {}; expected a string, one of {}", tensor_place(), describe(),
                                        file_dtype_list()));
    }
    json_.read_string(text_);
    const auto dtype = file_dtype(text_);
    if (!dtype) {
      reject_("E-CKPT-007", fmt::format("{}: dtype {} is unknown; expected one of {}", tensor_place(), in_quotes(text_),
                                        file_dtype_list()));
    }
    tensor_.dtype = *dtype;
  }

  [[noreturn]] void reject_counts(const std::string& found) const {
    reject_("E-CKPT-009",
            fmt::format("{}: {} holds {}; expected an array of which each value is a non-negative integer",
                        tensor_place(), field_, found));
  }

  void enter_counts() {
    if (json_.peek() != Kind::array) reject_counts(describe());
    json_.enter_array();
  }

  std::uint64_t read_count() {
    if (json_.peek() != Kind::number) reject_counts(describe());
    const std::string_view text = json_.read_number();
    std::uint64_t value = 0;
    if (!parse_count(text, value)) reject_counts(printable(text, 40));
    return value;
  }

  void read_shape() {
    enter_counts();
    while (json_.next_element()) {
      const std::uint64_t extent = read_count();
      if (tensor_.shape.size() == kMaxRank) {
        reject_("E-CKPT-018", fmt::format("{}: rank is over the limit {}", tensor_place(), kMaxRank));
      }
      tensor_.shape.push_back(extent);
    }
  }

  void read_offsets() {
    enter_counts();
    std::uint64_t offsets[2] = {};
    std::size_t count = 0;
    while (json_.next_element()) {
      if (count == 2) reject_counts("more than two offsets");
      offsets[count++] = read_count();
    }
    if (count != 2) reject_counts(count == 0 ? "no offset" : "one offset");
    tensor_.begin = offsets[0];
    tensor_.end = offsets[1];
  }

  void check_size() const {
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
  }

  // A zero extent must not hide that the others overflow: they are multiplied without it.
  std::uint64_t size_from_shape() const {
    CheckedSize bits(bits_of(tensor_.dtype));
    bool is_empty = false;
    bool too_large = false;
    for (const std::uint64_t extent : tensor_.shape) {
      too_large |= extent > kMaxExtent;
      is_empty |= extent == 0;
      if (extent != 0) bits *= extent;
    }
    if (too_large || bits.overflowed()) {
      reject_("E-CKPT-008", fmt::format("{}: shape {} of {} overflows; expected extents below 2^48", tensor_place(),
                                        shape_text(tensor_.shape), name(tensor_.dtype)));
    }
    if (is_empty) return 0;
    if (bits.value() % 8 != 0) {
      reject_("E-CKPT-010", fmt::format("{}: shape {} of {} is {} bits; expected whole bytes", tensor_place(),
                                        shape_text(tensor_.shape), name(tensor_.dtype), bits.value()));
    }
    return bits.value() / 8;
  }

  JsonScanner json_;
  SafetensorsHeader& header_;
  const Rejecter& reject_;
  TensorInfo tensor_;  // the one being read, and the field of it
  std::string field_;
  std::string text_;
  std::size_t unknown_fields_ = 0;
};

}  // namespace

void read_entries(std::string_view text, SafetensorsHeader& header, const Rejecter& reject) {
  const std::size_t invalid = find_invalid_utf8(text);
  if (invalid != text.size()) {
    reject("E-CKPT-004", fmt::format("byte {}: header is not valid UTF-8", kLengthBytes + invalid));
  }
  try {
    EntryReader(text, header, reject).read();
  } catch (const JsonError& error) {
    reject("E-CKPT-005",
           fmt::format("header is not valid JSON at byte {}: {}", kLengthBytes + error.position(), error.what()));
  }
}

}  // namespace adjoint::safetensors_format
