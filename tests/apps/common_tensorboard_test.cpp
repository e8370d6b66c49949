#include "apps/common/tensorboard.h"

#include <sys/wait.h>
#include <zlib.h>

#include <cstdlib>
#include <cstring>

#include "tests/apps/common_support.h"

namespace adjoint::app {
namespace {

TEST(Crc32c, Gives_the_published_values) {
  EXPECT_EQ(masked_crc32c(""), 0xa282ead8u);
  // How event files written by TensorFlow begin: 18 00 00 00 00 00 00 00 a3 7f 4b 22.
  EXPECT_EQ(masked_crc32c(std::string("\x18\0\0\0\0\0\0\0", 8)), 0x224b7fa3u);
}

/// Reads an event file as the format's description says, and fails the test where it is not one.
class Reader {
 public:
  explicit Reader(const std::string& file) : file_(slurp(file)) {}
  bool next(std::string& payload) {
    if (at_ == file_.size()) return false;
    const std::string length = take(8);
    EXPECT_EQ(number<std::uint32_t>(take(4)), masked_crc32c(length));
    payload = take(number<std::uint64_t>(length));
    EXPECT_EQ(number<std::uint32_t>(take(4)), masked_crc32c(payload));
    return true;
  }
  template <class T>
  static T number(const std::string& bytes) {
    T value{};
    std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }

 private:
  std::string take(std::size_t n) {
    EXPECT_LE(at_ + n, file_.size());
    at_ += n;
    return file_.substr(at_ - n, n);
  }
  std::string file_;
  std::size_t at_ = 0;
};

TEST(EventWriter, Writes_records_that_can_be_read_back) {
  TempFolder folder;
  EventWriter writer(folder.path(), [] { return 1.5; });
  EXPECT_THAT(writer.path(), ::testing::ContainsRegex("/events\\.out\\.tfevents\\.0000000001\\."));
  writer.scalar("train/loss", 300, 0.5);
  Reader reader(writer.path());  // while the writer is open: records do not wait in a buffer
  std::string payload;
  ASSERT_TRUE(reader.next(payload));
  const std::string time("\x09\0\0\0\0\0\0\xf8\x3f", 9);
  EXPECT_EQ(payload, time + std::string("\x10\0", 2) +
                         "\x1a\x0d"
                         "brain.Event:2");
  ASSERT_TRUE(reader.next(payload));
  EXPECT_EQ(payload, time + "\x10\xac\x02" +  // step 300
                         "\x2a\x13"
                         "\x0a\x11" +  // summary, value
                         "\x0a\x0a"
                         "train/loss" +                      // tag
                         std::string("\x15\0\0\0\x3f", 5));  // simple_value
  EXPECT_FALSE(reader.next(payload));
}

TEST(EventWriter, An_unwritable_folder_is_refused) {
  expect_error([] { EventWriter("/dev/null"); }, "E-IO-002", Exit::io, "run directory \\(.+\\)");
}

TEST(Png, Holds_the_pixels) {
  const std::vector<std::uint8_t> rgb = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const std::string file = png(2, 2, rgb);
  EXPECT_EQ(file.substr(0, 33),
            std::string("\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\2\0\0\0\2\x08\2\0\0\0\xfd\xd4\x9as", 33));
  const auto length = [&](std::size_t at) {
    return static_cast<unsigned char>(file[at + 3]) + 256u * static_cast<unsigned char>(file[at + 2]);
  };
  const std::size_t size = length(33);
  EXPECT_EQ(file.substr(37, 4), "IDAT");
  std::string raw(14, 'x');
  uLongf raw_size = raw.size();
  ASSERT_EQ(uncompress(reinterpret_cast<Bytef*>(raw.data()), &raw_size,
                       reinterpret_cast<const Bytef*>(file.data() + 41), size),
            Z_OK);
  EXPECT_EQ(raw, std::string("\0\1\2\3\4\5\6\0\7\x08\x09\x0a\x0b\x0c", 14));
  EXPECT_EQ(file.substr(41 + size + 4), std::string("\0\0\0\0IEND\xae\x42\x60\x82", 12));
  EXPECT_THROW(png(2, 3, rgb), std::logic_error);
}

TEST(EventWriter, Is_understood_by_TensorBoard) {
  const char* venv = std::getenv("ADJOINT_PEERS_VENV");
  const std::string python = venv != nullptr ? std::string(venv) + "/bin/python3" : "python3";
  if (std::system((python + " -c 'import tensorboard' 2>/dev/null").c_str()) != 0)
    GTEST_SKIP() << python << " has no tensorboard here: set ADJOINT_PEERS_VENV to an environment that has it";
  TempFolder folder;
  {
    EventWriter writer(folder.path());
    writer.scalar("train/loss", 1, 0.5);
    writer.scalar("train/loss", 2, 0.25);
    writer.heat_map("attention", 2, 2, 3, {0, 1, 0.5f, 0.25f, 0.75f, 1}, 4);
  }
  spill(folder.file("read.py"), R"(
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
a = EventAccumulator(sys.argv[1]); a.Reload()
assert [(e.step, e.value) for e in a.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)], a.Scalars("train/loss")
i = a.Images("attention")[0]
assert (i.step, i.width, i.height, i.encoded_image_string[:4]) == (2, 12, 8, b"\x89PNG")
)");
  EXPECT_EQ(std::system((python + " " + folder.file("read.py") + " " + folder.path()).c_str()), 0);
}

}  // namespace
}  // namespace adjoint::app
