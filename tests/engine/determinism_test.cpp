// Training gives the same weights, bit for bit, on every level of processor that multiplies and adds in one rounding,
// with any number of threads, from any compiler, and however often it runs: the digests are recorded here.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "data/sha256.h"
#include "engine/launch.h"
#include "engine/optim/optimizer.h"
#include "engine/step.h"
#include "kernels/base/cpu_level.h"
#include "models/classifiers.h"
#include "models/seq2seq.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

constexpr std::int64_t kTime = 10, kSymbols = 12, kBatches = 5;

using Batch = std::vector<Tensor>;
using Loss = std::function<Tensor(std::span<const Tensor>)>;

/// Batch `k` of `n` strings of ids with lengths from kTime / 2 to kTime, what a model shall make of each letter, and a
/// class for each string.
Batch batch(std::int64_t n, int k) {
  Generator random(100 + static_cast<std::uint64_t>(k));
  const Tensor ids = cast(random.uniform({n, kTime}, 1, kSymbols), DType::i32);
  std::vector<std::int32_t> lengths, targets = ids.to_ints(), classes;
  for (std::int64_t b = 0; b < n; ++b) {
    lengths.push_back(static_cast<std::int32_t>(kTime / 2 + (b * 7 + k) % (kTime / 2 + 1)));
    for (std::int64_t t = lengths.back(); t < kTime; ++t) targets[static_cast<std::size_t>(b * kTime + t)] = -100;
    classes.push_back(targets[static_cast<std::size_t>(b * kTime)] % 2);
  }
  return {ids, ints(lengths, {n}), ints(targets, {n, kTime}), ints(classes, {n})};
}

/// SHA-256 of the weights after so many steps of Adam, recorded and replayed.
std::string trained(const Module& model, int steps, const std::vector<Batch>& batches, const Loss& loss_of) {
  ParameterSet parameters(const_cast<Module&>(model));
  Adam adam(parameters, {.learning_rate = 3e-3, .weight_decay = 0.01, .max_norm = 1.0});
  Tape tape;
  Step step([&](std::span<const Tensor> in) {
    Tensor loss;
    {
      const auto recording = tape.record();
      loss = loss_of(in);
    }
    tape.backward(loss);
    adam.step();
    return std::vector<Tensor>{loss};
  });
  for (int i = 0; i < steps; ++i) (void)step(batches[static_cast<std::size_t>(i) % batches.size()]);
  return data::sha256(bits(parameters.values()));
}

/// A short training; `recorded` is what it gives with fused multiply-adds, `plain` what level x86-64-v2 makes of it.
struct Training {
  const char* name;
  std::int64_t batch;
  int steps;
  std::function<std::string(int steps, const std::vector<Batch>&)> run;
  const char* recorded;
  const char* plain;

  friend void PrintTo(const Training& training, std::ostream* out) { *out << training.name; }
};

std::string seq2seq(std::int64_t hidden, int steps, const std::vector<Batch>& batches) {
  Generator random(1);
  const Seq2Seq model({random}, {.symbols = kSymbols, .embedding = 16, .hidden = hidden, .bidirectional = true});
  return trained(model, steps, batches, [&](std::span<const Tensor> in) {
    return cross_entropy(model.forward({in[0], in[1]}, {in[0], in[1]}), in[2]);
  });
}

std::string classifier(ClassifierKind kind, int steps, const std::vector<Batch>& batches) {
  Generator random(2), dropout(3);
  const auto model = make_classifier({random}, {.kind = kind,
                                                .vocabulary = kSymbols,
                                                .embedding = 40,
                                                .hidden = 24,
                                                .layers = 2,
                                                .heads = 4,
                                                .intermediate = 72,
                                                .max_length = kTime,
                                                .dropout = 0.1});
  return trained(*model, steps, batches, [&](std::span<const Tensor> in) {
    return cross_entropy(model->forward(in[0], {.lengths = in[1], .random = &dropout}), in[3]);
  });
}

const Training kTrainings[] = {
    {"seq2seq", 64, 60, [](int steps, const auto& batches) { return seq2seq(48, steps, batches); },
     "2d6ccee055faab2fe8771f95b5a65710a6db31ca09c013280b510e077622e5b4",
     "4bc6d43b59591dd64178e00d88c5800f4fbb9448686f38c0c3e5567659482360"},
    {"seq2seq of single strings", 1, 30, [](int steps, const auto& batches) { return seq2seq(192, steps, batches); },
     "9f3aec3892a8376f6b3390dd0ddc53830c2db0cc977c6317ba8d0a6acf3a9239",
     "b301848fa6e89456789d9b9602a19bfca61940f61672398dab1cc998be67edef"},
    {"LSTM classifier", 48, 40,
     [](int steps, const auto& batches) { return classifier(ClassifierKind::lstm, steps, batches); },
     "e028b65729561f62984fae94f14461d2f4f3585416a43c36b8484827773a62d9",
     "884bef0c15c8c7987ee1ac4572ab8722742f228c39fd012de2cb66c0d663097e"},
    {"encoder classifier", 48, 40,
     [](int steps, const auto& batches) { return classifier(ClassifierKind::encoder, steps, batches); },
     "076365ab520493205b3d588ac8c30938ea7aacb3be2866daf6094faa3957dd08",
     "5b999cba527328814cf7f0ecfd70260193c6d330a6ef2501a41d9caae02e24c2"},
};

std::vector<Batch> batches_of(const Training& training) {
  std::vector<Batch> batches;
  for (int k = 0; k < kBatches; ++k) batches.push_back(batch(training.batch, k));
  return batches;
}

class Determinism : public ::testing::TestWithParam<Training> {
 protected:
  ~Determinism() override {
    set_threads(threads_before_);
    set_cpu_level(level_before_, "test");
  }

 private:
  int threads_before_ = threads();
  std::string level_before_{cpu_level().name};
};

TEST_P(Determinism, Weights_are_the_recorded_ones_on_every_level_with_any_number_of_threads) {
  const std::vector<Batch> batches = batches_of(GetParam());
  for (const cpu::Level level : cpu::levels()) {
    if (!cpu::has(level)) {
      fmt::print("this processor lacks {}: not tried on it\n", cpu::name(level));
      continue;
    }
    set_cpu_level(cpu::name(level), "test");
    const std::string expected = cpu::name(level) == "x86-64-v2" ? GetParam().plain : GetParam().recorded;
    for (const int n : {1, 2, 3, 8}) {
      set_threads(n);
      EXPECT_EQ(GetParam().run(GetParam().steps, batches), expected) << cpu::name(level) << ", " << n << " threads";
    }
    EXPECT_EQ(GetParam().run(GetParam().steps, batches), expected) << cpu::name(level) << ", once more";
  }
}

TEST_P(Determinism, Weights_change_with_each_step) {
  const std::vector<Batch> batches = batches_of(GetParam());
  EXPECT_NE(GetParam().run(2, batches), GetParam().run(3, batches));
}

INSTANTIATE_TEST_SUITE_P(Training, Determinism, ::testing::ValuesIn(kTrainings), [](const auto& info) {
  std::string name = info.param.name;
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
});

}  // namespace
}  // namespace adjoint::testing
