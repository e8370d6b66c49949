// What the writer writes, and that damage to it never goes unnoticed.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "engine/safetensors.h"
#include "kernels/base/error.h"
#include "tests/engine/safetensors_images.h"

namespace adjoint {
namespace {

using ::testing::ContainsRegex;
using Metadata = std::map<std::string, std::string>;

std::vector<std::byte> random_bytes(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

template <class T>
std::span<const std::byte> bytes_of(const T& values) {
  return std::as_bytes(std::span(values));
}

// Whether the file as it is now would be loaded: opened, verified and every tensor read.
bool loads(const std::string& path) {
  try {
    const SafetensorsFile file(path);
    if (!file.header().has_checksums) return true;
    file.verify_checksums();
    return true;
  } catch (const Error&) {
    return false;
  }
}

// A file that is changed in place and put back, which is quicker than writing it anew 100,000 times.
class Damaged {
 public:
  explicit Damaged(const std::string& path) : path_(path), original_(test::load(path)) {
    file_ = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  }
  ~Damaged() { close(file_); }
  const std::string& original() const { return original_; }

  bool loads_with(std::size_t offset, std::string_view bytes) {
    put(offset, bytes);
    const bool loaded = loads(path_);
    put(offset, std::string_view(original_).substr(offset, bytes.size()));
    return loaded;
  }

 private:
  void put(std::size_t offset, std::string_view bytes) {
    ASSERT_EQ(pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(offset)),
              static_cast<ssize_t>(bytes.size()));
  }

  std::string path_;
  std::string original_;
  int file_;
};

std::size_t buffer_begin(const std::string& bytes) {
  std::uint64_t length;
  std::memcpy(&length, bytes.data(), sizeof length);
  return 8 + length;
}

TEST(SafetensorsWriter, Reproduces_the_golden_file_of_the_reference_byte_for_byte) {
  // Made by the reference implementation; SHA-256 0d0de349afc65acb76a3f71bf00b72c7f138ddb6c6690c1500646f45cbf7231b.
  const std::string header = R"({"__metadata__":{"format":"pt"},"c":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
                             R"("b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},)"
                             R"("z":{"dtype":"F32","shape":[0,4],"data_offsets":[16,16]},)"
                             R"("a":{"dtype":"U8","shape":[3],"data_offsets":[16,19]}}       )";
  const std::string_view buffer("\0\0\0\0\0\0\xe0\x3f\0\0\x80\x3f\0\0\x20\xc0\1\2\3", 19);
  const std::string golden = test::image(header) + std::string(buffer);
  ASSERT_EQ(golden.size(), 283u);

  const test::TemporaryDirectory directory;
  const std::string path = directory.file("golden.safetensors");
  const std::uint8_t a[] = {1, 2, 3};
  const float b[] = {1.0f, -2.5f};
  const double c[] = {0.5};
  const std::vector<TensorToWrite> tensors = {
      {.name = "a", .dtype = FileDType::u8, .shape = {3}, .data = bytes_of(a)},
      {.name = "z", .dtype = FileDType::f32, .shape = {0, 4}, .data = {}},
      {.name = "b", .dtype = FileDType::f32, .shape = {2}, .data = bytes_of(b)},
      {.name = "c", .dtype = FileDType::f64, .shape = {}, .data = bytes_of(c)},
  };
  write_safetensors(path, tensors, {{"format", "pt"}}, {.checksums = false});
  EXPECT_EQ(test::load(path), golden);

  write_safetensors(path, {}, {}, {.checksums = false});
  EXPECT_EQ(test::load(path), test::image("{}      "));
}

