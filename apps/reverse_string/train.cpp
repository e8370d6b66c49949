#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/common/engine_options.h"
#include "apps/common/shared_options.h"
#include "apps/common/signals.h"
#include "apps/common/sweep.h"
#include "apps/common/training_run.h"
#include "apps/reverse_string/commands.h"
#include "apps/reverse_string/task.h"
#include "engine/checkpoint.h"
#include "engine/step.h"

namespace adjoint::reverse_string {
namespace {

const std::vector<std::string> kMetrics{"token_accuracy", "exact_match", "bleu4", "loss"};

std::string description(const app::Settings& s) {
  return fmt::format("attention {}{}", s.text("attention"), s.flag("bidirectional") ? ", bidirectional" : "");
}

/// A trained model with its data: what the training loop works on.
class Training {
 public:
  Training(const app::Settings& settings, Device device)
      : settings_(settings),
        device_(device),
        strings_(strings_of(settings)),
        batches_(
            strings_.alphabet, strings_.train,
            {.size = settings.integer("batch-size"), .seed = static_cast<std::uint64_t>(settings.integer("seed"))}),
        model_(model_of(settings, strings_.alphabet, device)),
        parameters_(*model_),
        optimizer_(app::optimizer_of(settings, parameters_)),
        step_([this](std::span<const Tensor> inputs) { return std::vector<Tensor>{one_step(inputs)}; }, state()) {
    for (const std::string& s : strings_.train) longest_ = std::max(longest_, static_cast<std::int64_t>(s.size()));
  }

  const data::ReversalStrings& strings() const { return strings_; }
  Seq2Seq& model() { return *model_; }
  const ParameterSet& parameters() const { return parameters_; }
  std::int64_t batches_per_epoch() const { return batches_.batches_per_epoch(); }

  app::StepTensors step(std::int64_t cursor, double rate) {
    if (rate != optimizer_->learning_rate()) optimizer_->set_learning_rate(rate);
    const TensorBatch batch = tensors_of(batches_.batch(cursor), longest_ + 2, longest_ + 1, device_);
    const std::vector<Tensor> inputs = batch.inputs();
    // The first step is also the proof that replaying it does what running it does.
    const Tensor loss = verified_ ? step_(inputs)[0] : step_.verify(inputs)[0];
    verified_ = true;
    return {.loss = loss, .gradient_norm = optimizer_->gradient_norm(), .tokens = batch.tokens};
  }

  /// What the model makes of the first unseen strings.
  nlohmann::ordered_json examples() const {
    constexpr std::size_t kShown = 20;
    const std::vector<std::string>& all = strings_.validation;
    const std::vector<std::string> shown(all.begin(),
                                         all.begin() + static_cast<std::ptrdiff_t>(std::min(kShown, all.size())));
    const std::vector<std::string> written = reverse(*model_, strings_.alphabet, shown);
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (std::size_t i = 0; i < shown.size(); ++i)
      list.push_back(
          {{"input", shown[i]}, {"output", written[i]}, {"expected", std::string(shown[i].rbegin(), shown[i].rend())}});
    return list;
  }
  app::Metrics evaluate_now() const { return evaluate(*model_, strings_.alphabet, strings_.validation); }

 private:
  Tensor one_step(std::span<const Tensor> inputs) {
    Tensor loss;
    {
      const auto recording = tape_.record();
      loss = loss_of(*model_, inputs);
    }
    tape_.backward(loss);
    optimizer_->step();
    return loss;
  }

  std::vector<Tensor> state() const {
    std::vector<Tensor> tensors;
    for (const auto& [name, tensor] : optimizer_->state()) tensors.push_back(tensor);
    return tensors;
  }

