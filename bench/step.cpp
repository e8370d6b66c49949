// bench_step: milliseconds of one training step, replayed, on the batches that the PyTorch peers run on
// (bench/peers, bench/ab.py), and what share of the machine's attainable rate that is.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "apps/common/main_guard.h"
#include "apps/common/profile.h"
#include "bench/measure.h"
#include "bench/op_chain.h"
#include "bench/training_steps.h"
#include "kernels/matmul.h"

namespace adjoint::bench {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string model = "reverse";
  std::string attention = "dot";
  std::string embedding_gradient = "dense";
  int batch = 0;
  int threads = 1;
  std::uint64_t seed = 0;
  double seconds = 3.0;
  bool eager = false;
  bool profile = false;
  bool json = false;
};

double rounded(double value, double places = 1e6) { return std::round(value * places) / places; }

/// GFLOP/s of our own product at the shape of the recurrent work, [64, 128] times [128, 512].
double attainable_rate() {
  constexpr std::int64_t m = 64, n = 512, k = 128;
  Generator random(0);
  const Tensor a = random.normal({m, k}, 0, 1), b = random.normal({k, n}, 0, 1), c = Tensor::empty({m, n});
  const Matmul call{.dtype = DType::f32,
                    .m = m,
                    .n = n,
                    .k = k,
                    .a = a.data(),
                    .lda = k,
                    .b = b.data(),
                    .ldb = n,
                    .c = c.data(),
                    .ldc = n};
  const Timing timing = measure([&](int) { launch(Device{}, call); }, 1, 0.3, 2e-4);
  return 2e-6 * static_cast<double>(m * n * k) / timing.min_ms;
}

/// Arithmetic of one step over real positions only: products, and the pointwise work beside them.
struct Work {
  double gflop = 0;
  double pointwise_ms = 0;
};

/// One thread's time for what is no product: 3 ns for each hidden unit of each LSTM position and 0.73 ns for each
/// parameter of Adam, as measured with hand-written kernels on a Sapphire Rapids core.
constexpr double kCellMs = 3e-6, kAdamMs = 0.73e-6;

Json floor_of(const Work& work, const Timing& timing, int threads) {
  const double rate = attainable_rate();
  const double floor = work.gflop / rate * 1e3 + work.pointwise_ms / threads;
  return {{"gflop", rounded(work.gflop)},
          {"attainable_gflops", rounded(rate, 10)},
          {"floor_ms", rounded(floor)},
          {"times_floor", rounded(timing.min_ms / floor, 1e3)}};
}

/// Mean over batches. A backward pass costs twice its forward; frozen inputs have no gradient of their own. Every
/// position counts, although the LSTM multiplies equal inputs once.
Work work_of(const ReverseTask& task, const std::vector<Rows>& batches, std::int64_t parameters) {
  const double h = static_cast<double>(task.model.hidden), v = static_cast<double>(task.model.symbols);
  const bool frozen = task.model.embedding == 0;
  const double i = frozen ? v : static_cast<double>(task.model.embedding);
  double flop = 0, positions = 0;
  for (const Rows& rows : batches) {
    for (const std::vector<std::int32_t>& row : rows) {
      const double s = static_cast<double>(row.size()) + (task.marked_source ? 2 : 0);
      const double t = static_cast<double>(row.size()) + 1;
      flop += (s + t) * 8 * h * (3 * h + (frozen ? 2 : 3) * i) + t * 6 * h * v;
      if (task.model.attention == Seq2SeqAttention::dot) flop += t * 12 * h * h + 12 * t * s * h;
      positions += s + t;
    }
  }
  const double n = static_cast<double>(batches.size());
  return {flop / n * 1e-9, positions / n * h * kCellMs + static_cast<double>(parameters) * kAdamMs};
}

Json timing_json(const Timing& timing) {
  return {{"min_ms", rounded(timing.min_ms)},
          {"median_ms", rounded(timing.median_ms)},
          {"passes", timing.passes},
          {"repeats", timing.repeats}};
}