TEST(SafetensorsWriter, Keeps_the_format_of_its_checksums) {
  // The checksums were computed by a bitwise implementation in another language.
  const test::TemporaryDirectory directory;
  const std::string path = directory.file("own.safetensors");
  const std::uint8_t a[] = {1, 2, 3};
  const float b[] = {1.0f, -2.5f};
  const std::vector<TensorToWrite> tensors = {
      {.name = "a", .dtype = FileDType::u8, .shape = {3}, .data = bytes_of(a)},
      {.name = "b", .dtype = FileDType::f32, .shape = {2}, .data = bytes_of(b)},
  };
  write_safetensors(path, tensors, {{"format", "pt"}, {"adjoint.config", "{}"}});
  const std::string bytes = test::load(path);
  const std::string header =
      R"({"__metadata__":{"adjoint.config":"{}","adjoint.crc32c.header":"8f5e6edc",)"
      R"("adjoint.crc32c.tensors":"d5bd11cbf130f21e","adjoint.version":"1","format":"pt"},)"
      R"("b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}   )";
  EXPECT_EQ(bytes.substr(0, bytes.size() - 11), test::image(header));
}

TEST(SafetensorsWriter, Writes_what_the_reader_reads_back) {
  const test::TemporaryDirectory directory;
  const std::string path = directory.file("round.safetensors");
  const auto large = random_bytes(3'000'000, 1);
  const auto small = random_bytes(24, 2);
  const auto one = random_bytes(4, 3);
  const std::string odd_name = "layer \"0\"\\/\n\x01\xc3\xa9";
  const std::vector<TensorToWrite> tensors = {
      {.name = odd_name, .dtype = FileDType::bf16, .shape = {3, 4}, .data = small},
      {.name = "large", .dtype = FileDType::f32, .shape = {750, 1000}, .data = large},
      {.name = "empty", .dtype = FileDType::f64, .shape = {0}, .data = {}},
      {.name = "scalar", .dtype = FileDType::i32, .shape = {}, .data = one},
  };
  const Metadata metadata = {{"format", "pt"}, {"adjoint.step", "100"}, {"adjoint.config", R"({"heads":2})"}};
  write_safetensors(path, tensors, metadata);
  EXPECT_EQ(directory.entries(), 1u) << "nothing but the file may be left";

  SafetensorsFile opened(path);
  const SafetensorsFile file = std::move(opened);
  EXPECT_TRUE(file.header().has_checksums);
  EXPECT_THAT(file.header().notes, ::testing::IsEmpty());
  EXPECT_EQ(buffer_begin(test::load(path)) % 8, 0u);
  for (const auto& [key, value] : metadata) EXPECT_EQ(file.header().metadata.at(key), value);
  EXPECT_EQ(file.header().metadata.at("adjoint.version"), "1");
  EXPECT_EQ(file.find("absent"), nullptr);
  file.verify_checksums();
  for (const TensorToWrite& written : tensors) {
    const TensorInfo* read = file.find(written.name);
    ASSERT_NE(read, nullptr) << written.name;
    EXPECT_EQ(read->shape, written.shape);
    EXPECT_EQ(read->dtype, written.dtype);
    std::vector<std::byte> data(read->bytes());
    file.read(*read, data);
    EXPECT_TRUE(std::ranges::equal(data, written.data)) << written.name;
  }
  std::vector<std::byte> wrong(25);
  EXPECT_THROW(file.read(*file.find(odd_name), wrong), Error);
}

