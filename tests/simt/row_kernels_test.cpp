// Layer norm, cross entropy, embedding and optimizers under every schedule: the same bits as in ascending order, and no
// fault. What the bits should be, the tests of the contracts say (tests/kernels), which know one schedule.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <random>

#include "kernels/bias_gelu.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/layer_norm.h"
#include "kernels/optimizer.h"
#include "tests/simt/call.h"
#include "tests/simt/cases.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

using Values = std::vector<std::vector<float>>;  // of every output of a case

/// Runs the case under every schedule.
void expect_same_bits(const char* what, const std::function<Values()>& run) {
  Values expected;
  for (const Schedule& schedule : schedules(affordable_seeds())) {
    Under under(schedule);
    const Values got = run();
    if (expected.empty()) expected = got;
    ASSERT_EQ(got.size(), expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i].size(), expected[i].size());
      const auto bits = [](float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; };
      EXPECT_TRUE(std::equal(got[i].begin(), got[i].end(), expected[i].begin(), bits))
          << what << ", output " << i << ", " << name(schedule);
    }
  }
}

std::vector<std::int32_t> ids_below(std::int32_t end, std::size_t count) {
  std::mt19937 random(5);
  std::vector<std::int32_t> ids(count);
  for (std::size_t t = 0; t < count; ++t) ids[t] = t % 3 == 0 ? 1 : static_cast<std::int32_t>(random() % end);
  return ids;
}

using Floats = Buffer<float>;

/// Rows in warps, 2 and 8 packs a lane; in blocks.
TEST(RowKernels, Layer_norm) {
  for (const std::size_t width : {64, 1000, 33}) {
    const std::size_t rows = 37, n = rows * width;
    expect_same_bits("layer_norm", [&] {
      Floats x(normal_values(n, 1), "x"), residual(normal_values(n, 2), "residual"), gamma(normal_values(width, 3));
      Floats beta(normal_values(width, 4)), sum(n, "sum"), y(n, "y"), mean(rows, "mean"), rstd(rows, "rstd");
      Floats dy(normal_values(n, 5), "dy"), dsum(normal_values(n, 6), "dsum"), dx(n, "dx"), dgamma(width, "dgamma");
      Floats dbeta(normal_values(width, 7), "dbeta");
      const auto r = static_cast<std::int64_t>(rows), w = static_cast<std::int64_t>(width);
      run_call(LayerNormForward{.dtype = DType::f32,
                                .rows = r,
                                .width = w,
                                .x = x,
                                .residual = residual,
                                .gamma = gamma,
                                .beta = beta,
                                .eps = 1e-5,
                                .sum = sum,
                                .y = y,
                                .mean = mean,
                                .rstd = rstd});
      run_call(LayerNormBackward{.dtype = DType::f32,
                                 .rows = r,
                                 .width = w,
                                 .s = sum,
                                 .gamma = gamma,
                                 .mean = mean,
                                 .rstd = rstd,
                                 .dy = dy,
                                 .dsum = dsum,
                                 .dx = {dx, false},
                                 .dresidual = {},
                                 .dgamma = {dgamma, false},
                                 .dbeta = {dbeta, true}});
      return Values{sum.host(), y.host(), mean.host(), rstd.host(), dx.host(), dgamma.host(), dbeta.host()};
    });
  }
}

/// Packs and single elements; rows of one lane, of less than a block, and of more.
TEST(RowKernels, Bias_gelu) {
  for (const std::size_t width : {1, 40, 33, 600}) {
    const std::size_t rows = 21, n = rows * width;
    expect_same_bits("bias_gelu", [&] {
      Floats x(normal_values(n, 1), "x"), bias(normal_values(width, 2), "bias"), dy(normal_values(n, 3), "dy");
      Floats y(n, "y"), dx(n, "dx"), dbias(normal_values(width, 4), "dbias");
      Buffer<std::int32_t> lengths(std::vector<std::int32_t>{7, 0, 3}, "lengths");
      const auto r = static_cast<std::int64_t>(rows), w = static_cast<std::int64_t>(width);
      run_call(BiasGeluForward{.dtype = DType::f32,
                               .rows = r,
                               .width = w,
                               .x = x,
                               .bias = bias,
                               .y = y,
                               .row_lengths = lengths,
                               .rows_per_length = 7});
      run_call(BiasGeluBackward{.dtype = DType::f32,
                                .rows = r,
                                .width = w,
                                .x = x,
                                .bias = bias,
                                .dy = dy,
                                .dx = {dx, false},
                                .dbias = {dbias, true},
                                .row_lengths = lengths,
                                .rows_per_length = 7});
      return Values{y.host(), dx.host(), dbias.host()};
    });
  }
}

