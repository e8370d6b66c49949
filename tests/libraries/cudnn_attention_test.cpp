// Attention by cuDNN: what it is asked for, what stays with our own kernels, and how it goes with recorded steps. Its
// results are the contract's own tests', which libraries_contract_tests runs, and the engine's.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/gpu_libraries.h"
#include "engine/launch.h"
#include "engine/ops.h"
#include "engine/step.h"
#include "engine/tape.h"
#include "kernels/attention.h"
#include "tests/libraries/libraries.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

using ::testing::ElementsAre;

constexpr Device kSimt{DeviceType::simt, 0};

class CudnnAttention : public ::testing::Test {
 protected:
  CudnnAttention() : everywhere_(kSimt), fake(cudnn()) {
    fake.fails.clear();
    fake.attentions.clear();
    choose_attention(AttentionBackend::cudnn, kSimt);
  }
  ~CudnnAttention() override {
    fake.training_work = fake.reserve_beside = 0;
    choose_attention(AttentionBackend::own, kSimt);
  }

  std::vector<std::string> functions() const {
    std::vector<std::string> names;
    for (const FakeCudnn::Attention& a : fake.attentions) names.push_back(a.function);
    return names;
  }

  const DefaultDevice everywhere_;
  FakeCudnn& fake;
};

Tensor normal(const Shape& shape, DType dtype = DType::f32, unsigned seed = 1) {
  Generator random(seed);
  return random.normal(shape, 0, 1, dtype);
}
Tensor ints(const std::vector<std::int32_t>& values) {
  return Tensor::from(std::span<const std::int32_t>(values), {static_cast<std::int64_t>(values.size())});
}

struct Example {
  std::int64_t batch = 3, heads = 2, queries = 4, keys = 6, width = 5, value_width = 7;
  DType dtype = DType::f32;
  Tensor q = normal({batch, heads, queries, width}, dtype, 1), k = normal({batch, heads, keys, width}, dtype, 2),
         v = normal({batch, heads, keys, value_width}, dtype, 3);

  /// y, and the gradients of the operands of the sum of y's squares.
  std::vector<std::vector<double>> run(const AttentionOptions& options = {}) const {
    Tape tape;
    Tensor in[3], y, loss;
    {
      const auto recording = tape.record();
      in[0] = tape.watch(q), in[1] = tape.watch(k), in[2] = tape.watch(v);
      y = attention(in[0], in[1], in[2], options);
      loss = sum(y * y);
    }
    tape.backward(loss, true);
    std::vector<std::vector<double>> first{y.to_vector()};
    for (const Tensor& t : in) first.push_back(tape.gradient(t).to_vector());
    tape.backward(loss, true);  // the library has spoiled its notes by now
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(tape.gradient(in[i]).to_vector(), first[i + 1]);
    return first;
  }
};

void expect_near(const std::vector<std::vector<double>>& got, const std::vector<std::vector<double>>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t g = 0; g < want.size(); ++g)
    for (std::size_t i = 0; i < want[g].size(); ++i)
      ASSERT_NEAR(got[g][i], want[g][i], 1e-5 * (1 + std::abs(want[g][i]))) << "result " << g << " element " << i;
}

TEST_F(CudnnAttention, Is_asked_for_true_f32_with_heads_as_rows_of_its_batch) {
  const Example example;
  example.run({.scale = 0.25});
  EXPECT_THAT(functions(), ElementsAre("forward", "backward", "backward"));
  for (const FakeCudnn::Attention& a : fake.attentions) {
    EXPECT_EQ(a.batch, 6);
    EXPECT_EQ(a.queries, 4);
    EXPECT_EQ(a.keys, 6);
    EXPECT_EQ(a.width, 5) << "no mark without lengths";
    EXPECT_EQ(a.value_width, 7);
    EXPECT_EQ(a.type, CUDNN_DATA_FLOAT);
    EXPECT_EQ(a.math, CUDNN_FMA_MATH) << "TF32 is not what f32 promises";
    EXPECT_EQ(a.scale, 0.25);
  }
  fake.attentions.clear();
  attention(example.q, example.k, example.v, {.key_lengths = ints({6, 0, 2})});
  EXPECT_THAT(functions(), ElementsAre("inference")) << "nothing is saved where nothing is recorded";
  EXPECT_EQ(fake.attentions[0].width, 6) << "with the mark";
}