TEST(SafetensorsWriter, Refuses_what_no_reader_would_accept) {
  const test::TemporaryDirectory directory;
  const std::string path = directory.file("refused.safetensors");
  test::save(path, "the previous file");
  const auto data = random_bytes(64, 4);
  const std::span<const std::byte> all(data);
  const auto tensor = [&](std::string name, std::size_t begin, std::vector<std::uint64_t> shape = {2}) {
    return TensorToWrite{.name = std::move(name), .shape = std::move(shape), .data = all.subspan(begin, 8)};
  };
  const struct {
    const char* name;
    std::vector<TensorToWrite> tensors;
    Metadata metadata;
    const char* pattern;
    bool checksums = true;
  } cases[] = {
      {"named __metadata__", {tensor("__metadata__", 0)}, {}, "named __metadata__"},
      {"named __metadata__ beside metadata", {tensor("__metadata__", 0)}, {{"a", "b"}}, "named __metadata__", false},
      {"duplicate names", {tensor("w", 0), tensor("w", 8)}, {}, "duplicate.*\"w\""},
      {"duplicate names of different types",
       {tensor("w", 0), {.name = "w", .dtype = FileDType::u8, .shape = {8}, .data = all.subspan(8, 8)}},
       {},
       "duplicate.*\"w\""},
      {"one storage twice", {tensor("w", 0), tensor("v", 0)}, {}, "share memory"},
      {"overlapping storage", {tensor("w", 0), tensor("v", 4)}, {}, "\"w\".*\"v\".*share memory"},
      {"data too short for the shape", {tensor("w", 0, {3})}, {}, "\"w\".*12 bytes"},
      {"shape overflows", {tensor("w", 0, {1u << 31, 1u << 31, 16})}, {}, "\"w\".*overflow"},
      {"rank 9", {tensor("w", 0, {2, 1, 1, 1, 1, 1, 1, 1, 1})}, {}, "rank.*limit 8"},
      {"name not UTF-8", {tensor("w\xff", 0)}, {}, "UTF-8"},
      {"metadata not UTF-8", {tensor("w", 0)}, {{"a", "\xff"}}, "UTF-8"},
      {"name too long", {tensor(std::string(65'537, 'n'), 0)}, {}, "limit 65536"},
      {"own digest key", {tensor("w", 0)}, {{"adjoint.crc32c.header", "00000000"}}, "set by the writer"},
      {"own version key", {tensor("w", 0)}, {{"adjoint.version", "2"}}, "set by the writer"},
      {"own key without checksums", {tensor("w", 0)}, {{"adjoint.step", "2"}}, "needs checksums", false},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    try {
      write_safetensors(path, c.tensors, c.metadata, {.checksums = c.checksums});
      ADD_FAILURE() << "written";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "E-CKPT-023");
      EXPECT_THAT(error.what(), ContainsRegex(c.pattern));
    }
  }
  EXPECT_EQ(test::load(path), "the previous file");
  EXPECT_EQ(directory.entries(), 1u);
}

TEST(SafetensorsWriter, Needs_a_directory_it_can_write) {
  const test::TemporaryDirectory directory;
  const auto data = random_bytes(8, 5);
  const std::vector<TensorToWrite> tensors = {{.name = "w", .shape = {2}, .data = data}};
  try {
    write_safetensors(directory.file("absent/w.safetensors"), tensors, {});
    ADD_FAILURE() << "written";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "E-IO-002");
    EXPECT_EQ(error.exit(), Exit::io);
    EXPECT_THAT(error.what(), ContainsRegex("run directory.*No such file or directory"));
  }
}

// The exhaustive part: files as the project saves them.
class SavedFile : public ::testing::Test {
 protected:
  // Two tensors and metadata, so that the header has every kind of byte; `payload` bytes in all.
  void save(std::size_t payload) {
    data_ = random_bytes(payload, 6);
    const std::span<const std::byte> all(data_);
    const std::size_t half = payload / 2;
    tensors_ = {{.name = "b", .dtype = FileDType::f32, .shape = {half / 4}, .data = all.first(half)},
                {.name = "w", .dtype = FileDType::f32, .shape = {half / 8, 2}, .data = all.last(half)}};
    write_safetensors(path_, tensors_, {{"format", "pt"}, {"adjoint.config", "{}"}});
    ASSERT_TRUE(loads(path_));
  }

  const test::TemporaryDirectory directory_;
  const std::string path_ = directory_.file("saved.safetensors");
  std::vector<std::byte> data_;
  std::vector<TensorToWrite> tensors_;
};

TEST_F(SavedFile, Is_rejected_with_any_header_byte_changed_to_any_value) {
  save(64);
  Damaged file(path_);
  const std::size_t header = buffer_begin(file.original());
  std::size_t parses = 0;
  for (std::size_t at = 0; at < header; ++at) {
    for (int value = 0; value < 256; ++value) {
      const char byte = static_cast<char>(value);
      if (byte == file.original()[at]) continue;
      ASSERT_FALSE(file.loads_with(at, {&byte, 1})) << "byte " << at << " changed to " << value;
      ++parses;
    }
  }
  EXPECT_EQ(parses, header * 255);
  EXPECT_TRUE(loads(path_));
}

TEST_F(SavedFile, Is_rejected_with_any_payload_bit_flipped) {
  save(4096);
  Damaged file(path_);
  const std::size_t begin = buffer_begin(file.original());
  ASSERT_EQ(file.original().size() - begin, 4096u);
  for (std::size_t at = begin; at < file.original().size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      const char byte = static_cast<char>(file.original()[at] ^ (1 << bit));
      ASSERT_FALSE(file.loads_with(at, {&byte, 1})) << "byte " << at << ", bit " << bit;
    }
  }
  EXPECT_TRUE(loads(path_));
}

TEST_F(SavedFile, Names_the_damaged_tensor_and_the_way_out) {
  save(4096);
  std::string bytes = test::load(path_);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  test::save(path_, bytes);
  for (const bool by_read : {false, true}) {
    for (const std::string hint : {"", "newest intact checkpoint: step-00000400"}) {
      const SafetensorsFile file(path_, hint);
      const TensorInfo& w = *file.find("w");
      std::vector<std::byte> data(w.bytes());
      try {
        if (by_read) {
          file.read(w, data);
        } else {
          file.verify_checksums();
        }
        ADD_FAILURE() << "accepted";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), "E-CKPT-014");
        EXPECT_EQ(error.exit(), Exit::data);
        EXPECT_THAT(error.what(), ContainsRegex("\"w\".*checksum.*newest intact checkpoint"));
        EXPECT_THAT(error.what(), ::testing::EndsWith(hint));
      }
      EXPECT_NE(file.checksum(w), w.checksum);
      EXPECT_EQ(file.checksum(*file.find("b")), file.find("b")->checksum);
    }
  }
}

