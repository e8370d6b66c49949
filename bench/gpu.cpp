// bench_gpu: kernels alone and whole training steps on a GPU, each against the card's roof; bench/peers/gpu_kernels.py
// and gpu_steps.py time the same in PyTorch. Prints a line of JSON as each case ends, so that what is measured is not
// lost: first the card and the names of all cases, then {"kernel": …} or {"step": …} for each, last the roof. A case
// that fails is such a line too; then, and for a time that no card can reach, the exit code is 8.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/common/main_guard.h"
#include "bench/gpu_cases.h"
#include "bench/measure.h"
#include "bench/training_steps.h"
#include "engine/gpu.h"
#include "kernels/base/error.h"

namespace adjoint::bench {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string device = "cuda";
  std::string only;  ///< part of a case's name
  bool kernels = true, steps = true, tiny = false;
  double seconds = 0.25;  ///< for each case
  double copy_gbs = 0;    ///< a copy's bandwidth measured elsewhere: the higher counts
  std::uint64_t seed = 0;
};

double rounded(double value, double places) { return std::round(value * places) / places; }

/// Seconds of one of many that were timed together, in several blocks.
struct Sample {
  double median = 0, least = 0, p90 = 0;
  int blocks = 0, repeats = 0;

  Sample(std::vector<double> seconds, int each) : blocks(static_cast<int>(seconds.size())), repeats(each) {
    std::sort(seconds.begin(), seconds.end());
    const auto at = [&](double share) { return seconds[static_cast<std::size_t>(share * (blocks - 1) + 0.5)] / each; };
    least = at(0);
    median = at(0.5);
    p90 = at(0.9);
  }
};

/// Runs `block`, which queues `each` of what is measured, until the time is spent, at least five times; it waits for
/// the device once a block.
template <class Block>
Sample sample(Gpu& gpu, double seconds, int each, Block&& block) {
  gpu.synchronize();
  std::vector<double> taken;
  const auto begin = std::chrono::steady_clock::now();
  while (taken.size() < 5 || (seconds_since(begin) < seconds && taken.size() < 1000)) {
    const auto start = std::chrono::steady_clock::now();
    block();
    gpu.synchronize();
    taken.push_back(seconds_since(start));
  }
  return Sample(std::move(taken), each);
}

/// A kernel's time: replays of a graph that holds it many times, on operands that take turns.
Sample time_kernel(Gpu& gpu, const Queue& queue, int sets, const Options& options) {
  queue(0);
  gpu.synchronize();
  const auto start = std::chrono::steady_clock::now();
  queue(sets - 1);
  gpu.synchronize();
  const double once = seconds_since(start);
  // A graph of two milliseconds or a hundred calls, and blocks of several graphs.
  const int turns = options.tiny ? 1 : std::clamp(static_cast<int>(2e-3 / once / sets), 1, std::max(1, 100 / sets));
  const int copies = turns * sets;
  Step step([&](std::span<const Tensor>) {
    for (int i = 0; i < copies; ++i) queue(i % sets);
    return std::vector<Tensor>{};
  });
  for (int i = 0; i < 3; ++i) step({});  // plainly, recorded, captured
  const int replays = options.tiny ? 1 : std::clamp(static_cast<int>(0.02 / once / copies), 1, 50);
  return sample(gpu, options.tiny ? 0 : options.seconds, copies * replays, [&] {
    for (int i = 0; i < replays; ++i) step({});
  });
}

Json time_json(const Sample& s) {
  return {{"us", rounded(s.median * 1e6, 1e4)},
          {"least_us", rounded(s.least * 1e6, 1e4)},
          {"p90_us", rounded(s.p90 * 1e6, 1e4)},
          {"blocks", s.blocks},
          {"repeats", s.repeats}};
}

/// The copy that gives the bandwidth to divide by; it is always measured.
bool is_roof(const KernelCase& c) { return c.name.starts_with("copy-"); }

Json kernel_line(const KernelCase& c, const Sample& s, int sets, const Roof& roof, const GpuProperties& card) {
  const Floor floor = floor_of(c.cost, roof);
  const double touched = c.cost.bytes * sets;
  Json line{{"name", c.name}, {"shape", c.shape}};
  line.update(time_json(s));
  line.update(Json{{"gb_per_s", rounded(c.cost.bytes / s.median * 1e-9, 10)},
                   {"tflop_per_s", rounded(c.cost.flops / s.median * 1e-12, 1e3)},
                   {"floor_us", rounded(floor.seconds * 1e6, 1e4)},
                   {"bound", floor.bound},
                   {"of_floor", rounded(floor.seconds / s.median, 1e4)},
                   {"in_cache", touched < 2.0 * static_cast<double>(card.cache)}});
  if (c.cost.steps > 0) line["us_per_step"] = rounded(s.median / c.cost.steps * 1e6, 1e4);
  const std::string why = impossible(s.median, c.cost, roof, touched);
  if (!why.empty()) line["impossible"] = why;
  return line;
}