  const app::Settings& settings_;
  Device device_;
  data::ReversalStrings strings_;
  data::ReversalBatches batches_;
  std::unique_ptr<Seq2Seq> model_;
  ParameterSet parameters_;
  std::unique_ptr<Optimizer> optimizer_;
  Tape tape_;
  Step step_;
  bool verified_ = false;
  std::int64_t longest_ = 0;
};

std::vector<std::string> table_row(const std::string& model, const nlohmann::ordered_json& report) {
  const auto percent = [&](const char* metric) {
    return fmt::format("{:.2f} %", 100 * report["val"][metric].get<double>());
  };
  return {model,
          percent("token_accuracy"),
          percent("exact_match"),
          report["val"].contains("bleu4") ? percent("bleu4") : "",
          fmt::format("{:.4f}", report["val"]["loss"].get<double>()),
          report["parameters"].dump(),
          report["steps"].dump(),
          fmt::format("{:.1f} s", report["elapsed_s"].get<double>())};
}

nlohmann::ordered_json read_report(const std::string& folder) {
  std::ifstream in(folder + "/report.json");
  nlohmann::ordered_json report = nlohmann::ordered_json::parse(in, nullptr, false);
  ADJOINT_CHECK(report.is_object() && report.contains("val") && report.contains("model"), "E-IO-008", Exit::io,
                fmt::format("--beside {}: no report.json of a finished run", folder));
  return report;
}

}  // namespace

void add_train_options(app::OptionTable& table) {
  add_task_options(table);
  table.group("Training");
  table.add(app::choice("select", "best", {"best", "last"},
                        "weights that are kept: of the best evaluation by exact match, or the last"));
  app::add_shared(
      table, {"epochs",       "max-steps",         "max-time",      "batch-size", "optimizer", "lr",     "schedule",
              "warmup",       "weight-decay",      "clip",          "early-stop", "require",   "config", "name",
              "out",          "dry-run",           "overfit-batch", "profile",    "seed",      "device", "gemm-backend",
              "lstm-backend", "attention-backend", "threads",       "cpu-level",  "progress",  "color",  "quiet",
              "json"});
  table.group("Output");
  table.add(app::path("beside", "DIR", "a finished run to show in the same table").for_this_call());
  table.defaults({{"epochs", std::int64_t{8}},
                  {"batch-size", std::int64_t{32}},
                  {"lr", 4e-3},
                  {"clip", 1.0},
                  {"schedule", std::string("cosine")}});
  table.preset("practical10", {{"data", std::string("practical10")},
                               {"embedding", std::int64_t{0}},
                               {"hidden", std::int64_t{64}},
                               {"batch-size", std::int64_t{1}},
                               {"epochs", std::int64_t{30}},
                               {"optimizer", std::string("sgd")},
                               {"lr", 0.5},
                               {"clip", 0.0},
                               {"schedule", std::string("constant")},
                               {"select", std::string("last")}});
}

app::Trained trained(const app::Settings& settings) {
  const Device device = app::device_of(settings);
  Training training(settings, device);
  const bool keep_best = settings.text("select") == "best";
  app::TrainingRun run(
      settings, device,
      {.program = "reverse_string",
       .name = fmt::format("{}{}", settings.text("attention"), settings.flag("bidirectional") ? "-bidirectional" : ""),
       .description = fmt::format("{}, {} training strings, {} validation strings of {} letters", description(settings),
                                  training.strings().train.size(), training.strings().validation.size(),
                                  training.strings().alphabet.letters().size()),
       .watched = "exact_match",
       .parameters = training.parameters().count(),
       .steps_per_epoch = training.batches_per_epoch(),
       .step = [&](std::int64_t cursor, double rate) { return training.step(cursor, rate); },
       .evaluate = [&] { return training.evaluate_now(); },
       .save =
           [&](const std::string& path) {
             save_model(path, training.model(),
                        {{"adjoint.config", settings.config_json()}, {"adjoint.program", "reverse_string"}});
           },
       .keep_best = keep_best,
       .requirements = app::parse_requirements(settings.list("require"), kMetrics)});
  if (run.dry()) return {.text = *run.dry()};
  run.train();

  const app::LoopResult& result = run.result();
  const app::Metrics& val = keep_best && !result.state.best.empty() ? result.state.best : result.last;
  nlohmann::ordered_json report{{"app", "reverse_string"},
                                {"model", description(settings)},
                                {"seed", settings.integer("seed")},
                                {"device", text(device)},
                                {"parameters", training.parameters().count()},
                                {"elapsed_s", run.seconds()},
                                {"steps_per_s", static_cast<double>(result.state.step) / run.seconds()},
                                {"val", app::as_json(val)},
                                {"last", app::as_json(result.last)}};
  report.update(run.summary());
  if (keep_best && !result.state.best.empty()) load_model(run.weights(), training.model());
  report["examples"] = training.examples();
  run.folder().write_report(report);
  app::Trained done{.report = report, .text = "", .profile = run.profile(), .exit = result.exit_code()};
  if (!val.empty()) {
    app::Table table(
        {"model", "token accuracy", "exact match", "BLEU-4 (letters)", "loss", "parameters", "steps", "time"});
    if (const std::string& beside = settings.text("beside"); !beside.empty()) {
      const nlohmann::ordered_json other = read_report(beside);
      table.add(table_row(other["model"].get<std::string>(), other));
    }
    table.add(table_row(description(settings), report));
    done.text = fmt::format("On {} unseen strings:\n{}", training.strings().validation.size(), table.text());
  } else {
    done.text = fmt::format("loss {:.4f} at the first step, {:.4f} at the last\n", result.first_loss, result.last_loss);
  }
  done.text += fmt::format("Run: {}\n", run.folder().path());
  for (const std::string& line : result.unmet) run.message(line);
  return done;
}

int train(const app::Settings& settings) {
  app::watch_stop_signals();
  return app::print_trained(settings, trained(settings));
}

int sweep(const app::Settings& settings, const app::OptionTable& train_table) {
  return app::run_sweep(
      settings, {.train_table = train_table,
                 .metric = "exact_match",
                 .check = [](const app::Settings& point) { model_of(point, strings_of(point).alphabet, Device{}); },
                 .train = [](const app::Settings& run) { return trained(run).report; }});
}

}  // namespace adjoint::reverse_string
