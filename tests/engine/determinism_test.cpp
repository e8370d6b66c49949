// Training gives the same weights, bit for bit, whatever the number of threads and however often it runs.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "data/sha256.h"
#include "engine/launch.h"
#include "engine/optim/optimizer.h"
#include "engine/step.h"
#include "models/seq2seq.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

constexpr std::int64_t kTime = 10, kSymbols = 12;

/// Strings in a step, the width of the model, and how long it trains.
struct Size {
  std::int64_t batch, hidden;
  int steps;
};

/// Batch `k` of `n` strings of ids, with lengths from kTime / 2 to kTime.
std::vector<Tensor> batch(std::int64_t n, int k) {
  Generator random(100 + static_cast<std::uint64_t>(k));
  const Tensor ids = cast(random.uniform({n, kTime}, 0, kSymbols), DType::i32);
  std::vector<std::int32_t> lengths, targets = ids.to_ints();
  for (std::int64_t b = 0; b < n; ++b) {
    lengths.push_back(static_cast<std::int32_t>(kTime / 2 + (b * 7 + k) % (kTime / 2 + 1)));
    for (std::int64_t t = lengths.back(); t < kTime; ++t) targets[static_cast<std::size_t>(b * kTime + t)] = -100;
  }
  return {ids, ints(lengths, {n}), ints(targets, {n, kTime})};
}

/// SHA-256 of the weights after so many steps with that many threads.
std::string weights_after(int steps, int number_of_threads, std::int64_t hidden,
                          const std::vector<std::vector<Tensor>>& batches) {
  set_threads(number_of_threads);
  Generator random(1);
  Seq2Seq model({random}, {.symbols = kSymbols, .embedding = 16, .hidden = hidden, .bidirectional = true});
  ParameterSet parameters(model);
  Adam adam(parameters, {.learning_rate = 3e-3, .weight_decay = 0.01, .max_norm = 1.0});
  Tape tape;
  Step step([&](std::span<const Tensor> in) {
    Tensor loss;
    {
      const auto recording = tape.record();
      loss = cross_entropy(model.forward({in[0], in[1]}, {in[0], in[1]}), in[2]);
    }
    tape.backward(loss);
    adam.step();
    return std::vector<Tensor>{loss};
  });
  for (int i = 0; i < steps; ++i) (void)step(batches[static_cast<std::size_t>(i) % batches.size()]);
  return data::sha256(bits(parameters.values()));
}

/// Of blocks of examples, and of single strings, whose steps threads take together.
TEST(Determinism, Weights_do_not_depend_on_threads_or_runs) {
  const int before = threads();
  for (const Size size : {Size{64, 48, 200}, Size{1, 192, 30}}) {
    std::vector<std::vector<Tensor>> batches;
    for (int k = 0; k < 5; ++k) batches.push_back(batch(size.batch, k));
    std::string first;
    for (const int n : {1, 2, 4, 8}) {
      for (int run = 0; run < 3; ++run) {
        const std::string digest = weights_after(size.steps, n, size.hidden, batches);
        if (first.empty()) first = digest;
        EXPECT_EQ(digest, first) << n << " threads, run " << run << ", batch " << size.batch;
      }
    }
    EXPECT_NE(weights_after(1, 1, size.hidden, batches), weights_after(2, 1, size.hidden, batches))
        << "the weights must change at all";
  }
  set_threads(before);
}

}  // namespace
}  // namespace adjoint::testing
