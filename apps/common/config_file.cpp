#include "apps/common/config_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "apps/common/files.h"
#include "apps/common/terminal.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxBytes = 1 << 20;

/// Lets the parser's callbacks see how far it has read: nlohmann gives positions with errors only.
struct TrackedChar {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  const char** furthest;

  const char& operator*() const { return *at; }
  TrackedChar& operator++() {
    *furthest = ++at;
    return *this;
  }
  TrackedChar operator++(int) {
    const TrackedChar old = *this;
    ++*this;
    return old;
  }
  bool operator==(const TrackedChar& other) const { return at == other.at; }
  bool operator!=(const TrackedChar& other) const { return at != other.at; }
};

struct Position {
  std::size_t line, column;
};
Position position(const std::string& text, std::size_t byte) {
  byte = std::min(byte, text.size());
  const auto end = text.begin() + static_cast<std::ptrdiff_t>(byte);
  const std::size_t line_start = byte == 0 ? 0 : text.rfind('\n', byte - 1) + 1;  // npos + 1 is 0
  return {1 + static_cast<std::size_t>(std::count(text.begin(), end, '\n')), byte - line_start + 1};
}

std::optional<Value> scalar(const Json& json) {
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_string()) return json.get<std::string>();
  if (json.is_number_float()) return json.get<double>();
  if (json.is_number_unsigned() && json.get<std::uint64_t>() > INT64_MAX) return std::nullopt;
  if (json.is_number_integer()) return json.get<std::int64_t>();
  if (json.is_array()) {
    std::vector<std::string> words;
    for (const Json& item : json) {
      if (!item.is_string()) return std::nullopt;
      words.push_back(item.get<std::string>());
    }
    return words;
  }
  return std::nullopt;
}

[[noreturn]] void reject_syntax(const std::string& path, Position at, const std::string& why) {
  throw Error("E-CONF-004", Exit::usage,
              fmt::format("{}: line {}, column {}: {}; expected strict JSON as in {{\"epochs\": 3, \"lr\": 0.001}}",
                          shortened(path, 120), at.line, at.column, why));
}

/// The value as the option stores it, or none where the types do not fit.
std::optional<Value> fitting(const Option& option, const std::optional<Value>& value) {
  if (!value) return std::nullopt;
  switch (option.kind) {
    case Option::Kind::flag:
      if (std::holds_alternative<bool>(*value)) return value;
      return std::nullopt;
    case Option::Kind::integer:
      if (std::holds_alternative<std::int64_t>(*value)) return value;
      return std::nullopt;
    case Option::Kind::real:
      if (const auto* whole = std::get_if<std::int64_t>(&*value)) return static_cast<double>(*whole);
      if (std::holds_alternative<double>(*value)) return value;
      return std::nullopt;
    case Option::Kind::list:
      if (std::holds_alternative<std::vector<std::string>>(*value)) return value;
      [[fallthrough]];
    default:
      if (std::holds_alternative<std::string>(*value)) return value;
      return std::nullopt;
  }
}

/// A config file is often somebody else's: it may name files below the current folder, never reach out of it.
bool stays_inside(const std::string& path) {
  const std::filesystem::path normal = std::filesystem::path(path).lexically_normal();
  return normal.is_relative() && (normal.empty() || *normal.begin() != "..");
}

}  // namespace

