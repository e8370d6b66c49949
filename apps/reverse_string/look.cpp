// predict and attention: what a trained model writes, and where it looks.

#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/common/engine_options.h"
#include "apps/common/shared_options.h"
#include "apps/common/terminal.h"
#include "apps/reverse_string/commands.h"
#include "apps/reverse_string/task.h"

namespace adjoint::reverse_string {
namespace {

void add_common(app::OptionTable& table) {
  table.group("Run");
  table.add(app::path("run", "DIR", "folder of the trained run; the newest one if not given"));
  app::add_shared(table, {"device", "threads", "color", "json"});
}

/// The arguments, or the lines of standard input.
std::vector<std::string> words_of(const app::Settings& settings) {
  if (!settings.arguments().empty()) return settings.arguments();
  std::vector<std::string> words;
  for (std::string line; std::getline(std::cin, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) words.push_back(line);
  }
  ADJOINT_CHECK(!words.empty(), "E-CLI-003", Exit::usage,
                "standard input: no strings; expected one a line, or strings as arguments");
  return words;
}

}  // namespace

void add_predict_options(app::OptionTable& table) {
  table.arguments(
      {.placeholder = "STRING...", .min = 0, .max = 1'000'000, .help = "strings to reverse; standard input if none"});
  add_common(table);
}

int predict(const app::Settings& settings, const app::OptionTable& train_table) {
  const Device device = app::device_of(settings);
  const Run run = open_run(train_table, settings.text("run"), device);
  const std::vector<std::string> words = words_of(settings);
  const std::vector<std::string> reversed = reverse(*run.model, run.alphabet, words);
  for (std::size_t i = 0; i < words.size(); ++i) {
    const bool right = std::equal(words[i].rbegin(), words[i].rend(), reversed[i].begin(), reversed[i].end());
    if (settings.flag("json")) {
      nlohmann::ordered_json object{{"input", words[i]}, {"output", reversed[i]}, {"right", right}};
      app::print_result(app::json_text(object) + "\n");
    } else {
      app::print_result(fmt::format("{}\n", reversed[i]));
    }
  }
  return 0;
}

void add_attention_options(app::OptionTable& table) {
  table.arguments({.placeholder = "STRING", .min = 1, .max = 1, .help = "the string to reverse"});
  add_common(table);
}

int attention(const app::Settings& settings, const app::OptionTable& train_table) {
  const Device device = app::device_of(settings);
  const Run run = open_run(train_table, settings.text("run"), device);
  const Alignment a = align(*run.model, run.alphabet, settings.arguments()[0]);
  if (settings.flag("json")) {
    nlohmann::ordered_json weights = nlohmann::ordered_json::array();
    for (std::size_t r = 0; r < a.rows.size(); ++r) {
      weights.push_back(
          std::vector<float>(a.weights.begin() + static_cast<std::ptrdiff_t>(r * a.columns.size()),
                             a.weights.begin() + static_cast<std::ptrdiff_t>((r + 1) * a.columns.size())));
    }
    app::print_result(
        app::json_text(nlohmann::ordered_json{{"rows", a.rows}, {"columns", a.columns}, {"weights", weights}}) + "\n");
    return 0;
  }
  app::print_result(
      fmt::format("rows: what is written, columns: what is read ({})\n", run.folder) +
      app::heat_map_text({a.rows, a.columns, a.weights}, app::detect_terminal(1, settings.text("color"))));
  return 0;
}

}  // namespace adjoint::reverse_string
