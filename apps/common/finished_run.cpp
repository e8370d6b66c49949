#include "apps/common/finished_run.h"

#include <fmt/format.h>

#include <filesystem>

#include "kernels/base/error.h"

namespace adjoint::app {

std::string finished_run(const std::string& program, const std::string& asked) {
  namespace fs = std::filesystem;
  if (!asked.empty()) return asked;
  std::string newest;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator("runs/" + program, ignored)) {
    const std::string path = entry.path().string();
    if (fs::exists(entry.path() / "model.safetensors", ignored) && path > newest)
      newest = path;  // names begin with the date
  }
  ADJOINT_CHECK(!newest.empty(), "E-IO-008", Exit::io,
                fmt::format("runs/{}: no finished run; expected one with model.safetensors; try '{} train' first, or "
                            "name the folder of a run",
                            program, program));
  return newest;
}

}  // namespace adjoint::app
