#pragma once
// What the terminal can show, and text made for it: escaping, tables, heat maps.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace adjoint::app {

struct Terminal {
  bool interactive = false;  // a terminal: lines may be redrawn
  bool colour = false;
  bool true_colour = false;  // 24 bit
  bool utf8 = false;
  int width = 80;
};

/// What the file descriptor leads to. `colour` is auto, always or never; auto respects NO_COLOR and TERM=dumb.
Terminal detect_terminal(int descriptor, std::string_view colour = "auto");

/// The text with control bytes, broken UTF-8 and controls of writing direction spelled out (\x1b, \u202e), so that data
/// can neither steer the terminal nor break a line.
std::string printable(std::string_view text);
/// Printable, and cut with "…" after about `limit` bytes: for values quoted in errors.
std::string shortened(std::string_view text, std::size_t limit);
/// Columns that the text takes: wide characters count two, combining ones none.
int display_width(std::string_view utf8);

/// Rows with aligned columns. Text is made printable.
class Table {
 public:
  explicit Table(std::vector<std::string> headings);
  void add(std::vector<std::string> row);
  /// Columns whose cells all look like numbers are set flush right.
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// A matrix of weights in 0..1, row-major, with the labels of its rows and columns.
struct HeatMap {
  std::vector<std::string> rows;
  std::vector<std::string> columns;
  std::vector<float> weights;
};
/// As 24-bit colours, Unicode shades, or the digits 0-9 (tenths) where the terminal is plain or no terminal.
std::string heat_map_text(const HeatMap& map, const Terminal& terminal);
/// The colour of a weight: light to dark in one hue, told apart with any colour vision.
std::array<std::uint8_t, 3> heat_colour(float weight);

/// Writes a result to stdout. After the first failure (a closed pipe, a full disk) warns once (not for a closed pipe),
/// and returns false from then on.
bool print_result(std::string_view text);

}  // namespace adjoint::app
