#include "apps/common/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "apps/common/terminal.h"

namespace adjoint::app {

void Profile::after(std::string_view call) {
  Entry& entry = entries_[call];
  ++entry.calls;
  const double seconds = std::chrono::duration<double>(Clock::now() - started_).count();
  entry.seconds += seconds;
  entry.least = std::min(entry.least, seconds);
}

std::string Profile::text() const {
  std::vector<std::pair<std::string_view, Entry>> sorted(entries_.begin(), entries_.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  double total = 0;
  for (const auto& [name, entry] : sorted) total += entry.seconds;
  Table table({"call", "calls", "ms", "us a call", "least", "share %"});
  for (const auto& [name, entry] : sorted) {
    table.add({std::string(name), std::to_string(entry.calls), fmt::format("{:.1f}", entry.seconds * 1e3),
               fmt::format("{:.2f}", entry.seconds * 1e6 / static_cast<double>(entry.calls)),
               fmt::format("{:.2f}", entry.least * 1e6),
               fmt::format("{:.1f}", total > 0 ? 100 * entry.seconds / total : 0.0)});
  }
  return table.text();
}

}  // namespace adjoint::app
