#include "apps/common/run_folder.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/common/report_page.h"
#include "apps/common/terminal.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void unusable(const std::string& path, const std::string& reason) {
  throw Error(
      "E-IO-002", Exit::io,
      fmt::format("{}: cannot use this as run directory ({}); try another --out", shortened(path, 200), reason));
}

}  // namespace

RunFolder::RunFolder(const Request& request) : path_(request.out) {
  std::error_code error;
  if (request.resume) {
    if (!fs::exists(fs::path(path_) / "config.json", error)) unusable(path_, "it holds no run to resume");
  } else if (path_.empty()) {
    const std::time_t time = request.time != 0 ? request.time : std::time(nullptr);
    const std::string stem =
        fmt::format("runs/{}/{:%Y%m%d-%H%M}-{}", request.program, fmt::localtime(time), request.name);
    fs::create_directories(fs::path(stem).parent_path(), error);
    if (error) unusable(stem, error.message());
    // create_directory is false for a folder that exists: two runs of one minute get two folders.
    path_ = stem;
    for (int i = 2; !fs::create_directory(path_, error); ++i) {
      if (error || i > 1000) unusable(path_, error ? error.message() : "too many runs in this minute");
      path_ = fmt::format("{}-{}", stem, i);
    }
  } else {
    fs::create_directories(path_, error);
    if (error) unusable(path_, error.message());
  }
  lock_.take(path_);
  if (!request.resume && fs::exists(file("config.json"), error))
    throw Error("E-IO-007", Exit::io,
                fmt::format("{}: holds a run already; expected a new folder; try another --out, or --resume {}",
                            shortened(path_, 150), shortened(path_, 150)));
  leftovers_ = remove_leftovers(path_);
  metrics_ = MetricsLog(file("metrics.jsonl"));
  log_ = LineFile(file("train.log"));
  for (const std::string& leftover : leftovers_) log("removed the half-written " + leftover);
}

RunFolder::Lock::Lock(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) unusable(folder, error.message());
  take(folder);
}

RunFolder::Lock::~Lock() {
  if (descriptor_ < 0) return;
  // The lock file stays, empty: to remove it would race with a process that has just opened it.
  if (ftruncate(descriptor_, 0) == 0) flock(descriptor_, LOCK_UN);
  ::close(descriptor_);
}

void RunFolder::Lock::take(const std::string& folder) {
  // The kernel drops the lock with its process, so a killed run leaves no stale one; the number inside is for people.
  const int descriptor = ::open((folder + "/.lock").c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (descriptor < 0) unusable(folder, std::strerror(errno));
  if (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    char owner[32] = {};
    const ssize_t n = ::read(descriptor, owner, sizeof owner - 1);
    ::close(descriptor);
    if (reason != EWOULDBLOCK) unusable(folder, std::strerror(reason));
    throw Error("E-IO-006", Exit::io,
                fmt::format("{}: in use by process {}; expected no other run there; try another --out",
                            shortened(folder, 200), n > 0 ? std::atoi(owner) : 0));
  }
  descriptor_ = descriptor;
  const std::string self = fmt::format("{}\n", getpid());
  if (ftruncate(descriptor_, 0) != 0 ||
      pwrite(descriptor_, self.data(), self.size(), 0) != static_cast<ssize_t>(self.size()))
    unusable(folder, std::strerror(errno));
}

void RunFolder::write_report(const nlohmann::ordered_json& report) {
  write("report.json", json_text(report, 2) + "\n");
  write("report.html", report_page(path_, report));
}

void RunFolder::log(std::string_view line) {
  log_.write(fmt::format("{:%Y-%m-%dT%H:%M:%S} {}", fmt::localtime(std::time(nullptr)), printable(line)));
}

}  // namespace adjoint::app