/// Measures a case and prints its line. A failure is a line too: the other cases are still worth their time.
bool report(Gpu& gpu, const char* kind, const std::string& name, const std::function<Json()>& measure) {
  Json line;
  try {
    line = measure();
  } catch (const std::exception& error) {
    line = Json{{"name", name}, {"failed", error.what()}};
  }
  fmt::print("{}\n", Json{{kind, line}}.dump());
  std::fflush(stdout);
  const std::string wrong = line.contains("failed")       ? line["failed"].get<std::string>()
                            : line.contains("impossible") ? line["impossible"].get<std::string>()
                                                          : "";
  if (wrong.empty()) fmt::print(stderr, "{:<40} {:>12.3f} us\n", name, line["us"].get<double>());
  if (!wrong.empty()) fmt::print(stderr, "bench_gpu: {}: {}\n", name, wrong);
  Allocator::of(gpu.device()).release_cached();
  return wrong.empty();
}

Json measure_kernel(Gpu& gpu, const KernelCase& c, const Options& options, Roof& roof) {
  // 128 MB and more between two uses of the same memory, if that is not too many sets to make.
  const int most = options.tiny ? 2 : 32;
  const int sets = std::clamp(static_cast<int>(std::ceil(1.05 * kLargeBytes / c.cost.bytes)), 1, most);
  const Queue queue = c.prepare(sets);
  const Sample s = time_kernel(gpu, queue, sets, options);
  if (is_roof(c) && !options.tiny) roof.bandwidth = std::max(options.copy_gbs * 1e9, c.cost.bytes / s.least);
  return kernel_line(c, s, sets, roof, gpu.properties());
}

/// A step on batches that take turns: wall clock over many replays, with one wait at the end of each block.
template <class Training>
Json step_line(Gpu& gpu, const std::string& name, Training& training, const std::vector<std::vector<Tensor>>& batches,
               const Options& options) {
  const std::size_t n = batches.size();
  const double first = training.step(batches[0])[0].item();
  for (std::size_t i = 0; i < (options.tiny ? 2 : 2 * n); ++i) training.step(batches[i % n]);
  const int replays = options.tiny ? 3 : 104;  // 100 and more, all batches equally often
  std::size_t turn = 0;
  const Sample s = sample(gpu, options.tiny ? 0 : 2 * options.seconds, replays, [&] {
    for (int i = 0; i < replays; ++i) training.step(batches[turn++ % n]);
  });
  const double last = training.step(batches[0])[0].item();
  ADJOINT_CHECK(last < first, "E-NUM-001", Exit::numeric,
                fmt::format("{}: loss {:.4f} at the end; expected less than the first, {:.4f}", name, last, first));
  Json line{{"name", name}};
  line.update(time_json(s));
  line.update(Json{{"calls", training.calls(batches[0])},
                   {"parameters", training.parameters()},
                   {"first_loss", rounded(first, 1e6)},
                   {"last_loss", rounded(last, 1e6)}});
  return line;
}

struct StepCase {
  std::string name;
  std::function<Json()> measure;
};

StepCase reverse_case(Gpu& gpu, const Options& options, bool ragged, std::int64_t hidden, bool dot) {
  const std::string name = fmt::format("reverse-h{}-{}{}", hidden, dot ? "dot" : "none", ragged ? "-ragged" : "");
  return {name, [=, &gpu, &options] {
            const std::int32_t longest = options.tiny ? 4 : 20;
            const ReverseRules rules{
                .batch = options.tiny ? 4 : 64, .min_length = ragged ? 1 : longest, .max_length = longest};
            const ReverseTask task =
                ReverseTask::reverse(rules, hidden, dot ? Seq2SeqAttention::dot : Seq2SeqAttention::none);
            const std::vector<Rows> rows = reverse_batches(rules, options.seed);
            std::vector<std::vector<Tensor>> inputs;
            for (const Rows& batch : rows) inputs.push_back(task.inputs(batch));
            ReverseTraining training(task, options.seed, false);
            Json line = step_line(gpu, name, training, inputs, options);
            line["batches_hash"] = fingerprint(rows);
            return line;
          }};
}

StepCase headline_case(Gpu& gpu, const Options& options, bool encoder, int batch, std::int64_t width) {
  const std::string name = fmt::format("lstm{}-b{}-d{}", encoder ? "-encoder" : "", batch, width);
  return {name, [=, &gpu, &options] {
            HeadlineTask task{.encoder = encoder, .rules = {.batch = options.tiny ? 4 : batch}};
            task.embedding = task.hidden = width;
            task.intermediate = 4 * width;
            if (options.tiny) task.rules.max_length = 6;
            if (options.tiny) task.rules.vocabulary = 200;
            const std::vector<HeadlineBatch> rows = headline_batches(task.rules, options.seed);
            std::vector<std::vector<Tensor>> inputs;
            for (const HeadlineBatch& one : rows) inputs.push_back(task.inputs(one));
            HeadlineTraining training(task, options.seed);
            Json line = step_line(gpu, name, training, inputs, options);
            line["batches_hash"] = fingerprint(rows);
            return line;
          }};
}

