#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/clickbait/commands.h"
#include "apps/clickbait/init_from.h"
#include "apps/clickbait/language_model.h"
#include "apps/clickbait/task.h"
#include "apps/common/engine_options.h"
#include "apps/common/shared_options.h"
#include "apps/common/signals.h"
#include "apps/common/sweep.h"
#include "apps/common/training_run.h"
#include "data/naive_bayes.h"
#include "data/word_vectors.h"
#include "engine/checkpoint.h"
#include "engine/step.h"

namespace adjoint::clickbait {
namespace {

const std::vector<std::string> kMetrics{"accuracy", "precision", "recall", "f1", "macro_f1", "loss"};

/// A model with its data: what the training loop works on.
class Training {
 public:
  Training(const app::Settings& settings, const Corpus& corpus, const std::optional<data::WordVectors>& vectors,
           Device device)
      : settings_(settings),
        corpus_(corpus),
        device_(device),
        order_(lengths(), {.size = settings.integer("batch-size"),
                           .seed = static_cast<std::uint64_t>(settings.integer("seed")),
                           .bucket = true}),
        model_(prepared(vectors)),
        parameters_(*model_),
        optimizer_(app::optimizer_of(settings, parameters_)),
        average_(settings.real("average") > 0 ? std::make_unique<WeightAverage>(parameters_, settings.real("average"))
                                              : nullptr),
        random_(static_cast<std::uint64_t>(settings.integer("seed")) + 0x9e3779b97f4a7c15, device),  // not the weights'
        step_([this](std::span<const Tensor> inputs) { return std::vector<Tensor>{one_step(inputs)}; }, state()) {}

  Classifier& model() { return *model_; }
  const ParameterSet& parameters() const { return parameters_; }
  std::int64_t batches_per_epoch() const { return order_.batches_per_epoch(); }

  app::StepTensors step(std::int64_t cursor, double rate) {
    if (rate != optimizer_->learning_rate()) optimizer_->set_learning_rate(rate);
    model_->set_training(true);
    std::vector<std::int64_t> chosen;
    for (const std::int64_t i : order_.batch(cursor))
      chosen.push_back(corpus_.split.train[static_cast<std::size_t>(i)]);
    data::LabelledBatch rows = data::labelled_batch(corpus_.ids, corpus_.dataset.labels, chosen, 0);
    data::drop_words(rows.tokens, settings_.real("word-dropout"), corpus_.vocabulary.unknown_id(),
                     static_cast<std::uint64_t>(settings_.integer("seed")), cursor);
    const TensorBatch batch = tensors_of(rows, settings_.integer("max-length"), device_);
    const std::vector<Tensor> inputs = batch.inputs();
    // The first step is also the proof that replaying it does what running it does.
    const Tensor loss = verified_ ? step_(inputs)[0] : step_.verify(inputs)[0];
    verified_ = true;
    return {.loss = loss, .gradient_norm = optimizer_->gradient_norm(), .tokens = batch.tokens};
  }

  Judgement judged(std::span<const std::int64_t> part) {
    model_->set_training(false);
    return judge(*model_, corpus_.ids, corpus_.dataset.labels, corpus_.classes(), part, settings_.integer("max-length"),
                 device_);
  }
  /// After the parameters were set from elsewhere.
  void restart_average() {
    if (average_) average_->restart();
  }
  /// Calls f while the model has the weights that are judged and kept: their average, with --average.
  template <class F>
  auto with_kept_weights(F&& f) {
    if (average_) average_->swap();
    struct Back {
      WeightAverage* average;
      ~Back() {
        if (average != nullptr) average->swap();
      }
    } const back{average_.get()};
    return f();
  }

 private:
  std::vector<std::int32_t> lengths() const {
    std::vector<std::int32_t> n;
    for (const std::int64_t i : corpus_.split.train)
      n.push_back(static_cast<std::int32_t>(corpus_.ids[static_cast<std::size_t>(i)].size()));
    return n;
  }

  std::unique_ptr<Classifier> prepared(const std::optional<data::WordVectors>& vectors) const {
    auto model = model_of(settings_, corpus_.vocabulary.size(), corpus_.classes(), device_);
    if (vectors) {
      Tensor table = model->word_vectors().value();
      table.copy_from(Tensor::from(std::span<const float>(vectors->values), table.shape(), table.dtype(), device_));
    }
    model->word_vectors().set_row_sparse(settings_.text("embedding-gradient") == "sparse");
    if (settings_.flag("freeze-embeddings")) model->word_vectors().set_trainable(false);
    return model;
  }

  Tensor one_step(std::span<const Tensor> in) {
    Tensor loss;
    {
      const auto recording = tape_.record();
      const Tensor logits = model_->forward(in[0], {.lengths = in[1], .random = &random_});
      loss = cross_entropy(logits, in[2]);
      if (const double share = settings_.real("label-smoothing"); share > 0)
        loss = (1 - share) * loss - share * mean(log_softmax(logits));
    }
    tape_.backward(loss);
    optimizer_->step();
    if (average_) average_->update();
    return loss;
  }

