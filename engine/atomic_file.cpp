#include "engine/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "engine/utf8.h"
#include "kernels/base/error.h"

namespace adjoint {
namespace {

constexpr const char* kTemporaryPrefix = ".adjoint-tmp-";
constexpr const char* kPreviousPrefix = ".adjoint-old-";

std::string reason_text(int reason) { return std::generic_category().message(reason); }

template <class Call>
auto retry_interrupted(Call call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

std::string unique_name(const char* prefix) {
  static std::atomic<std::uint64_t> counter{0};
  return fmt::format("{}{}-{}", prefix, getpid(), counter++);
}

// The mode the file gets once it is complete. Only Linux tells the umask without setting it, which would race with
// other threads; elsewhere the file stays private.
mode_t final_mode() {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> status(std::fopen("/proc/self/status", "re"), std::fclose);
  char line[256];
  while (status && std::fgets(line, sizeof line, status.get())) {
    unsigned mask;
    if (std::sscanf(line, "Umask: %o", &mask) == 1) return static_cast<mode_t>(0666u & ~mask);
  }
  return 0600;
}

}  // namespace

SystemCalls& system_calls() {
  static SystemCalls calls{
      .openat = [](int directory, const char* path, int flags,
                   mode_t mode) { return ::openat(directory, path, flags, mode); },
      .fstatat = ::fstatat,
      .fstat = ::fstat,
      .pread = ::pread,
      .write = ::write,
      .fchmod = ::fchmod,
      .fsync = ::fsync,
      .close = ::close,
      .linkat = ::linkat,
      .renameat = ::renameat,
      .unlinkat = ::unlinkat,
  };
  return calls;
}

AtomicFile::AtomicFile(std::string path, std::string what, std::uint64_t bytes)
    : path_(std::move(path)), what_(std::move(what)), bytes_(bytes) {
  const std::size_t slash = path_.rfind('/');
  directory_name_ = slash == std::string::npos ? "." : slash == 0 ? "/" : path_.substr(0, slash);
  base_name_ = slash == std::string::npos ? path_ : path_.substr(slash + 1);
  try {
    create();
  } catch (...) {
    discard();
    throw;
  }
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::create() {
  const SystemCalls& system = system_calls();
  if (base_name_.empty()) fail("create", EISDIR);
  directory_ = retry_interrupted(
      [&] { return system.openat(AT_FDCWD, directory_name_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0); });
  if (directory_ == -1) fail("create", errno);
  // A name that exists is a left-over or a trap set by somebody else; neither is opened.
  constexpr int kAttempts = 100;
  for (int attempt = 0; file_ == -1; ++attempt) {
    const std::string name = unique_name(kTemporaryPrefix);
    file_ = retry_interrupted([&] {
      return system.openat(directory_, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    });
    if (file_ != -1) {
      temporary_ = name;
    } else if (errno != EEXIST || attempt == kAttempts) {
      fail("create", errno);
    }
  }
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = retry_interrupted([&] { return system_calls().write(file_, bytes.data(), bytes.size()); });
    if (written <= 0) fail("write", written == 0 ? ENOSPC : errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void AtomicFile::commit() {
  const SystemCalls& system = system_calls();
  // EPERM: a file system without modes, where there is nothing to set.
  if (retry_interrupted([&] { return system.fchmod(file_, final_mode()); }) == -1 && errno != EPERM) {
    fail("set the mode of", errno);
  }
  if (retry_interrupted([&] { return system.fsync(file_); }) == -1) fail("sync", errno);
  const int file = file_;
  file_ = -1;  // after a failed close the descriptor is gone as well
  if (system.close(file) == -1 && errno != EINTR) fail("close", errno);
  const bool has_previous = keep_previous();
  if (retry_interrupted(
          [&] { return system.renameat(directory_, temporary_.c_str(), directory_, base_name_.c_str()); }) == -1) {
    fail("rename", errno);
  }
  temporary_.clear();
  confirm(has_previous);
  discard();
}

// Gives the old file a second name, so that it can come back if the directory cannot be synced. Returns whether there
// is an old file; previous_ stays empty where the file system has no links.
bool AtomicFile::keep_previous() {
  const SystemCalls& system = system_calls();
  const std::string name = unique_name(kPreviousPrefix);
  const auto link = [&] {
    return retry_interrupted(
        [&] { return system.linkat(directory_, base_name_.c_str(), directory_, name.c_str(), 0); });
  };
  int result = link();
  if (result == -1 && errno == EEXIST) {  // left by a killed process that had the same number
    remove(name);
    result = link();
  }
  if (result == 0) {
    previous_ = name;
    return true;
  }
  if (errno == ENOENT) return false;
  const int without_links[] = {EPERM, EOPNOTSUPP, ENOSYS, EMLINK, EXDEV};
  if (std::find(std::begin(without_links), std::end(without_links), errno) == std::end(without_links)) {
    fail("keep the previous file while replacing", errno);
  }
  return true;
}

void AtomicFile::confirm(bool has_previous) {
  const SystemCalls& system = system_calls();
  const int result = retry_interrupted([&] { return system.fsync(directory_); });
  if (result == 0 || errno == EINVAL) return;  // EINVAL: this file system has no directory sync
  const int reason = errno;
  if (put_back(has_previous)) fail("sync the directory of", reason);
  std::string outcome = "the new file is in place but may not survive a power failure";
  if (!previous_.empty()) outcome += "; the previous one is " + std::exchange(previous_, std::string());
  fail("sync the directory of", reason, outcome);
}

// Undoes the rename. Returns whether the directory is as it was.
bool AtomicFile::put_back(bool has_previous) {
  if (!has_previous) return remove(base_name_);
  if (previous_.empty()) return false;
  const bool renamed = retry_interrupted([&] {
                         return system_calls().renameat(directory_, previous_.c_str(), directory_, base_name_.c_str());
                       }) == 0;
  if (renamed) previous_.clear();
  return renamed;
}

void AtomicFile::fail(const char* action, int reason, const std::string& outcome) {
  struct statvfs space;
  const bool has_space = statvfs(directory_name_.c_str(), &space) == 0;
  discard();
  const int directory_reasons[] = {EACCES, EPERM, EROFS, ENOENT, ENOTDIR, ELOOP, EISDIR, ENAMETOOLONG};
  const bool is_directory =
      std::find(std::begin(directory_reasons), std::end(directory_reasons), reason) != std::end(directory_reasons);
  if (is_directory && outcome.empty()) {
    throw Error("E-IO-002", Exit::io,
                fmt::format("{}: cannot {} the {} in the run directory {} ({}); expected a directory that exists and "
                            "can be written",
                            printable(path_), action, what_, printable(directory_name_), reason_text(reason)));
  }
  const std::string kept = outcome.empty() ? fmt::format("the previous {}, if any, is kept", what_) : outcome;
  const std::string available =
      has_space ? fmt::format(", {} free", static_cast<std::uint64_t>(space.f_bavail) * space.f_frsize) : "";
  throw Error("E-IO-005", Exit::io,
              fmt::format("{}: cannot {} the {} ({}); need {} bytes{}; {}", printable(path_), action, what_,
                          reason_text(reason), bytes_, available, kept));
}

bool AtomicFile::remove(const std::string& name) noexcept {
  return retry_interrupted([&] { return system_calls().unlinkat(directory_, name.c_str(), 0); }) == 0;
}

void AtomicFile::discard() noexcept {
  const SystemCalls& system = system_calls();
  if (file_ != -1) system.close(file_);
  if (!temporary_.empty()) remove(temporary_);
  if (!previous_.empty()) remove(previous_);
  if (directory_ != -1) system.close(directory_);
  file_ = directory_ = -1;
  temporary_.clear();
  previous_.clear();
}

void require_writable_directory(const std::string& directory) { AtomicFile(directory + "/probe", "checkpoint", 0); }

std::vector<std::string> remove_stale_temporaries(const std::string& directory) {
  std::vector<std::string> removed;
  std::error_code ignored;  // what cannot be listed or removed is no worse than before
  using Iterator = std::filesystem::directory_iterator;
  for (Iterator entry(directory, ignored); !ignored && entry != Iterator(); entry.increment(ignored)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with(kTemporaryPrefix) && !name.starts_with(kPreviousPrefix)) continue;
    if (entry->symlink_status(ignored).type() != std::filesystem::file_type::regular) continue;
    if (unlink(entry->path().c_str()) == 0) removed.push_back(name);
  }
  std::sort(removed.begin(), removed.end());
  return removed;
}

}  // namespace adjoint
