#include "apps/clickbait/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "apps/common/config_file.h"
#include "apps/common/shared_options.h"
#include "apps/common/terminal.h"
#include "engine/checkpoint.h"
#include "kernels/base/real_math.h"

namespace adjoint::clickbait {
namespace {

constexpr std::int64_t kEvaluationBatch = 256;
constexpr std::int64_t kWidthStep = 8;  // widths of batches are multiples of it

/// data/samples/headlines.tsv above the program's own folder (a build tree) or beside it (an installed one).
std::string bundled_sample() {
  namespace fs = std::filesystem;
  std::error_code failed;
  for (fs::path folder = fs::read_symlink("/proc/self/exe", failed).parent_path(); !folder.empty();
       folder = folder.parent_path()) {
    for (const char* place : {"data/samples/headlines.tsv", "share/adjoint/samples/headlines.tsv"})
      if (fs::exists(folder / place, failed)) return (folder / place).string();
    if (folder == folder.root_path()) break;
  }
  throw Error(
      "E-IO-009", Exit::io,
      "data/samples/headlines.tsv: the bundled sample is not above the program's folder; expected it there; try "
      "--data PATH");
}

std::vector<std::string> split_names(const std::string& text) {
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t comma = std::min(text.find(',', begin), text.size());
    names.push_back(text.substr(begin, comma - begin));
    begin = comma + 1;
  }
  return names;
}

template <class E>
E chosen(const app::Settings& settings, const char* option, std::initializer_list<std::pair<const char*, E>> values) {
  const std::string& text = settings.text(option);
  for (const auto& [name, value] : values)
    if (text == name) return value;
  throw std::logic_error("no value for --" + std::string(option) + " " + text);
}

std::int32_t most_likely(const std::vector<double>& p) {
  return static_cast<std::int32_t>(std::max_element(p.begin(), p.end()) - p.begin());
}

}  // namespace

void add_data_options(app::OptionTable& table) {
  table.group("Data");
  table.add(app::path("data", "PATH",
                      "folder with clickbait_data and non_clickbait_data, or a CSV or TSV file (all also as .gz); the "
                      "bundled sample if not given"));
  table.add(app::text("columns", "NAME,NAME", "names of the columns of a table that has no header row"));
  table.add(app::text("text-column", "NAME", "the column of a table with the texts", "text"));
  table.add(app::text("label-column", "NAME", "the column of a table with the labels", "label"));
  table.add(app::text("classes", "NAME,NAME", "the labels that a table may hold; those that occur if not given"));
  table.add(
      app::choice("on-bad-row", "error", {"error", "skip"}, "what a bad row is; more than 1 % of them is an error"));
  table.add(app::integer("max-inflated", std::int64_t{1} << 34, 1, INT64_MAX,
                         "largest size of a gzip file's text, in bytes"));
  table.add(app::text("positive", "LABEL", "the label whose precision, recall and F1 are reported", "clickbait"));
  table.add(app::flag("keep-case",
                      "do not lower-case; headlines' capital letters alone tell 96 % of the published data apart"));
  table.add(app::real("validation", 0.1, 0, 0.9,
                      "share of the texts by which training decides; 0: the last weights are kept"));
  table.add(app::real("test", 0.1, 0.001, 0.9, "share of the texts by which the result is judged"));
  table.add(app::integer("min-count", 2, 1, 1'000'000, "tokens rarer than this in the training part are unknown"));
}

void add_model_options(app::OptionTable& table) {
  table.group("Model");
  table.add(app::choice("model", "lstm", {"logreg", "ffnn", "attention", "lstm", "lstm-encoder", "encoder"},
                        "kind of classifier"));
  table.add(app::integer("max-length", 64, 2, 65536, "longer texts are cut after so many tokens"));
  table.add(app::choice("pooling", "mean-max", {"last", "mean", "max", "mean-max"},
                        "what the linear layer sees of the LSTM's states; of lstm-encoder not last"));
  table.add(app::flag("bidirectional", "read with a second LSTM from the end, each of width --hidden"));
  app::add_shared(table, {"embedding", "hidden", "layers", "heads", "intermediate", "dropout", "activation", "norm",
                          "residual", "positions", "embeddings", "freeze-embeddings"});
}