  std::vector<Tensor> state() const {
    std::vector<Tensor> tensors{random_.state()};
    for (const auto& [name, tensor] : optimizer_->state()) tensors.push_back(tensor);
    if (average_)
      for (const auto& [name, tensor] : average_->state()) tensors.push_back(tensor);
    return tensors;
  }

  const app::Settings& settings_;
  const Corpus& corpus_;
  Device device_;
  data::BatchOrder order_;
  std::unique_ptr<Classifier> model_;
  ParameterSet parameters_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<WeightAverage> average_;  // null without --average
  Generator random_;
  Tape tape_;
  Step step_;
  bool verified_ = false;
};

std::string result_text(const app::Settings& settings, const Judgement& test, const data::Confusion& floor,
                        const std::vector<std::string>& classes) {
  const auto percent = [](double share) { return fmt::format("{:.2f} %", 100 * share); };
  app::Table table({"", "accuracy", "precision", "recall", "F1", "macro F1"});
  const std::int64_t positive = test.confusion.classes() - 1;
  for (const auto& [name, c] :
       {std::pair{settings.text("model"), &test.confusion}, std::pair{std::string("naive Bayes"), &floor}})
    table.add({name, percent(c->accuracy()), percent(c->precision(positive)), percent(c->recall(positive)),
               percent(c->f1(positive)), percent(c->macro_f1())});
  return fmt::format("On {} unseen texts (positive: {}):\n{}\n{}", test.confusion.total(), classes.back(), table.text(),
                     confusion_text(test.confusion, classes));
}

/// The settings with the width of the word vectors as --embedding, so that the run can be opened without their file.
app::Settings with_width(const app::Settings& settings, const std::optional<data::WordVectors>& vectors) {
  if (!vectors) return settings;
  ADJOINT_CHECK(!settings.given("embedding") || settings.integer("embedding") == vectors->width, "E-CONF-003",
                Exit::usage,
                fmt::format("--embedding {}: --embeddings {} has vectors of {} numbers; expected no --embedding",
                            settings.integer("embedding"), settings.text("embeddings"), vectors->width));
  return settings.with("embedding", fmt::format("{}", vectors->width));
}

}  // namespace

void add_train_options(app::OptionTable& table) {
  add_data_options(table);
  add_model_options(table);
  table.group("Training");
  table.add(app::choice("objective", "classify", {"classify", "lm"},
                        "lm: a language model, which learns the next word of the training texts by the LSTM that "
                        "--model lstm has; for --init-from"));
  table.add(app::choice("embedding-gradient", "dense", {"dense", "sparse"},
                        "sparse: a step updates the word vectors of its own words only, which is less work"));
  table.add(app::real("word-dropout", 0, 0, 0.99, "share of words that are unknown in training"));
  table.add(app::real("label-smoothing", 0, 0, 0.99, "share of the probability that is spread over all classes"));
  table.add(app::real("average", 0, 0, 0.99999,
                      "judge and keep an average of the weights over about 1 / (1 - X) steps, 0 for the last weights"));
  app::add_shared(table, {"init-from", "epochs",    "max-steps", "max-time",     "batch-size",   "optimizer",
                          "lr",        "schedule",  "warmup",    "weight-decay", "clip",         "early-stop",
                          "require",   "config",    "name",      "out",          "dry-run",      "overfit-batch",
                          "profile",   "seed",      "device",    "gemm-backend", "lstm-backend", "attention-backend",
                          "threads",   "cpu-level", "progress",  "color",        "quiet",        "json"});
  // The best of a sweep over validation parts of the published headlines: docs/headlines.md.
  table.defaults({{"dropout", 0.3},
                  {"word-dropout", 0.3},
                  {"average", 0.998},
                  {"embedding", std::int64_t{128}},
                  {"epochs", std::int64_t{12}},
                  {"batch-size", std::int64_t{64}},
                  {"lr", 2e-3},
                  {"clip", 1.0},
                  {"early-stop", std::int64_t{3}}});
}

app::Trained trained(const app::Settings& asked) {
  if (asked.text("objective") == "lm") return language_model_trained(asked);
  const Device device = app::device_of(asked);
  const std::vector<app::Requirement> requirements = app::parse_requirements(asked.list("require"), kMetrics);
  const auto both = [&](const char* one, const char* other) {
    ADJOINT_CHECK(asked.text(one).empty() || asked.text(other).empty(), "E-CLI-004", Exit::usage,
                  fmt::format("--{} and --{}: both give word vectors; expected one of them", one, other));
  };
  both("embeddings", "init-from");
  ADJOINT_CHECK(
      !asked.flag("freeze-embeddings") || !asked.text("embeddings").empty() || !asked.text("init-from").empty(),
      "E-CLI-003", Exit::usage,
      "--freeze-embeddings: no --embeddings FILE or --init-from RUN; expected word vectors that are worth "
      "keeping");
  const Corpus corpus = corpus_of(asked);
  std::optional<data::WordVectors> vectors;
  if (!asked.text("embeddings").empty())
    vectors =
        data::read_word_vectors(asked.text("embeddings"), corpus.vocabulary, 0,
                                asked.flag("freeze-embeddings") ? data::MissingRows::zero : data::MissingRows::random,
                                static_cast<std::uint64_t>(asked.integer("seed")));
  const app::Settings settings = with_width(asked, vectors);
  Training training(settings, corpus, vectors, device);
  std::string source;
  nlohmann::ordered_json taken;
  if (!settings.text("init-from").empty()) {
    const Taken from = take_weights(training.model(), corpus.vocabulary, settings.text("init-from"));
    training.restart_average();
    source = from.text();
    taken = from.json();
  }
  const bool validated = !corpus.split.validation.empty();

  app::TrainingRun run(
      settings, device,
      {.program = "clickbait",
       .name = settings.text("model"),
       .description = fmt::format("{}, {}", settings.text("model"), description(corpus)),
       .watched = "f1",
       .parameters = training.parameters().count(),
       .steps_per_epoch = training.batches_per_epoch(),
       .step = [&](std::int64_t cursor, double rate) { return training.step(cursor, rate); },
       .evaluate = validated ? std::function<app::Metrics()>([&] {
         return training.with_kept_weights([&] { return training.judged(corpus.split.validation).metrics(); });
       })
                             : nullptr,
       .save =
           [&](const std::string& path) {
             training.with_kept_weights([&] {
               save_model(path, training.model(),
                          {{"adjoint.config", settings.config_json()},
                           {"adjoint.program", "clickbait"},
                           {"adjoint.vocab_sha256", corpus.vocabulary.fingerprint()}});
             });
           },
       .files = {{"vocab.txt", corpus.vocabulary.text()}, {"classes.txt", class_lines(corpus.dataset.classes)}}});
  if (run.dry()) return {.text = *run.dry()};
  if (vectors)
    run.message(fmt::format("{}: vectors of {} numbers for {:.1f} % of the vocabulary", settings.text("embeddings"),
                            vectors->width, 100 * vectors->coverage()));
  if (!source.empty()) run.message(source);
  run.train();

  const app::LoopResult& result = run.result();
  nlohmann::ordered_json report{{"app", "clickbait"},
                                {"model", settings.text("model")},
                                {"seed", settings.integer("seed")},
                                {"device", text(device)},
                                {"parameters", training.parameters().count()},
                                {"train_s", run.seconds()}};
  report.update(run.summary());
  if (!taken.is_null()) report["init_from"] = taken;
  app::Trained done{.text = "", .profile = run.profile(), .exit = result.exit_code()};
  if (settings.flag("overfit-batch")) {
    done.text = fmt::format("loss {:.4f} at the first step, {:.4f} at the last\n", result.first_loss, result.last_loss);
  } else {
    std::error_code none;
    if (std::filesystem::exists(run.weights(), none)) load_model(run.weights(), training.model());
    const Judgement test = training.judged(corpus.split.test);
    const data::Confusion floor = data::NaiveBayes(corpus.ids, corpus.dataset.labels, corpus.split.train,
                                                   corpus.vocabulary.size(), corpus.classes())
                                      .evaluate(corpus.ids, corpus.dataset.labels, corpus.split.test);
    report["classes"] = corpus.dataset.classes;
    report["val"] = app::as_json(result.state.best);
    report["test"] = app::as_json(test.metrics());
    report["test"]["confusion"] = confusion_rows(test.confusion);
    report["errors"] = worst_errors(test, corpus.dataset, corpus.split.test);
    report["floor"] = {{"accuracy", floor.accuracy()}, {"f1", floor.f1(corpus.classes() - 1)}};
    done.text = result_text(settings, test, floor, corpus.dataset.classes);
    for (const std::string& line : app::unmet(requirements, test.metrics())) {
      run.message(line);
      if (done.exit == 0) done.exit = static_cast<int>(Exit::requirement_not_met);
    }
  }
  done.text += fmt::format("{} parameters, {} steps, {:.1f} s\nRun: {}\n", training.parameters().count(),
                           result.state.step, run.seconds(), run.folder().path());
  run.folder().write_report(report);
  done.report = std::move(report);
  return done;
}

int train(const app::Settings& settings) {
  app::watch_stop_signals();
  return app::print_trained(settings, trained(settings));
}

int sweep(const app::Settings& settings, const app::OptionTable& train_table) {
  return app::run_sweep(settings, {.train_table = train_table,
                                   .metric = settings.text("objective") == "lm" ? "perplexity" : "f1",
                                   .check = [](const app::Settings& point) { model_of(point, 8, 2, Device{}); },
                                   .train = [](const app::Settings& run) { return trained(run).report; }});
}

}  // namespace adjoint::clickbait
