// What brings an LSTM's operands into cuDNN's order and back, against loops.

#include "kernels/cuda/lstm_arrangement.h"

#include <gtest/gtest.h>

#include "tests/simt/arrays.h"
#include "tests/simt/call.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

constexpr std::int64_t kSequences = 3, kTime = 4, kFeatures = 5;

TEST(LstmArrangement, Puts_real_steps_first_and_marks_the_rest) {
  Under under({Order::skewed, 3, kNan});
  const std::vector<std::int32_t> n{2, 0, 4};
  const Buffer<std::int32_t> lengths(n, "lengths");
  for (const DType dtype : kFloats) {
    for (const bool reverse : {false, true}) {
      const auto values = uniform_values(dtype, kSequences * kTime * kFeatures, 1, -1, 1);
      const auto last = uniform_values(dtype, kSequences * kFeatures, 2, -1, 1);
      const Array from(dtype, {kSequences, kTime, kFeatures}, values), end(dtype, {kSequences, kFeatures}, last);
      const Array to(dtype, {kSequences, kTime, kFeatures + 1});
      run_call(ArrangeSteps{.dtype = dtype,
                            .batch = kSequences,
                            .time = kTime,
                            .width = kFeatures,
                            .lengths = lengths.get(),
                            .reverse = reverse,
                            .from = from.data(),
                            .from_stride = {kTime * kFeatures, kFeatures},
                            .to = to.data(),
                            .to_stride = {kTime * (kFeatures + 1), kFeatures + 1},
                            .last = end.data(),
                            .held = true});
      std::vector<double> want;
      for (std::int64_t b = 0; b < kSequences; ++b) {
        const std::int64_t count = n[static_cast<std::size_t>(b)];
        for (std::int64_t t = 0; t < kTime; ++t) {
          for (std::int64_t i = 0; i < kFeatures; ++i) {
            const std::int64_t s = reverse ? count - 1 - t : t;
            double v = t < count ? values[static_cast<std::size_t>((b * kTime + s) * kFeatures + i)] : 0;
            if (t == count - 1) v += last[static_cast<std::size_t>(b * kFeatures + i)];
            want.push_back(v);
          }
          want.push_back(t < count ? 0 : 1);
        }
      }
      expect_near(to, want, 2 * rounding(dtype), 0, reverse ? "reverse" : "forwards");
    }
  }
}

TEST(LstmArrangement, Takes_the_state_after_the_last_real_step) {
  Under under({Order::skewed, 3, kNan});
  const std::vector<std::int32_t> n{2, 0, 4};
  const Buffer<std::int32_t> lengths(n, "lengths");
  for (const DType dtype : kFloats) {
    const auto steps = uniform_values(dtype, kSequences * kTime * kFeatures, 1, -1, 1);
    const auto always = uniform_values(dtype, kSequences * kFeatures, 2, -1, 1),
               none = uniform_values(dtype, kSequences * kFeatures, 3, -1, 1);
    const Array s(dtype, {kSequences, kTime, kFeatures}, steps), a(dtype, {kSequences, kFeatures}, always),
        e(dtype, {kSequences, kFeatures}, none);
    const Array to(dtype, {kSequences, kFeatures}, always);
    run_call(ArrangeState{.dtype = dtype,
                          .batch = kSequences,
                          .time = kTime,
                          .width = kFeatures,
                          .lengths = lengths.get(),
                          .always = a.data(),
                          .steps = s.data(),
                          .if_none = e.data(),
                          .to = {to.data(), true}});
    std::vector<double> want;
    for (std::int64_t b = 0; b < kSequences; ++b)
      for (std::int64_t i = 0; i < kFeatures; ++i) {
        const std::int64_t count = n[static_cast<std::size_t>(b)], at = b * kFeatures + i;
        want.push_back(2 * always[static_cast<std::size_t>(at)] +
                       (count > 0 ? steps[static_cast<std::size_t>((b * kTime + count - 1) * kFeatures + i)]
                                  : none[static_cast<std::size_t>(at)]));
      }
    expect_near(to, want, 2 * rounding(dtype), 4 * rounding(dtype), "state");
  }
}

TEST(LstmArrangement, Brings_weights_to_their_places_and_gradients_back) {
  Under under({Order::skewed, 3, kNan});
  constexpr std::int64_t kInput = 3, kHidden = 2, kRows = 4 * kHidden;
  for (const DType dtype : kFloats) {
    const auto w_ih = uniform_values(dtype, kRows * kInput, 1, -1, 1),
               w_hh = uniform_values(dtype, kRows * kHidden, 2, -1, 1);
    const auto b_ih = uniform_values(dtype, kRows, 3, -1, 1), b_hh = uniform_values(dtype, kRows, 4, -1, 1);
    const Array ih(dtype, {kRows, kInput}, w_ih), hh(dtype, {kRows, kHidden}, w_hh), bi(dtype, {kRows}, b_ih),
        bh(dtype, {kRows}, b_hh);
    const Array wide(dtype, {kRows, kInput + 1}), state(dtype, {kRows, kHidden}), biases(dtype, {2 * kRows});
    const auto at = [&](const Array& array, std::int64_t element) -> void* {
      return static_cast<char*>(array.data()) + element * static_cast<std::int64_t>(size_of(dtype));
    };
    LstmWeightPlaces places{};
    for (int g = 0; g < 4; ++g) {  // from the last gate down
      places.matrix[g] = at(wide, (3 - g) * kHidden * (kInput + 1));
      places.matrix[4 + g] = at(state, (3 - g) * kHidden * kHidden);
      places.bias[g] = at(biases, (3 - g) * kHidden);
      places.bias[4 + g] = at(biases, kRows + (3 - g) * kHidden);
    }
    run_call(ArrangeWeights{.dtype = dtype,
                            .input = kInput,
                            .hidden = kHidden,
                            .held = true,
                            .w_ih = ih.data(),
                            .w_hh = hh.data(),
                            .b_ih = bi.data(),
                            .b_hh = bh.data(),
                            .places = places});
    const double hold[] = {-1e4, 1e4, 0, 0};
    std::vector<double> want;
    for (int g = 3; g >= 0; --g)
      for (std::int64_t u = 0; u < kHidden; ++u) {
        for (std::int64_t i = 0; i < kInput; ++i)
          want.push_back(w_ih[static_cast<std::size_t>((g * kHidden + u) * kInput + i)]);
        want.push_back(rounded(dtype, hold[g]));
      }
    expect_near(wide, want, 0, 0, "the input's matrices");
    const Array gi(dtype, {kRows, kInput}, w_ih), gh(dtype, {kRows, kHidden}), gb(dtype, {kRows}), gc(dtype, {kRows});
    run_call(CollectWeights{.dtype = dtype,
                            .input = kInput,
                            .hidden = kHidden,
                            .held = true,
                            .places = places,
                            .w_ih = {gi.data(), true},
                            .w_hh = {gh.data(), false},
                            .b_ih = {gb.data(), false},
                            .b_hh = {gc.data(), false}});
    std::vector<double> twice = w_ih;
    for (double& v : twice) v *= 2;
    expect_near(gi, twice, 0, 0, "added to what is there");
    expect_near(gh, w_hh, 0, 0, "the state's matrices");
    expect_near(gb, b_ih, 0, 0, "b_ih");
    expect_near(gc, b_hh, 0, 0, "b_hh");
  }
}

}  // namespace
}  // namespace adjoint::simt::self_test
