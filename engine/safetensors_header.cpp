// What a safetensors header must satisfy once its entries are read: names, layout, checksums.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <tuple>

#include "engine/crc32c.h"
#include "engine/safetensors.h"
#include "engine/safetensors_format.h"
#include "engine/utf8.h"
#include "kernels/base/error.h"

namespace adjoint {
namespace safetensors_format {

std::uint32_t header_checksum(std::string_view text, std::size_t digits) {
  const std::uint64_t length = text.size();
  std::uint32_t crc = crc32c(std::as_bytes(std::span(&length, 1)));
  crc = crc32c(bytes_of(text.substr(0, digits)), crc);
  crc = crc32c(bytes_of("00000000"), crc);
  return crc32c(bytes_of(text.substr(digits + kDigits)), crc);
}

std::string checksum_digits(std::uint32_t checksum) { return fmt::format("{:08x}", checksum); }

}  // namespace safetensors_format

namespace {

using namespace safetensors_format;

bool is_json_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

void index_names(SafetensorsHeader& header, const Rejecter& reject) {
  const auto name_of = [&](std::uint32_t i) -> const std::string& { return header.tensors[i].name; };
  std::vector<std::uint32_t>& order = header.by_name;
  order.resize(header.tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::sort(order, {}, name_of);
  const auto twice = std::ranges::adjacent_find(order, {}, name_of);
  if (twice != order.end()) {
    reject("E-CKPT-006", fmt::format("duplicate tensor name {}; expected each name once", in_quotes(name_of(*twice))));
  }
}

void sort_by_offset(std::vector<TensorInfo>& tensors) {
  const auto before = [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  };
  if (!std::ranges::is_sorted(tensors, before)) std::ranges::sort(tensors, before);
}

// The tensors must cover the buffer exactly once.
void check_layout(const std::vector<TensorInfo>& tensors, std::uint64_t buffer_bytes, const Rejecter& reject) {
  std::uint64_t covered = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& tensor = tensors[i];
    if (tensor.begin < covered) {
      const TensorInfo& before = tensors[i - 1];
      reject("E-CKPT-011",
             fmt::format("tensor {} at bytes {} to {} overlaps tensor {} at bytes {} to {}", in_quotes(tensor.name),
                         tensor.begin, tensor.end, in_quotes(before.name), before.begin, before.end));
    }
    if (tensor.begin > covered) {
      reject("E-CKPT-011", fmt::format("gap of {} bytes before tensor {} at byte {} of the buffer",
                                       tensor.begin - covered, in_quotes(tensor.name), tensor.begin));
    }
    covered = tensor.end;
  }
  if (covered > buffer_bytes) {
    reject("E-CKPT-013",
           fmt::format("file is truncated: expected {} bytes of tensors, found {}", covered, buffer_bytes));
  }
  if (covered < buffer_bytes) {
    reject("E-CKPT-012", fmt::format("{} trailing bytes after the last tensor, which ends at byte {} of the buffer",
                                     buffer_bytes - covered, covered));
  }
}

// Eight lower-case digits and nothing else, so that no two texts mean the same checksum.
bool parse_digits(std::string_view digits, std::uint32_t& value) {
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (digits.size() != kDigits || !std::ranges::all_of(digits, is_digit)) return false;
  std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  return true;
}

// 0 when the text is no version.
std::uint64_t parse_version(std::string_view text) {
  std::uint64_t version = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
  return error == std::errc() && end == text.data() + text.size() && !text.starts_with('0') ? version : 0;
}

void check_checksums(std::string_view text, SafetensorsHeader& header, const Rejecter& reject) {
  const auto first_own = header.metadata.lower_bound(std::string(kOwnPrefix));
  if (first_own == header.metadata.end() || !first_own->first.starts_with(kOwnPrefix)) {
    header.notes.push_back("no digest, integrity not verified");
    return;
  }
  const auto value_of = [&](std::string_view key) {
    const auto found = header.metadata.find(std::string(key));
    return found == header.metadata.end() ? nullptr : &found->second;
  };
  // Before the checksums, since a later version may store them in another way.
  const std::string* version_text = value_of(kVersionKey);
  const std::uint64_t version = version_text ? parse_version(*version_text) : 0;
  if (version > kVersion) {
    reject("E-CKPT-020", fmt::format("checkpoint has format version {}; this program supports up to {}; try a newer "
                                     "release",
                                     version, kVersion));
  }
  for (const std::string_view key : {kHeaderChecksumKey, kTensorChecksumsKey}) {
    if (!value_of(key)) {
      reject("E-CKPT-015",
             fmt::format("digest missing: metadata has {} but not \"{}\"; the header was damaged or edited",
                         in_quotes(first_own->first), key));
    }
  }
  const std::size_t digits = find_header_digits(text);
  std::uint32_t stated = 0;
  if (digits == std::string_view::npos || !parse_digits(text.substr(digits, kDigits), stated) ||
      text.substr(digits, kDigits) != *value_of(kHeaderChecksumKey)) {
    reject("E-CKPT-015", fmt::format("digest \"{}\" is not {} hexadecimal digits; the header was damaged or edited",
                                     kHeaderChecksumKey, kDigits));
  }
  const std::uint32_t actual = header_checksum(text, digits);
  if (actual != stated) {
    reject("E-CKPT-015", fmt::format("digest of the header is {:08x} but the file says {:08x}; the header was damaged "
                                     "or edited",
                                     actual, stated));
  }
  const std::string_view list = *value_of(kTensorChecksumsKey);
  bool valid = list.size() == header.tensors.size() * kDigits;
  for (std::size_t i = 0; valid && i < header.tensors.size(); ++i) {
    valid = parse_digits(list.substr(i * kDigits, kDigits), header.tensors[i].checksum);
  }
  if (!valid) {
    reject("E-CKPT-015", fmt::format("digest \"{}\" is not {} hexadecimal digits for each of {} tensors",
                                     kTensorChecksumsKey, kDigits, header.tensors.size()));
  }
  if (version == 0) {
    reject("E-CKPT-020",
           fmt::format("metadata has no valid \"{}\"; this program supports up to {}", kVersionKey, kVersion));
  }
  header.has_checksums = true;
}

}  // namespace

std::string shape_text(std::span<const std::uint64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ",")); }

const TensorInfo* SafetensorsHeader::find(std::string_view name) const {
  const auto name_of = [&](std::uint32_t i) -> std::string_view { return tensors[i].name; };
  const auto found = std::ranges::lower_bound(by_name, name, {}, name_of);
  return found != by_name.end() && name_of(*found) == name ? &tensors[*found] : nullptr;
}

SafetensorsHeader parse_safetensors_header(std::string_view place, std::string_view text, std::uint64_t buffer_bytes) {
  const Rejecter reject(place);
  SafetensorsHeader header;
  read_entries(text, header, reject);
  if (!text.empty() && is_json_space(text.front())) {
    header.notes.push_back("whitespace before the header's JSON, which should start with {");
  }
  sort_by_offset(header.tensors);
  index_names(header, reject);
  check_layout(header.tensors, buffer_bytes, reject);
  check_checksums(text, header, reject);
  return header;
}

}  // namespace adjoint
