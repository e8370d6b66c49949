#pragma once
// The safetensors file format: reading files of any origin as hostile input, and writing them crash-safe.
//
// A file is 8 bytes N (little-endian), N bytes of JSON, then the tensors' bytes without gaps. Files written here carry
// checksums in their metadata: "adjoint.crc32c.tensors" holds 8 hexadecimal digits for each tensor in the order of the
// buffer, "adjoint.crc32c.header" the CRC32C of the length and the header with its own 8 digits as zeros, and
// "adjoint.version" the version of these rules. A file with any key "adjoint.…" must carry them.

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/file_dtype.h"

namespace adjoint {

struct TensorInfo {
  std::string name;
  FileDType dtype = FileDType::f32;
  std::uint32_t checksum = 0;  // CRC32C of its bytes; only if the header has checksums
  std::vector<std::uint64_t> shape;
  std::uint64_t begin = 0;  // offsets in the buffer after the header
  std::uint64_t end = 0;

  std::uint64_t bytes() const { return end - begin; }
};

/// A shape as messages write it: "[512,300]".
std::string shape_text(std::span<const std::uint64_t> shape);

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // in the order of the buffer
  std::map<std::string, std::string> metadata;
  bool has_checksums = false;          // and the header's own was right
  std::vector<std::uint32_t> by_name;  // indices of tensors, sorted by name
  std::vector<std::string> notes;      // what is legal but worth telling: no digest, unknown fields, leading whitespace

  /// The tensor of that name, or null.
  const TensorInfo* find(std::string_view name) const;
};

/// Checks and reads a header, `text` being its JSON, in front of a buffer of `buffer_bytes`. `place` starts messages.
/// Throws E-CKPT-004 … 013, 015, 016, 018, 020. While rejecting, memory stays below 16 MiB + 3 x text.size().
SafetensorsHeader parse_safetensors_header(std::string_view place, std::string_view text, std::uint64_t buffer_bytes);

/// An open file whose header has been validated. Tensors are copied out, never mapped, so that a file that shrinks or a
/// disk that fails while it is read is an error and not a signal.
class SafetensorsFile {
 public:
  /// `hint` ends every message about a damaged file, such as "newest intact checkpoint: PATH"; without one the user is
  /// told to look for it. Throws E-IO-001 (cannot open), E-IO-003 (not a regular file), E-IO-004 (cannot read),
  /// E-CKPT-001 … 003, 017 and what parse_safetensors_header throws.
  explicit SafetensorsFile(std::string path, std::string hint = {});
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&& other) noexcept;

  const std::string& path() const { return path_; }
  const SafetensorsHeader& header() const { return header_; }
  std::uint64_t size() const { return size_; }

  const TensorInfo* find(std::string_view name) const { return header_.find(name); }

  /// Copies one tensor's bytes and, in a file with checksums, verifies what was copied (E-CKPT-014). `destination` must
  /// have tensor.bytes() bytes (E-CKPT-019); after an error its contents are unspecified.
  void read(const TensorInfo& tensor, std::span<std::byte> destination) const;

  /// CRC32C of a tensor's bytes as they are in the file.
  std::uint32_t checksum(const TensorInfo& tensor) const;

  /// Verifies every tensor (E-CKPT-014), to be called before the first one is used; a load that reads everything into
  /// memory of its own first needs it not. Nothing to do for a file without checksums, which its notes say.
  void verify_checksums() const;

 private:
  void open();
  void read_header();
  void read_at(std::uint64_t offset, std::span<std::byte> destination) const;
  void require_checksum(const TensorInfo& tensor, std::uint32_t actual) const;
  void close() noexcept;

  std::string path_;
  std::string hint_;
  SafetensorsHeader header_;
  std::uint64_t size_ = 0;
  std::uint64_t buffer_begin_ = 0;
  int file_ = -1;
};

/// Throws E-CKPT-022 with the first index when a floating tensor holds NaN or infinity. `place` starts the message.
void require_finite(std::string_view place, const TensorInfo& tensor, std::span<const std::byte> bytes);

struct TensorToWrite {
  std::string name;
  FileDType dtype = FileDType::f32;
  std::vector<std::uint64_t> shape;
  std::span<const std::byte> data;
};

struct SafetensorsWriteOptions {
  bool checksums = true;  // without them the file is byte for byte what the reference writer makes
};

/// Writes a file through AtomicFile (E-IO-002, E-IO-005): larger element types first, then by name, the header padded
/// with spaces to a multiple of 8. Refuses with E-CKPT-023 what no reader would accept: repeated names, data that do
/// not fit the shape, two tensors sharing memory, metadata keys "adjoint.crc32c.…" and "adjoint.version", which are set
/// here, and any key "adjoint.…" without checksums.
void write_safetensors(const std::string& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata, SafetensorsWriteOptions options = {});

}  // namespace adjoint
