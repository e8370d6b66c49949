// eval, predict and data review: what a trained classifier says, and what a data set holds.

#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "apps/clickbait/commands.h"
#include "apps/clickbait/task.h"
#include "apps/common/engine_options.h"
#include "apps/common/finished_run.h"
#include "apps/common/shared_options.h"
#include "apps/common/terminal.h"

namespace adjoint::clickbait {
namespace {

constexpr std::size_t kWorstShown = 10;

/// Standard input's lines that are not blank.
std::vector<std::string> input_lines() {
  std::vector<std::string> lines;
  for (std::string line; std::getline(std::cin, line);)
    if (const std::string_view text = data::trimmed(line); !text.empty()) lines.emplace_back(text);
  ADJOINT_CHECK(!lines.empty(), "E-CLI-003", Exit::usage,
                "standard input: no headlines; expected one a line, or headlines as arguments");
  return lines;
}

std::vector<std::vector<std::int32_t>> ids_of_all(const Run& run, const std::vector<std::string>& texts) {
  const data::Tokenizer tokenizer = tokenizer_of(run.settings);
  std::vector<std::vector<std::int32_t>> ids;
  for (const std::string& text : texts) ids.push_back(ids_of(run.settings, run.vocabulary, tokenizer.tokens(text)));
  return ids;
}

std::vector<std::int64_t> all_of(std::size_t n) {
  std::vector<std::int64_t> numbers(n);
  std::iota(numbers.begin(), numbers.end(), std::int64_t{0});
  return numbers;
}

}  // namespace

void add_eval_options(app::OptionTable& table) {
  table.arguments({.placeholder = "RUN", .min = 0, .max = 1, .help = "folder of the run; the newest one if not given"});
  table.group("Data");
  table.add(app::choice("part", "test", {"test", "validation", "train", "all"}, "which texts to judge by"));
  table.add(app::path("data", "PATH", "other texts than the run's"));
  app::add_shared(table,
                  {"device", "gemm-backend", "lstm-backend", "attention-backend", "threads", "cpu-level", "json"});
}

int evaluate(const app::Settings& settings, const app::OptionTable& train_table) {
  const Device device = app::device_of(settings);
  const std::string asked = settings.arguments().empty() ? "" : settings.arguments()[0];
  const Run run = open_run(train_table, app::finished_run("clickbait", asked), device);
  const app::Settings& task = run.settings;
  data::Dataset dataset = dataset_of(settings.text("data").empty() ? task : task.with("data", settings.text("data")));
  ADJOINT_CHECK(dataset.classes == run.classes, "E-DATA-004", Exit::data,
                fmt::format("{}: labels {}; expected those of the run, {}", dataset.sources[0].path,
                            fmt::join(dataset.classes, ", "), fmt::join(run.classes, ", ")));
  const data::Split split = split_of(task, dataset);
  const std::string& part = settings.text("part");
  const std::vector<std::int64_t> chosen = part == "test"         ? split.test
                                           : part == "validation" ? split.validation
                                           : part == "train"      ? split.train
                                                                  : all_of(dataset.texts.size());
  const Judgement j = judge(*run.model, ids_of_all(run, dataset.texts), dataset.labels,
                            static_cast<std::int64_t>(run.classes.size()), chosen, task.integer("max-length"), device);

  const nlohmann::ordered_json errors = worst_errors(j, dataset, chosen);
  app::Table table({"truth", "its probability", "text"});
  for (std::size_t e = 0; e < std::min(errors.size(), kWorstShown); ++e) {
    table.add({errors[e]["truth"].get<std::string>(), fmt::format("{:.4f}", errors[e]["probability"].get<double>()),
               app::shortened(errors[e]["text"].get<std::string>(), 90)});
  }
  if (settings.flag("json")) {
    nlohmann::ordered_json metrics = app::as_json(j.metrics());
    metrics["confusion"] = confusion_rows(j.confusion);
    app::print_result(app::json_text(nlohmann::ordered_json{{"app", "clickbait"},
                                                            {"run", run.folder},
                                                            {"part", part},
                                                            {"texts", chosen.size()},
                                                            {"classes", run.classes},
                                                            {"test", metrics},
                                                            {"errors", errors}}) +
                      "\n");
    return 0;
  }
  std::string text = fmt::format("{} on {} texts ({}):\n", run.folder, chosen.size(), part);
  for (const auto& [name, value] : j.metrics()) text += fmt::format("  {:<10}{:.4f}\n", name, value);
  text += confusion_text(j.confusion, run.classes);
  if (!errors.empty()) text += fmt::format("\nThe worst errors:\n{}", table.text());
  app::print_result(text);
  return 0;
}

void add_predict_options(app::OptionTable& table) {
  table.arguments({.placeholder = "RUN HEADLINE...",
                   .min = 1,
                   .max = 1'000'000,
                   .help = "folder of the run, and headlines; lines of standard input if none"});
  app::add_shared(table,
                  {"device", "gemm-backend", "lstm-backend", "attention-backend", "threads", "cpu-level", "json"});
}

int predict(const app::Settings& settings, const app::OptionTable& train_table) {
  const Device device = app::device_of(settings);
  const std::vector<std::string>& words = settings.arguments();
  const Run run = open_run(train_table, words[0], device);
  const std::vector<std::string> texts =
      words.size() > 1 ? std::vector<std::string>(words.begin() + 1, words.end()) : input_lines();
  const auto p = probabilities(*run.model, ids_of_all(run, texts), all_of(texts.size()),
                               run.settings.integer("max-length"), device);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto best = static_cast<std::size_t>(std::max_element(p[i].begin(), p[i].end()) - p[i].begin());
    if (settings.flag("json")) {
      app::print_result(app::json_text(nlohmann::ordered_json{
                            {"text", texts[i]}, {"label", run.classes[best]}, {"probability", p[i][best]}}) +
                        "\n");
    } else {
      app::print_result(fmt::format("{}\t{:.4f}\t{}\n", run.classes[best], p[i][best], app::printable(texts[i])));
    }
  }
  return 0;
}