TEST_F(CudnnAttention, Equals_our_own_with_lengths_causality_and_operands_that_are_no_numbers_past_them) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const std::int64_t keys : {3, 5, 7}) {
      Example example{.batch = 4, .queries = 5, .keys = keys, .dtype = dtype};
      // The rest of a row's keys, and queries, spoil what they get into.
      const auto spoiled = [&](const Tensor& t, const std::vector<std::int32_t>& n) {
        std::vector<double> values = t.to_vector();
        const std::int64_t row = t.extent(3), head = t.extent(2) * row, batch = t.extent(1) * head;
        for (std::int64_t i = 0; i < static_cast<std::int64_t>(values.size()); ++i)
          if (i % head / row >= n[static_cast<std::size_t>(i / batch)])
            values[static_cast<std::size_t>(i)] = std::nan("");
        return Tensor::from(std::span<const double>(values), t.shape(), dtype);
      };
      const std::vector<std::int32_t> key_lengths{static_cast<std::int32_t>(keys), 0, 2, 1}, query_lengths{4, 5, 0, 3};
      example.q = spoiled(example.q, query_lengths);
      example.k = spoiled(example.k, key_lengths);
      example.v = spoiled(example.v, key_lengths);
      for (const bool causal : {false, true}) {
        const AttentionOptions options{
            .causal = causal, .key_lengths = ints(key_lengths), .query_lengths = ints(query_lengths)};
        fake.attentions.clear();
        choose_attention(AttentionBackend::cudnn, kSimt);
        const auto got = example.run(options);
        EXPECT_FALSE(fake.attentions.empty());
        choose_attention(AttentionBackend::own, kSimt);
        expect_near(got, example.run(options));
      }
    }
  }
}

TEST_F(CudnnAttention, Leaves_to_our_own_kernels_what_it_cannot) {
  Generator random(3);
  const auto run = [&](const char* label, const Example& example, const AttentionOptions& options = {}) {
    fake.attentions.clear();
    choose_attention(AttentionBackend::cudnn, kSimt);
    const auto got = example.run(options);
    EXPECT_TRUE(fake.attentions.empty()) << label;
    choose_attention(AttentionBackend::own, kSimt);
    expect_near(got, example.run(options));
  };
  run("bf16", {.dtype = DType::bf16});
  run("bias", {}, {.bias = normal({4, 6})});
  run("no keys", {.keys = 0});
  run("no queries", {.queries = 0});
  run("no values", {.value_width = 0});
  run("a scale below zero", {}, {.scale = -0.5});
  run("a scale that the mark would not survive", {}, {.scale = 1e-7});
  choose_attention(AttentionBackend::cudnn, kSimt);
  fake.attentions.clear();
  attention(normal({1, 1, 2, 3}), normal({1, 1, 2, 3}), normal({1, 1, 2, 3}), {.dropout = 0.5, .generator = &random});
  attention_weights(normal({1, 1, 2, 3}), normal({1, 1, 2, 3}));
  EXPECT_TRUE(fake.attentions.empty());
}

TEST_F(CudnnAttention, Keeps_as_much_for_backward_as_it_asks_for_and_has_the_workspace_that_it_wants) {
  fake.reserve_beside = 1000;
  fake.training_work = 777;
  const Example example{.batch = 5, .keys = 9};
  const AttentionForward call{.shape = {.dtype = DType::f32,
                                        .batch = 5,
                                        .heads = 2,
                                        .queries = 4,
                                        .keys = 9,
                                        .width = 5,
                                        .value_width = 7,
                                        .q_stride = {},
                                        .k_stride = {},
                                        .v_stride = {},
                                        .scale = 0.5,
                                        .causal = false,
                                        .by_library = true},
                              .q = nullptr,
                              .k = nullptr,
                              .v = nullptr,
                              .y = nullptr,
                              .log_sum_exp = nullptr};
  EXPECT_EQ(saved_bytes_on(kSimt, call), 5u * 2 * 4 * 9 * 4 + 1000);
  const auto got = example.run();
  choose_attention(AttentionBackend::own, kSimt);
  expect_near(got, example.run());
}

TEST_F(CudnnAttention, Adds_to_gradients_that_are_there) {
  const auto gradients = [&] {
    Tape tape;
    Tensor x, loss;
    {
      const auto recording = tape.record();
      x = tape.watch(normal({2, 2, 4, 5}));
      const Tensor lengths = ints({3, 4});
      loss = sum(attention(x, x, x)) + sum(attention(x, x, x, {.key_lengths = lengths}));
      loss = loss + sum(attention(x, x, x, {.causal = true}));
    }
    tape.backward(loss);
    return std::vector<std::vector<double>>{tape.gradient(x).to_vector()};
  };
  const auto got = gradients();
  EXPECT_EQ(fake.attentions.size(), 6u);
  choose_attention(AttentionBackend::own, kSimt);
  expect_near(got, gradients());
}

TEST_F(CudnnAttention, Reads_the_lengths_of_each_replay_of_a_recorded_step) {
  const Example example{.keys = 5, .dtype = DType::f64};
  Step step(
      [&](std::span<const Tensor> in) {
        return std::vector<Tensor>{attention(in[0], example.k, example.v, {.causal = true, .key_lengths = in[1]})};
      },
      {});
  for (const std::vector<std::int32_t>& n : {std::vector{5, 0, 2}, {1, 5, 3}, {0, 0, 0}, {4, 4, 1}}) {
    const Tensor lengths = ints(n);
    const auto got = step(std::vector<Tensor>{example.q, lengths})[0].to_vector();
    choose_attention(AttentionBackend::own, kSimt);
    const Tensor want = attention(example.q, example.k, example.v, {.causal = true, .key_lengths = lengths});
    choose_attention(AttentionBackend::cudnn, kSimt);
    expect_near({got}, {want.to_vector()});
  }
  EXPECT_FALSE(fake.attentions.empty());
}

}  // namespace
}  // namespace adjoint::testing
