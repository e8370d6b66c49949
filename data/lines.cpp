#include "data/lines.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

namespace adjoint::data {

namespace {

constexpr size_t kChunk = 1 << 16;
constexpr uint64_t kRatioMatters = uint64_t{64} << 20;  // small files may well shrink a thousandfold
constexpr uint64_t kMaxRatio = 1000;

std::FILE* open_file(const std::string& path) {
  std::error_code reason;
  const auto status = std::filesystem::status(path, reason);
  ADJOINT_CHECK(std::filesystem::exists(status), "E-IO-001", Exit::io,
                fmt::format("{}: cannot open ({}); expected a readable file", path,
                            reason ? reason.message() : "No such file or directory"));
  ADJOINT_CHECK(std::filesystem::is_regular_file(status), "E-IO-003", Exit::io,
                fmt::format("{}: not a regular file; expected a text or gzip file", path));
  std::FILE* file = std::fopen(path.c_str(), "rb");
  ADJOINT_CHECK(file != nullptr, "E-IO-001", Exit::io,
                fmt::format("{}: cannot open ({}); expected a readable file", path, std::strerror(errno)));
  return file;
}

}  // namespace

// A file, or what its gzip members inflate to. zlib compares CRC32 and ISIZE of each member.
class TextSource::Bytes {
 public:
  Bytes(const std::string& path, uint64_t max_inflated)
      : path_(path), file_(open_file(path), std::fclose), max_inflated_(max_inflated), input_(kChunk) {
    refill();
    const bool magic = stream_.avail_in >= 2 && input_[0] == 0x1f && input_[1] == 0x8b;
    gzip_ = magic || path.ends_with(".gz");
    ADJOINT_CHECK(!gzip_ || inflateInit2(&stream_, MAX_WBITS + 16) == Z_OK, "E-MEM-001", Exit::memory,
                  fmt::format("{}: no memory to inflate it", path));
  }
  ~Bytes() {
    if (gzip_) inflateEnd(&stream_);
  }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;

  bool may_be_bomb() const { return gzip_ && bytes_out_ <= kRatioMatters; }

  // Up to `size` bytes; 0 only at the end.
  size_t read(unsigned char* out, size_t size) { return gzip_ ? inflate_some(out, size) : copy_some(out, size); }

 private:
  void refill() {
    stream_.next_in = input_.data();
    stream_.avail_in = static_cast<uInt>(std::fread(input_.data(), 1, input_.size(), file_.get()));
    bytes_in_ += stream_.avail_in;
    ADJOINT_CHECK(std::ferror(file_.get()) == 0, "E-IO-004", Exit::io,
                  fmt::format("{}: read failed ({}) after {} bytes", path_, std::strerror(errno), bytes_in_));
  }

  size_t copy_some(unsigned char* out, size_t size) {
    if (stream_.avail_in == 0) refill();
    const size_t count = std::min<size_t>(size, stream_.avail_in);
    std::memcpy(out, stream_.next_in, count);
    stream_.next_in += count;
    stream_.avail_in -= static_cast<uInt>(count);
    return count;
  }

  size_t inflate_some(unsigned char* out, size_t size) {
    stream_.next_out = out;
    stream_.avail_out = static_cast<uInt>(size);
    while (stream_.avail_out == size) {
      if (stream_.avail_in == 0) refill();
      if (stream_.avail_in == 0) {
        ADJOINT_CHECK(
            !in_member_ && members_ > 0, "E-GZ-001", Exit::data,
            fmt::format("{}: gzip data ended before the end of the stream, after {} bytes; expected the rest of "
                        "member {}; try fetching the file again",
                        path_, bytes_in_, members_ + !in_member_));
        return 0;
      }
      if (!in_member_) start_member();
      const int result = inflate(&stream_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) {
        in_member_ = false;
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        refuse(result);
      }
    }
    const size_t count = size - stream_.avail_out;
    bytes_out_ += count;
    check_size();
    return count;
  }

  void start_member() {
    ADJOINT_CHECK(stream_.next_in[0] == 0x1f, "E-GZ-004", Exit::data,
                  members_ == 0
                      ? fmt::format("{}: not gzip: starts with byte 0x{:02x}; expected 0x1f 0x8b; try renaming it "
                                    "if it is plain text",
                                    path_, stream_.next_in[0])
                      : fmt::format("{}: not gzip after member {}: byte 0x{:02x}; expected the end of the file or "
                                    "another member (0x1f 0x8b)",
                                    path_, members_, stream_.next_in[0]));
    ++members_;
    in_member_ = true;
    inflateReset(&stream_);
  }

  [[noreturn]] void refuse(int result) const {
    const std::string_view reason = stream_.msg != nullptr ? stream_.msg : "no message";
    if (result == Z_MEM_ERROR) throw Error("E-MEM-001", Exit::memory, path_ + ": no memory to inflate it");
    for (const std::string_view start : {"incorrect header", "unknown", "invalid window"}) {
      if (reason.starts_with(start)) {
        throw Error("E-GZ-004", Exit::data,
                    fmt::format("{}: member {} is not gzip: {}; expected a gzip header", path_, members_, reason));
      }
    }
    const bool length = reason == "incorrect length check";
    throw Error(
        "E-GZ-002", Exit::data,
        fmt::format("{}: member {} is damaged ({}): {} do not agree; expected an intact file; try fetching it again",
                    path_, members_, reason, length ? "size and ISIZE" : "contents and CRC32"));
  }

