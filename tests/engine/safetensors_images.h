#pragma once
// Files for the tests of the checkpoint format: built as text, saved into a directory that goes away.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "engine/crc32c.h"
#include "engine/safetensors_format.h"

namespace adjoint::test {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = ::testing::TempDir() + "adjoint-XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::permissions(path_, std::filesystem::perms::owner_all, ignored);
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string file(std::string_view name) const { return path_ + "/" + std::string(name); }
  const std::string& path() const { return path_; }
  std::size_t entries() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(path_), std::filesystem::directory_iterator()));
  }

 private:
  std::string path_;
};

inline void save(const std::string& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(out.flush().good()) << path;
}

inline std::string load(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// The eight bytes in front of a header.
inline std::string length_field(std::uint64_t length) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(length >> (8 * i) & 0xff);
  return text;
}

/// A whole file: the header's length, the header, then `payload` zero bytes.
inline std::string image(std::string_view header, std::size_t payload = 0) {
  return length_field(header.size()) + std::string(header) + std::string(payload, '\0');
}

/// "name":{"dtype":…,"shape":[…],"data_offsets":[…]}
inline std::string entry(std::string_view name, std::string_view dtype, std::string_view shape,
                         std::string_view offsets) {
  return fmt::format("\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{}]}}", name, dtype, shape, offsets);
}

/// A file with one tensor "w".
inline std::string w(std::string_view dtype, std::string_view shape, std::string_view offsets, std::size_t payload) {
  return image("{" + entry("w", dtype, shape, offsets) + "}", payload);
}

/// A file with one F32[1] and this __metadata__ value, right in everything else.
inline std::string image_with_metadata(std::string_view metadata) {
  return image(fmt::format("{{\"__metadata__\":{},{}}}", metadata, entry("w", "F32", "1", "0,4")), 4);
}

/// The same with the checksum of the header put where `metadata` has eight zeros for it.
inline std::string image_with_checksum(std::string_view metadata) {
  std::string bytes = image_with_metadata(metadata);
  const std::string_view text = std::string_view(bytes).substr(8, bytes.size() - 8 - 4);
  const std::size_t at = safetensors_format::find_header_digits(text);
  const auto digits = safetensors_format::checksum_digits(safetensors_format::header_checksum(text, at));
  return bytes.replace(8 + at, digits.size(), digits);
}

}  // namespace adjoint::test