void add_review_options(app::OptionTable& table) {
  table.arguments({.placeholder = "PATH", .min = 0, .max = 1, .help = "a folder or table, as for train --data"});
  add_data_options(table);
  table.group("Review");
  table.add(app::integer("top", 10, 1, 1000, "most telling tokens to show of each class"));
  app::add_shared(table, {"seed", "json"});
}

int review(const app::Settings& asked) {
  const app::Settings settings = asked.arguments().empty() ? asked : asked.with("data", asked.arguments()[0]);
  const data::Dataset dataset = dataset_of(settings, data::BadRows::skip);
  const data::Tokenizer tokenizer = tokenizer_of(settings);
  const data::Split split = split_of(settings, dataset);
  std::vector<std::vector<std::string>> tokens;
  for (const std::string& text : dataset.texts) tokens.push_back(tokenizer.tokens(text));
  const data::Vocabulary vocabulary = vocabulary_of(settings, tokens, split.train);

  std::size_t longest = 0, all_tokens = 0, unseen = 0, held_out = 0;
  std::vector<std::int64_t> per_class(dataset.classes.size(), 0);
  std::vector<std::map<std::string, double>> counts(dataset.classes.size());
  std::map<std::string, double> everywhere;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    longest = std::max(longest, tokens[i].size());
    all_tokens += tokens[i].size();
    const auto c = static_cast<std::size_t>(dataset.labels[i]);
    ++per_class[c];
    for (const std::string& t : tokens[i]) ++counts[c][t], ++everywhere[t];
  }
  for (const auto* part : {&split.validation, &split.test})
    for (const std::int64_t i : *part)
      for (const std::string& t : tokens[static_cast<std::size_t>(i)])
        ++held_out, unseen += vocabulary.contains(t) ? 0u : 1u;
  const std::size_t duplicates =
      dataset.texts.size() - std::set<std::string>(dataset.texts.begin(), dataset.texts.end()).size();
  const double n = static_cast<double>(std::max<std::size_t>(dataset.texts.size(), 1));
  const double mean_length = static_cast<double>(all_tokens) / n;
  const double out_of_vocabulary =
      static_cast<double>(unseen) / static_cast<double>(std::max<std::size_t>(held_out, 1));

  nlohmann::ordered_json report{{"texts", dataset.texts.size()}};
  std::string text = fmt::format("{} texts\n", dataset.texts.size());
  for (const data::ReadSummary& s : dataset.sources) {
    report["files"].push_back({{"path", s.path},
                               {"texts", s.rows},
                               {"blank", s.blank},
                               {"bad", s.skipped},
                               {"first_problem", s.first_problem}});
    text += fmt::format("  {}: {} texts, {} blank lines, {} bad ones{}\n", app::printable(s.path), s.rows, s.blank,
                        s.skipped, s.first_problem.empty() ? "" : ", first: " + app::printable(s.first_problem));
  }
  for (std::size_t c = 0; c < dataset.classes.size(); ++c) {
    // Tokens whose count in the class is most above what the class's share of the texts would give.
    std::vector<std::pair<double, std::string>> telling;
    for (const auto& [token, count] : counts[c])
      telling.emplace_back(count - everywhere[token] * static_cast<double>(per_class[c]) / n, token);
    const auto shown =
        static_cast<std::ptrdiff_t>(std::min(telling.size(), static_cast<std::size_t>(settings.integer("top"))));
    std::partial_sort(telling.begin(), telling.begin() + shown, telling.end(), std::greater<>());
    std::vector<std::string> top;
    for (std::ptrdiff_t i = 0; i < shown; ++i) top.push_back(telling[static_cast<std::size_t>(i)].second);
    const auto example = static_cast<std::size_t>(
        std::find(dataset.labels.begin(), dataset.labels.end(), static_cast<std::int32_t>(c)) - dataset.labels.begin());
    const double share = static_cast<double>(per_class[c]) / n;
    const std::string sample = example < dataset.texts.size() ? dataset.texts[example] : "";
    report["classes"].push_back(
        {{"label", dataset.classes[c]}, {"texts", per_class[c]}, {"share", share}, {"top", top}, {"sample", sample}});
    text += fmt::format("{}: {} texts, {:.3f} %\n  telling tokens: {}\n  for example: {}\n",
                        app::printable(dataset.classes[c]), per_class[c], 100 * share,
                        app::printable(fmt::format("{}", fmt::join(top, " "))), app::shortened(sample, 90));
  }
  report["duplicates"] = duplicates;
  report["tokens"] = {{"mean", mean_length}, {"longest", longest}, {"different", everywhere.size()}};
  report["vocabulary"] = vocabulary.size();
  report["out_of_vocabulary"] = out_of_vocabulary;
  text += fmt::format(
      "{} exact duplicates\n{:.1f} tokens a text, {} at most, {} different ones\nvocabulary of the training part "
      "(count >= {}): {}; {:.2f} % of the held-out tokens are not in it\n",
      duplicates, mean_length, longest, everywhere.size(), settings.integer("min-count"), vocabulary.size(),
      100 * out_of_vocabulary);
  app::print_result(settings.flag("json") ? app::json_text(report) + "\n" : text);
  return 0;
}

}  // namespace adjoint::clickbait