  void check_size() const {
    const uint64_t used = bytes_in_ - stream_.avail_in;
    const bool ratio = bytes_out_ > kRatioMatters && bytes_out_ / kMaxRatio > used;
    ADJOINT_CHECK(
        !ratio && bytes_out_ <= max_inflated_, "E-GZ-003", Exit::data,
        fmt::format("{}: {} bytes inflate to more than {} (ratio {}:1); expected a ratio of at most {}:1 and at "
                    "most {} bytes; raise the latter with --max-inflated",
                    path_, used, bytes_out_, bytes_out_ / used, kMaxRatio, max_inflated_));
  }

  std::string path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  uint64_t max_inflated_;
  std::vector<unsigned char> input_;
  z_stream stream_{};
  bool gzip_ = false, in_member_ = false;
  int64_t members_ = 0;
  uint64_t bytes_in_ = 0, bytes_out_ = 0;
};

TextSource::TextSource(std::string path, uint64_t max_inflated)
    : path_(std::move(path)), bytes_(std::make_unique<Bytes>(path_, max_inflated)), buffer_(kChunk) {
  // The first bytes decide on the encoding; gzip may hand them out one by one.
  while (end_ < 3) {
    const size_t count = bytes_->read(buffer_.data() + end_, buffer_.size() - end_);
    if (count == 0) break;
    end_ += count;
  }
  const std::string_view start(reinterpret_cast<const char*>(buffer_.data()), end_);
  ADJOINT_CHECK(
      !start.starts_with("\xff\xfe") && !start.starts_with("\xfe\xff"), "E-DATA-006", Exit::data,
      fmt::format("{}: UTF-16 text (it starts with a byte order mark); expected UTF-8; try: iconv -f UTF-16 -t "
                  "UTF-8",
                  path_));
  if (start.starts_with("\xef\xbb\xbf")) position_ = 3;
}

TextSource::~TextSource() = default;

bool TextSource::fill() {
  position_ = 0;
  end_ = bytes_->read(buffer_.data(), buffer_.size());
  return end_ != 0;
}

int TextSource::get_any() {
  while (true) {
    if (position_ == end_ && !fill()) {
      if (utf8_.inside_character()) note_bad_byte(character_column_, character_byte_);
      utf8_ = {};
      return -1;
    }
    unsigned char byte = buffer_[position_++];
    const bool second_of_pair = after_return_ && byte == '\n';
    after_return_ = byte == '\r';
    if (second_of_pair) continue;
    if (after_return_) byte = '\n';
    advance(byte);
    check(byte);
    return byte;
  }
}

void TextSource::refuse_long(int64_t line, const std::string& what, uint64_t max_bytes) {
  while (bytes_->may_be_bomb() && fill()) continue;
  throw Error(
      "E-DATA-007", Exit::data,
      fmt::format("{}: line {}: {} longer than {} bytes; expected one text a line", path_, line, what, max_bytes));
}

void TextSource::check(unsigned char byte) {
  if (utf8_.inside_character()) {
    if (utf8_.accept(byte)) return;
    // The character before was cut short; this byte is looked at afresh. A line end inside a character is on its line.
    note_bad_byte(character_column_, character_byte_);
  }
  character_column_ = column_;
  character_byte_ = byte;
  if (byte == 0 || !utf8_.accept(byte)) note_bad_byte(column_, byte);
}

void TextSource::note_bad_byte(int64_t column, unsigned char byte) {
  if (bad_byte_) return;
  bad_byte_.emplace("E-DATA-005", Exit::data,
                    fmt::format("{}:{}:{}: {} (byte 0x{:02x}); expected UTF-8 text", path_, line_, column,
                                byte == 0 ? "NUL" : "invalid UTF-8", byte));
}

std::optional<Error> TextSource::take_bad_byte() {
  if (!bad_byte_) return std::nullopt;
  return std::exchange(bad_byte_, std::nullopt);
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpaces = " \t\n\v\f\r";
  const size_t first = text.find_first_not_of(kSpaces);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpaces) - first + 1);
}

void BadRowPolicy::row_is_bad(const Error& error) {
  if (policy_ == BadRows::error) throw error;
  if (summary_.skipped++ == 0) summary_.first_problem = error.line();
}

void BadRowPolicy::finish() const {
  ADJOINT_CHECK(summary_.skipped * 99 <= summary_.rows, "E-DATA-008", Exit::data,
                fmt::format("{}: {} bad rows beside {} good ones; expected at most 1 %; the first: {}", summary_.path,
                            summary_.skipped, summary_.rows, summary_.first_problem));
}

bool read_line(TextSource& source, uint64_t max_bytes, std::string& line) {
  line.clear();
  int byte = source.get();
  if (byte < 0) return false;
  for (; byte >= 0 && byte != '\n'; byte = source.get()) {
    if (line.size() == max_bytes) source.refuse_long(source.line(), "text", max_bytes);
    line += static_cast<char>(byte);
  }
  return true;
}

ReadSummary read_lines(const std::string& path, const ReadOptions& options,
                       const std::function<void(std::string&& line, int64_t number)>& use) {
  ReadSummary summary{.path = path};
  BadRowPolicy policy(options.on_bad_row, summary);
  TextSource source(path, options.max_inflated);
  std::string line;
  while (read_line(source, options.max_field, line)) {
    if (const auto error = source.take_bad_byte()) {
      policy.row_is_bad(*error);
    } else if (trimmed(line).empty()) {
      ++summary.blank;
    } else {
      ++summary.rows;
      use(std::string(trimmed(line)), source.line());
    }
  }
  policy.finish();
  return summary;
}

}  // namespace adjoint::data
