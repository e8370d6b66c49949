#include "apps/common/command_line.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>

#include "apps/common/config_file.h"
#include "apps/common/terminal.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

[[noreturn]] void reject(const char* code, const std::string& text) { throw Error(code, Exit::usage, text); }

std::string see_help(const std::string& name) { return fmt::format("see '{} --help'", name); }

/// The flags of an option as CLI11 wants them: "-q,--quiet".
std::string spellings(const Option& option) {
  std::string names = "--" + option.name;
  if (option.letter != 0) names = fmt::format("-{},{}", option.letter, names);
  if (!option.alias.empty()) names += ",--" + option.alias;
  if (option.kind == Option::Kind::flag && std::get<bool>(option.initial)) names += ",!--no-" + option.name;
  return names;
}

bool looks_like_option(const std::string& word) {
  return word.size() > 1 && word[0] == '-' && std::isdigit(static_cast<unsigned char>(word[1])) == 0;
}

[[noreturn]] void reject_unknown_option(const std::string& word, const OptionTable& table) {
  const std::string typed = word.substr(0, word.find('='));
  std::vector<std::string> names = {"--help"};
  for (const Option& option : table.options()) {
    names.push_back("--" + option.name);
    if (!option.alias.empty()) names.push_back("--" + option.alias);
  }
  const std::string near = nearest(typed, names);
  reject("E-CLI-001", fmt::format("{}: unknown option; {}{}", shortened(typed, 60),
                                  near.empty() ? "" : "did you mean " + near + "? ", see_help(table.full_name())));
}

/// `text` broken at spaces, every line but the first indented.
std::string wrapped(const std::string& text, std::size_t indent, std::size_t columns) {
  std::string out;
  std::size_t used = indent;
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t space = std::min(text.find(' ', start), text.size());
    const std::string word = text.substr(start, space - start);
    if (used > indent && used + 1 + word.size() > columns) {
      out += "\n" + std::string(indent, ' ');
      used = indent;
    } else if (used > indent) {
      out += ' ';
      ++used;
    }
    out += word;
    used += word.size();
    start = space + 1;
  }
  return out;
}

std::string example_lines(const std::vector<std::string>& examples) {
  std::string out = "Examples:\n";
  for (const std::string& example : examples) out += "  " + example + "\n";
  return out;
}

}  // namespace

CommandLine::CommandLine(std::string program, std::string summary, std::vector<std::string> examples)
    : top_(std::move(program), "", std::move(summary), std::move(examples)) {}

OptionTable& CommandLine::command(const std::string& name, std::string summary, std::vector<std::string> examples) {
  return commands_.emplace_back(top_.program(), name, std::move(summary), std::move(examples));
}

