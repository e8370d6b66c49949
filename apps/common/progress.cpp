#include "apps/common/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

namespace adjoint::app {

std::string duration_text(double seconds) {
  if (!(seconds >= 0 && seconds < 3.6e6)) return "-:--";
  const auto whole = static_cast<long>(std::lround(seconds));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string short_number(double value) {
  if (value >= 9.995e8) return fmt::format("{:.3g}G", value / 1e9);
  if (value >= 9.995e5) return fmt::format("{:.3g}M", value / 1e6);
  if (value >= 999.5) return fmt::format("{:.3g}k", value / 1e3);
  return fmt::format("{:.3g}", value);
}

Progress::Progress(Mode mode, Terminal terminal, Sink sink, Clock clock)
    : mode_(mode), terminal_(terminal), sink_(std::move(sink)), clock_(std::move(clock)) {}

Progress Progress::on_stderr(std::string_view progress, std::string_view colour, bool quiet) {
  const Terminal terminal = detect_terminal(STDERR_FILENO, colour);
  Mode mode = terminal.interactive ? Mode::bar : Mode::plain;
  if (progress == "bar") mode = Mode::bar;
  if (progress == "plain") mode = Mode::plain;
  if (progress == "none" || quiet) mode = Mode::none;
  return {mode, terminal, [](std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); },
          [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }};
}

void Progress::begin(std::int64_t done, std::int64_t total) {
  first_ = done_ = done;
  total_ = std::max<std::int64_t>(total, 1);
  tenths_ = done * 10 / total_;
  status_ = {};
  timed_tokens_ = 0;
  timed_from_ = drawn_at_ = clock_();
  active_ = mode_ != Mode::none;
  fresh_ = true;
}

void Progress::step(std::int64_t done, const Status& status) {
  if (!active_) return;
  const double now = clock_();
  done_ = done;
  status_ = status;
  if (done_ - first_ <= kUntimedSteps) {
    timed_from_ = now;
    timed_tokens_ = status.tokens;
  }
  if (mode_ == Mode::bar) {
    if (fresh_ || now - drawn_at_ >= 0.1) draw(now);
  } else if (const std::int64_t tenths = done_ * 10 / total_; tenths > tenths_ || now - drawn_at_ >= 30) {
    tenths_ = tenths;
    draw(now);
  }
}

std::string Progress::fields(double now) const {
  std::string out = fmt::format("{:3}%", std::min<std::int64_t>(100, done_ * 100 / total_));
  if (status_.epochs > 0) out += fmt::format("  epoch {}/{}", status_.epoch, status_.epochs);
  out += fmt::format("  loss {:.4f}", status_.loss);
  if (!status_.metric.empty()) out += "  " + printable(status_.metric);
  const std::int64_t timed = done_ - first_ - kUntimedSteps;
  const double seconds = now - timed_from_;
  const bool known = timed > 0 && seconds > 0;
  if (known && status_.tokens > timed_tokens_)
    out += fmt::format("  {} tok/s", short_number(static_cast<double>(status_.tokens - timed_tokens_) / seconds));
  const double left =
      static_cast<double>(total_ - done_) * seconds / static_cast<double>(std::max<std::int64_t>(timed, 1));
  return out + "  ETA " + (known || done_ >= total_ ? duration_text(done_ >= total_ ? 0 : left) : "-:--");
}

void Progress::draw(double now) {
  drawn_at_ = now;
  fresh_ = false;
  std::string text = fields(now);
  if (mode_ == Mode::plain) {
    sink_(text + "\n");
    return;
  }
  // A line as wide as the terminal would wrap and leave its copies behind, so one column stays free.
  const int room = std::max(1, terminal_.width - 1);
  int width = display_width(text);
  while (width > room) {  // the fields at the end go first, and whole
    const std::size_t cut = text.rfind("  ", text.size() - 1);
    text.resize(cut == text.npos || cut == 0 ? static_cast<std::size_t>(room) : cut);
    width = display_width(text);
  }
  if (const int bar = std::min(30, room - width - 3); bar >= 5) {
    const int filled = static_cast<int>(std::min<std::int64_t>(bar, done_ * bar / total_));
    std::string full, empty;
    for (int i = 0; i < filled; ++i) full += terminal_.utf8 ? "━" : "#";
    for (int i = filled; i < bar; ++i) empty += terminal_.utf8 ? "─" : ".";
    if (terminal_.colour) full = "\x1b[32m" + full + "\x1b[0m";
    text = "[" + full + empty + "] " + text;
    width += bar + 3;
  }
  sink_("\r" + text + std::string(static_cast<std::size_t>(std::max(0, drawn_width_ - width)), ' '));
  drawn_width_ = width;
}

void Progress::erase() {
  if (drawn_width_ == 0) return;
  sink_("\r" + std::string(static_cast<std::size_t>(drawn_width_), ' ') + "\r");
  drawn_width_ = 0;
}

void Progress::message(std::string_view line) {
  if (mode_ == Mode::none) return;
  erase();
  sink_(printable(line) + "\n");
  fresh_ = true;
}

void Progress::finish() {
  if (!active_) return;
  active_ = false;
  if (mode_ == Mode::bar) {
    draw(clock_());
    sink_("\n");
    drawn_width_ = 0;
  }
}

}  // namespace adjoint::app
