// predict and attention: what a trained model writes, and where it looks.

#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/common/attention_page.h"
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
  app::add_shared(
      table, {"device", "gemm-backend", "lstm-backend", "attention-backend", "threads", "cpu-level", "color", "json"});
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
  table.arguments({.placeholder = "STRING...", .min = 1, .max = 64, .help = "the strings to reverse"});
  app::add_attention_output(table);
  table.group("Run");
  table.add(app::path("run", "DIR", "folder of the trained run; the newest one if not given"));
  app::add_shared(table,
                  {"device", "gemm-backend", "lstm-backend", "attention-backend", "threads", "cpu-level", "color"});
}

int attention(const app::Settings& settings, const app::OptionTable& train_table) {
  const Device device = app::device_of(settings);
  const Run run = open_run(train_table, settings.text("run"), device);
  std::vector<app::AttentionExample> examples;
  for (const std::string& text : settings.arguments()) {
    const Alignment a = align(*run.model, run.alphabet, text);
    examples.push_back(
        {.text = text,
         .predicted = reverse(*run.model, run.alphabet, {text})[0],
         .probability = std::nullopt,
         .views = {{"Cross", a.rows, a.columns, 1, 1, std::vector<double>(a.weights.begin(), a.weights.end())}}});
  }
  app::write_attention(settings, examples, run.folder + "/model.safetensors", run.folder + "/attention.html");
  return 0;
}

}  // namespace adjoint::reverse_string
