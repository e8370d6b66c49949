#include "apps/common/training_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <span>

#include "apps/common/engine_options.h"
#include "apps/common/profile.h"
#include "apps/common/tensorboard.h"
#include "apps/common/terminal.h"
#include "data/sha256.h"
#include "engine/launch.h"
#include "engine/safetensors.h"
#include "engine/storage.h"

namespace adjoint::app {
namespace {

ScheduleOptions schedule(const Settings& settings, const LoopSetup& setup) {
  const std::int64_t all = setup.epochs * setup.steps_per_epoch;
  return schedule_of(settings, setup.max_steps > 0 ? std::min(setup.max_steps, all) : all);
}

/// SHA-256 of all weights' values in the order of their names; null where nothing was saved.
nlohmann::ordered_json weights_digest(const std::string& path) {
  if (!std::filesystem::exists(path)) return nullptr;
  const SafetensorsFile file(path);
  std::string values;
  for (const std::uint32_t index : file.header().by_name) {
    const TensorInfo& tensor = file.header().tensors[index];
    const std::size_t at = values.size();
    values.resize(at + tensor.bytes());
    file.read(tensor, std::as_writable_bytes(std::span(values).subspan(at)));
  }
  return data::sha256(values);
}

}  // namespace

int print_trained(const Settings& settings, const Trained& trained) {
  print_result(settings.flag("json") && !trained.report.is_null() ? json_text(trained.report) + "\n" : trained.text);
  print_result(trained.profile);
  return trained.exit;
}

TrainingRun::TrainingRun(const Settings& settings, Device device, TrainingPlan plan)
    : settings_(settings),
      device_(device),
      plan_(std::move(plan)),
      setup_(loop_setup(settings)),
      progress_(Progress::on_stderr(settings.text("progress"), settings.text("color"), settings.flag("quiet"))) {
  setup_.steps_per_epoch = plan_.steps_per_epoch;
  setup_.watched = plan_.watched;
  setup_.requirements = plan_.requirements;
  if (setup_.dry_run) {
    const StepTensors first = plan_.step(0, scheduled_rate(schedule(settings, setup_), 1));
    const AllocatorStatistics memory = Allocator::of(device).statistics();
    dry_ = fmt::format(
        "{}\n{} parameters, {}, {} steps an epoch\none batch: loss {:.4f}, {} tokens, {:.1f} MiB reserved\n",
        settings.config_json(), plan_.parameters, plan_.description, setup_.steps_per_epoch, first.loss.item(),
        first.tokens, static_cast<double>(memory.reserved) / (1024.0 * 1024.0));
    return;
  }
  const std::string& name = settings.text("name");
  folder_.emplace(RunFolder::Request{
      .program = plan_.program, .name = name.empty() ? plan_.name : name, .out = settings.text("out")});
  folder_->write("config.json", settings.config_json());
  for (const auto& [file, content] : plan_.files) folder_->write(file, content);
  progress_.message(fmt::format("seed {}, {} parameters {}, {}, run {}", settings.integer("seed"), plan_.parameters,
                                place_text(settings, device), plan_.description, folder_->path()));
}

void TrainingRun::train() {
  EventWriter events(folder_->path());
  std::optional<Profile> profile;
  if (settings_.flag("profile")) profile.emplace();
  const ScheduleOptions rates = schedule(settings_, setup_);
  const bool keep_best = plan_.keep_best && plan_.evaluate != nullptr;
  const auto save = [&] { plan_.save(weights()); };
  StepNumbers numbers(device_);
  const auto started = std::chrono::steady_clock::now();
  result_ = run_training(
      setup_,
      {.begin_epoch = nullptr,
       .train_step =
           [&](const StepPlace& place, double rate) {
             return numbers.add(plan_.step((place.epoch - 1) * setup_.steps_per_epoch + place.batch, rate));
           },
       .results = [&] { return numbers.take(); },
       .learning_rate = [&](std::int64_t step) { return scheduled_rate(rates, step); },
       .evaluate = plan_.evaluate,
       .keep_best =
           [&](const LoopState&, const Metrics&) {
             if (keep_best) save();
           },
       .save =
           [&](const LoopState& state) {
             // A run that ends before its first evaluation keeps what it has.
             if (!keep_best || state.best.empty()) save();
           },
       .explain_nonfinite = nullptr},
      {.progress = &progress_, .run = &*folder_, .events = &events, .clock = nullptr, .stop = nullptr});
  progress_.finish();
  seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  if (profile) profile_ = profile->text();
}

nlohmann::ordered_json TrainingRun::summary() const {
  const double epochs = static_cast<double>(result_.state.step) / static_cast<double>(setup_.steps_per_epoch);
  return {{"steps", result_.state.step},
          {"epoch_s", epochs > 0 ? seconds_ / epochs : 0.0},
          {"ending", name(result_.ending)},
          {"best_step", result_.state.best_step},
          {"first_loss", result_.first_loss},
          {"last_loss", result_.last_loss},
          {"cpu_level", cpu_level().name},
          {"weights_sha256", weights_digest(weights())},
          {"run", folder_->path()}};
}

}  // namespace adjoint::app
