#include "apps/common/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <span>
#include <utility>

#include "apps/common/terminal.h"
#include "engine/atomic_file.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

namespace fs = std::filesystem;

bool write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(descriptor, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace

std::string read_file(const std::string& path, std::size_t limit) {
  const auto fail = [&](const char* code, const std::string& why) {
    throw Error(code, Exit::io, fmt::format("{}: {}; expected a readable file", shortened(path, 200), why));
  };
  // Without O_NONBLOCK, opening a FIFO would wait for a writer that never comes.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) fail("E-IO-001", std::strerror(errno));
  struct Close {
    int descriptor;
    ~Close() { ::close(descriptor); }
  } const close_at_end{descriptor};
  struct stat info {};
  if (fstat(descriptor, &info) != 0) fail("E-IO-001", std::strerror(errno));
  if (!S_ISREG(info.st_mode)) fail("E-IO-003", "not a regular file");
  if (static_cast<std::size_t>(info.st_size) > limit)
    fail("E-IO-003", fmt::format("{} bytes, more than the limit of {}", info.st_size, limit));
  std::string content(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t done = 0;
  while (done < content.size()) {
    const ssize_t n = ::read(descriptor, content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("E-IO-001", std::strerror(errno));
    if (n == 0) break;  // it shrank meanwhile
    done += static_cast<std::size_t>(n);
  }
  content.resize(done);
  return content;
}

void write_file(const std::string& path, std::string_view content) {
  AtomicFile file(path, "file", content.size());
  file.write(std::as_bytes(std::span(content)));
  file.commit();
}

std::vector<std::string> remove_leftovers(const std::string& folder) {
  std::vector<std::string> removed;
  const auto sweep = [&](const fs::path& directory) {
    for (const std::string& name : remove_stale_temporaries(directory.string()))
      removed.push_back((directory / name).string());
  };
  sweep(folder);
  std::error_code ignored;
  for (fs::recursive_directory_iterator at(folder, fs::directory_options::skip_permission_denied, ignored), end;
       !ignored && at != end; at.increment(ignored)) {
    if (at->symlink_status(ignored).type() == fs::file_type::directory) sweep(at->path());
  }
  return removed;
}

void check_output_is_no_input(const std::string& output, const std::vector<std::string>& inputs) {
  struct stat target {};
  if (::stat(output.c_str(), &target) != 0) return;  // does not exist yet
  for (const std::string& input : inputs) {
    struct stat source {};
    if (::stat(input.c_str(), &source) == 0 && source.st_dev == target.st_dev && source.st_ino == target.st_ino)
      throw Error("E-CLI-005", Exit::usage,
                  fmt::format("{}: same file as the input {}; expected another output path", shortened(output, 150),
                              shortened(input, 150)));
  }
}

LineFile::LineFile(const std::string& path)
    : path_(path), descriptor_(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0)
    throw Error("E-IO-002", Exit::io,
                fmt::format("{}: cannot write there in the run directory ({}); try another --out", shortened(path, 200),
                            std::strerror(errno)));
}
LineFile::LineFile(LineFile&& other) noexcept { *this = std::move(other); }
LineFile& LineFile::operator=(LineFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(warned_, other.warned_);
  return *this;
}
LineFile::~LineFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

bool LineFile::write(std::string_view line) {
  if (descriptor_ < 0) return false;
  const off_t before = lseek(descriptor_, 0, SEEK_END);
  if (write_all(descriptor_, std::string(line) + "\n")) return true;
  const int reason = errno;
  // No half lines: a reader may be following.
  if (before >= 0 && ftruncate(descriptor_, before) != 0) ::close(std::exchange(descriptor_, -1));
  if (!std::exchange(warned_, true))
    fmt::print(stderr, "warning: {}: {}; its next lines are lost, the run goes on\n", printable(path_),
               std::strerror(reason));
  return false;
}

}  // namespace adjoint::app