/// All training steps; tiny: one of each kind of model.
std::vector<StepCase> step_cases(Gpu& gpu, const Options& options) {
  std::vector<StepCase> cases;
  for (const bool ragged : {false, true})
    for (const std::int64_t hidden : {64, 128})
      for (const bool dot : {false, true})
        if (!options.tiny || (!ragged && hidden == 64))
          cases.push_back(reverse_case(gpu, options, ragged, hidden, dot));
  for (const bool encoder : {false, true}) cases.push_back(headline_case(gpu, options, encoder, 64, 64));
  if (!options.tiny) cases.push_back(headline_case(gpu, options, true, 512, 128));
  return cases;
}

Device device_named(const std::string& name) {
  Device device{name == "simt" ? DeviceType::simt : DeviceType::cuda, 0};
  ADJOINT_CHECK(name == "simt" || name == "cuda" || (name.starts_with("cuda:") && name.size() == 6), "E-CLI-002",
                Exit::usage, fmt::format("--device {}: expected cuda, cuda:N or simt", name));
  if (name.starts_with("cuda:")) device.index = static_cast<std::uint8_t>(name[5] - '0');
  return device;
}

}  // namespace

int gpu(int argc, char** argv) {
  Options options;
  CLI::App app(
      "Kernels and training steps on a GPU: microseconds, and how far from the card's roof; lines of JSON on stdout");
  app.add_option("--device", options.device, "cuda, cuda:N, or simt in a program of the tests")->capture_default_str();
  app.add_flag("--kernels,!--no-kernels", options.kernels, "time kernels alone");
  app.add_flag("--steps,!--no-steps", options.steps, "time whole training steps");
  app.add_option("--only", options.only, "cases whose name has this in it");
  app.add_option("--seconds", options.seconds, "time to spend on each kernel, and twice that on each step")
      ->capture_default_str();
  app.add_option("--copy-gbs", options.copy_gbs, "GB/s of a copy measured elsewhere; the roof is the higher of both");
  app.add_option("--seed", options.seed, "of weights and batches")->capture_default_str();
  app.add_flag("--tiny", options.tiny, "small shapes, each run a few times: shows that everything runs, times nothing");
  CLI11_PARSE(app, argc, argv);

  const Device device = device_named(options.device);
  Gpu& gpu = Gpu::of(device);
  const DefaultDevice everywhere(device);
  const GpuProperties& card = gpu.properties();
  Roof roof = options.tiny ? Roof{} : peaks_of(card);
  const auto wanted = [&](const std::string& name) { return name.find(options.only) != std::string::npos; };
  std::vector<KernelCase> kernels;
  std::vector<StepCase> steps;
  if (options.kernels) kernels = kernel_cases(options.tiny);
  if (options.steps) steps = step_cases(gpu, options);
  std::erase_if(kernels, [&](const KernelCase& c) { return !is_roof(c) && !wanted(c.name); });
  std::erase_if(steps, [&](const StepCase& c) { return !wanted(c.name); });

  Json names{{"kernels", Json::array()}, {"steps", Json::array()}};
  for (const KernelCase& c : kernels) names["kernels"].push_back(c.name);
  for (const StepCase& c : steps) names["steps"].push_back(c.name);
  const Json head{{"bench", "gpu"},
                  {"engine", "adjoint"},
                  {"tiny", options.tiny},
                  {"card",
                   {{"name", card.name},
                    {"compute_capability", card.compute_capability},
                    {"multiprocessors", card.multiprocessors},
                    {"memory_mib", card.memory >> 20},
                    {"cache_mib", card.cache >> 20},
                    {"clock_mhz", card.clock_khz / 1000}}},
                  {"cases", names}};
  fmt::print("{}\n", head.dump());
  bool all = true;
  for (const KernelCase& c : kernels)
    all &= report(gpu, "kernel", c.name, [&] { return measure_kernel(gpu, c, options, roof); });
  for (const StepCase& c : steps) all &= report(gpu, "step", c.name, c.measure);
  const Json ceilings{{"gb_per_s", rounded(roof.bandwidth * 1e-9, 10)},
                      {"f32_tflop_per_s", rounded(roof.fma * 1e-12, 10)},
                      {"tf32_tflop_per_s", rounded(roof.tf32 * 1e-12, 10)},
                      {"bf16_tflop_per_s", rounded(roof.bf16 * 1e-12, 10)}};
  fmt::print("{}\n", Json{{"roof", ceilings}}.dump());
  return all ? 0 : static_cast<int>(Exit::requirement_not_met);
}

}  // namespace adjoint::bench

int main(int argc, char** argv) { return adjoint::app::run_program("bench_gpu", argc, argv, adjoint::bench::gpu); }
