#include "apps/clickbait/language_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "apps/clickbait/task.h"
#include "apps/common/engine_options.h"
#include "engine/checkpoint.h"
#include "engine/step.h"
#include "kernels/base/real_math.h"
#include "models/language_model.h"

namespace adjoint::clickbait {
namespace {

constexpr std::int32_t kIgnored = -100;

class LanguageModelTraining {
 public:
  LanguageModelTraining(const app::Settings& settings, const Corpus& corpus, Device device)
      : settings_(settings),
        corpus_(corpus),
        device_(device),
        texts_(marked(corpus)),
        order_(lengths(), {.size = settings.integer("batch-size"),
                           .seed = static_cast<std::uint64_t>(settings.integer("seed")),
                           .bucket = true}),
        init_(static_cast<std::uint64_t>(settings.integer("seed")), device),
        model_(Initializer{init_}, {.vocabulary = corpus.vocabulary.size(),
                                    .embedding = settings.integer("embedding"),
                                    .hidden = settings.integer("hidden"),
                                    .layers = settings.integer("layers"),
                                    .dropout = settings.real("dropout")}),
        parameters_(model_),
        optimizer_(app::optimizer_of(settings, parameters_)),
        random_(static_cast<std::uint64_t>(settings.integer("seed")) + 0x9e3779b97f4a7c15, device),
        step_([this](std::span<const Tensor> in) { return std::vector<Tensor>{one_step(in)}; }, state()) {}

  LanguageModel& model() { return model_; }
  std::int64_t parameters() const { return parameters_.count(); }
  std::int64_t batches_per_epoch() const { return order_.batches_per_epoch(); }

  app::StepTensors step(std::int64_t cursor, double rate) {
    if (rate != optimizer_->learning_rate()) optimizer_->set_learning_rate(rate);
    model_.set_training(true);
    std::vector<std::int64_t> chosen;
    for (const std::int64_t i : order_.batch(cursor))
      chosen.push_back(corpus_.split.train[static_cast<std::size_t>(i)]);
    std::int64_t tokens = 0;
    const std::vector<Tensor> inputs = batch(chosen, tokens);
    const Tensor loss = verified_ ? step_(inputs)[0] : step_.verify(inputs)[0];
    verified_ = true;
    return {.loss = loss, .tokens = tokens};
  }

  /// loss and perplexity over the tokens of texts, their ends included.
  app::Metrics judged(const std::vector<std::int64_t>& part) {
    model_.set_training(false);
    std::vector<std::int64_t> order = part;  // by length, so that little is padding
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return texts_[static_cast<std::size_t>(a)].size() < texts_[static_cast<std::size_t>(b)].size();
    });
    double sum = 0;
    std::int64_t all = 0;
    const auto size = static_cast<std::size_t>(settings_.integer("batch-size"));
    for (std::size_t begin = 0; begin < order.size(); begin += size) {
      const std::vector<std::int64_t> chosen(
          order.begin() + static_cast<std::ptrdiff_t>(begin),
          order.begin() + static_cast<std::ptrdiff_t>(std::min(begin + size, order.size())));
      std::int64_t tokens = 0;
      const std::vector<Tensor> in = batch(chosen, tokens);
      sum += loss_of(in).item() * static_cast<double>(tokens);
      all += tokens;
    }
    const double loss = sum / static_cast<double>(all);
    return {{"perplexity", real::exp(loss)}, {"loss", loss}};
  }

 private:
  /// [CLS], the text, [SEP]: all but the last are read, all but the first are to be foretold.
  static std::vector<std::vector<std::int32_t>> marked(const Corpus& corpus) {
    std::vector<std::vector<std::int32_t>> texts = corpus.ids;
    for (std::vector<std::int32_t>& ids : texts) {
      ids.insert(ids.begin(), corpus.vocabulary.id("[CLS]"));
      ids.push_back(corpus.vocabulary.id("[SEP]"));
    }
    return texts;
  }
  std::vector<std::int32_t> lengths() const {
    std::vector<std::int32_t> n;
    for (const std::int64_t i : corpus_.split.train)
      n.push_back(static_cast<std::int32_t>(texts_[static_cast<std::size_t>(i)].size()));
    return n;
  }

