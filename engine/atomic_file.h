#pragma once
// Files that appear under their name complete or not at all, and the system calls they are made of.

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace adjoint {

/// The system calls behind every file that is saved or loaded here. Tests replace entries to make the N-th call fail.
struct SystemCalls {
  int (*openat)(int directory, const char* path, int flags, mode_t mode);
  int (*fstatat)(int directory, const char* path, struct stat* status, int flags);
  int (*fstat)(int file, struct stat* status);
  ssize_t (*pread)(int file, void* bytes, std::size_t count, off_t offset);
  ssize_t (*write)(int file, const void* bytes, std::size_t count);
  int (*fchmod)(int file, mode_t mode);
  int (*fsync)(int file);
  int (*close)(int file);
  int (*linkat)(int from_directory, const char* from, int to_directory, const char* to, int flags);
  int (*renameat)(int from_directory, const char* from, int to_directory, const char* to);
  int (*unlinkat)(int directory, const char* path, int flags);
};

SystemCalls& system_calls();

/// Writes a file next to its final name and renames it over the old one in commit(). Until then, and after any error,
/// the old file is what it was and nothing else is left in the directory. Order: open a new name in the same directory,
/// write, fsync, close, rename, fsync the directory; every result is checked.
///
/// Throws E-IO-002 when the directory is missing or cannot be written, E-IO-005 when writing fails, both with the
/// system's reason. A program must ignore SIGXFSZ (and SIGPIPE) to get File too large as an error rather than be
/// killed.
class AtomicFile {
 public:
  /// `what` names the content in messages ("checkpoint"); `bytes` is the size the whole file will have.
  AtomicFile(std::string path, std::string what, std::uint64_t bytes);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void commit();

 private:
  void create();
  bool keep_previous();
  void confirm(bool has_previous);
  bool put_back(bool has_previous);
  [[noreturn]] void fail(const char* action, int reason, const std::string& outcome = {});
  bool remove(const std::string& name) noexcept;
  void discard() noexcept;

  std::string path_;
  std::string what_;
  std::uint64_t bytes_;
  std::string directory_name_;
  std::string base_name_;
  std::string temporary_;  // empty when there is none to remove
  std::string previous_;   // a second link to the old file while it is being replaced
  int directory_ = -1;
  int file_ = -1;
};

/// Throws E-IO-002 unless files can be created in `directory`; to be called before hours of work rely on it.
void require_writable_directory(const std::string& directory);

/// Removes what a killed process left of its AtomicFiles in `directory` and returns the removed names. The caller must
/// be the only writer there (it holds the run's lock).
std::vector<std::string> remove_stale_temporaries(const std::string& directory);

}  // namespace adjoint
