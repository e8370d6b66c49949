#include "engine/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "engine/atomic_file.h"
#include "engine/crc32c.h"
#include "engine/safetensors_format.h"
#include "engine/utf8.h"
#include "kernels/base/error.h"

namespace adjoint {
namespace {

using namespace safetensors_format;

constexpr std::size_t kPiece = std::size_t{256} << 10;  // summed while it is still in the cache

std::string reason_text(int reason) { return std::generic_category().message(reason); }

// A pickle starts with 0x80 and its protocol, a zip archive with "PK". Both can also be the start of a length, so this
// is asked only when the file makes no sense otherwise.
bool looks_like_pytorch(std::span<const std::byte> start) {
  const auto byte = [&](std::size_t i) { return std::to_integer<unsigned>(start[i]); };
  return (byte(0) == 0x80 && byte(1) >= 2 && byte(1) <= 5) || (byte(0) == 'P' && byte(1) == 'K');
}

template <class Bits, Bits exponent>
std::optional<std::uint64_t> first_nonfinite(std::span<const std::byte> bytes) {
  const std::size_t count = bytes.size() / sizeof(Bits);
  constexpr std::size_t block = 1024;
  for (std::size_t begin = 0; begin < count; begin += block) {
    const std::size_t end = std::min(count, begin + block);
    const auto is_nonfinite = [&](std::size_t i) {
      Bits bits;
      std::memcpy(&bits, bytes.data() + i * sizeof(Bits), sizeof bits);
      return (bits & exponent) == exponent;
    };
    unsigned found = 0;  // without an exit the compiler makes vectors of this loop
    for (std::size_t i = begin; i < end; ++i) found |= is_nonfinite(i) ? 1u : 0u;
    if (!found) continue;
    for (std::size_t i = begin; i < end; ++i) {
      if (is_nonfinite(i)) return i;
    }
  }
  return std::nullopt;
}

bool is_nan(FileDType dtype, const std::byte* element) {
  const std::size_t size = bits_of(dtype) / 8;
  std::uint64_t bits = 0;
  std::memcpy(&bits, element, size);
  const int mantissa_bits = dtype == FileDType::f64    ? 52
                            : dtype == FileDType::f32  ? 23
                            : dtype == FileDType::bf16 ? 7
                                                       : 10;
  return (bits & ((std::uint64_t{1} << mantissa_bits) - 1)) != 0;
}

}  // namespace

SafetensorsFile::SafetensorsFile(std::string path, std::string hint) : path_(std::move(path)), hint_(std::move(hint)) {
  try {
    open();
    read_header();
  } catch (const Error& error) {
    close();
    if (hint_.empty() || error.exit() != Exit::data) throw;
    throw Error(error.code(), error.exit(), fmt::format("{}; {}", error.what(), hint_));
  } catch (...) {
    close();
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() { close(); }

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)),
      hint_(std::move(other.hint_)),
      header_(std::move(other.header_)),
      size_(other.size_),
      buffer_begin_(other.buffer_begin_),
      file_(std::exchange(other.file_, -1)) {}

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  if (this == &other) return *this;
  close();
  path_ = std::move(other.path_);
  hint_ = std::move(other.hint_);
  header_ = std::move(other.header_);
  size_ = other.size_;
  buffer_begin_ = other.buffer_begin_;
  file_ = std::exchange(other.file_, -1);
  return *this;
}

void SafetensorsFile::close() noexcept {
  if (file_ != -1) system_calls().close(std::exchange(file_, -1));
}

void SafetensorsFile::open() {
  const SystemCalls& system = system_calls();
  const auto require_regular = [&](const struct stat& status) {
    ADJOINT_CHECK(S_ISREG(status.st_mode), "E-IO-003", Exit::io,
                  fmt::format("{}: not a regular file; expected a safetensors file", printable(path_)));
  };
  const auto require = [&](bool done) {
    const int reason = errno;
    ADJOINT_CHECK(done, "E-IO-001", Exit::io,
                  fmt::format("{}: cannot open the checkpoint ({}); expected a safetensors file", printable(path_),
                              reason_text(reason)));
  };
  // Asked before opening, which alone can start a tape or wait for a FIFO's writer, and again of what was opened.
  struct stat status;
  require(system.fstatat(AT_FDCWD, path_.c_str(), &status, 0) == 0);
  require_regular(status);
  do {
    file_ = system.openat(AT_FDCWD, path_.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);
  } while (file_ == -1 && errno == EINTR);
  require(file_ != -1);
  require(system.fstat(file_, &status) == 0);
  require_regular(status);
  size_ = static_cast<std::uint64_t>(status.st_size);
}

