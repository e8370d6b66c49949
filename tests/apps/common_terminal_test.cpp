#include "apps/common/terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>

#include "apps/common/progress.h"
#include "tests/apps/common_support.h"

namespace adjoint::app {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Printable, Spells_out_what_would_steer_a_terminal) {
  EXPECT_EQ(printable("plain: naïve 日本 ✓"), "plain: naïve 日本 ✓");
  EXPECT_EQ(printable("\x1b]0;title\x07"), "\\x1b]0;title\\x07");
  EXPECT_EQ(printable("a\nb\tc\x7f"),
            "a\\x0a"
            "b\\x09"
            "c\\x7f");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m"),
            "\\xc2\\x9b"
            "31m");  // the one-character form of ESC [
  EXPECT_EQ(printable("a\u202eb\u2066c\u200f"), "a\\u202eb\\u2066c\\u200f");
  EXPECT_EQ(printable("\xff\xe2\x80"), "\\xff\\xe2\\x80");
  EXPECT_EQ(printable(std::string_view("\0", 1)), "\\x00");
}

TEST(Printable, Shortened_never_cuts_inside_a_character) {
  EXPECT_EQ(shortened("short", 10), "short");
  EXPECT_EQ(shortened("éééééééééé", 5), "éé…");
  EXPECT_EQ(printable(shortened(std::string(1000, '\xf0'), 21)), shortened(std::string(1000, '\xf0'), 21));
}

TEST(Table, Aligns_columns_by_what_the_terminal_shows) {
  Table table({"model", "f1", "words"});
  table.add({"lstm", "0.9812", "日本"});
  table.add({"ffnn", "12", "a\x1b"});
  EXPECT_EQ(table.text(),
            "model      f1  words\n"
            "lstm   0.9812  日本\n"
            "ffnn       12  a\\x1b\n");
  EXPECT_EQ(display_width("日本é"), 5);
}

class HeatMapText : public ::testing::Test {
 protected:
  const HeatMap map_{{"b", "a</s>"}, {"a", "b"}, {0.0f, 1.0f, 0.55f, std::nanf("")}};
  Terminal terminal_;
};

TEST_F(HeatMapText, Plain_output_has_digits) {
  EXPECT_EQ(heat_map_text(map_, terminal_),
            "      a b\n"
            "    b 0 9\n"
            "a</s> 5 0\n");
  terminal_.utf8 = terminal_.colour = terminal_.true_colour = true;  // as with --color=always into a file
  EXPECT_THAT(heat_map_text(map_, terminal_), HasSubstr("b 0 9"));
  terminal_ = {.interactive = true, .utf8 = true};  // NO_COLOR
  EXPECT_THAT(heat_map_text(map_, terminal_), HasSubstr("b 0 9"));
}

TEST_F(HeatMapText, Terminals_get_shades_or_colours) {
  terminal_ = {.interactive = true, .colour = true, .utf8 = true};
  EXPECT_EQ(heat_map_text(map_, terminal_),
            "      a b\n"
            "    b   █\n"
            "a</s> ▒  \n");
  terminal_.true_colour = true;
  EXPECT_THAT(heat_map_text(map_, terminal_), HasSubstr("\x1b[48;2;8;48;107m \x1b[0m\n"));
}

TEST_F(HeatMapText, Long_labels_move_below_numbered_columns) {
  const HeatMap wide{{"x"}, {"one-long-label", "another\x1b-label"}, {0.1f, 0.2f}};
  terminal_.width = 20;
  EXPECT_EQ(heat_map_text(wide, terminal_),
            "  0 1\n"
            "x 1 2\n"
            "0=one-long-label 1=another\\x1b-label\n");
}

TEST_F(HeatMapText, Weights_must_fit_the_labels) {
  EXPECT_THROW(heat_map_text({{"a"}, {"b", "c"}, {1}}, terminal_), std::logic_error);
}

