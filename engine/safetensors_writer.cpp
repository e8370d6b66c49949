#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/atomic_file.h"
#include "engine/crc32c.h"
#include "engine/safetensors.h"
#include "engine/safetensors_format.h"
#include "engine/utf8.h"
#include "kernels/base/error.h"

namespace adjoint {
namespace {

using namespace safetensors_format;
using Metadata = std::map<std::string, std::string>;

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw Error("E-CKPT-023", Exit::data, fmt::format("{}: checkpoint cannot be written: {}", printable(path), what));
}

std::string json_text(const std::string& text, const std::string& path) {
  if (find_invalid_utf8(text) != text.size()) refuse(path, in_quotes(text) + " is not valid UTF-8");
  return nlohmann::json(text).dump();
}

// In the order of the file: strongest alignment first, so that every tensor is aligned, then by name.
std::vector<const TensorToWrite*> in_file_order(std::span<const TensorToWrite> tensors) {
  std::vector<const TensorToWrite*> order;
  for (const TensorToWrite& tensor : tensors) order.push_back(&tensor);
  std::ranges::sort(order, [](const TensorToWrite* a, const TensorToWrite* b) {
    return a->dtype != b->dtype ? a->dtype > b->dtype : a->name < b->name;
  });
  return order;
}

// Shared weights are written once and tied in the model's configuration; a file has no way to say it.
void check_memory(const std::string& path, std::vector<const TensorToWrite*> tensors) {
  std::erase_if(tensors, [](const TensorToWrite* tensor) { return tensor->data.empty(); });
  std::ranges::sort(tensors, std::less<>(), [](const TensorToWrite* tensor) { return tensor->data.data(); });
  for (std::size_t i = 1; i < tensors.size(); ++i) {
    const auto before = tensors[i - 1]->data;
    if (before.data() + before.size() > tensors[i]->data.data()) {
      refuse(path, fmt::format("tensors {} and {} share memory; write one of them", in_quotes(tensors[i - 1]->name),
                               in_quotes(tensors[i]->name)));
    }
  }
}

void check_metadata(const std::string& path, const Metadata& metadata, bool checksums) {
  for (const auto& [key, value] : metadata) {
    if (key == kVersionKey || key.starts_with(kChecksumPrefix)) {
      refuse(path, fmt::format("metadata key {} is set by the writer", in_quotes(key)));
    }
    if (!checksums && key.starts_with(kOwnPrefix)) {
      refuse(path, fmt::format("metadata key {} needs checksums", in_quotes(key)));
    }
  }
}

std::string header_text(const std::string& path, const std::vector<const TensorToWrite*>& tensors,
                        const Metadata& metadata) {
  std::string text = "{";
  const auto separate = [&] {
    if (text.back() != '{') text += ',';
  };
  if (!metadata.empty()) {
    text += fmt::format("\"{}\":{{", kMetadata);
    for (const auto& [key, value] : metadata) {
      separate();
      text += json_text(key, path) + ":" + json_text(value, path);
    }
    text += '}';
  }
  std::uint64_t offset = 0;
  for (const TensorToWrite* tensor : tensors) {
    if (tensor->name == kMetadata) refuse(path, "a tensor is named __metadata__");
    separate();
    const std::uint64_t end = offset + tensor->data.size();
    text += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}", json_text(tensor->name, path),
                        name(tensor->dtype), shape_text(tensor->shape), offset, end);
    offset = end;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

// The last gate: what the reader would reject is not written.
void check_readable(const std::string& path, std::string_view text, std::uint64_t buffer_bytes) {
  if (text.size() > kMaxHeaderBytes) {
    refuse(path, fmt::format("header length {} is over the limit {}", text.size(), kMaxHeaderBytes));
  }
  try {
    parse_safetensors_header("header", text, buffer_bytes);
  } catch (const Error& error) {
    refuse(path, error.what());
  }
}

// Small tensors are gathered, so that a model of many of them does not cost a system call for each.
class GatheringWriter {
 public:
  explicit GatheringWriter(AtomicFile& file) : file_(file) { gathered_.reserve(kGathered); }

  void write(std::span<const std::byte> bytes) {
    if (gathered_.size() + bytes.size() > kGathered) flush();
    if (bytes.size() >= kGathered) {
      file_.write(bytes);
    } else {
      gathered_.insert(gathered_.end(), bytes.begin(), bytes.end());
    }
  }

  void flush() {
    file_.write(gathered_);
    gathered_.clear();
  }

 private:
  static constexpr std::size_t kGathered = std::size_t{256} << 10;
  AtomicFile& file_;
  std::vector<std::byte> gathered_;
};

}  // namespace

void write_safetensors(const std::string& path, std::span<const TensorToWrite> tensors, const Metadata& metadata,
                       SafetensorsWriteOptions options) {
  check_metadata(path, metadata, options.checksums);
  const std::vector<const TensorToWrite*> order = in_file_order(tensors);
  check_memory(path, order);
  Metadata all = metadata;
  if (options.checksums) {
    std::string digits;
    for (const TensorToWrite* tensor : order) digits += checksum_digits(crc32c(tensor->data));
    all.emplace(kVersionKey, fmt::format("{}", kVersion));
    all.emplace(kTensorChecksumsKey, digits);
    all.emplace(kHeaderChecksumKey, std::string(kDigits, '0'));
  }
  std::string text = header_text(path, order, all);
  if (options.checksums) {
    const std::size_t at = find_header_digits(text);
    text.replace(at, kDigits, checksum_digits(header_checksum(text, at)));
  }
  std::uint64_t buffer_bytes = 0;
  for (const TensorToWrite* tensor : order) buffer_bytes += tensor->data.size();
  check_readable(path, text, buffer_bytes);

  AtomicFile file(path, "checkpoint", kLengthBytes + text.size() + buffer_bytes);
  GatheringWriter out(file);
  const std::uint64_t length = text.size();
  out.write(std::as_bytes(std::span(&length, 1)));
  out.write(bytes_of(text));
  for (const TensorToWrite* tensor : order) out.write(tensor->data);
  out.flush();
  file.commit();
}

}  // namespace adjoint