TEST_F(SavedFile, Is_rejected_when_cut_at_any_length) {
  save(10'000);
  const std::string whole = test::load(path_);
  for (std::size_t length = whole.size(); length-- > 0;) {
    ASSERT_EQ(truncate(path_.c_str(), static_cast<off_t>(length)), 0);
    ASSERT_FALSE(loads(path_)) << "cut to " << length << " of " << whole.size();
  }
}

TEST_F(SavedFile, Is_rejected_after_splices_swaps_and_lost_sectors) {
  save(16'384);
  Damaged file(path_);
  const std::string& original = file.original();
  const std::size_t begin = buffer_begin(original);
  std::mt19937 random(8);
  int changed = 0;
  for (int i = 0; i < 10'000; ++i) {  // a piece of the file copied over another place
    const std::size_t length = 1 + random() % 600;
    const std::size_t from = random() % (original.size() - length);
    const std::size_t to = random() % (original.size() - length);
    const std::string_view piece = std::string_view(original).substr(from, length);
    if (piece == std::string_view(original).substr(to, length)) continue;
    ASSERT_FALSE(file.loads_with(to, piece)) << length << " bytes from " << from << " to " << to;
    ++changed;
  }
  EXPECT_GT(changed, 9000);
  const std::string buffer = original.substr(begin);
  const std::string swapped = buffer.substr(buffer.size() / 2) + buffer.substr(0, buffer.size() / 2);
  EXPECT_FALSE(file.loads_with(begin, swapped)) << "two tensors of one size and type swapped";
  for (std::size_t sector = 0; sector + 512 <= original.size(); sector += 512) {
    const std::size_t length = std::min<std::size_t>(4096, original.size() - sector);
    EXPECT_FALSE(file.loads_with(sector, std::string(length, '\0'))) << "zeros at " << sector;
  }
  EXPECT_TRUE(loads(path_));
}

TEST_F(SavedFile, Is_rejected_when_it_shrinks_while_it_is_open) {
  save(4096);
  const SafetensorsFile file(path_);
  ASSERT_EQ(truncate(path_.c_str(), static_cast<off_t>(file.size() - 1)), 0);
  try {
    file.verify_checksums();
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "E-CKPT-013");
    EXPECT_THAT(error.what(), ContainsRegex("truncated.*expected [0-9]+.*found [0-9]+"));
  }
}

}  // namespace
}  // namespace adjoint
