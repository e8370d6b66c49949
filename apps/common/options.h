#pragma once
// One table of options a command. It feeds the flags, --help, --config, the run's config.json and the axes of a sweep.

#include <cstdint>
#include <deque>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace adjoint::app {

/// Where a value came from, weakest first.
enum class Origin { by_default, preset, config, command_line };
const char* name(Origin origin);

using Value = std::variant<bool, std::int64_t, double, std::string, std::vector<std::string>>;
using NamedValues = std::vector<std::pair<std::string, Value>>;

/// One option. Made by the functions below; the with_… members add the rarer properties.
struct Option {
  enum class Kind { flag, integer, real, choice, text, path, list };

  std::string name;  // "batch-size": --batch-size on the command line, batch_size in a config file
  Kind kind = Kind::flag;
  Value initial;
  std::string help;
  std::string placeholder;  // what --help shows for the value
  std::int64_t int_min = 0, int_max = 0;
  double real_min = 0, real_max = 0;
  std::vector<std::string> choices;
  std::string alias;  // a second spelling, as "learning-rate"
  char letter = 0;
  std::string group;
  bool (*accepts)(std::string_view) = nullptr;  // of a text that must have the placeholder's form
  bool per_call = false;  // tells how to run, not what: recorded in config.json, never read from one

  Option with_alias(std::string spelling) &&;
  Option with_letter(char short_name) &&;
  Option for_this_call() &&;
  Option accepting(bool (*check)(std::string_view)) &&;

  /// "batch_size".
  std::string key() const;
  /// What a value must be: "an integer in 1..100".
  std::string expected() const;
};

Option flag(std::string name, std::string help, bool initial = false);
Option integer(std::string name, std::int64_t initial, std::int64_t min, std::int64_t max, std::string help);
Option real(std::string name, double initial, double min, double max, std::string help);
Option choice(std::string name, std::string initial, std::vector<std::string> choices, std::string help);
Option text(std::string name, std::string placeholder, std::string help, std::string initial = "");
Option path(std::string name, std::string placeholder, std::string help, std::string initial = "");
/// May be given several times.
Option list(std::string name, std::string placeholder, std::string help);

/// How errors name the source of a value: its code and the words before the option's name.
struct Source {
  std::string code;
  std::string prefix;
};
Source command_line_source();

/// The value that `typed` spells for the option; E-CLI-002 or E-CONF-003 otherwise.
Value parse_value(const Option& option, std::string_view typed, const Source& source);
/// The spelling that parse_value reads back.
std::string spelling(const Value& value);

/// Words after the options.
struct Arguments {
  std::string placeholder;
  std::size_t min = 0, max = 0;
  std::string help;
};

/// The options, presets and arguments of one command.
class OptionTable {
 public:
  OptionTable(std::string program, std::string command, std::string summary, std::vector<std::string> examples);

  /// The heading in --help of the options added from now on.
  OptionTable& group(std::string heading);
  OptionTable& add(Option option);
  /// Replaces defaults of options already added.
  OptionTable& defaults(const NamedValues& values);
  /// A named set of values, chosen with --preset. Values given in a config file or on the command line win over it.
  OptionTable& preset(const std::string& name, NamedValues values);
  OptionTable& arguments(Arguments arguments);
  /// Adds all options and presets of another command but these options.
  OptionTable& take(const OptionTable& other, const std::vector<std::string_view>& but);

  const std::string& program() const { return program_; }
  const std::string& command() const { return command_; }
  const std::string& summary() const { return summary_; }
  const std::vector<std::string>& examples() const { return examples_; }
  const std::vector<Option>& options() const { return options_; }
  const Arguments& arguments() const { return arguments_; }
  const NamedValues& preset_values(std::string_view name) const;
  /// Index of an option by name, or npos.
  std::size_t find(std::string_view name) const;
  /// The same, where the option must be there: another name is a bug in the program.
  std::size_t at(std::string_view name) const;
  /// "clickbait train".
  std::string full_name() const;

  static constexpr std::size_t npos = static_cast<std::size_t>(-1);

 private:
  /// The value as the option stores it; a wrong one is a bug in the program.
  Value checked(const Option& option, const Value& value) const;

  std::string program_, command_, summary_, group_ = "Options";
  std::vector<std::string> examples_;
  std::vector<Option> options_;
  std::vector<std::pair<std::string, NamedValues>> presets_;
  Arguments arguments_;
};

/// The values of one call. Refers to its table, which must outlive it.
class Settings {
 public:
  explicit Settings(const OptionTable& table);

  bool flag(std::string_view name) const;
  std::int64_t integer(std::string_view name) const;
  double real(std::string_view name) const;
  const std::string& text(std::string_view name) const;  // also of choices and paths
  const std::vector<std::string>& list(std::string_view name) const;
  Origin origin(std::string_view name) const;
  bool given(std::string_view name) const { return origin(name) != Origin::by_default; }
  /// True where the command has such an option at all.
  bool has(std::string_view name) const;
  const std::vector<std::string>& arguments() const { return arguments_; }
  const OptionTable& table() const { return *table_; }

  /// The run's config.json: program, command, arguments, and value and origin of every option.
  std::string config_json() const;
  /// A copy with one option set, for a point of a sweep.
  Settings with(std::string_view name, std::string_view typed) const;
  /// The values and origins of the options that another command shares with this one.
  Settings as(const OptionTable& table) const;

  void set(std::size_t option, Value value, Origin origin);
  void set_arguments(std::vector<std::string> words) { arguments_ = std::move(words); }

 private:
  template <class T>
  const T& get(std::string_view name) const;

  const OptionTable* table_;
  std::vector<std::pair<Value, Origin>> values_;  // in the table's order
  std::vector<std::string> arguments_;
};

/// An axis of a sweep, from "lr=1e-3,3e-4"; every value is checked against the option.
struct Axis {
  std::string name;
  std::vector<std::string> values;
};
Axis parse_axis(const OptionTable& table, std::string_view typed);

/// The candidate that a mistyped word most likely meant, or "" if none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace adjoint::app