data::Dataset dataset_of(const app::Settings& s, data::BadRows bad_rows) {
  return data::read_dataset(s.text("data").empty() ? bundled_sample() : s.text("data"),
                            {.text_column = s.text("text-column"),
                             .label_column = s.text("label-column"),
                             .columns = split_names(s.text("columns")),
                             .classes = split_names(s.text("classes")),
                             .positive = s.text("positive"),
                             .read = {.on_bad_row = s.text("on-bad-row") == "skip" ? data::BadRows::skip : bad_rows,
                                      .max_inflated = static_cast<std::uint64_t>(s.integer("max-inflated"))}});
}

data::Split split_of(const app::Settings& s, const data::Dataset& dataset) {
  return data::stratified_split(dataset.labels, s.real("validation"), s.real("test"),
                                static_cast<std::uint64_t>(s.integer("seed")));
}

data::Tokenizer tokenizer_of(const app::Settings& s) { return {.keep_case = s.flag("keep-case")}; }

data::Vocabulary vocabulary_of(const app::Settings& s, const std::vector<std::vector<std::string>>& tokens,
                               std::span<const std::int64_t> train) {
  data::TokenCounts counts;
  for (const std::int64_t i : train)
    for (const std::string& token : tokens[static_cast<std::size_t>(i)]) ++counts[token];
  return data::Vocabulary::build(counts, {.min_count = s.integer("min-count")});
}

std::vector<std::int32_t> ids_of(const app::Settings& s, const data::Vocabulary& vocabulary,
                                 const std::vector<std::string>& tokens) {
  std::vector<std::int32_t> ids = vocabulary.encode(tokens);
  if (s.text("model") == "encoder") ids.insert(ids.begin(), vocabulary.id("[CLS]"));
  if (const auto limit = static_cast<std::size_t>(s.integer("max-length")); ids.size() > limit) ids.resize(limit);
  return ids;
}

Corpus corpus_of(const app::Settings& settings) {
  data::Dataset dataset = dataset_of(settings);
  data::Split split = split_of(settings, dataset);
  const data::Tokenizer tokenizer = tokenizer_of(settings);
  std::vector<std::vector<std::string>> tokens;
  for (const std::string& text : dataset.texts) tokens.push_back(tokenizer.tokens(text));
  data::Vocabulary vocabulary = vocabulary_of(settings, tokens, split.train);
  std::vector<std::vector<std::int32_t>> ids;
  for (const auto& t : tokens) ids.push_back(ids_of(settings, vocabulary, t));
  const auto check = [&](const char* part, const std::vector<std::int64_t>& examples) {
    ADJOINT_CHECK(!examples.empty() || settings.real(part) == 0, "E-DATA-001", Exit::data,
                  fmt::format("{}: {} texts are too few for a {} part of {:g} %; expected more of each class",
                              app::shortened(dataset.sources[0].path, 150), dataset.texts.size(), part,
                              100 * settings.real(part)));
  };
  check("validation", split.validation);
  check("test", split.test);
  return {std::move(dataset), std::move(split), std::move(vocabulary), std::move(ids)};
}

std::string description(const Corpus& c) {
  return fmt::format("{} training, {} validation and {} test texts, {} tokens in the vocabulary", c.split.train.size(),
                     c.split.validation.size(), c.split.test.size(), c.vocabulary.size());
}

std::string class_lines(const std::vector<std::string>& classes) {
  std::string text;
  for (const std::string& c : classes) text += c + "\n";
  return text;
}

