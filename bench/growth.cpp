// bench_growth: how the time of a product, an LSTM layer or an encoder grows with its size. One case a call; the same
// cases in other engines are bench/peers/growth.py, and bench/growth.py sets them side by side.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "apps/common/main_guard.h"
#include "apps/common/profile.h"
#include "bench/measure.h"
#include "engine/ops.h"
#include "engine/optim/optimizer.h"
#include "engine/step.h"
#include "engine/tape.h"
#include "models/encoder.h"
#include "models/layers.h"

namespace adjoint::bench {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string kind = "product";
  std::string layout = "nn";
  std::int64_t m = 512, n = 512, k = 512;
  std::int64_t batch = 64, time = 20, input = 128, hidden = 128;
  std::int64_t width = 256, blocks = 2;
  int threads = 1;
  std::uint64_t seed = 0;
  double seconds = 1.0;
  bool profile = false;
  bool json = false;
};

/// What is timed, and how much work that is over real positions.
struct Case {
  std::function<void()> call;
  std::int64_t tokens = 0;  ///< of a product: rows of its result
  double flop = 0;
  std::int64_t updated = 0;  ///< parameters that an optimizer updates
  std::string timed;
};

double rounded(double value, double places = 1e6) { return std::round(value * places) / places; }

std::function<void()> replayed(Step::Function function) {
  auto step = std::make_shared<Step>(std::move(function));
  return [step] { (*step)(std::span<const Tensor>()); };
}

/// nn: a [m, k] times b [k, n]; nt: b lies transposed, as a layer's weight does; tn: a does, as in a weight's gradient.
Case product(const Options& o) {
  Generator random(o.seed);
  const auto operand = [&](std::int64_t rows, std::int64_t columns, bool transposed) {
    return transposed ? transpose(random.normal({columns, rows}, 0, 1), 0, 1) : random.normal({rows, columns}, 0, 1);
  };
  const Tensor a = operand(o.m, o.k, o.layout == "tn"), b = operand(o.k, o.n, o.layout == "nt");
  return {.call = replayed([a, b](std::span<const Tensor>) { return std::vector<Tensor>{matmul(a, b)}; }),
          .tokens = o.m,
          .flop = 2.0 * static_cast<double>(o.m * o.n * o.k),
          .timed = "one product"};
}

/// One layer. Nothing is padded.
Case lstm_layer(const Options& o) {
  struct State {
    explicit State(const Options& o)
        : random(o.seed),
          layer(Initializer{random}, o.input, o.hidden),
          parameters(layer),
          x(random.normal({o.batch, o.time, o.input}, 0, 1)),
          dy(random.normal({o.batch, o.time, o.hidden}, 0, 1)) {}
    Generator random;
    Lstm layer;
    ParameterSet parameters;
    Tensor x, dy;
    Tape tape;
  };
  auto state = std::make_shared<State>(o);
  const double positions = static_cast<double>(o.batch * o.time);
  return {.call = replayed([state](std::span<const Tensor>) {
            Tensor x, y;
            state->parameters.clear_gradients();
            {
              const auto recording = state->tape.record();
              x = state->tape.watch(state->x);
              y = state->layer.forward(x).y;
            }
            state->tape.backward(y, state->dy);
            return std::vector<Tensor>{state->tape.gradient(x)};
          }),
          .tokens = o.batch * o.time,
          .flop = positions * 24 * static_cast<double>(o.hidden * (o.input + o.hidden)),
          .timed = "forward and backward, gradients of input and weights"};
}

/// Pre-norm blocks, heads of width 64, feed-forward of four times the width, erf GELU, no dropout.
class Blocks final : public Module {
 public:
  Blocks(const Initializer& init, std::int64_t width, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      blocks_.push_back(
          std::make_unique<TransformerEncoderLayer>(init, width, std::max<std::int64_t>(width / 64, 1), 4 * width));
      add(fmt::format("{}", i), *blocks_.back());
    }
  }
  Tensor forward(Tensor x) const {
    for (const auto& block : blocks_) x = block->forward(x);
    return x;
  }

 private:
  std::vector<std::unique_ptr<TransformerEncoderLayer>> blocks_;
};

Case encoder_step(const Options& o) {
  struct State {
    explicit State(const Options& o)
        : random(o.seed),
          model(Initializer{random}, o.width, o.blocks),
          parameters(model),
          adam(parameters, AdamOptions{.learning_rate = 1e-3, .decoupled = false}),
          x(random.normal({o.batch, o.time, o.width}, 0, 1)),
          dy(random.normal({o.batch, o.time, o.width}, 0, 1)) {}
    Generator random;
    Blocks model;
    ParameterSet parameters;
    Adam adam;
    Tensor x, dy;
    Tape tape;
  };
  auto state = std::make_shared<State>(o);
  const double tokens = static_cast<double>(o.batch * o.time), d = static_cast<double>(o.width);
  return {.call = replayed([state](std::span<const Tensor>) {
            Tensor x, y;
            {
              const auto recording = state->tape.record();
              x = state->tape.watch(state->x);
              y = state->model.forward(x);
            }
            state->tape.backward(y, state->dy);
            state->adam.step();
            return std::vector<Tensor>{state->tape.gradient(x)};
          }),
          .tokens = o.batch * o.time,
          .flop = tokens * static_cast<double>(o.blocks) * (72 * d * d + 12 * static_cast<double>(o.time) * d),
          .updated = state->parameters.count(),
          .timed = "forward, backward with the input's gradient, Adam"};
}

