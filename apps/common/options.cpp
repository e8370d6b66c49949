#include "apps/common/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

#include "apps/common/terminal.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

[[noreturn]] void reject(const Option& option, std::string_view typed, const Source& source, const char* why) {
  const bool cli = source.prefix == "--";
  throw Error(source.code, Exit::usage,
              fmt::format("{}{} {}: {}; expected {}", source.prefix, cli ? option.name : option.key(),
                          typed.empty() ? "''" : shortened(typed, 60), why, option.expected()));
}

Option make(std::string name, Option::Kind kind, Value initial, std::string placeholder, std::string help) {
  Option option;
  option.name = std::move(name);
  option.kind = kind;
  option.initial = std::move(initial);
  option.placeholder = std::move(placeholder);
  option.help = std::move(help);
  return option;
}

}  // namespace

const char* name(Origin origin) {
  switch (origin) {
    case Origin::by_default: return "default";
    case Origin::preset: return "preset";
    case Origin::config: return "config";
    case Origin::command_line: return "command line";
  }
  return "?";
}

Option Option::with_alias(std::string spelling) && {
  alias = std::move(spelling);
  return std::move(*this);
}
Option Option::with_letter(char short_name) && {
  letter = short_name;
  return std::move(*this);
}
Option Option::for_this_call() && {
  per_call = true;
  return std::move(*this);
}
Option Option::accepting(bool (*check)(std::string_view)) && {
  accepts = check;
  return std::move(*this);
}

std::string Option::key() const {
  std::string key = name;
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

std::string Option::expected() const {
  switch (kind) {
    case Kind::flag: return "true or false";
    case Kind::integer: return fmt::format("an integer in {}..{}", int_min, int_max);
    case Kind::real: return fmt::format("a number in {}..{}", real_min, real_max);
    case Kind::choice: return fmt::format("one of {}", fmt::join(choices, ", "));
    case Kind::text: return accepts != nullptr ? placeholder : "text";
    case Kind::path: return "a path";
    case Kind::list: return placeholder;
  }
  return "?";
}

Option flag(std::string name, std::string help, bool initial) {
  return make(std::move(name), Option::Kind::flag, initial, "", std::move(help));
}
Option integer(std::string name, std::int64_t initial, std::int64_t min, std::int64_t max, std::string help) {
  Option option = make(std::move(name), Option::Kind::integer, initial, "N", std::move(help));
  option.int_min = min;
  option.int_max = max;
  return option;
}
Option real(std::string name, double initial, double min, double max, std::string help) {
  Option option = make(std::move(name), Option::Kind::real, initial, "X", std::move(help));
  option.real_min = min;
  option.real_max = max;
  return option;
}
Option choice(std::string name, std::string initial, std::vector<std::string> choices, std::string help) {
  Option option = make(std::move(name), Option::Kind::choice, std::move(initial),
                       fmt::format("{}", fmt::join(choices, "|")), std::move(help));
  option.choices = std::move(choices);
  return option;
}
Option text(std::string name, std::string placeholder, std::string help, std::string initial) {
  return make(std::move(name), Option::Kind::text, std::move(initial), std::move(placeholder), std::move(help));
}
Option path(std::string name, std::string placeholder, std::string help, std::string initial) {
  return make(std::move(name), Option::Kind::path, std::move(initial), std::move(placeholder), std::move(help));
}
Option list(std::string name, std::string placeholder, std::string help) {
  return make(std::move(name), Option::Kind::list, std::vector<std::string>{}, std::move(placeholder), std::move(help));
}

Source command_line_source() { return {"E-CLI-002", "--"}; }

Value parse_value(const Option& option, std::string_view typed, const Source& source) {
  const char* const end = typed.data() + typed.size();
  switch (option.kind) {
    case Option::Kind::flag:
      if (typed == "true" || typed == "on" || typed == "1") return true;
      if (typed == "false" || typed == "off" || typed == "0") return false;
      reject(option, typed, source, "not a switch value");
    case Option::Kind::integer: {
      std::int64_t number = 0;
      const auto [stop, error] = std::from_chars(typed.data(), end, number);
      const bool too_big = error == std::errc::result_out_of_range;
      if (stop != end || (error != std::errc{} && !too_big)) reject(option, typed, source, "not an integer");
      if (too_big || number < option.int_min || number > option.int_max) reject(option, typed, source, "out of range");
      return number;
    }
    case Option::Kind::real: {
      double number = 0;  // from_chars knows no locale, so a decimal comma never slips through
      const auto [stop, error] = std::from_chars(typed.data(), end, number);
      const bool too_big = error == std::errc::result_out_of_range;
      if (stop != end || (error != std::errc{} && !too_big)) reject(option, typed, source, "not a number");
      if (too_big || !(number >= option.real_min && number <= option.real_max))
        reject(option, typed, source, "out of range");
      return number;
    }
    case Option::Kind::choice:
      if (std::find(option.choices.begin(), option.choices.end(), typed) == option.choices.end())
        reject(option, typed, source, "unknown value");
      return std::string(typed);
    case Option::Kind::text:
    case Option::Kind::path:
      if (typed.find('\0') != typed.npos) reject(option, typed, source, "holds a NUL byte");
      if (option.accepts != nullptr && !option.accepts(typed)) reject(option, typed, source, "unknown value");
      return std::string(typed);
    case Option::Kind::list: return std::vector<std::string>{std::string(typed)};
  }
  throw std::logic_error("parse_value: unknown kind of option");
}

std::string spelling(const Value& value) {
  return std::visit(
      [](const auto& v) -> std::string {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::vector<std::string>>) {
          return fmt::format("{}", fmt::join(v, " "));
        } else {
          return fmt::format("{}", v);
        }
      },
      value);
}

