// Attention and GEMM.

#include <algorithm>
#include <cmath>

#include "kernels/simt/buffer.h"
#include "tests/simt/cases.h"
#include "tests/simt/kernels/attention.cuh"
#include "tests/simt/kernels/gemm.cuh"

namespace adjoint::simt::self_test {
namespace {

using Floats = Buffer<float>;

void check_attention(void (*run)(const Attention&, Stream), int B, int H, int N, bool causal,
                     const std::vector<int>& length) {
  std::size_t rows = static_cast<std::size_t>(B) * H * N, n = rows * kD;
  auto q = normal_values(n, 5), k = normal_values(n, 6), v = normal_values(n, 7);
  Floats dev_q(q, "q"), dev_k(k, "k"), dev_v(v, "v"), o(n, "o"), lse(rows, "lse");
  Buffer<int> dev_length(length, "key_length");
  run({dev_q, dev_k, dev_v, dev_length, o, lse, B, H, N, causal, 0.125f}, nullptr);
  std::vector<double> want_o(n), want_lse(rows), p(N);
  for (std::size_t row = 0; row < rows; ++row) {
    std::size_t head = row / N * N * kD;
    int i = static_cast<int>(row % N), end = std::min(length[row / N / H], causal ? i + 1 : N);
    double m = -INFINITY, l = 0;
    for (int j = 0; j < end; ++j) {
      double s = 0;
      for (int c = 0; c < kD; ++c) s += static_cast<double>(q[row * kD + c]) * k[head + j * kD + c];
      p[j] = s * 0.125;
      m = std::max(m, p[j]);
    }
    for (int j = 0; j < end; ++j) l += p[j] = std::exp(p[j] - m);
    for (int c = 0; c < kD; ++c) {
      double s = 0;
      for (int j = 0; j < end; ++j) s += p[j] * v[head + j * kD + c];
      want_o[row * kD + c] = end > 0 ? s / l : 0;
    }
    want_lse[row] = end > 0 ? m + std::log(l) : -INFINITY;
  }
  expect_close("o", o.host(), want_o);
  expect_close("lse", lse.host(), want_lse);
}

/// Several tiles, ragged ends, a tile that N does not fill, and a row of the batch without keys.
template <Bug kBug>
void attention_case() {
  auto run = launch_attention<kBug>;
  check_attention(run, 1, 1, 20, true, {20});
  check_attention(run, 2, 1, 41, true, {41, 0});
  check_attention(run, 2, 1, 50, false, {50, 33});
  check_attention(run, 1, 2, 96, true, {77});
}

template <bool kTransposedB>
void check_gemm(decltype(&gemm<kTransposedB, Bug::none>) kernel, int M, int N, int K) {
  auto rounded = [](std::size_t n, unsigned seed) {
    std::vector<bf16> values;
    for (float v : normal_values(n, seed)) values.push_back(bf16(v));
    return values;
  };
  auto a = rounded(static_cast<std::size_t>(M) * K, 21), b = rounded(static_cast<std::size_t>(N) * K, 22);
  Buffer<bf16> dev_a(a, "A"), dev_b(b, "B");
  Floats c(static_cast<std::size_t>(M) * N, "C");
  launch(kernel, dim3((N + 63) / 64, (M + 63) / 64), dim3(kGemmThreads), gemm_shared<kTransposedB>(), nullptr, dev_a,
         dev_b, c, M, N, K);
  std::vector<double> want(static_cast<std::size_t>(M) * N, 0.0);
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < N; ++j) {
      for (int k = 0; k < K; ++k) {
        std::size_t at = kTransposedB ? static_cast<std::size_t>(j) * K + k : static_cast<std::size_t>(k) * N + j;
        want[static_cast<std::size_t>(i) * N + j] +=
            static_cast<double>(a[static_cast<std::size_t>(i) * K + k]) * b[at];
      }
    }
  }
  expect_close(kTransposedB ? "A B'" : "A B", c.host(), want);
}

template <Bug kBug>
void gemm_case() {
  check_gemm<true>(gemm<true, kBug>, 100, 72, 96);
  check_gemm<false>(gemm<false, kBug>, 100, 72, 96);
}

}  // namespace

std::vector<Case> matrix_cases() {
// clang-format off
#define ADJOINT_CASE(kernel, bug) {#kernel, #bug, Bug::bug, kernel##_case<Bug::bug>}
  // clang-format on
  return {
      ADJOINT_CASE(attention, none),
      ADJOINT_CASE(attention, no_barrier_before_refill),
      ADJOINT_CASE(attention, no_barrier_after_fill),
      ADJOINT_CASE(attention, tile_tail_not_filled),
      ADJOINT_CASE(attention, bound_from_tile),
      ADJOINT_CASE(attention, shared_tile_overrun),
      ADJOINT_CASE(attention, barrier_under_warp_if),
      ADJOINT_CASE(attention, warp_skips_barriers),
      ADJOINT_CASE(gemm, none),
      ADJOINT_CASE(gemm, waits_for_one_group_less),
      ADJOINT_CASE(gemm, no_barrier_after_wait),
      ADJOINT_CASE(gemm, no_barrier_before_reload),
      ADJOINT_CASE(gemm, ldmatrix_halves_swapped),
  };
#undef ADJOINT_CASE
}

}  // namespace adjoint::simt::self_test