Invocation CommandLine::parse(int argc, char** argv) const {
  return parse(std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
}

Invocation CommandLine::parse(const std::vector<std::string>& arguments) const {
  // CLI11 only splits the words into commands, options and the rest: conversion and messages are ours, from the table.
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  app.require_subcommand(0, 1);
  const auto add_help = [](CLI::App& at) { at.add_flag("-h,--help"); };
  add_help(app);
  std::vector<std::pair<const CLI::App*, const OptionTable*>> tables;
  for (const OptionTable& table : commands_) {
    CLI::App* at = &app;
    for (std::size_t start = 0; start < table.command().size();) {
      const std::size_t space = std::min(table.command().find(' ', start), table.command().size());
      const std::string word = table.command().substr(start, space - start);
      const auto known = at->get_subcommands([&](CLI::App* sub) { return sub->get_name() == word; });
      CLI::App* next = known.empty() ? at->add_subcommand(word) : known.front();
      if (known.empty()) {
        add_help(*next);
      }
      at = next;
      start = space + 1;
    }
    for (const Option& option : table.options()) {
      if (option.kind == Option::Kind::flag) {
        at->add_flag(spellings(option));
      } else {
        at->add_option(spellings(option))->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
      }
    }
    tables.emplace_back(at, &table);
  }
  // What follows "--" is never an option; CLI11 would hand it to the parent command.
  const auto separator = std::find(arguments.begin(), arguments.end(), "--");
  std::vector<std::string> words(arguments.begin(), separator);
  std::reverse(words.begin(), words.end());
  std::string valueless;
  try {
    app.parse(words);
  } catch (const CLI::ParseError& error) {
    valueless = error.what();  // "--lr: 1 required  missing": the only thing that CLI11 still checks
    valueless.resize(std::min(valueless.find(':'), valueless.size()));
  }

  std::vector<std::string> rest = app.remaining();
  const CLI::App* chosen = &app;
  bool help = app.get_option("--help")->count() > 0;
  while (!chosen->get_subcommands().empty()) {
    chosen = chosen->get_subcommands().front();
    const std::vector<std::string> more = chosen->remaining();
    rest.insert(rest.end(), more.begin(), more.end());
    help = help || chosen->get_option("--help")->count() > 0;
  }
  const auto entry = std::find_if(tables.begin(), tables.end(), [&](const auto& t) { return t.first == chosen; });
  if (entry == tables.end()) {
    std::vector<std::string> names;
    for (const OptionTable& table : commands_) names.push_back(table.command());
    if (help) {
      std::string out =
          example_lines(top_.examples()) +
          fmt::format("\n{}\n\nUsage: {} COMMAND [options]\n\nCommands:\n", top_.summary(), top_.program());
      std::size_t widest = 0;
      for (const std::string& name : names) widest = std::max(widest, name.size());
      for (const OptionTable& table : commands_)
        out += fmt::format("  {:<{}}  {}\n", table.command(), widest, table.summary());
      return {out + fmt::format("\nOptions of a command: {} COMMAND --help\n", top_.program()), Settings(top_)};
    }
    for (const std::string& word : rest) {
      if (looks_like_option(word)) reject_unknown_option(word, top_);
      const std::string near = nearest(word, names);
      reject("E-CLI-001", fmt::format("{}: unknown command; {}expected one of {}", shortened(word, 60),
                                      near.empty() ? "" : "did you mean " + near + "? ", fmt::join(names, ", ")));
    }
    reject("E-CLI-003",
           fmt::format("command missing; expected one of {}; {}", fmt::join(names, ", "), see_help(top_.program())));
  }
  const OptionTable& table = *entry->second;
  Settings settings(table);
  if (help) return {help_text(table), settings};
  for (const std::string& word : rest)
    if (looks_like_option(word)) reject_unknown_option(word, table);
  if (!valueless.empty()) {
    const std::size_t index = table.find(valueless.substr(std::min<std::size_t>(2, valueless.size())));
    reject("E-CLI-003", fmt::format("{}: value missing; expected {}", valueless,
                                    index == OptionTable::npos ? "one" : table.options()[index].expected()));
  }

  for (std::size_t i = 0; i < table.options().size(); ++i) {
    const Option& option = table.options()[i];
    const std::vector<std::string>& typed = chosen->get_option("--" + option.name)->results();
    if (typed.empty()) continue;
    if (option.kind == Option::Kind::list) {
      settings.set(i, typed, Origin::command_line);
      continue;
    }
    if (option.kind != Option::Kind::flag && typed.size() > 1)
      reject("E-CLI-004", fmt::format("--{}: given twice ({} and {}); expected it once", option.name,
                                      shortened(typed[0], 60), shortened(typed[1], 60)));
    settings.set(i, parse_value(option, typed.back(), command_line_source()), Origin::command_line);
  }
  if (settings.has("config") && !settings.text("config").empty())
    apply_config(settings, read_config(settings.text("config")), settings.text("config"));
  if (settings.has("preset"))
    for (const auto& [name, value] : table.preset_values(settings.text("preset")))
      if (!settings.given(name)) settings.set(table.at(name), value, Origin::preset);

  if (separator != arguments.end()) rest.insert(rest.end(), separator + 1, arguments.end());
  const Arguments& wanted = table.arguments();
  if (rest.size() < wanted.min)
    reject("E-CLI-003",
           fmt::format("{}: missing; expected {}; {}", wanted.placeholder, wanted.help, see_help(table.full_name())));
  if (rest.size() > wanted.max)
    reject(
        "E-CLI-004",
        fmt::format("{}: unexpected argument; expected {} after the options; {}", shortened(rest[wanted.max], 60),
                    wanted.max == 0 ? "nothing" : fmt::format("at most {}", wanted.max), see_help(table.full_name())));
  settings.set_arguments(std::move(rest));
  return {"", std::move(settings)};
}

std::string help_text(const OptionTable& table, int columns) {
  const Arguments& arguments = table.arguments();
  std::string out = example_lines(table.examples());
  out += fmt::format("\n{}\n\nUsage: {} [options]{}\n", table.summary(), table.full_name(),
                     arguments.max == 0 ? "" : " " + arguments.placeholder);
  if (arguments.max > 0) out += fmt::format("  {}: {}\n", arguments.placeholder, arguments.help);

  constexpr std::size_t kColumn = 32;  // where the help begins
  std::vector<std::string> groups;
  for (const Option& option : table.options())
    if (std::find(groups.begin(), groups.end(), option.group) == groups.end()) groups.push_back(option.group);
  for (const std::string& group : groups) {
    out += "\n" + group + ":\n";
    for (const Option& option : table.options()) {
      if (option.group != group) continue;
      const bool on = option.kind == Option::Kind::flag && std::get<bool>(option.initial);
      std::string left = option.letter != 0 ? fmt::format("  -{}, ", option.letter) : std::string("      ");
      left += fmt::format("--{}{}{}{}", on ? "no-" : "", option.name, option.placeholder.empty() ? "" : " ",
                          option.placeholder);
      std::string right = option.help;
      std::vector<std::string> notes;
      if (!option.alias.empty()) notes.push_back("also --" + option.alias);
      if (option.kind == Option::Kind::integer || option.kind == Option::Kind::real)
        notes.push_back(option.expected().substr(option.expected().find(" in ") + 4));
      const std::string initial = spelling(option.initial);
      if (option.kind != Option::Kind::flag && !initial.empty()) notes.push_back("default " + initial);
      if (!notes.empty()) right += fmt::format(" ({})", fmt::join(notes, "; "));
      out += left;
      out += left.size() + 2 > kColumn ? "\n" + std::string(kColumn, ' ') : std::string(kColumn - left.size(), ' ');
      out += wrapped(right, kColumn, static_cast<std::size_t>(columns)) + "\n";
    }
  }
  return out + fmt::format("\n  -h, {:<{}}this text\n", "--help", kColumn - 6);
}

}  // namespace adjoint::app