OptionTable::OptionTable(std::string program, std::string command, std::string summary,
                         std::vector<std::string> examples)
    : program_(std::move(program)),
      command_(std::move(command)),
      summary_(std::move(summary)),
      examples_(std::move(examples)) {}

OptionTable& OptionTable::group(std::string heading) {
  group_ = std::move(heading);
  return *this;
}

OptionTable& OptionTable::add(Option option) {
  if (find(option.name) != npos) throw std::logic_error("option defined twice: " + option.name);
  option.initial = checked(option, option.initial);
  if (option.group.empty()) option.group = group_;
  options_.push_back(std::move(option));
  return *this;
}

OptionTable& OptionTable::defaults(const NamedValues& values) {
  for (const auto& [name, value] : values) {
    Option& option = options_[at(name)];
    option.initial = checked(option, value);
  }
  return *this;
}

OptionTable& OptionTable::preset(const std::string& name, NamedValues values) {
  if (find("preset") == npos)
    add(choice("preset", "none", {"none"}, "a named set of values; other options win over it"));
  Option& preset = options_[at("preset")];
  preset.choices.push_back(name);
  preset.placeholder = fmt::format("{}", fmt::join(preset.choices, "|"));
  for (auto& [option, value] : values) value = checked(options_[at(option)], value);
  presets_.emplace_back(name, std::move(values));
  return *this;
}

OptionTable& OptionTable::arguments(Arguments arguments) {
  arguments_ = std::move(arguments);
  return *this;
}

OptionTable& OptionTable::take(const OptionTable& other, const std::vector<std::string_view>& but) {
  for (const Option& option : other.options_)
    if (std::find(but.begin(), but.end(), option.name) == but.end()) add(option);
  presets_.insert(presets_.end(), other.presets_.begin(), other.presets_.end());
  return *this;
}

Value OptionTable::checked(const Option& option, const Value& value) const {
  if (std::holds_alternative<std::vector<std::string>>(value)) return value;
  // An empty text means "not given" for kinds that would otherwise refuse it.
  try {
    return parse_value(option, spelling(value), command_line_source());
  } catch (const Error& error) {
    throw std::logic_error(std::string("in the option table: ") + error.what());
  }
}

const NamedValues& OptionTable::preset_values(std::string_view name) const {
  for (const auto& [preset, values] : presets_)
    if (preset == name) return values;
  static const NamedValues none;
  return none;
}

std::size_t OptionTable::find(std::string_view name) const {
  for (std::size_t i = 0; i < options_.size(); ++i)
    if (options_[i].name == name || (!name.empty() && options_[i].alias == name)) return i;
  return npos;
}

std::size_t OptionTable::at(std::string_view name) const {
  const std::size_t index = find(name);
  if (index == npos) throw std::logic_error(fmt::format("{}: no option named {}", full_name(), name));
  return index;
}

std::string OptionTable::full_name() const { return command_.empty() ? program_ : program_ + " " + command_; }

Settings::Settings(const OptionTable& table) : table_(&table) {
  for (const Option& option : table.options()) values_.emplace_back(option.initial, Origin::by_default);
}

