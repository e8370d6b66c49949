// Attention kernels: every option, at sizes around the tiles of each kernel.

#include <gtest/gtest.h>

#include "tests/simt/attention_cases.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

const DType kDTypes[] = {DType::f64, DType::f32, DType::bf16};

/// Each case in each dtype, the schedules taking turns.
void check(const std::vector<AttentionCase>& cases) {
  const std::vector<Schedule> all = schedules(affordable_seeds());
  std::size_t turn = 0;
  for (const AttentionCase& c : cases) {
    for (DType dtype : kDTypes) {
      const Schedule& schedule = all[turn++ % all.size()];
      Under under(schedule);
      EXPECT_EQ(attention_difference(c, dtype), "") << c.label << ", " << name(dtype) << ", " << name(schedule);
    }
  }
}

TEST(AttentionKernel, Agrees_with_sums_written_out_below_at_and_past_a_tile) {
  check({
      {.label = "one query, one key", .queries = 1, .keys = 1, .width = 1, .value_width = 1},
      {.label = "one query", .queries = 1, .keys = 33, .width = 8, .value_width = 8},
      {.label = "one key", .queries = 20, .keys = 1, .width = 8, .value_width = 8},
      {.label = "below a tile", .batch = 2, .heads = 2, .queries = 15, .keys = 13, .width = 16, .value_width = 16},
      {.label = "a tile", .queries = 64, .keys = 32, .width = 32, .value_width = 32},
      {.label = "past a tile", .heads = 2, .queries = 65, .keys = 65, .width = 32, .value_width = 32},
      {.label = "several tiles", .queries = 130, .keys = 97, .width = 24, .value_width = 24},
      {.label = "widths of 64", .queries = 33, .keys = 40, .width = 64, .value_width = 64},
      {.label = "widths of 96", .queries = 17, .keys = 70, .width = 96, .value_width = 96},
      {.label = "widths of 128", .queries = 70, .keys = 45, .width = 128, .value_width = 128},
      {.label = "short, widths of 128", .heads = 3, .queries = 22, .keys = 20, .width = 128, .value_width = 128},
      {.label = "odd widths", .queries = 21, .keys = 34, .width = 7, .value_width = 35},
      {.label = "wide values", .queries = 18, .keys = 20, .width = 3, .value_width = 131},
      {.label = "wide queries", .queries = 18, .keys = 70, .width = 150, .value_width = 5},
  });
}

TEST(AttentionKernel, Keeps_to_causality_and_lengths) {
  check({
      {.label = "causal", .heads = 2, .queries = 70, .keys = 70, .width = 16, .value_width = 16, .causal = true},
      {.label = "causal, more keys", .queries = 34, .keys = 77, .width = 8, .value_width = 8, .causal = true},
      {.label = "causal, fewer keys", .queries = 77, .keys = 34, .width = 8, .value_width = 8, .causal = true},
      {.label = "key lengths, one empty",
       .batch = 3,
       .queries = 20,
       .keys = 20,
       .width = 8,
       .value_width = 8,
       .key_lengths = {20, 0, 7}},
      {.label = "both lengths",
       .batch = 4,
       .heads = 2,
       .queries = 22,
       .keys = 40,
       .width = 16,
       .value_width = 8,
       .key_lengths = {40, 3, 33, 17},
       .query_lengths = {0, 22, 1, 16}},
      {.label = "both lengths, several tiles, causal",
       .batch = 2,
       .queries = 80,
       .keys = 90,
       .width = 8,
       .value_width = 8,
       .causal = true,
       .key_lengths = {70, 90},
       .query_lengths = {80, 65}},
  });
}

TEST(AttentionKernel, Adds_a_bias_and_drops_weights) {
  check({
      {.label = "bias",
       .batch = 2,
       .heads = 2,
       .queries = 19,
       .keys = 37,
       .width = 8,
       .value_width = 8,
       .bias = Bias::full},
      {.label = "bias of one row",
       .batch = 2,
       .heads = 2,
       .queries = 17,
       .keys = 20,
       .width = 8,
       .value_width = 8,
       .bias = Bias::one_row},
      {.label = "transposed bias, lengths, causal",
       .batch = 2,
       .queries = 70,
       .keys = 66,
       .width = 8,
       .value_width = 8,
       .causal = true,
       .key_lengths = {66, 50},
       .query_lengths = {70, 60},
       .bias = Bias::transposed},
      {.label = "a row of -inf",
       .queries = 5,
       .keys = 40,
       .width = 8,
       .value_width = 8,
       .bias = Bias::full,
       .dead_row = true},
      {.label = "dropout",
       .batch = 2,
       .heads = 2,
       .queries = 21,
       .keys = 35,
       .width = 8,
       .value_width = 8,
       .dropout = 0.3},
      {.label = "dropout, several tiles, bias, causal",
       .heads = 2,
       .queries = 67,
       .keys = 70,
       .width = 16,
       .value_width = 8,
       .causal = true,
       .bias = Bias::full,
       .dropout = 0.5},
  });
}