std::unique_ptr<Classifier> model_of(const app::Settings& s, std::int64_t vocabulary, std::int64_t classes,
                                     Device device) {
  Generator random(static_cast<std::uint64_t>(s.integer("seed")), device);
  return make_classifier(
      Initializer{random},
      {.kind = chosen<ClassifierKind>(s, "model",
                                      {{"logreg", ClassifierKind::logreg},
                                       {"ffnn", ClassifierKind::ffnn},
                                       {"attention", ClassifierKind::attention},
                                       {"lstm", ClassifierKind::lstm},
                                       {"lstm-encoder", ClassifierKind::lstm_encoder},
                                       {"encoder", ClassifierKind::encoder}}),
       .vocabulary = vocabulary,
       .classes = classes,
       .embedding = s.integer("embedding"),
       .hidden = s.integer("hidden"),
       .layers = s.integer("layers"),
       .bidirectional = s.flag("bidirectional"),
       .pooling = chosen<Pooling>(
           s, "pooling",
           {{"last", Pooling::last}, {"mean", Pooling::mean}, {"max", Pooling::max}, {"mean-max", Pooling::mean_max}}),
       .heads = s.integer("heads"),
       .intermediate = s.integer("intermediate"),
       .max_length = s.integer("max-length"),
       .dropout = s.real("dropout"),
       .activation = chosen<Activation>(s, "activation",
                                        {{"gelu", Activation::gelu},
                                         {"gelu-tanh", Activation::gelu_tanh},
                                         {"relu", Activation::relu},
                                         {"tanh", Activation::tanh}}),
       .norm = chosen<NormPlace>(s, "norm", {{"pre", NormPlace::before}, {"post", NormPlace::after}}),
       .residual = s.text("residual") == "on",
       .positions = chosen<Positions>(
           s, "positions",
           {{"learned", Positions::learned}, {"sinusoidal", Positions::sinusoidal}, {"none", Positions::none}})});
}

TensorBatch tensors_of(const data::LabelledBatch& batch, std::int64_t max_length, Device device) {
  const data::Padded& p = batch.tokens;
  const std::int64_t rounded = std::max<std::int64_t>((p.width + kWidthStep - 1) / kWidthStep, 1) * kWidthStep;
  const std::int64_t width = std::max(p.width, std::min(rounded, max_length));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(p.rows * width), 0);  // [PAD] is 0
  for (std::int64_t r = 0; r < p.rows; ++r) std::copy_n(p.ids.begin() + r * p.width, p.width, ids.begin() + r * width);
  return {Tensor::from(std::span<const std::int32_t>(ids), {p.rows, width}, device),
          Tensor::from(std::span<const std::int32_t>(p.lengths), {p.rows}, device),
          Tensor::from(std::span<const std::int32_t>(batch.labels), {p.rows}, device), p.tokens()};
}

std::vector<std::vector<double>> probabilities(const Classifier& model,
                                               const std::vector<std::vector<std::int32_t>>& ids,
                                               std::span<const std::int64_t> chosen, std::int64_t max_length,
                                               Device device) {
  std::vector<std::size_t> order(chosen.size());  // by length, so that little is padding
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto length = [&](std::size_t i) { return ids[static_cast<std::size_t>(chosen[i])].size(); };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return length(a) < length(b); });
  const std::vector<std::int32_t> no_labels(ids.size(), 0);
  std::vector<std::vector<double>> result(chosen.size());
  for (std::size_t begin = 0; begin < order.size(); begin += kEvaluationBatch) {
    const std::size_t end = std::min(begin + kEvaluationBatch, order.size());
    std::vector<std::int64_t> part;
    for (std::size_t i = begin; i < end; ++i) part.push_back(chosen[order[i]]);
    const TensorBatch batch = tensors_of(data::labelled_batch(ids, no_labels, part, 0), max_length, device);
    const Tensor p = softmax(model.forward(batch.ids, {.lengths = batch.lengths}));  // [part, classes]
    const std::vector<double> values = p.to_vector();
    const std::ptrdiff_t classes = p.extent(1);
    for (std::size_t i = begin; i < end; ++i) {
      const auto row = values.begin() + static_cast<std::ptrdiff_t>(i - begin) * classes;
      result[order[i]].assign(row, row + classes);
    }
  }
  return result;
}

app::Metrics Judgement::metrics() const {
  const std::int64_t positive = confusion.classes() - 1;
  return {{"accuracy", confusion.accuracy()},     {"precision", confusion.precision(positive)},
          {"recall", confusion.recall(positive)}, {"f1", confusion.f1(positive)},
          {"macro_f1", confusion.macro_f1()},     {"loss", loss}};
}