/// A few lanes, a warp and a block a row; the gradient over the logits, one row summed again.
TEST(RowKernels, Cross_entropy) {
  for (const std::size_t classes : {7, 70, 1100}) {
    const std::size_t rows = 9, n = rows * classes;
    expect_same_bits("cross_entropy", [&] {
      std::vector<float> logits = normal_values(n, 1);
      for (std::size_t c = 0; c < classes; ++c) logits[4 * classes + c] += 40;
      Floats x(logits, "x"), loss(1, "loss"), saved(rows, "log_sum_exp"), count(1, "count");
      Floats dloss(std::vector<float>{1.5f}, "dloss");
      Buffer<std::int32_t> targets(ids_below(7, rows), "targets");
      const auto r = static_cast<std::int64_t>(rows), c = static_cast<std::int64_t>(classes);
      run_call(CrossEntropyForward{.dtype = DType::f32,
                                   .rows = r,
                                   .classes = c,
                                   .x = x,
                                   .targets = targets,
                                   .ignore = 3,
                                   .loss = loss,
                                   .log_sum_exp = saved,
                                   .count = count});
      run_call(CrossEntropyBackward{.dtype = DType::f32,
                                    .rows = r,
                                    .classes = c,
                                    .x = x,
                                    .targets = targets,
                                    .ignore = 3,
                                    .log_sum_exp = saved,
                                    .count = count,
                                    .dloss = dloss,
                                    .dx = {x, false}});
      return Values{loss.host(), saved.host(), count.host(), x.host()};
    });
  }
}

/// A table by parts, and by sorted tokens, whose rows reach over parts; with and without a list of rows.
TEST(RowKernels, Embedding) {
  for (const std::int32_t rows : {7, 50}) {
    for (const bool lists : {false, true}) {
      const std::size_t tokens = 150, width = 12, size = static_cast<std::size_t>(rows) * width;
      expect_same_bits("embedding", [&] {
        Buffer<std::int32_t> ids(ids_below(rows, tokens), "ids");
        Floats table(normal_values(size, 1), "table"), y(tokens * width, "y"), dtable(normal_values(size, 2), "dtable");
        Floats dy(normal_values(tokens * width, 3), "dy");
        const auto t = static_cast<std::int64_t>(tokens), w = static_cast<std::int64_t>(width);
        run_call(EmbeddingForward{.dtype = DType::f32,
                                  .tokens = t,
                                  .rows = rows,
                                  .width = w,
                                  .ids_per_example = 1,
                                  .ids = ids,
                                  .table = table,
                                  .y = y});
        Buffer<std::int64_t> count(std::vector<std::int64_t>{0}, "count");
        Buffer<std::int32_t> list(static_cast<std::size_t>(rows), "list");
        Buffer<std::uint8_t> listed(std::vector<std::uint8_t>(static_cast<std::size_t>(rows), 0), "listed");
        EmbeddingBackward call{.dtype = DType::f32,
                               .tokens = t,
                               .rows = rows,
                               .width = w,
                               .padding_row = 2,
                               .ids = ids,
                               .dy = dy,
                               .dtable = {dtable, lists}};
        if (lists) call.touched = {count, list, listed};
        run_call(call);
        std::vector<float> reached;
        for (std::int64_t i = 0; i < count.host()[0]; ++i)
          reached.push_back(static_cast<float>(list.host()[static_cast<std::size_t>(i)]));
        return Values{y.host(), dtable.host(), reached};
      });
    }
  }
}

