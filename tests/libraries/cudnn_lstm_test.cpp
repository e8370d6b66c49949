// LSTMs by cuDNN: what it is asked for, and what is made of its refusals. Its results are the contract's own tests',
// which libraries_contract_tests runs, and the engine's.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/gpu_libraries.h"
#include "engine/launch.h"
#include "engine/ops.h"
#include "engine/step.h"
#include "engine/tape.h"
#include "kernels/lstm.h"
#include "tests/libraries/libraries.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Device kSimt{DeviceType::simt, 0};

class CudnnLstm : public ::testing::Test {
 protected:
  CudnnLstm() : everywhere_(kSimt), fake(cudnn()) {
    fake.fails.clear();
    fake.lstms.clear();
    choose_lstm(LstmBackend::cudnn, kSimt);
  }
  ~CudnnLstm() override { choose_lstm(LstmBackend::own, kSimt); }

  const DefaultDevice everywhere_;
  FakeCudnn& fake;
};

Tensor normal(const Shape& shape, DType dtype = DType::f32, unsigned seed = 1) {
  Generator random(seed);
  return random.normal(shape, 0, 0.7, dtype);
}

struct Example {
  std::int64_t batch = 3, time = 4, input = 5, hidden = 6;
  DType dtype = DType::f32;
  Tensor x = normal({batch, time, input}, dtype, 1);
  LstmWeights weights{normal({4 * hidden, input}, dtype, 2), normal({4 * hidden, hidden}, dtype, 3),
                      normal({4 * hidden}, dtype, 4), normal({4 * hidden}, dtype, 5)};

  /// y, h_n, and the gradients of x and w_hh of the sum of y's squares.
  std::vector<std::vector<double>> run(const Tensor& lengths = {}, bool reverse = false) const {
    Tape tape;
    Tensor in, w_hh, loss;
    LstmResult r;
    {
      const auto recording = tape.record();
      in = tape.watch(x), w_hh = tape.watch(weights.w_hh);
      r = lstm(in, {weights.w_ih, w_hh, weights.b_ih, weights.b_hh}, {.lengths = lengths, .reverse = reverse});
      loss = sum(r.y * r.y);
    }
    tape.backward(loss, true);
    const std::vector<double> first = tape.gradient(w_hh).to_vector();
    tape.backward(loss, true);  // the library has spoiled its notes by now
    EXPECT_EQ(tape.gradient(w_hh).to_vector(), first);
    return {r.y.to_vector(), r.h_n.to_vector(), tape.gradient(in).to_vector(), first};
  }
};

void expect_near(const std::vector<std::vector<double>>& got, const std::vector<std::vector<double>>& want) {
  for (std::size_t g = 0; g < want.size(); ++g)
    for (std::size_t i = 0; i < want[g].size(); ++i)
      ASSERT_NEAR(got[g][i], want[g][i], 1e-5 * (1 + std::abs(want[g][i]))) << "result " << g << " element " << i;
}

TEST_F(CudnnLstm, Is_asked_for_true_f32_and_the_deterministic_algorithm) {
  const Example example{.input = 7};
  example.run();
  std::vector<std::string> functions;
  for (const FakeCudnn::Lstm& l : fake.lstms) {
    functions.push_back(l.function);
    EXPECT_EQ(l.batch, 3);
    EXPECT_EQ(l.time, 4);
    EXPECT_EQ(l.input, 7);
    EXPECT_EQ(l.hidden, 6);
    EXPECT_EQ(l.type, CUDNN_DATA_FLOAT);
    EXPECT_EQ(l.math_type, CUDNN_DATA_FLOAT);
    EXPECT_EQ(l.math, CUDNN_FMA_MATH) << "TF32 is not what f32 promises";
    EXPECT_EQ(l.algorithm, CUDNN_RNN_ALGO_STANDARD);
  }
  EXPECT_THAT(functions,
              ElementsAre("forward", "backward data", "backward weights", "backward data", "backward weights"));
  fake.lstms.clear();
  lstm(example.x, example.weights);
  ASSERT_EQ(fake.lstms.size(), 1u);
  EXPECT_EQ(fake.lstms[0].function, "inference") << "nothing is saved where nothing is recorded";
  fake.lstms.clear();
  lstm(normal({2, 3, 4}, DType::bf16), {normal({20, 4}, DType::bf16), normal({20, 5}, DType::bf16), {}, {}});
  ASSERT_EQ(fake.lstms.size(), 1u);
  EXPECT_EQ(fake.lstms[0].type, CUDNN_DATA_BFLOAT16);
  EXPECT_EQ(fake.lstms[0].math_type, CUDNN_DATA_FLOAT);
}

TEST_F(CudnnLstm, Holds_the_state_by_an_input_of_its_own_where_there_are_lengths) {
  const Example example{.batch = 2, .input = 3};
  const Tensor lengths = Tensor::from(std::span<const std::int32_t>(std::vector{2, 4}), {2});
  const auto got = example.run(lengths);
  ASSERT_FALSE(fake.lstms.empty());
  EXPECT_EQ(fake.lstms[0].input, 4);
  choose_lstm(LstmBackend::own, kSimt);
  fake.lstms.clear();
  expect_near(got, example.run(lengths));
  EXPECT_TRUE(fake.lstms.empty());
}

TEST_F(CudnnLstm, Keeps_as_much_for_backward_as_it_asks_for) {
  fake.reserve_beside = 1000;
  const Example example{.batch = 5, .time = 6};
  const LstmForward call{
      .shape = {.dtype = DType::f32, .batch = 5, .time = 6, .input = 5, .hidden = 6, .by_library = true}};
  EXPECT_EQ(saved_bytes_on(kSimt, call), 5u * 6 * 6 * 6 * 4 + 1000);
  const auto got = example.run();
  choose_lstm(LstmBackend::own, kSimt);
  expect_near(got, example.run());
  fake.reserve_beside = 0;
}

TEST_F(CudnnLstm, Reads_the_lengths_of_each_replay_of_a_recorded_step) {
  const Example example{.batch = 3, .time = 5};
  Step step(
      [&](std::span<const Tensor> in) {
        const LstmResult r = lstm(in[0], example.weights, {.lengths = in[1], .reverse = true});
        return std::vector<Tensor>{r.y, r.h_n, r.c_n};
      },
      {});
  for (const std::vector<std::int32_t>& n : {std::vector{5, 0, 2}, {1, 5, 3}, {0, 0, 0}, {4, 4, 1}}) {
    const Tensor lengths = Tensor::from(std::span<const std::int32_t>(n), {3});
    std::vector<std::vector<double>> got, want;
    for (const Tensor& t : step(std::vector<Tensor>{example.x, lengths})) got.push_back(t.to_vector());
    choose_lstm(LstmBackend::own, kSimt);
    const LstmResult r = lstm(example.x, example.weights, {.lengths = lengths, .reverse = true});
    choose_lstm(LstmBackend::cudnn, kSimt);
    expect_near(got, {r.y.to_vector(), r.h_n.to_vector(), r.c_n.to_vector()});
  }
  EXPECT_FALSE(fake.lstms.empty());
}

}  // namespace
}  // namespace adjoint::testing