TEST(TerminalDetection, Respects_the_environment) {
  setenv("NO_COLOR", "1", 1);
  setenv("LC_ALL", "C.UTF-8", 1);
  setenv("COLUMNS", "57", 1);
  TempFolder folder;
  FILE* file = std::fopen(folder.file("f").c_str(), "w");
  Terminal terminal = detect_terminal(fileno(file));
  EXPECT_FALSE(terminal.interactive);
  EXPECT_FALSE(terminal.colour);
  EXPECT_TRUE(terminal.utf8);
  EXPECT_EQ(terminal.width, 57);
  EXPECT_TRUE(detect_terminal(fileno(file), "always").colour);
  setenv("LC_ALL", "C", 1);
  EXPECT_FALSE(detect_terminal(fileno(file)).utf8);
  std::fclose(file);
}

TEST(TerminalDetection, A_terminal_has_colours_unless_told_otherwise) {
  const int controller = posix_openpt(O_RDWR | O_NOCTTY);
  if (controller < 0 || grantpt(controller) != 0 || unlockpt(controller) != 0)
    GTEST_SKIP() << "no pseudo-terminals here";
  const int terminal = open(ptsname(controller), O_RDWR | O_NOCTTY);
  const winsize size{24, 91, 0, 0};
  ioctl(terminal, TIOCSWINSZ, &size);
  unsetenv("NO_COLOR");
  setenv("TERM", "xterm", 1);
  setenv("COLORTERM", "truecolor", 1);
  EXPECT_TRUE(detect_terminal(terminal).interactive);
  EXPECT_TRUE(detect_terminal(terminal).true_colour);
  EXPECT_FALSE(detect_terminal(terminal, "never").true_colour);
  EXPECT_EQ(detect_terminal(terminal).width, 91);
  setenv("NO_COLOR", "1", 1);
  EXPECT_TRUE(detect_terminal(terminal).interactive);
  EXPECT_FALSE(detect_terminal(terminal).colour);
  EXPECT_TRUE(detect_terminal(terminal, "always").colour);
  setenv("TERM", "dumb", 1);
  EXPECT_FALSE(detect_terminal(terminal).interactive);
  close(terminal);
  close(controller);
}

class ProgressOutput : public ::testing::Test {
 protected:
  Progress make(Progress::Mode mode, Terminal terminal = {}) {
    return {mode, terminal, [this](std::string_view text) { writes_.emplace_back(text); }, [this] { return now_; }};
  }
  std::string all() const {
    std::string out;
    for (const std::string& write : writes_) out += write;
    return out;
  }
  std::vector<std::string> writes_;
  double now_ = 100;
};

TEST_F(ProgressOutput, Plain_mode_writes_a_line_per_tenth_without_control_codes) {
  Progress progress = make(Progress::Mode::plain, {.colour = true, .utf8 = true});
  progress.begin(0, 200);
  for (int step = 1; step <= 200; ++step) {
    now_ += 0.05;
    progress.step(step, {1, 3, 0.5, "f1 0.9", step * 100});
  }
  progress.finish();
  EXPECT_EQ(writes_.size(), 10u) << all();
  EXPECT_EQ(writes_[0], " 10%  epoch 1/3  loss 0.5000  f1 0.9  2k tok/s  ETA 0:09\n");
  EXPECT_EQ(writes_[9].substr(0, 4), "100%");
  EXPECT_THAT(all(), Not(::testing::ContainsRegex("[\r\x1b]")));
}

TEST_F(ProgressOutput, Plain_mode_writes_a_line_each_30_seconds_when_tenths_are_slow) {
  Progress progress = make(Progress::Mode::plain);
  progress.begin(0, 1000);
  for (int step = 1; step <= 90; ++step) {
    now_ += 1;
    progress.step(step, {});
  }
  EXPECT_EQ(writes_.size(), 3u) << all();
}