  /// What is read, its lengths, and what comes next; the number of the latter.
  std::vector<Tensor> batch(const std::vector<std::int64_t>& chosen, std::int64_t& tokens) const {
    std::size_t longest = 1;
    for (const std::int64_t i : chosen) longest = std::max(longest, texts_[static_cast<std::size_t>(i)].size() - 1);
    const auto width = static_cast<std::int64_t>((longest + 7) / 8 * 8);  // few widths, so few recorded steps
    const auto rows = static_cast<std::int64_t>(chosen.size());
    std::vector<std::int32_t> ids(static_cast<std::size_t>(rows * width), 0), next(ids.size(), kIgnored), length;
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::vector<std::int32_t>& text = texts_[static_cast<std::size_t>(chosen[static_cast<std::size_t>(r)])];
      std::copy(text.begin(), text.end() - 1, ids.begin() + r * width);
      std::copy(text.begin() + 1, text.end(), next.begin() + r * width);
      length.push_back(static_cast<std::int32_t>(text.size() - 1));
    }
    tokens = std::accumulate(length.begin(), length.end(), std::int64_t{0});
    return {Tensor::from(std::span<const std::int32_t>(ids), {rows, width}, device_),
            Tensor::from(std::span<const std::int32_t>(length), {rows}, device_),
            Tensor::from(std::span<const std::int32_t>(next), {rows, width}, device_)};
  }

  Tensor loss_of(std::span<const Tensor> in) {
    return cross_entropy(model_.forward(in[0], {.lengths = in[1], .random = &random_}), in[2], kIgnored);
  }
  Tensor one_step(std::span<const Tensor> in) {
    Tensor loss;
    {
      const auto recording = tape_.record();
      loss = loss_of(in);
    }
    tape_.backward(loss);
    optimizer_->step();
    return loss;
  }
  std::vector<Tensor> state() const {
    std::vector<Tensor> tensors{random_.state()};
    for (const auto& [name, tensor] : optimizer_->state()) tensors.push_back(tensor);
    return tensors;
  }

  const app::Settings& settings_;
  const Corpus& corpus_;
  Device device_;
  std::vector<std::vector<std::int32_t>> texts_;
  data::BatchOrder order_;
  Generator init_;
  LanguageModel model_;
  ParameterSet parameters_;
  std::unique_ptr<Optimizer> optimizer_;
  Generator random_;
  Tape tape_;
  Step step_;
  bool verified_ = false;
};

}  // namespace

app::Trained language_model_trained(const app::Settings& settings) {
  const Device device = app::device_of(settings);
  for (const char* option : {"embeddings", "init-from"})
    ADJOINT_CHECK(settings.text(option).empty(), "E-CLI-004", Exit::usage,
                  fmt::format("--{}: not with --objective lm, which starts from nothing", option));
  ADJOINT_CHECK(settings.text("model") == "lstm" && !settings.flag("bidirectional"), "E-CONF-009", Exit::usage,
                fmt::format("--objective lm: --model {}{} would see the word that it must foretell; expected --model "
                            "lstm in one direction",
                            settings.text("model"), settings.flag("bidirectional") ? " --bidirectional" : ""));
  const std::vector<app::Requirement> requirements =
      app::parse_requirements(settings.list("require"), {"perplexity", "loss"});
  const Corpus corpus = corpus_of(settings);
  LanguageModelTraining training(settings, corpus, device);
  app::TrainingRun run(
      settings, device,
      {.program = "clickbait",
       .name = "lm",
       .description = fmt::format("language model, {}", description(corpus)),
       .watched = "perplexity",
       .parameters = training.parameters(),
       .steps_per_epoch = training.batches_per_epoch(),
       .step = [&](std::int64_t cursor, double rate) { return training.step(cursor, rate); },
       .evaluate = corpus.split.validation.empty() ? nullptr : std::function<app::Metrics()>([&] {
         return training.judged(corpus.split.validation);
       }),
       .save =
           [&](const std::string& path) {
             save_model(path, training.model(),
                        {{"adjoint.config", settings.config_json()},
                         {"adjoint.program", "clickbait"},
                         {"adjoint.vocab_sha256", corpus.vocabulary.fingerprint()}});
           },
       .files = {{"vocab.txt", corpus.vocabulary.text()}, {"classes.txt", class_lines(corpus.dataset.classes)}}});
  if (run.dry()) return {.text = *run.dry()};
  run.train();

  const app::LoopResult& result = run.result();
  nlohmann::ordered_json report{{"app", "clickbait"},
                                {"model", "lm"},
                                {"seed", settings.integer("seed")},
                                {"device", text(device)},
                                {"parameters", training.parameters()},
                                {"train_s", run.seconds()}};
  report.update(run.summary());
  app::Trained done{.text = "", .profile = run.profile(), .exit = result.exit_code()};
  if (settings.flag("overfit-batch")) {
    done.text = fmt::format("loss {:.4f} at the first step, {:.4f} at the last\n", result.first_loss, result.last_loss);
  } else {
    std::error_code none;
    if (std::filesystem::exists(run.weights(), none)) load_model(run.weights(), training.model());
    const app::Metrics test = training.judged(corpus.split.test);
    report["val"] = app::as_json(result.state.best);
    report["test"] = app::as_json(test);
    done.text = fmt::format("On {} unseen texts: perplexity {:.2f} (a uniform guess: {})\n", corpus.split.test.size(),
                            *app::find_metric(test, "perplexity"), corpus.vocabulary.size());
    for (const std::string& line : app::unmet(requirements, test)) {
      run.message(line);
      if (done.exit == 0) done.exit = static_cast<int>(Exit::requirement_not_met);
    }
  }
  done.text += fmt::format("{} parameters, {} steps, {:.1f} s\nRun: {}\n", training.parameters(), result.state.step,
                           run.seconds(), run.folder().path());
  run.folder().write_report(report);
  done.report = std::move(report);
  return done;
}

}  // namespace adjoint::clickbait