/// One pass of Adam at the machine's bandwidth. It holds four arrays and moves seven, 28 bytes a parameter; the copy
/// timed here holds as much and moves four.
double optimizer_pass_ms(std::int64_t parameters, int threads) {
  const std::size_t half = static_cast<std::size_t>(2 * parameters / threads) * sizeof(float);
  std::vector<std::vector<char>> from, to;
  for (int t = 0; t < threads; ++t) {
    from.emplace_back(half, 1);
    to.emplace_back(half, 2);
  }
  double least = std::numeric_limits<double>::infinity();
  const int repeats = std::max(1, static_cast<int>(2e8 / static_cast<double>(half)));  // outlasts the start of threads
  for (int round = 0; round < 5; ++round) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::jthread> copies;
    for (std::size_t t = 0; t < from.size(); ++t) {
      copies.emplace_back([&, t] {
        for (int r = 0; r < repeats; ++r) std::memcpy(to[t].data(), from[t].data(), half);
      });
    }
    copies.clear();
    least = std::min(least, seconds_since(start) / repeats * 1e3);
  }
  return least * 7 / 4;
}

Json sizes_of(const Options& o) {
  if (o.kind == "product") return {{"m", o.m}, {"n", o.n}, {"k", o.k}, {"layout", o.layout}};
  if (o.kind == "lstm") return {{"batch", o.batch}, {"time", o.time}, {"input", o.input}, {"hidden", o.hidden}};
  return {{"batch", o.batch}, {"time", o.time}, {"width", o.width}, {"blocks", o.blocks}};
}

}  // namespace

int growth(int argc, char** argv) {
  Options options;
  CLI::App app("Milliseconds of one product, LSTM layer or encoder step of a given size, replayed; f32");
  app.add_option("--case", options.kind, "product, lstm or encoder")
      ->check(CLI::IsMember({"product", "lstm", "encoder"}))
      ->capture_default_str();
  const auto size = [&](const char* name, std::int64_t& value, const char* help) {
    app.add_option(name, value, help)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  };
  size("--m", options.m, "product: rows of the result");
  size("--n", options.n, "product: columns of the result");
  size("--k", options.k, "product: terms of each sum");
  app.add_option("--layout", options.layout, "product: nn, nt or tn; t: that operand lies transposed")
      ->check(CLI::IsMember({"nn", "nt", "tn"}))
      ->capture_default_str();
  size("--batch", options.batch, "lstm, encoder: sequences");
  size("--time", options.time, "lstm, encoder: tokens of a sequence");
  size("--input", options.input, "lstm: width of the input");
  size("--hidden", options.hidden, "lstm: hidden units");
  size("--width", options.width, "encoder: width of a token, a multiple of 64");
  size("--blocks", options.blocks, "encoder: blocks");
  app.add_option("--threads", options.threads, "threads that kernels use")->capture_default_str();
  app.add_option("--seed", options.seed, "seeds weights and operands")->capture_default_str();
  app.add_option("--seconds", options.seconds, "time to spend; a longer call is timed a few times")
      ->capture_default_str();
  app.add_flag("--profile", options.profile, "afterwards, time each kind of kernel call; a table on stderr");
  app.add_flag("--json", options.json, "the result on one line");
  CLI11_PARSE(app, argc, argv);
  set_threads(options.threads);

  const Case work = options.kind == "product" ? product(options)
                    : options.kind == "lstm"  ? lstm_layer(options)
                                              : encoder_step(options);
  for (int i = 0; i < 2; ++i) work.call();  // runs plainly, then records
  const Timing timing = measure([&](int) { work.call(); }, 1, options.seconds);
  if (options.profile) {
    app::Profile profile;
    work.call();
    fmt::print(stderr, "{}", profile.text());
  }
  Json line{{"bench", "growth"},
            {"case", options.kind},
            {"engine", "adjoint"},
            {"cpu_level", cpu_level().name},
            {"threads", options.threads}};
  line.update(sizes_of(options));
  line.update(Json{{"timed", work.timed},
                   {"min_ms", rounded(timing.min_ms)},
                   {"median_ms", rounded(timing.median_ms)},
                   {"passes", timing.passes},
                   {"repeats", timing.repeats},
                   {"tokens", work.tokens},
                   {"gflop", rounded(work.flop * 1e-9, 1e9)},
                   {"gflops", rounded(work.flop * 1e-6 / timing.min_ms, 10)}});
  if (work.updated > 0) {
    line["parameters"] = work.updated;
    line["optimizer_pass_ms"] = rounded(optimizer_pass_ms(work.updated, options.threads));
  }
  fmt::print("{}\n", line.dump(options.json ? -1 : 1));
  return 0;
}

}  // namespace adjoint::bench

int main(int argc, char** argv) {
  return adjoint::app::run_program("bench_growth", argc, argv, adjoint::bench::growth);
}
