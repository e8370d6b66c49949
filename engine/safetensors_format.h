#pragma once
// What the reader and the writer of safetensors files agree on; not part of the public interface.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "engine/safetensors.h"
#include "kernels/base/error.h"

namespace adjoint::safetensors_format {

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::size_t kMaxTensors = 1'000'000;
constexpr std::size_t kMaxRank = 8;
constexpr std::size_t kMaxNameBytes = 64 * 1024;
constexpr std::uint64_t kMaxExtent = (std::uint64_t{1} << 48) - 1;  // of the published schema
constexpr std::size_t kMaxDepth = 64;
// These bound what a small header can make the reader allocate; no real file comes near them.
constexpr std::size_t kMaxMetadataKeys = 65'536;
constexpr std::size_t kMaxUnknownKeys = 1024;

constexpr std::uint64_t kVersion = 1;
constexpr std::string_view kMetadata = "__metadata__";
constexpr std::string_view kOwnPrefix = "adjoint.";
constexpr std::string_view kVersionKey = "adjoint.version";
constexpr std::string_view kChecksumPrefix = "adjoint.crc32c.";
constexpr std::string_view kHeaderChecksumKey = "adjoint.crc32c.header";
constexpr std::string_view kTensorChecksumsKey = "adjoint.crc32c.tensors";
constexpr std::size_t kDigits = 8;

/// Where the header's own checksum stands in its JSON text, or npos. The quotes of the pattern cannot stand inside a
/// string literal unescaped, so in valid JSON a match is a key with its value; more than one match is no match.
inline std::size_t find_header_digits(std::string_view text) {
  constexpr std::string_view pattern = "\"adjoint.crc32c.header\":\"";
  const std::size_t found = text.find(pattern);
  if (found == std::string_view::npos || text.find(pattern, found + 1) != std::string_view::npos) {
    return std::string_view::npos;
  }
  const std::size_t digits = found + pattern.size();
  return text.size() - digits < kDigits ? std::string_view::npos : digits;
}

/// CRC32C of the length field and the header, the digits at `digits` counted as zeros.
std::uint32_t header_checksum(std::string_view text, std::size_t digits);

std::string checksum_digits(std::uint32_t checksum);

inline std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

/// Throws what is wrong with a file.
class Rejecter {
 public:
  explicit Rejecter(std::string_view place) : place_(place) {}
  [[noreturn]] void operator()(const char* code, const std::string& what) const {
    throw Error(code, Exit::data, std::string(place_) + ": " + what);
  }

 private:
  std::string_view place_;
};

/// Appends the entries of a header's JSON to `header`: encoding, JSON, types and sizes are checked, the names and the
/// layout of all entries together are not.
void read_entries(std::string_view text, SafetensorsHeader& header, const Rejecter& reject);

}  // namespace adjoint::safetensors_format
