#pragma once
// Reading and writing files so that a crash, a full disk or a planted link leaves either the old file or the new one.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace adjoint::app {

/// The whole file. E-IO-001 if it cannot be read, E-IO-003 if it is no regular file or larger than `limit`.
std::string read_file(const std::string& path, std::size_t limit);

/// Writes the file whole or not at all (engine/atomic_file.h). E-IO-002 if its folder cannot be written; E-IO-005 with
/// the system's reason, the bytes needed and the bytes free. Whatever was at `path` before is then untouched.
void write_file(const std::string& path, std::string_view content);

/// Removes what a killed write_file left anywhere below the folder, and returns the paths.
std::vector<std::string> remove_leftovers(const std::string& folder);

/// E-CLI-005 if the output is one of the inputs, by device and inode: another name or a link does not hide it.
void check_output_is_no_input(const std::string& output, const std::vector<std::string>& inputs);

/// A log that lines are added to, each written at once. A failing disk costs one warning, never the run.
class LineFile {
 public:
  LineFile() = default;
  explicit LineFile(const std::string& path);  // E-IO-002 if it cannot be opened
  LineFile(LineFile&& other) noexcept;
  LineFile& operator=(LineFile&& other) noexcept;
  ~LineFile();

  bool write(std::string_view line);

 private:
  std::string path_;
  int descriptor_ = -1;
  bool warned_ = false;
};

}  // namespace adjoint::app
