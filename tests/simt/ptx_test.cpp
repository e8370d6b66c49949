// The wrappers of kernels/cuda/ptx.h against plain loops. mma_by_shuffles states the fragment layouts a second time.

#include "kernels/cuda/ptx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "kernels/simt/buffer.h"
#include "tests/simt/cases.h"
#include "tests/simt/kernels/ptx_probe.cuh"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

std::vector<bf16> rounded(const std::vector<float>& values) {
  std::vector<bf16> out;
  for (float v : values) out.push_back(bf16(v));
  return out;
}

float rounded_to_tf32(float x) { return std::bit_cast<float>(to_tf32(x)); }

/// c + a b with a [16, K] and b [K, 8].
template <class Value>
std::vector<double> product(const std::vector<float>& c, int K, Value a, Value b) {
  std::vector<double> d(c.begin(), c.end());
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      for (int k = 0; k < K; ++k) d[i * 8 + j] += a(i * K + k) * b(k * 8 + j);
    }
  }
  return d;
}

TEST(Mma, Bf16_multiplies_two_matrices) {
  auto a = rounded(normal_values(16 * 16, 1)), b = rounded(normal_values(16 * 8, 2));
  auto c = normal_values(16 * 8, 3);
  std::function<double(int)> at_a = [&](int i) { return a[i]; }, at_b = [&](int i) { return b[i]; };
  Buffer<bf16> dev_a(a, "a"), dev_b(b, "b");
  Buffer<float> dev_c(c, "c");
  for (auto kernel : {probe_mma_bf16<false>, probe_mma_bf16<true>}) {
    Buffer<float> d(16 * 8, "d");
    launch(kernel, dim3(1), dim3(32), 0, nullptr, dev_a, dev_b, dev_c, d);
    expect_close("d", d.host(), product(c, 16, at_a, at_b), 1e-6);  // 17 terms: a few roundings of f32
  }
}

TEST(Mma, Tf32_multiplies_two_matrices) {
  auto a = normal_values(16 * 8, 1), b = normal_values(8 * 8, 2), c = normal_values(16 * 8, 3);
  std::function<double(int)> at_a = [&](int i) { return rounded_to_tf32(a[i]); };
  std::function<double(int)> at_b = [&](int i) { return rounded_to_tf32(b[i]); };
  Buffer<float> dev_a(a, "a"), dev_b(b, "b"), dev_c(c, "c");
  for (auto kernel : {probe_mma_tf32<false>, probe_mma_tf32<true>}) {
    Buffer<float> d(16 * 8, "d");
    launch(kernel, dim3(1), dim3(32), 0, nullptr, dev_a, dev_b, dev_c, d);
    expect_close("d", d.host(), product(c, 8, at_a, at_b), 1e-6);
  }
}

template <int kCount, bool kTransposed>
void check_ldmatrix() {
  std::vector<float> x(32 * 8);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);  // up to 255: exact in bf16
  Buffer<bf16> dev_x(rounded(x), "x");
  Buffer<float> out(32 * kCount * 2, "out");
  launch(probe_ldmatrix<kCount, kTransposed>, dim3(1), dim3(32), 32 * 8 * sizeof(bf16), nullptr, dev_x, out);
  std::vector<float> got = out.host();
  for (int lane = 0; lane < 32; ++lane) {
    for (int m = 0; m < kCount; ++m) {
      for (int e = 0; e < 2; ++e) {
        int i = lane / 4, j = lane % 4 * 2 + e;
        int row = 8 * m + (kTransposed ? j : i), column = kTransposed ? i : j;
        EXPECT_EQ(got[(lane * kCount + m) * 2 + e], x[row * 8 + column]) << "lane " << lane << " matrix " << m;
      }
    }
  }
}

TEST(Ldmatrix, Gives_each_lane_two_neighbours_of_a_row_or_a_column) {
  for (const Schedule& schedule : schedules(2)) {
    Under under(schedule);
    check_ldmatrix<4, false>();
    check_ldmatrix<4, true>();
    check_ldmatrix<2, false>();
    check_ldmatrix<2, true>();
  }
}

TEST(CpAsync, Copies_words_and_zeros) {
  for (const Schedule& schedule : schedules(4)) {
    Under under(schedule);
    auto x = normal_values(33, 5);
    Buffer<float> dev_x(x, "x"), out(32, "out");
    launch(probe_cp_async_4<20>, dim3(1), dim3(32), 32 * sizeof(float), nullptr, dev_x, out);
    for (int i = 0; i < 32; ++i) EXPECT_EQ(out.host()[i], i < 20 ? x[i + 1] : 0.0f);
  }
}

TEST(Tf32, Rounds_to_ten_bits_and_ties_away_from_zero) {
  EXPECT_EQ(rounded_to_tf32(1.0f), 1.0f);
  EXPECT_EQ(rounded_to_tf32(1.0f + 0x1p-11f), 1.0f + 0x1p-10f);
  EXPECT_EQ(rounded_to_tf32(-1.0f - 0x1p-11f), -1.0f - 0x1p-10f);
  EXPECT_EQ(rounded_to_tf32(1.0f + 0x1p-12f), 1.0f);
  EXPECT_EQ(rounded_to_tf32(std::numeric_limits<float>::infinity()), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(rounded_to_tf32(std::numeric_limits<float>::quiet_NaN())));
}

TEST(PackBf16, Puts_the_first_number_into_the_low_half) {
  std::uint32_t pair = pack_bf16(1.5f, -2.0f);
  EXPECT_EQ(low_bf16(pair), 1.5f);
  EXPECT_EQ(high_bf16(pair), -2.0f);
  EXPECT_EQ(pair & 0xffffu, 0x3fc0u);
}

}  // namespace
}  // namespace adjoint::simt::self_test