TEST(AttentionKernel, Takes_strided_operands_and_adds_or_leaves_out_gradients) {
  const auto with = [](const char* label, int gap, int width, const char* gradients, bool accumulate) {
    return AttentionCase{.label = label,
                         .batch = 2,
                         .heads = 3,
                         .queries = 18,
                         .keys = 35,
                         .width = width,
                         .value_width = width,
                         .key_lengths = {35, 20},
                         .query_lengths = {11, 18},
                         .layout = Layout::interleaved,
                         .gap = gap,
                         .accumulate = accumulate,
                         .gradients = gradients};
  };
  check({
      with("aligned gaps", 8, 16, "qkvb", false),
      with("odd gaps", 3, 16, "qkvb", true),
      with("no gaps, added", 0, 24, "qkv", true),
      with("dq alone", 0, 8, "q", false),
      with("dk alone", 0, 8, "k", true),
      with("dv alone", 0, 8, "v", false),
      with("dbias alone", 0, 8, "b", true),
      with("no gradient", 0, 8, "", false),
  });
}

TEST(AttentionKernel, Takes_empty_extents) {
  check({
      {.label = "no batch", .batch = 0, .queries = 3, .keys = 3, .width = 4, .value_width = 4},
      {.label = "no queries", .queries = 0, .keys = 3, .width = 4, .value_width = 4},
      {.label = "no keys", .queries = 3, .keys = 0, .width = 4, .value_width = 4},
      {.label = "no width", .queries = 3, .keys = 5, .width = 0, .value_width = 4},
      {.label = "no value width", .queries = 3, .keys = 5, .width = 4, .value_width = 0},
      {.label = "no keys, added", .queries = 3, .keys = 0, .width = 4, .value_width = 4, .accumulate = true},
  });
}

TEST(AttentionKernel, Gives_the_same_under_every_schedule) {
  const AttentionCase c{.label = "all at once",
                        .batch = 2,
                        .queries = 34,
                        .keys = 70,
                        .width = 16,
                        .value_width = 16,
                        .causal = true,
                        .key_lengths = {70, 61},
                        .query_lengths = {34, 30},
                        .bias = Bias::full,
                        .dropout = 0.2};
  for (const Schedule& schedule : schedules(affordable_seeds())) {
    Under under(schedule);
    for (DType dtype : kDTypes) EXPECT_EQ(attention_difference(c, dtype), "") << name(dtype) << ", " << name(schedule);
  }
}

/// The same sums once on tensor cores, once with columns of zeros, past whose width the general kernels begin.
TEST(AttentionKernel, Is_as_exact_on_tensor_cores_as_on_ordinary_units) {
  for (const AttentionCase& c : std::vector<AttentionCase>{
           {.label = "several tiles", .queries = 130, .keys = 100, .width = 64, .value_width = 64, .scale = 0.125},
           {.label = "short", .batch = 2, .queries = 48, .keys = 48, .width = 64, .value_width = 64, .scale = 0.125},
           {.label = "large scores", .queries = 66, .keys = 70, .width = 64, .value_width = 64, .scale = 1}}) {
    for (DType dtype : {DType::f32, DType::bf16}) {
      const double error = attention_error(c, dtype);
      AttentionCase wide = c;
      wide.width = wide.value_width = 130, wide.zero_columns = 66;
      const double ordinary = attention_error(wide, dtype);
      if (dtype == DType::f32) {
        EXPECT_NE(error, ordinary) << "both took the same kernel";
      }
      // Three products of tf32 lose what f32 loses. bf16 also rounds P and ds, each as coarsely as the results.
      EXPECT_LE(error, (dtype == DType::f32 ? 1.5 : 3) * ordinary) << c.label << ", " << name(dtype);
    }
  }
}

}  // namespace
}  // namespace adjoint::simt::self_test
