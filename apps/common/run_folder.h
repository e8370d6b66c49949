#pragma once
// The folder of one training run: its lock, its logs and its files.

#include <ctime>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "apps/common/files.h"
#include "apps/common/metrics.h"

namespace adjoint::app {

class RunFolder {
 public:
  /// Holds a folder for this process.
  class Lock {
   public:
    Lock() = default;
    /// Makes the folder if it is not there. Throws as RunFolder does.
    explicit Lock(const std::string& folder);
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    ~Lock();
    void take(const std::string& folder);

   private:
    int descriptor_ = -1;
  };

  struct Request {
    std::string program;
    std::string name;
    std::string out;       // "" for runs/PROGRAM/YYYYmmdd-HHMM-NAME
    bool resume = false;   // `out` must then hold a run; else it must not
    std::time_t time = 0;  // 0 for now
  };

  /// Makes and locks the folder, and removes what a killed run left half-written. All before training starts:
  /// E-IO-002 not writable or nothing to resume, E-IO-006 in use by a process, E-IO-007 holds a run already.
  explicit RunFolder(const Request& request);
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(std::string_view name) const { return path_ + "/" + std::string(name); }
  /// Writes a file of the run, all or nothing.
  void write(std::string_view name, std::string_view content) { write_file(file(name), content); }
  /// report.json and, for people, report.html.
  void write_report(const nlohmann::ordered_json& report);
  /// A line of train.log, with the time.
  void log(std::string_view line);
  MetricsLog& metrics() { return metrics_; }
  /// The half-written files that were removed.
  const std::vector<std::string>& leftovers() const { return leftovers_; }

 private:
  std::string path_;
  Lock lock_;  // also if the constructor goes on to fail
  MetricsLog metrics_;
  LineFile log_;
  std::vector<std::string> leftovers_;
};

}  // namespace adjoint::app