/// A text's worth of tokens, every third of one word: quadratic work would not end. Halves add up exactly in any order.
TEST(RowKernels, Embedding_of_a_million_tokens) {
  const std::size_t tokens = affordable_seeds() > 2 ? 1'000'000 : 40'000, width = 4;
  constexpr std::int32_t kRows = 50'000, kPadding = 3;
  const std::vector<std::int32_t> of = ids_below(kRows, tokens);
  std::vector<float> slopes(tokens * width), expected(kRows * width, 1.0f);
  std::vector<std::int32_t> order;
  std::vector<bool> seen(kRows);
  for (std::size_t t = 0; t < tokens; ++t) {
    const auto row = static_cast<std::size_t>(of[t]);
    if (of[t] != kPadding && !seen[row]) order.push_back(of[t]);
    seen[row] = true;
    for (std::size_t i = 0; i < width; ++i) {
      slopes[t * width + i] = 0.5f * static_cast<float>((t * 7 + i) % 5) - 1;
      if (of[t] != kPadding) expected[row * width + i] += slopes[t * width + i];
    }
  }
  Buffer<std::int32_t> ids(of, "ids"), list(kRows, "list");
  Floats dy(slopes, "dy"), dtable(std::vector<float>(kRows * width, 1.0f), "dtable");
  Buffer<std::int64_t> count(std::vector<std::int64_t>{0}, "count");
  Buffer<std::uint8_t> listed(std::vector<std::uint8_t>(kRows, 0), "listed");
  run_call(EmbeddingBackward{.dtype = DType::f32,
                             .tokens = static_cast<std::int64_t>(tokens),
                             .rows = kRows,
                             .width = static_cast<std::int64_t>(width),
                             .padding_row = kPadding,
                             .ids = ids,
                             .dy = dy,
                             .dtable = {dtable, true},
                             .touched = {count, list, listed}});
  EXPECT_EQ(dtable.host(), expected);
  std::vector<std::int32_t> reached = list.host();
  reached.resize(static_cast<std::size_t>(count.host()[0]));
  EXPECT_EQ(reached, order);
}

/// Adam, momentum and the norm over three chunks with a tail; then Adam over the rows of a list.
TEST(RowKernels, Optimizers) {
  const std::size_t n = 8199;
  expect_same_bits("optimizers", [&] {
    Floats p(normal_values(n, 1), "p"), g(normal_values(n, 2), "g"), m(normal_values(n, 3), "m");
    Floats v(std::vector<float>(n, 0.5f), "v"), norm(1, "norm"), factor(1, "factor");
    Buffer<double> lr(std::vector<double>{1e-2}, "lr"), more(std::vector<double>{2.0}, "more");
    Buffer<std::int64_t> step(std::vector<std::int64_t>{41}, "step");
    run_call(StepAdvance{.step = step});
    EXPECT_EQ(step.host()[0], 42);
    run_call(GlobalNorm{.dtype = DType::f32,
                        .n = static_cast<std::int64_t>(n),
                        .g = g,
                        .max_norm = 1,
                        .norm = norm,
                        .factor = factor,
                        .more = more});
    AdamUpdate adam{.dtype = DType::f32,
                    .n = static_cast<std::int64_t>(n),
                    .p = p,
                    .g = g,
                    .m = m,
                    .v = v,
                    .lr = lr,
                    .step = step,
                    .factor = factor,
                    .beta1 = 0.9,
                    .beta2 = 0.999,
                    .eps = 1e-8,
                    .weight_decay = 0.01,
                    .decoupled = true};
    run_call(adam);
    run_call(SgdUpdate{.dtype = DType::f32,
                       .n = static_cast<std::int64_t>(n),
                       .p = p,
                       .g = g,
                       .v = m,
                       .lr = lr,
                       .factor = factor,
                       .momentum = 0.9,
                       .weight_decay = 0,
                       .nesterov = true});
    Buffer<std::int64_t> count(std::vector<std::int64_t>{3}, "count");
    Buffer<std::int32_t> list(std::vector<std::int32_t>{9, 0, 4}, "list");
    Buffer<std::uint8_t> listed(std::vector<std::uint8_t>(10, 1), "listed");
    adam.rows = {count, list, listed};
    adam.width = 36;
    run_call(adam);
    run_call(RowSquares{.dtype = DType::f32, .width = 36, .g = g, .rows = adam.rows, .sum = more});
    run_call(RowsClear{.dtype = DType::f32, .width = 36, .g = g, .rows = adam.rows});
    run_call(AverageUpdate{
        .dtype = DType::f32, .n = static_cast<std::int64_t>(n), .a = v, .p = p, .step = step, .decay = 0.99});
    const std::vector<double> squares = more.host();
    return Values{p.host(),
                  g.host(),
                  m.host(),
                  v.host(),
                  norm.host(),
                  factor.host(),
                  {static_cast<float>(squares[0]), static_cast<float>(count.host()[0])}};
  });
}

}  // namespace
}  // namespace adjoint::simt::self_test
