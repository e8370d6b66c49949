#pragma once
// Strict reader of --config FILE.json.

#include <optional>
#include <string>
#include <vector>

#include "apps/common/options.h"

namespace adjoint::app {

/// One key of a config file.
struct ConfigEntry {
  std::string key;
  std::size_t line = 0;
  std::optional<Value> value;  // none where the JSON is null, an object, a mixed array or a number out of range
  std::string shown;           // the value for messages
  bool recorded = false;       // from a run's own config.json, whose per-call options are history, not a request
};

/// Reads {"key": value, …} or a run's own config.json.
/// Throws E-IO-001 (unreadable), E-CONF-002 (repeated key) and E-CONF-004 (not strict JSON, or nested too deep).
std::vector<ConfigEntry> read_config(const std::string& path);
std::vector<ConfigEntry> parse_config(const std::string& text, const std::string& path);

/// Applies the entries to settings that have no stronger value: E-CONF-001 for an unknown key, E-CONF-003 for a value,
/// also for a path that leaves the current folder.
void apply_config(Settings& settings, const std::vector<ConfigEntry>& entries, const std::string& path);
/// The settings that a finished run was made with, paths as they were.
Settings recorded_settings(const OptionTable& train_table, const std::string& run);

}  // namespace adjoint::app