template <class T>
const T& Settings::get(std::string_view name) const {
  const T* value = std::get_if<T>(&values_[table_->at(name)].first);
  if (value == nullptr) throw std::logic_error(fmt::format("option {} read as another type", name));
  return *value;
}

bool Settings::flag(std::string_view name) const { return get<bool>(name); }
std::int64_t Settings::integer(std::string_view name) const { return get<std::int64_t>(name); }
double Settings::real(std::string_view name) const { return get<double>(name); }
const std::string& Settings::text(std::string_view name) const { return get<std::string>(name); }
const std::vector<std::string>& Settings::list(std::string_view name) const {
  return get<std::vector<std::string>>(name);
}
Origin Settings::origin(std::string_view name) const { return values_[table_->at(name)].second; }
bool Settings::has(std::string_view name) const { return table_->find(name) != OptionTable::npos; }

void Settings::set(std::size_t option, Value value, Origin origin) { values_[option] = {std::move(value), origin}; }

std::string Settings::config_json() const {
  nlohmann::ordered_json options = nlohmann::ordered_json::object();
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const auto& [value, origin] = values_[i];
    nlohmann::ordered_json& entry = options[table_->options()[i].key()];
    std::visit([&](const auto& v) { entry["value"] = v; }, value);
    entry["origin"] = name(origin);
  }
  const nlohmann::ordered_json config = {{"format", "adjoint.config"},   {"version", 1},
                                         {"program", table_->program()}, {"command", table_->command()},
                                         {"arguments", arguments_},      {"options", std::move(options)}};
  return config.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

Settings Settings::with(std::string_view name, std::string_view typed) const {
  const std::size_t index = table_->at(name);
  Settings copy = *this;
  copy.set(index, parse_value(table_->options()[index], typed, command_line_source()), Origin::command_line);
  return copy;
}

Settings Settings::as(const OptionTable& table) const {
  Settings other(table);
  for (std::size_t i = 0; i < values_.size(); ++i)
    if (const std::size_t at = table.find(table_->options()[i].name); at != OptionTable::npos)
      other.values_[at] = values_[i];
  return other;
}

Axis parse_axis(const OptionTable& table, std::string_view typed) {
  const std::size_t equals = typed.find('=');
  ADJOINT_CHECK(
      equals != typed.npos && equals > 0 && equals + 1 < typed.size(), "E-CLI-002", Exit::usage,
      fmt::format("--grid {}: not an axis; expected NAME=VALUE,VALUE as in lr=1e-3,3e-4", shortened(typed, 60)));
  Axis axis;
  axis.name = typed.substr(0, equals);
  const std::size_t index = table.find(axis.name);
  if (index == OptionTable::npos || table.options()[index].per_call) {
    std::vector<std::string> names;
    for (const Option& option : table.options())
      if (!option.per_call) names.push_back(option.name);
    const std::string near = nearest(axis.name, names);
    throw Error("E-CLI-001", Exit::usage,
                fmt::format("--grid {}: not an option that can be swept; {}see '{} --help'", shortened(axis.name, 60),
                            near.empty() ? "" : "did you mean " + near + "? ", table.full_name()));
  }
  for (std::size_t start = equals + 1; start <= typed.size();) {
    const std::size_t comma = std::min(typed.find(',', start), typed.size());
    axis.values.emplace_back(typed.substr(start, comma - start));
    parse_value(table.options()[index], axis.values.back(), command_line_source());
    start = comma + 1;
  }
  return axis;
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  // Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours count one each.
  const auto distance = [](std::string_view a, std::string_view b) {
    std::vector<std::size_t> before, above(b.size() + 1), row(b.size() + 1);
    std::iota(above.begin(), above.end(), std::size_t{0});
    for (std::size_t i = 1; i <= a.size(); ++i) {
      row[0] = i;
      for (std::size_t j = 1; j <= b.size(); ++j) {
        row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
        if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
          row[j] = std::min(row[j], before[j - 2] + 1);
      }
      before = above;
      above = row;
    }
    return above[b.size()];
  };
  word = word.substr(0, 64);  // a hostile word must not cost quadratic time
  std::string best;
  std::size_t best_distance = 2 + word.size() / 4;
  for (const std::string& candidate : candidates) {
    const std::size_t d = distance(word, candidate);
    if (d < best_distance) {
      best_distance = d;
      best = candidate;
    }
  }
  return best;
}

}  // namespace adjoint::app
