#include "apps/common/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace adjoint::app {
namespace {

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

bool mentions(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::any_of(words.begin(), words.end(), [&](auto word) { return text.find(word) != text.npos; });
}

/// One character, or a single byte with code -1 where the UTF-8 is broken.
struct Character {
  std::int32_t code;
  std::size_t bytes;
};
Character next(std::string_view text) {
  utf8proc_int32_t code = -1;
  const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                  static_cast<utf8proc_ssize_t>(text.size()), &code);
  return n > 0 ? Character{code, static_cast<std::size_t>(n)} : Character{-1, 1};
}

bool steers_direction(std::int32_t code) {
  return code == 0x061c || code == 0x200e || code == 0x200f || (code >= 0x202a && code <= 0x202e) ||
         (code >= 0x2066 && code <= 0x2069) || code == 0x2028 || code == 0x2029;
}

std::string padded(const std::string& text, int width, bool right) {
  const std::string fill(static_cast<std::size_t>(std::max(0, width - display_width(text))), ' ');
  return right ? fill + text : text + fill;
}

bool numeric(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789+-.,%e±x: sm") == text.npos &&
         text.find_first_of("0123456789") != text.npos;
}

}  // namespace

Terminal detect_terminal(int descriptor, std::string_view colour) {
  Terminal terminal;
  terminal.interactive = isatty(descriptor) == 1 && environment("TERM") != "dumb";
  terminal.colour = colour == "always" || (colour == "auto" && terminal.interactive && environment("NO_COLOR").empty());
  terminal.true_colour = terminal.colour && mentions(environment("COLORTERM"), {"truecolor", "24bit"});
  for (const char* variable : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const std::string_view locale = environment(variable);
    if (locale.empty()) continue;
    terminal.utf8 = mentions(locale, {"UTF-8", "UTF8", "utf-8", "utf8"});
    break;
  }
  winsize size{};
  if (ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    terminal.width = size.ws_col;
  } else if (const int columns = std::atoi(std::string(environment("COLUMNS")).c_str()); columns > 0) {
    terminal.width = std::min(columns, 1000);
  }
  return terminal;
}

std::string printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const auto [code, bytes] = next(text);
    if (code < 0 || code < 0x20 || (code >= 0x7f && code < 0xa0)) {
      for (const char byte : text.substr(0, bytes)) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
    } else if (steers_direction(code)) {
      out += fmt::format("\\u{:04x}", code);
    } else {
      out += text.substr(0, bytes);
    }
    text.remove_prefix(bytes);
  }
  return out;
}

std::string shortened(std::string_view text, std::size_t limit) {
  std::string out = printable(text.substr(0, limit + 4));
  if (out.size() <= limit) return out;
  std::size_t cut = limit;
  while (cut > 0 && (static_cast<unsigned char>(out[cut]) & 0xc0) == 0x80) --cut;  // not inside a character
  return out.substr(0, cut) + "…";
}

int display_width(std::string_view text) {
  int width = 0;
  while (!text.empty()) {
    const auto [code, bytes] = next(text);
    width += code < 0 ? 1 : utf8proc_charwidth(code);
    text.remove_prefix(bytes);
  }
  return width;
}

Table::Table(std::vector<std::string> headings) { add(std::move(headings)); }

void Table::add(std::vector<std::string> row) {
  if (!rows_.empty()) row.resize(rows_.front().size());
  for (std::string& cell : row) cell = printable(cell);
  rows_.push_back(std::move(row));
}

std::string Table::text() const {
  std::string out;
  const std::size_t columns = rows_.front().size();
  std::vector<int> widths(columns, 0);
  std::vector<bool> right(columns, rows_.size() > 1);
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    for (std::size_t c = 0; c < columns; ++c) {
      widths[c] = std::max(widths[c], display_width(rows_[r][c]));
      if (r > 0 && !rows_[r][c].empty() && !numeric(rows_[r][c])) right[c] = false;
    }
  }
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t c = 0; c < columns; ++c) line += (c == 0 ? "" : "  ") + padded(row[c], widths[c], right[c]);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::array<std::uint8_t, 3> heat_colour(float weight) {
  // From near-white to a dark blue; the lightness falls evenly, which is what carries the value.
  const float w = std::clamp(std::isnan(weight) ? 0.0f : weight, 0.0f, 1.0f);
  const auto mix = [w](float light, float dark) {
    return static_cast<std::uint8_t>(std::lround(light + (dark - light) * w));
  };
  return {mix(247, 8), mix(251, 48), mix(255, 107)};
}

std::string heat_map_text(const HeatMap& map, const Terminal& terminal) {
  if (map.weights.size() != map.rows.size() * map.columns.size())
    throw std::logic_error("heat_map_text: the weights do not fit the labels");
  const bool colours = terminal.interactive && terminal.true_colour;
  const bool shades = !colours && terminal.interactive && terminal.colour && terminal.utf8;
  const auto cell = [&](float weight, int width) -> std::string {
    const std::string blank(static_cast<std::size_t>(width), ' ');
    const float w = std::clamp(std::isnan(weight) ? 0.0f : weight, 0.0f, 1.0f);
    if (colours) {
      const auto [r, g, b] = heat_colour(w);
      return fmt::format("\x1b[48;2;{};{};{}m{}\x1b[0m", r, g, b, blank);
    }
    if (shades) {
      static constexpr const char* kShades[] = {" ", "░", "▒", "▓", "█"};
      std::string out;
      for (int i = 0; i < width; ++i) out += kShades[std::min(4, static_cast<int>(w * 5))];
      return out;
    }
    std::string out = blank;
    out[out.size() / 2] = static_cast<char>('0' + std::min(9, static_cast<int>(w * 10)));
    return out;
  };

  std::vector<std::string> rows, columns;
  int row_width = 0, column_width = 1;
  for (const std::string& label : map.rows)
    row_width = std::max(row_width, display_width(rows.emplace_back(printable(label))));
  for (const std::string& label : map.columns)
    column_width = std::max(column_width, display_width(columns.emplace_back(printable(label))));
  // Labels over the columns where they fit, else numbers over them and the labels below.
  const int count = static_cast<int>(columns.size());
  const bool labelled = row_width + count * (column_width + 1) <= terminal.width;
  if (!labelled) column_width = static_cast<int>(fmt::format("{}", std::max(0, count - 1)).size());

  std::string out(static_cast<std::size_t>(row_width), ' ');
  for (int c = 0; c < count; ++c)
    out +=
        " " + padded(labelled ? columns[static_cast<std::size_t>(c)] : fmt::format("{}", c), column_width, !labelled);
  out += "\n";
  for (std::size_t r = 0; r < rows.size(); ++r) {
    out += padded(rows[r], row_width, true);
    for (std::size_t c = 0; c < columns.size(); ++c)
      out += " " + cell(map.weights[r * columns.size() + c], column_width);
    out += "\n";
  }
  if (!labelled)
    for (std::size_t c = 0; c < columns.size(); ++c) out += fmt::format("{}{}={}", c == 0 ? "" : " ", c, columns[c]);
  return labelled ? out : out + "\n";
}

bool print_result(std::string_view text) {
  static bool working = true;
  if (!working) return false;
  errno = 0;
  working = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (!working && errno != EPIPE)
    fmt::print(stderr, "warning: stdout: {}; the results that follow are not shown\n", std::strerror(errno));
  return working;
}

}  // namespace adjoint::app