void SafetensorsFile::read_header() {
  const std::string place = printable(path_);
  const Rejecter reject(place);
  if (size_ < kLengthBytes) {
    reject("E-CKPT-001", fmt::format("file has {} bytes{}; expected at least {}", size_,
                                     size_ == 0 ? "" : ", it is truncated", kLengthBytes));
  }
  std::byte start[kLengthBytes];
  read_at(0, start);
  std::uint64_t length;
  std::memcpy(&length, start, sizeof length);
  const auto reject_pytorch = [&] {
    if (looks_like_pytorch(start)) {
      reject("E-CKPT-017",
             "looks like a PyTorch pickle or zip file, not safetensors; convert it in Python with "
             "safetensors.torch.save_file");
    }
  };
  const std::uint64_t available = size_ - kLengthBytes;
  if (length > kMaxHeaderBytes || length > available) reject_pytorch();
  if (length > kMaxHeaderBytes) {
    reject("E-CKPT-002", fmt::format("header length {} is over the limit {}", length, kMaxHeaderBytes));
  }
  if (length > available) {
    reject("E-CKPT-003", fmt::format("header length {} but the file has {} bytes after the length", length, available));
  }
  if (length == 0) reject("E-CKPT-003", "header length 0; expected at least 2, for {}");
  std::string text(length, '\0');
  read_at(kLengthBytes, std::as_writable_bytes(std::span(text)));
  if (text.find('{') == std::string::npos) reject_pytorch();
  buffer_begin_ = kLengthBytes + length;
  header_ = parse_safetensors_header(place, text, available - length);
}

void SafetensorsFile::read_at(std::uint64_t offset, std::span<std::byte> destination) const {
  const std::uint64_t end = offset + destination.size();  // within the file's size, checked before
  while (!destination.empty()) {
    const ssize_t count =
        system_calls().pread(file_, destination.data(), destination.size(), static_cast<off_t>(offset));
    const int reason = errno;
    if (count == -1 && reason == EINTR) continue;
    ADJOINT_CHECK(
        count != -1, "E-IO-004", Exit::io,
        fmt::format("{}: cannot read the checkpoint at byte {} ({})", printable(path_), offset, reason_text(reason)));
    ADJOINT_CHECK(count != 0, "E-CKPT-013", Exit::data,
                  fmt::format("{}: file is truncated while it is read: expected {} bytes, found {}", printable(path_),
                              end, offset));
    offset += static_cast<std::uint64_t>(count);
    destination = destination.subspan(static_cast<std::size_t>(count));
  }
}

void SafetensorsFile::read(const TensorInfo& tensor, std::span<std::byte> destination) const {
  ADJOINT_CHECK(destination.size() == tensor.bytes(), "E-CKPT-019", Exit::data,
                fmt::format("{}: tensor {}: file {} of {} has {} bytes, its destination {}", printable(path_),
                            in_quotes(tensor.name), shape_text(tensor.shape), name(tensor.dtype), tensor.bytes(),
                            destination.size()));
  std::uint64_t offset = buffer_begin_ + tensor.begin;
  std::uint32_t crc = 0;
  while (!destination.empty()) {
    const auto piece = destination.first(std::min(kPiece, destination.size()));
    read_at(offset, piece);
    if (header_.has_checksums) crc = crc32c(piece, crc);
    offset += piece.size();
    destination = destination.subspan(piece.size());
  }
  if (header_.has_checksums) require_checksum(tensor, crc);
}

std::uint32_t SafetensorsFile::checksum(const TensorInfo& tensor) const {
  std::vector<std::byte> buffer(std::min<std::uint64_t>(kPiece, tensor.bytes()));
  std::uint32_t crc = 0;
  for (std::uint64_t at = tensor.begin; at < tensor.end; at += buffer.size()) {
    const auto piece = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), tensor.end - at));
    read_at(buffer_begin_ + at, piece);
    crc = crc32c(piece, crc);
  }
  return crc;
}

void SafetensorsFile::verify_checksums() const {
  if (!header_.has_checksums) return;
  for (const TensorInfo& tensor : header_.tensors) require_checksum(tensor, checksum(tensor));
}

void SafetensorsFile::require_checksum(const TensorInfo& tensor, std::uint32_t actual) const {
  ADJOINT_CHECK(actual == tensor.checksum, "E-CKPT-014", Exit::data,
                fmt::format("{}: tensor {}: checksum {:08x} but the file says {:08x}, its bytes were damaged; {}",
                            printable(path_), in_quotes(tensor.name), actual, tensor.checksum,
                            hint_.empty() ? "try the newest intact checkpoint of the run" : hint_));
}

void require_finite(std::string_view place, const TensorInfo& tensor, std::span<const std::byte> bytes) {
  std::optional<std::uint64_t> index;
  switch (tensor.dtype) {
    case FileDType::f64: index = first_nonfinite<std::uint64_t, 0x7ff0000000000000u>(bytes); break;
    case FileDType::f32: index = first_nonfinite<std::uint32_t, 0x7f800000u>(bytes); break;
    case FileDType::bf16: index = first_nonfinite<std::uint16_t, 0x7f80u>(bytes); break;
    case FileDType::f16: index = first_nonfinite<std::uint16_t, 0x7c00u>(bytes); break;
    default: break;
  }
  if (!index) return;
  const bool nan = is_nan(tensor.dtype, bytes.data() + *index * (bits_of(tensor.dtype) / 8));
  throw Error("E-CKPT-022", Exit::data,
              fmt::format("{}: tensor {}: index {} is {}; expected finite values; --allow-nonfinite loads them anyway",
                          place, in_quotes(tensor.name), *index, nan ? "nan" : "infinite"));
}

}  // namespace adjoint