Judgement judge(const Classifier& model, const std::vector<std::vector<std::int32_t>>& ids,
                const std::vector<std::int32_t>& labels, std::int64_t classes, std::span<const std::int64_t> chosen,
                std::int64_t max_length, Device device) {
  Judgement j{data::Confusion(classes), 0, probabilities(model, ids, chosen, max_length, device)};
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const std::int32_t truth = labels[static_cast<std::size_t>(chosen[i])];
    j.confusion.add(truth, most_likely(j.probabilities[i]));
    const double p = j.probabilities[i][static_cast<std::size_t>(truth)];
    j.loss -= real::log(std::max(p, 1e-30)) / static_cast<double>(chosen.size());  // f32 may round p to 0
  }
  return j;
}

nlohmann::ordered_json worst_errors(const Judgement& judgement, const data::Dataset& dataset,
                                    std::span<const std::int64_t> chosen) {
  constexpr std::size_t kWorstKept = 20;
  std::vector<std::pair<double, std::size_t>> errors;  // probability of the truth, place in `chosen`
  const auto truth = [&](std::size_t i) {
    return static_cast<std::size_t>(dataset.labels[static_cast<std::size_t>(chosen[i])]);
  };
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const std::vector<double>& p = judgement.probabilities[i];
    if (static_cast<std::size_t>(most_likely(p)) != truth(i)) errors.emplace_back(p[truth(i)], i);
  }
  std::sort(errors.begin(), errors.end());
  errors.resize(std::min(errors.size(), kWorstKept));
  nlohmann::ordered_json worst = nlohmann::ordered_json::array();
  for (const auto& [probability, i] : errors)
    worst.push_back({{"truth", dataset.classes[truth(i)]},
                     {"predicted", dataset.classes[static_cast<std::size_t>(most_likely(judgement.probabilities[i]))]},
                     {"probability", probability},
                     {"text", dataset.texts[static_cast<std::size_t>(chosen[i])]}});
  return worst;
}

std::string confusion_text(const data::Confusion& confusion, const std::vector<std::string>& classes) {
  std::vector<std::string> headings{"truth \\ predicted"};
  headings.insert(headings.end(), classes.begin(), classes.end());
  app::Table table(headings);
  const auto rows = confusion_rows(confusion);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::vector<std::string> cells{classes[r]};
    for (const std::int64_t n : rows[r]) cells.push_back(fmt::format("{}", n));
    table.add(cells);
  }
  return table.text();
}

std::vector<std::vector<std::int64_t>> confusion_rows(const data::Confusion& confusion) {
  std::vector<std::vector<std::int64_t>> rows;
  for (std::int64_t truth = 0; truth < confusion.classes(); ++truth) {
    rows.emplace_back();
    for (std::int64_t p = 0; p < confusion.classes(); ++p) rows.back().push_back(confusion.count(truth, p));
  }
  return rows;
}

Run open_run(const app::OptionTable& train_table, const std::string& folder, Device device) {
  app::Settings settings = app::recorded_settings(train_table, folder);
  ADJOINT_CHECK(settings.text("objective") != "lm", "E-CONF-009", Exit::usage,
                fmt::format("{}: a language model, which cannot classify; expected a classifier's run; try 'clickbait "
                            "train --init-from {}' first",
                            app::shortened(folder, 120), app::shortened(folder, 120)));
  data::Vocabulary vocabulary = data::Vocabulary::read(folder + "/vocab.txt");
  std::vector<std::string> classes;
  data::read_lines(folder + "/classes.txt", {},
                   [&](std::string&& line, std::int64_t) { classes.push_back(std::move(line)); });
  std::unique_ptr<Classifier> model =
      model_of(settings, vocabulary.size(), static_cast<std::int64_t>(classes.size()), device);
  load_model(folder + "/model.safetensors", *model);
  return {folder, std::move(settings), std::move(vocabulary), std::move(classes), std::move(model)};
}

}  // namespace adjoint::clickbait
