#include "apps/common/tensorboard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <zlib.h>

#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <span>
#include <stdexcept>

#include "apps/common/terminal.h"
#include "engine/crc32c.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

template <class T>
std::string little_endian(T value) {
  static_assert(std::endian::native == std::endian::little);
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
std::string big_endian(std::uint32_t value) { return little_endian(__builtin_bswap32(value)); }

// The four shapes of protobuf fields that events need.
std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string key(int field, int wire_type) { return varint(static_cast<std::uint64_t>(field << 3 | wire_type)); }
std::string number_field(int field, std::int64_t value) {
  return key(field, 0) + varint(static_cast<std::uint64_t>(value));
}
std::string double_field(int field, double value) { return key(field, 1) + little_endian(value); }
std::string bytes_field(int field, std::string_view bytes) {
  return key(field, 2) + varint(bytes.size()) + std::string(bytes);
}
std::string float_field(int field, float value) { return key(field, 5) + little_endian(value); }

std::string png_chunk(const std::string& type, const std::string& content) {
  const std::string body = type + content;
  const uLong sum = ::crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
  return big_endian(static_cast<std::uint32_t>(content.size())) + body + big_endian(static_cast<std::uint32_t>(sum));
}

}  // namespace

std::uint32_t masked_crc32c(std::string_view bytes) {
  const std::uint32_t crc = crc32c(std::as_bytes(std::span(bytes)));
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;  // so that the sum of data holding its own sum is no constant
}

std::string png(int width, int height, const std::vector<std::uint8_t>& rgb) {
  const std::size_t row = static_cast<std::size_t>(width) * 3;
  if (width < 1 || height < 1 || rgb.size() != row * static_cast<std::size_t>(height))
    throw std::logic_error("png: the pixels do not fit the size");
  std::string raw;
  raw.reserve(rgb.size() + static_cast<std::size_t>(height));
  for (std::size_t start = 0; start < rgb.size(); start += row) {
    raw += '\0';  // this row is not filtered
    raw.append(reinterpret_cast<const char*>(rgb.data()) + start, row);
  }
  uLongf size = compressBound(static_cast<uLong>(raw.size()));
  std::string packed(size, '\0');
  if (compress2(reinterpret_cast<Bytef*>(packed.data()), &size, reinterpret_cast<const Bytef*>(raw.data()),
                static_cast<uLong>(raw.size()), 6) != Z_OK)
    throw std::bad_alloc();  // the only way left for it to fail
  packed.resize(size);
  const std::string header = big_endian(static_cast<std::uint32_t>(width)) +
                             big_endian(static_cast<std::uint32_t>(height)) + std::string("\x08\x02\0\0\0", 5);
  return "\x89PNG\r\n\x1a\n" + png_chunk("IHDR", header) + png_chunk("IDAT", packed) + png_chunk("IEND", "");
}

EventWriter::EventWriter(const std::string& folder, std::function<double()> clock) : clock_(std::move(clock)) {
  static std::atomic<int> count{0};
  if (!clock_)
    clock_ = [] { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); };
  char host[256] = "localhost";
  gethostname(host, sizeof host - 1);
  path_ = fmt::format("{}/events.out.tfevents.{:010}.{}.{}.{}", folder, static_cast<std::int64_t>(clock_()), host,
                      getpid(), count.fetch_add(1));
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (descriptor_ < 0)
    throw Error("E-IO-002", Exit::io,
                fmt::format("{}: cannot write there in the run directory ({}); try another --out",
                            shortened(path_, 200), std::strerror(errno)));
  event(0, 3, "brain.Event:2");
}

EventWriter::~EventWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void EventWriter::event(std::int64_t step, int field, std::string_view content) {
  if (descriptor_ < 0) return;
  const std::string payload = double_field(1, clock_()) + number_field(2, step) + bytes_field(field, content);
  const std::string length = little_endian(static_cast<std::uint64_t>(payload.size()));
  const std::string record =
      length + little_endian(masked_crc32c(length)) + payload + little_endian(masked_crc32c(payload));
  // Readers stop at a torn record, so after one the file is given up.
  ssize_t written;
  do written = ::write(descriptor_, record.data(), record.size());
  while (written < 0 && errno == EINTR);
  if (written == static_cast<ssize_t>(record.size())) return;
  fmt::print(stderr, "warning: {}: {}; no more TensorBoard events, the run goes on\n", printable(path_),
             written < 0 ? std::strerror(errno) : "disk full");
  ::close(descriptor_);
  descriptor_ = -1;
}

void EventWriter::value(std::string_view tag, std::int64_t step, std::string_view content) {
  event(step, 5, bytes_field(1, bytes_field(1, tag) + std::string(content)));
}

void EventWriter::scalar(std::string_view tag, std::int64_t step, double number) {
  value(tag, step, float_field(2, static_cast<float>(number)));
}

void EventWriter::image(std::string_view tag, std::int64_t step, int width, int height,
                        const std::vector<std::uint8_t>& rgb) {
  constexpr int kRgb = 3;
  value(tag, step,
        bytes_field(4, number_field(1, height) + number_field(2, width) + number_field(3, kRgb) +
                           bytes_field(4, png(width, height, rgb))));
}

void EventWriter::heat_map(std::string_view tag, std::int64_t step, int rows, int columns,
                           const std::vector<float>& weights, int cell) {
  if (weights.size() != static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns))
    throw std::logic_error("heat_map: the weights do not fit the rows and columns");
  std::vector<std::uint8_t> rgb;
  rgb.reserve(static_cast<std::size_t>(rows) * cell * columns * cell * 3);
  for (int y = 0; y < rows * cell; ++y) {
    for (int x = 0; x < columns * cell; ++x) {
      const auto colour = heat_colour(weights[static_cast<std::size_t>(y / cell) * columns + x / cell]);
      rgb.insert(rgb.end(), colour.begin(), colour.end());
    }
  }
  image(tag, step, columns * cell, rows * cell, rgb);
}

}  // namespace adjoint::app