TEST_F(ProgressOutput, Forecast_leaves_the_first_steps_out) {
  Progress progress = make(Progress::Mode::plain);
  progress.begin(0, 10);
  for (int step = 1; step <= 5; ++step) {
    now_ += step <= Progress::kUntimedSteps ? 60 : 1;  // the first are slow
    progress.step(step, {0, 0, 1, "", step * 10});
  }
  EXPECT_THAT(writes_[2], HasSubstr("ETA -:--"));
  EXPECT_THAT(writes_[4], HasSubstr("10 tok/s  ETA 0:05"));
}

TEST_F(ProgressOutput, Resumed_runs_count_only_their_own_steps) {
  Progress progress = make(Progress::Mode::plain);
  progress.begin(90, 100);
  for (int step = 91; step <= 95; ++step) {
    now_ += 2;
    progress.step(step, {});
  }
  progress.begin(0, 1);
  now_ += 31;
  EXPECT_TRUE(writes_.empty()) << all();
  progress.begin(95, 200);
  for (int step = 96; step <= 100; ++step) {
    now_ += 2;
    progress.step(step, {});
  }
  ASSERT_EQ(writes_.size(), 1u);
  EXPECT_THAT(writes_[0], HasSubstr("ETA 3:20"));
}

TEST_F(ProgressOutput, The_bar_is_redrawn_at_most_ten_times_a_second) {
  Progress progress = make(Progress::Mode::bar, {.interactive = true, .utf8 = true});
  progress.begin(0, 5000);
  for (int step = 1; step <= 5000; ++step) {
    now_ += 0.001;
    progress.step(step, {1, 1, 0.25, "", 0});
  }
  EXPECT_LE(writes_.size(), 51u);
  EXPECT_GE(writes_.size(), 45u);
  progress.finish();
  EXPECT_THAT(all(), HasSubstr("\r[━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━] 100%  epoch 1/1  loss 0.2500  ETA 0:00"));
  EXPECT_EQ(writes_.back(), "\n");
  EXPECT_EQ(all().find('\x1b'), std::string::npos);  // no colour was asked for
}

TEST_F(ProgressOutput, The_bar_never_fills_the_line) {
  for (int width = 1; width <= 120; ++width) {
    writes_.clear();
    Progress progress = make(Progress::Mode::bar, {.interactive = true, .width = width});
    progress.begin(0, 3);
    progress.step(1, {1, 300, 123.456, "f1 0.98", 10});
    ASSERT_EQ(writes_.size(), 1u);
    EXPECT_LE(display_width(writes_[0].substr(1)), std::max(1, width - 1)) << width << writes_[0];
  }
}

TEST_F(ProgressOutput, A_message_stands_above_the_bar) {
  Progress progress = make(Progress::Mode::bar, {.interactive = true});
  progress.begin(0, 10);
  progress.step(1, {});
  writes_.clear();
  progress.message("saved \x1b[2J");
  progress.step(2, {});
  ASSERT_EQ(writes_.size(), 3u);
  EXPECT_THAT(writes_[0], ::testing::MatchesRegex("\r *\r"));
  EXPECT_EQ(writes_[1], "saved \\x1b[2J\n");
  EXPECT_EQ(writes_[2][0], '\r');
}

TEST_F(ProgressOutput, Mode_none_is_silent) {
  Progress progress = make(Progress::Mode::none);
  progress.begin(0, 1);
  progress.step(1, {});
  progress.message("x");
  progress.finish();
  EXPECT_TRUE(writes_.empty());
}

TEST(Numbers, Are_short) {
  EXPECT_EQ(duration_text(3723), "1:02:03");
  EXPECT_EQ(duration_text(59.6), "1:00");
  EXPECT_EQ(duration_text(-1), "-:--");
  EXPECT_EQ(short_number(999.4), "999");
  EXPECT_EQ(short_number(12345), "12.3k");
  EXPECT_EQ(short_number(999999), "1M");
}

}  // namespace
}  // namespace adjoint::app
