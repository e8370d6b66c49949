#include "apps/common/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "apps/common/terminal.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kTempPrefix = ".adjoint-", kTempSuffix = ".tmp";

bool write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(descriptor, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

mode_t usual_mode() {
  const mode_t mask = umask(0);
  umask(mask);
  return 0666 & ~mask;
}

fs::path folder_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent;
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
  static std::atomic<int> count{0};
  const fs::path folder = folder_of(path);
  const std::string temp =
      (folder / fmt::format("{}{}-{}{}", kTempPrefix, getpid(), count.fetch_add(1), kTempSuffix)).string();
  int descriptor = ::open(temp.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  bool done = descriptor >= 0 && write_all(descriptor, content) && fchmod(descriptor, usual_mode()) == 0 &&
              fsync(descriptor) == 0;
  int reason = errno;
  if (descriptor >= 0 && ::close(descriptor) != 0 && done) {
    done = false;
    reason = errno;
  }
  if (done && std::rename(temp.c_str(), path.c_str()) != 0) {
    done = false;
    reason = errno;
  }
  if (!done) {
    if (descriptor >= 0) ::unlink(temp.c_str());
    struct statvfs space {};
    const bool known = statvfs(folder.c_str(), &space) == 0;
    throw Error("E-IO-005", Exit::io,
                fmt::format("{}: {}; need {} bytes{}; the previous file, if any, is kept", shortened(path, 200),
                            std::strerror(reason), content.size(),
                            known ? fmt::format(", {} are free", space.f_bavail * space.f_frsize) : ""));
  }
  // The rename itself must reach the disk too. Some file systems cannot sync a folder; the file is complete anyway.
  descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor >= 0) {
    fsync(descriptor);
    ::close(descriptor);
  }
}

std::vector<std::string> remove_leftovers(const std::string& folder) {
  std::vector<std::string> removed;
  std::error_code ignored;
  for (fs::recursive_directory_iterator at(folder, fs::directory_options::skip_permission_denied, ignored), end;
       !ignored && at != end; at.increment(ignored)) {
    const std::string name = at->path().filename().string();
    if (name.starts_with(kTempPrefix) && name.ends_with(kTempSuffix) &&
        at->symlink_status().type() == fs::file_type::regular)
      removed.push_back(at->path().string());
  }
  for (const std::string& path : removed) ::unlink(path.c_str());
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
