// What brings attention's operands into cuDNN's order, against loops.

#include "kernels/cuda/attention_arrangement.h"

#include <gtest/gtest.h>

#include "tests/simt/arrays.h"
#include "tests/simt/call.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

constexpr std::int64_t kBatch = 4, kHeads = 2, kPositions = 5, kWidth = 3, kGap = 2;

TEST(AttentionArrangement, Keeps_what_takes_part_and_marks_it) {
  Under under({Order::skewed, 3, kNan});
  const std::vector<std::int32_t> n{2, 0, 5, 4}, m{1, 3, 0, 7};
  const Buffer<std::int32_t> lengths(n, "lengths"), needed(m, "needed");
  const std::int64_t row = kWidth + kGap, stride[] = {kPositions * kHeads * row, row, kHeads * row};
  for (const DType dtype : {DType::f64, DType::f32}) {
    const auto values = uniform_values(dtype, kBatch * stride[0], 1, -1, 1);
    const Array from(dtype, {kBatch, kPositions, kHeads, row}, values);
    for (int options = 0; options < 16; ++options) {
      const bool by_length = (options & 1) != 0, by_need = (options & 2) != 0, marked = (options & 4) != 0;
      const std::int64_t first = (options & 8) != 0 ? 1 : 0;
      const Array to(dtype, {kBatch, kHeads, kPositions, kWidth + (marked ? 1 : 0)});
      run_call(ArrangeHeads{.dtype = dtype,
                            .batch = kBatch,
                            .heads = kHeads,
                            .positions = kPositions,
                            .width = kWidth,
                            .lengths = by_length ? lengths.get() : nullptr,
                            .needed = by_need ? needed.get() : nullptr,
                            .first = first,
                            .from = from.data(),
                            .from_stride = {stride[0], stride[1], stride[2]},
                            .to = to.data(),
                            .marked = marked,
                            .within = 0.5,
                            .beyond = -1e30});
      std::vector<double> want;
      for (std::size_t b = 0; b < kBatch; ++b)
        for (std::int64_t h = 0; h < kHeads; ++h)
          for (std::int64_t t = 0; t < kPositions; ++t) {
            const bool part = t >= first && (!by_length || t < n[b]) && (!by_need || m[b] > 0);
            for (std::int64_t i = 0; i < kWidth; ++i)
              want.push_back(part ? values[static_cast<std::size_t>(static_cast<std::int64_t>(b) * stride[0] +
                                                                    h * stride[1] + t * stride[2] + i)]
                                  : 0);
            if (marked) want.push_back(rounded(dtype, part ? 0.5 : -1e30));
          }
      expect_near(to, want, 0, 0, "options " + std::to_string(options));
    }
  }
}

TEST(AttentionArrangement, Works_in_place) {
  Under under({Order::skewed, 3, kNan});
  const std::vector<std::int32_t> n{2, 0, 5, 4};
  const Buffer<std::int32_t> lengths(n, "lengths");
  auto values = uniform_values(DType::f32, kBatch * kHeads * kPositions * kWidth, 1, -1, 1);
  const Array array(DType::f32, {kBatch, kHeads, kPositions, kWidth}, values);
  run_call(ArrangeHeads{.dtype = DType::f32,
                        .batch = kBatch,
                        .heads = kHeads,
                        .positions = kPositions,
                        .width = kWidth,
                        .lengths = lengths.get(),
                        .needed = nullptr,
                        .first = 0,
                        .from = array.data(),
                        .from_stride = {kHeads * kPositions * kWidth, kPositions * kWidth, kWidth},
                        .to = array.data()});
  for (std::size_t i = 0; i < values.size(); ++i)
    if (static_cast<std::int64_t>(i) / kWidth % kPositions >= n[i / (kHeads * kPositions * kWidth)]) values[i] = 0;
  expect_near(array, values, 0, 0, "in place");
}

}  // namespace
}  // namespace adjoint::simt::self_test