std::vector<ConfigEntry> parse_config(const std::string& text, const std::string& path) {
  if (text.size() > kMaxBytes)
    throw Error("E-CONF-004", Exit::usage,
                fmt::format("{}: {} bytes; expected a config of at most {}", path, text.size(), kMaxBytes));
  // The parser takes a NUL for the end of its input and would ignore what follows.
  if (const std::size_t nul = text.find('\0'); nul != text.npos) reject_syntax(path, position(text, nul), "NUL byte");

  const char* furthest = text.data();
  const auto here = [&] { return position(text, static_cast<std::size_t>(furthest - text.data())); };
  std::vector<std::set<std::string>> keys;  // of every object that is open
  std::vector<std::pair<std::string, std::size_t>> lines;
  std::string last_key;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start) {
      if (depth >= kMaxDepth) reject_syntax(path, here(), fmt::format("nested deeper than {}", kMaxDepth));
      if (event == Json::parse_event_t::object_start) keys.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == Json::parse_event_t::key) {
      last_key = parsed.get<std::string>();
      const Position at = here();
      if (!keys.back().insert(last_key).second)
        throw Error("E-CONF-002", Exit::usage,
                    fmt::format("{}: line {}: duplicate key \"{}\"; expected each key once", shortened(path, 120),
                                at.line, shortened(last_key, 60)));
      lines.emplace_back(last_key, at.line);
    }
    return true;
  };
  Json json;
  try {
    json = Json::parse(TrackedChar{text.data(), &furthest}, TrackedChar{text.data() + text.size(), &furthest}, watch);
  } catch (const Json::parse_error& error) {
    std::string why = error.what();
    if (const std::size_t last = why.find("; last read"); last != why.npos) why.resize(last);
    if (const std::size_t colon = why.rfind(" - "); colon != why.npos)
      why.erase(0, colon + 3);
    else if (const std::size_t column = why.find(": "); column != why.npos)
      why.erase(0, column + 2);
    reject_syntax(path, position(text, error.byte == 0 ? 0 : error.byte - 1), shortened(why, 120));
  } catch (const Json::out_of_range&) {
    // A number such as 1e999. Which one is asked of the option whose value it is.
    return {{last_key, here().line, std::nullopt, "beyond the largest number", false}};
  }
  if (!json.is_object()) reject_syntax(path, {1, 1}, "not an object");

  const bool run_config = json.contains("format") && json["format"] == "adjoint.config";
  const Json& options = run_config && json.contains("options") ? json["options"] : json;
  std::vector<ConfigEntry> entries;
  for (const auto& [key, item] : options.items()) {
    const bool wrapped = run_config && item.is_object() && item.contains("value");
    const Json& value = wrapped ? item["value"] : item;
    const auto line = std::find_if(lines.begin(), lines.end(), [&](const auto& l) { return l.first == key; });
    entries.push_back({key, line == lines.end() ? 0 : line->second, scalar(value),
                       value.dump(-1, ' ', false, Json::error_handler_t::replace), run_config});
  }
  return entries;
}

std::vector<ConfigEntry> read_config(const std::string& path) { return parse_config(read_file(path, kMaxBytes), path); }

namespace {

enum class Paths { inside, any };

void apply(Settings& settings, const std::vector<ConfigEntry>& entries, const std::string& path, Paths paths) {
  const OptionTable& table = settings.table();
  for (const ConfigEntry& entry : entries) {
    const std::string place = fmt::format("{}:{}: ", shortened(path, 120), entry.line);
    const auto same = [&](const Option& option) {
      std::string alias = option.alias;
      std::replace(alias.begin(), alias.end(), '-', '_');
      return option.key() == entry.key || (!alias.empty() && alias == entry.key);
    };
    const auto found = std::find_if(table.options().begin(), table.options().end(), same);
    if (found == table.options().end()) {
      std::vector<std::string> names;
      for (const Option& option : table.options()) {
        if (option.per_call) continue;
        names.push_back(option.key());
        if (option.alias.empty()) continue;
        names.push_back(option.alias);
        std::replace(names.back().begin(), names.back().end(), '-', '_');
      }
      const std::string near = nearest(entry.key, names);
      throw Error("E-CONF-001", Exit::usage,
                  fmt::format("{}{}: unknown key; {}", place, shortened(entry.key, 60),
                              near.empty() ? "expected an option of '" + table.full_name() + " --help', with _ for -"
                                           : "did you mean " + near + "?"));
    }
    const Option& option = *found;
    const std::size_t index = static_cast<std::size_t>(found - table.options().begin());
    if (option.per_call && !entry.recorded)
      throw Error("E-CONF-001", Exit::usage,
                  fmt::format("{}{}: not for config files; expected --{} on the command line", place, option.key(),
                              option.name));
    if (option.per_call || settings.origin(option.name) == Origin::command_line) continue;

    const Source source{"E-CONF-003", place};
    const auto reject = [&](const char* why) {
      throw Error(source.code, Exit::usage,
                  fmt::format("{}{} {}: {}; expected {}", place, option.key(), shortened(entry.shown, 60), why,
                              option.expected()));
    };
    std::optional<Value> value = fitting(option, entry.value);
    if (!value) reject("wrong type or size");
    if (!std::holds_alternative<std::vector<std::string>>(*value))
      value = parse_value(option, spelling(*value), source);
    if (paths == Paths::inside && option.kind == Option::Kind::path && !stays_inside(std::get<std::string>(*value)))
      throw Error(
          source.code, Exit::usage,
          fmt::format("{}{} {}: leaves the current folder; expected a relative path without ..; give --{} on the "
                      "command line to allow it",
                      place, option.key(), shortened(entry.shown, 60), option.name));
    settings.set(index, std::move(*value), Origin::config);
  }
}

}  // namespace

void apply_config(Settings& settings, const std::vector<ConfigEntry>& entries, const std::string& path) {
  apply(settings, entries, path, Paths::inside);
}

Settings recorded_settings(const OptionTable& train_table, const std::string& run) {
  Settings settings(train_table);
  apply(settings, read_config(run + "/config.json"), run + "/config.json", Paths::any);
  return settings;
}

}  // namespace adjoint::app
