#pragma once
// The progress of a training run on stderr.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "apps/common/terminal.h"

namespace adjoint::app {

/// A bar that is redrawn at most 10 times a second, or plain lines (one per 10 % or 30 s) without \r and ANSI codes
/// where the output is no terminal.
class Progress {
 public:
  enum class Mode { none, plain, bar };
  struct Status {
    std::int64_t epoch = 0, epochs = 0;
    double loss = 0;
    std::string metric;       // of the last evaluation, "f1 0.9812"
    std::int64_t tokens = 0;  // real ones since begin(), padding not counted
  };
  using Clock = std::function<double()>;  // seconds
  using Sink = std::function<void(std::string_view)>;

  Progress(Mode mode, Terminal terminal, Sink sink, Clock clock);
  /// On stderr, with the values of --progress, --color and --quiet.
  static Progress on_stderr(std::string_view progress, std::string_view colour, bool quiet);

  /// The steps done before (by a resumed run), and all of them.
  void begin(std::int64_t done, std::int64_t total);
  void step(std::int64_t done, const Status& status);
  /// A line of its own, above the bar. Shown in every mode but none.
  void message(std::string_view line);
  /// Shows the last state for good.
  void finish();

  static constexpr int kUntimedSteps = 3;  // the first steps record, allocate and warm caches: no forecast from them

 private:
  std::string fields(double now) const;
  void draw(double now);
  void erase();

  Mode mode_;
  Terminal terminal_;
  Sink sink_;
  Clock clock_;
  Status status_;
  std::int64_t first_ = 0, done_ = 0, total_ = 0, timed_tokens_ = 0;
  double timed_from_ = 0, drawn_at_ = 0;
  std::int64_t tenths_ = 0;
  int drawn_width_ = 0;
  bool active_ = false, fresh_ = false;
};

/// 42 -> "0:42", 3723 -> "1:02:03".
std::string duration_text(double seconds);
/// 12345 -> "12.3k".
std::string short_number(double value);

}  // namespace adjoint::app