Json reverse_step(const Options& options) {
  const auto attention = options.attention == "dot" ? Seq2SeqAttention::dot : Seq2SeqAttention::none;
  const bool practical = options.model == "practical10";
  const int batch = options.batch != 0 ? options.batch : practical ? 1 : 64;
  const ReverseTask task =
      practical ? ReverseTask::practical10(batch, attention)
                : ReverseTask::reverse({.batch = batch, .min_length = batch == 1 ? 20 : 1}, 128, attention);
  const std::vector<Rows> batches = reverse_batches(task.rules, options.seed);
  std::vector<std::vector<Tensor>> inputs;
  std::int64_t tokens = 0;
  for (const Rows& rows : batches) {
    inputs.push_back(task.inputs(rows));
    for (const std::vector<std::int32_t>& row : rows)
      tokens += static_cast<std::int64_t>(row.size()) + (task.marked_source ? 2 : 0);
  }
  ReverseTraining training(task, options.seed, practical);
  std::int64_t steps = 0;
  double first = 0, last = 0;
  const auto step = [&](int b) {
    const std::vector<Tensor>& in = inputs[static_cast<std::size_t>(b)];
    const std::vector<Tensor> out = options.eager ? training.plain_step(in) : training.step(in);
    ++steps;
    return out[0];
  };
  first = step(0).item();
  const Timing timing = measure(step, static_cast<int>(batches.size()), options.seconds);
  std::optional<app::Profile> profile;
  if (options.profile) {
    profile.emplace();
    constexpr int kPasses = 20;
    for (int pass = 0; pass < kPasses; ++pass)
      for (int b = 0; b < static_cast<int>(batches.size()); ++b) step(b);
    fmt::print(stderr, "{} steps:\n{}", kPasses * batches.size(), profile->text());
    profile.reset();
  }
  last = step(0).item();
  ADJOINT_CHECK(last < first, "E-NUM-001", Exit::numeric,
                fmt::format("loss {:.4f} after {} steps; expected less than the first, {:.4f}", last, steps, first));
  Json line = timing_json(timing);
  line.update(Json{{"attention", options.attention},
                   {"batch", task.rules.batch},
                   {"lengths", {task.rules.min_length, task.rules.max_length}},
                   {"eager", options.eager},
                   {"parameters", training.parameters()},
                   {"tokens", rounded(static_cast<double>(tokens) / static_cast<double>(batches.size()), 100)},
                   {"steps", steps},
                   {"calls", training.calls(inputs[0])},
                   {"first_loss", rounded(first)},
                   {"last_loss", rounded(last)},
                   {"batches_hash", fingerprint(batches)}});
  line.update(floor_of(work_of(task, batches, training.parameters()), timing, options.threads));
  return line;
}

Json headline_step(const Options& options) {
  const HeadlineTask task{.encoder = options.model == "lstm-encoder",
                          .sparse = options.embedding_gradient == "sparse",
                          .rules = {.batch = options.batch == 0 ? 64 : options.batch}};
  const std::vector<HeadlineBatch> batches = headline_batches(task.rules, options.seed);
  std::vector<std::vector<Tensor>> inputs;
  double positions = 0, scores = 0;
  for (const HeadlineBatch& batch : batches) {
    for (const std::vector<std::int32_t>& row : batch.rows) {
      positions += static_cast<double>(row.size());
      scores += static_cast<double>(row.size() * row.size());
    }
    inputs.push_back(task.inputs(batch));
  }
  positions /= static_cast<double>(batches.size());
  scores /= static_cast<double>(batches.size());
  const double h = static_cast<double>(task.hidden), e = static_cast<double>(task.embedding);
  double flop = positions * 24 * h * (h + e);
  if (task.encoder) {
    flop += positions * (24 * h * h + 12 * h * static_cast<double>(task.intermediate)) + 12 * scores * h;
  }

  HeadlineTraining training(task, options.seed);
  const auto step = [&](int b) {
    const std::vector<Tensor>& in = inputs[static_cast<std::size_t>(b)];
    return options.eager ? training.plain_step(in)[0] : training.step(in)[0];
  };
  const double first = step(0).item();
  const Timing timing = measure(step, static_cast<int>(batches.size()), options.seconds);
  if (options.profile) {
    app::Profile profile;
    for (int pass = 0; pass < 20; ++pass)
      for (int b = 0; b < static_cast<int>(batches.size()); ++b) step(b);
    fmt::print(stderr, "{} steps:\n{}", 20 * batches.size(), profile.text());
  }
  const double last = step(0).item();
  ADJOINT_CHECK(last < first, "E-NUM-001", Exit::numeric,
                fmt::format("loss {:.4f} at the end; expected less than the first, {:.4f}", last, first));
  const double frozen = task.sparse ? static_cast<double>(task.rules.vocabulary) * e - positions * e : 0.0;
  const double updated = static_cast<double>(training.parameters()) - frozen;
  Json line = timing_json(timing);
  line.update(Json{{"embedding_gradient", options.embedding_gradient},
                   {"batch", task.rules.batch},
                   {"parameters", training.parameters()},
                   {"tokens", rounded(positions, 100)},
                   {"first_loss", rounded(first)},
                   {"last_loss", rounded(last)},
                   {"batches_hash", fingerprint(batches)}});
  line.update(floor_of({flop * 1e-9, positions * h * kCellMs + updated * kAdamMs}, timing, options.threads));
  return line;
}

