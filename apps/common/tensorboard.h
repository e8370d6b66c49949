#pragma once
// TensorBoard event files, written without TensorFlow or protobuf.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace adjoint::app {

/// CRC-32C in the form in which event files store it.
std::uint32_t masked_crc32c(std::string_view bytes);

/// An 8-bit RGB image, row-major, as a PNG file.
std::string png(int width, int height, const std::vector<std::uint8_t>& rgb);

/// Writes events.out.tfevents.… in a folder. Each record is written at once; a failing disk costs one warning.
class EventWriter {
 public:
  /// E-IO-002 if the file cannot be made. The clock (seconds since 1970) is for tests.
  explicit EventWriter(const std::string& folder, std::function<double()> clock = {});
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;
  ~EventWriter();

  void scalar(std::string_view tag, std::int64_t step, double value);
  void image(std::string_view tag, std::int64_t step, int width, int height, const std::vector<std::uint8_t>& rgb);
  /// A matrix of weights in 0..1, one square of `cell` pixels a weight.
  void heat_map(std::string_view tag, std::int64_t step, int rows, int columns, const std::vector<float>& weights,
                int cell = 8);
  const std::string& path() const { return path_; }

 private:
  void event(std::int64_t step, int field, std::string_view content);
  void value(std::string_view tag, std::int64_t step, std::string_view content);

  std::string path_;
  std::function<double()> clock_;
  int descriptor_ = -1;
};

}  // namespace adjoint::app