/// One LSTM layer, forward and backward; nothing is padded.
Json lstm_layer(const Options& options) {
  const std::int64_t batch = options.batch == 0 ? 64 : options.batch, time = 20, input = 64, hidden = 128;
  Generator random(options.seed);
  Lstm layer(Initializer{random}, input, hidden);
  ParameterSet parameters(layer);
  const Tensor x = random.normal({batch, time, input}, 0, 1), dy = random.normal({batch, time, hidden}, 0, 1);
  Tape tape;
  Step step([&](std::span<const Tensor> in) {
    Tensor watched, y;
    parameters.clear_gradients();
    {
      const auto recording = tape.record();
      watched = tape.watch(in[0]);
      y = layer.forward(watched).y;
    }
    tape.backward(y, dy);
    return std::vector<Tensor>{tape.gradient(watched)};
  });
  Step forward([&](std::span<const Tensor> in) { return std::vector<Tensor>{layer.forward(in[0]).y}; });
  step({x});
  forward({x});
  const Timing timing = measure([&](int) { step({x}); }, 1, options.seconds);
  const Timing forward_timing = measure([&](int) { forward({x}); }, 1, options.seconds);
  const double positions = static_cast<double>(batch * time);
  const Work work{positions * 24 * static_cast<double>(hidden * (input + hidden)) * 1e-9,
                  positions * static_cast<double>(hidden) * kCellMs};
  Json line = timing_json(timing);
  line.update(Json{{"batch", batch},
                   {"time", time},
                   {"input", input},
                   {"hidden", hidden},
                   {"gflops", rounded(work.gflop / timing.min_ms * 1e3, 10)},
                   {"parts", {{"forward", timing_json(forward_timing)}}}});
  line.update(floor_of(work, timing, options.threads));
  return line;
}

/// The main figure: milliseconds of one op, forward and backward, not replayed.
Json op_overhead(const Options& options) {
  OpChain chain(1, 1, options.seed);
  const auto per_op = [&](auto&& call) {
    Timing timing = measure([&](int) { call(); }, 1, options.seconds / 5);
    timing.min_ms /= kChainOps;
    timing.median_ms /= kChainOps;
    return timing;
  };
  const Timing total = per_op([&] { chain.forward_backward(); });
  const auto ns = [](const Timing& timing) { return rounded(timing.min_ms * 1e6, 10); };
  const double forward = ns(per_op([&] { chain.forward(); })), recording = ns(per_op([&] { chain.record(); }));
  Json line = timing_json(total);
  line["min_ms"] = rounded(total.min_ms, 1e9);
  line["median_ms"] = rounded(total.median_ms, 1e9);
  line["ops"] = Json::array({{{"op", "mul_add"},
                              {"shape", {1, 1}},
                              {"forward_ns", forward},
                              {"recording_ns", recording},
                              {"backward_ns", rounded(ns(total) - recording, 10)},
                              {"total_ns", ns(total)},
                              {"replayed_ns", ns(per_op([&] { chain.replay(); }))}}});
  return line;
}

}  // namespace

int step(int argc, char** argv) {
  Options options;
  CLI::App app("One training step, replayed: milliseconds, and how far that is from the machine's limit");
  app.add_option("--model", options.model, "reverse, practical10, lstm, lstm-encoder, lstm-layer or op-overhead")
      ->check(CLI::IsMember({"reverse", "practical10", "lstm-layer", "op-overhead", "lstm", "lstm-encoder"}))
      ->capture_default_str();
  app.add_option("--attention", options.attention, "dot or none")->check(CLI::IsMember({"dot", "none"}));
  app.add_option("--embedding-gradient", options.embedding_gradient, "of lstm and lstm-encoder: dense or sparse")
      ->check(CLI::IsMember({"dense", "sparse"}));
  app.add_option("--batch", options.batch, "strings in a step (default 64; practical10: 1)")
      ->check(CLI::Range(1, 65536));
  app.add_option("--threads", options.threads, "threads that kernels use")->capture_default_str();
  app.add_option("--seed", options.seed, "seeds the weights and the batches")->capture_default_str();
  app.add_option("--seconds", options.seconds, "time to spend on each measured part")->capture_default_str();
  app.add_flag("--eager", options.eager, "run the step op by op instead of replaying it");
  app.add_flag("--profile", options.profile, "afterwards, time each kind of kernel call; a table on stderr");
  app.add_flag("--json", options.json, "the result on one line");
  CLI11_PARSE(app, argc, argv);
  set_threads(options.threads);
  Json line{{"bench", options.model}, {"engine", "adjoint"}, {"threads", options.threads}};
  line.update(options.model == "lstm-layer"       ? lstm_layer(options)
              : options.model.starts_with("lstm") ? headline_step(options)
              : options.model == "op-overhead"    ? op_overhead(options)
                                                  : reverse_step(options));
  fmt::print("{}\n", line.dump(options.json ? -1 : 1));
  return 0;
}

}  // namespace adjoint::bench

int main(int argc, char** argv) { return adjoint::app::run_program("bench_step", argc, argv, adjoint::bench::step); }
