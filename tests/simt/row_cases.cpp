// Layer norm, LSTM cell, cross entropy and tree sum.

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/simt/buffer.h"
#include "tests/simt/cases.h"
#include "tests/simt/kernels/cross_entropy.cuh"
#include "tests/simt/kernels/layer_norm.cuh"
#include "tests/simt/kernels/lstm.cuh"
#include "tests/simt/kernels/tree_sum.cuh"

namespace adjoint::simt::self_test {
namespace {

using Floats = Buffer<float>;

struct LayerNormKernels {
  decltype(&layer_norm_forward<4, Bug::none>) forward;
  decltype(&layer_norm_gamma<Bug::none>) gamma;
  bool clears_dgamma;
};

void check_layer_norm(const LayerNormKernels& kernels, int rows, int cols) {
  std::size_t n = static_cast<std::size_t>(rows) * cols;
  auto x = normal_values(n, 1, 2.0f), gamma = normal_values(cols, 2), beta = normal_values(cols, 3);
  auto dy = normal_values(n, 4);
  Floats dev_x(x, "x"), dev_gamma(gamma, "gamma"), dev_beta(beta, "beta"), dev_dy(dy, "dy");
  Floats y(n, "y"), mean(rows, "mean"), rstd(rows, "rstd"), dgamma(cols, "dgamma");
  launch(kernels.forward, dim3((rows + 3) / 4), dim3(128), 0, nullptr, dev_x, dev_gamma, dev_beta, y, mean, rstd, rows,
         cols, 1e-5f);
  std::vector<double> want_y(n), want_mean(rows), want_rstd(rows), want_dgamma(cols, 0.0);
  for (int r = 0; r < rows; ++r) {
    const float* row = x.data() + static_cast<std::size_t>(r) * cols;
    double m = 0, q = 0;
    for (int c = 0; c < cols; ++c) m += row[c];
    m /= cols;
    for (int c = 0; c < cols; ++c) q += (row[c] - m) * (row[c] - m);
    double s = 1 / std::sqrt(q / cols + 1e-5);
    want_mean[r] = m;
    want_rstd[r] = s;
    for (int c = 0; c < cols; ++c) {
      want_y[static_cast<std::size_t>(r) * cols + c] = (row[c] - m) * s * gamma[c] + beta[c];
      want_dgamma[c] += dy[static_cast<std::size_t>(r) * cols + c] * (row[c] - m) * s;
    }
  }
  expect_close("mean", mean.host(), want_mean);
  expect_close("rstd", rstd.host(), want_rstd);
  expect_close("y", y.host(), want_y);
  if (kernels.clears_dgamma) zero(dgamma, cols * sizeof(float), nullptr);
  launch(kernels.gamma, dim3((cols + 63) / 64, 3), dim3(64), 0, nullptr, dev_dy, dev_x, mean, rstd, dgamma, rows, cols,
         (rows + 2) / 3);
  expect_close("dgamma", dgamma.host(), want_dgamma);
}

template <Bug kBug>
void layer_norm_case() {
  LayerNormKernels kernels{layer_norm_forward<4, kBug>, layer_norm_gamma<kBug>, kBug != Bug::accumulator_not_cleared};
  check_layer_norm(kernels, 37, 256);
  check_layer_norm(kernels, 5, 768);
  check_layer_norm(kernels, 3, 36);
}

double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

template <Bug kBug>
void lstm_case() {
  const int B = 7, H = 96;
  auto gates = normal_values(std::size_t{B} * 4 * H, 8), c_prev = normal_values(B * H, 9);
  Floats dev_gates(gates, "gates"), dev_c_prev(c_prev, "c_prev"), c(B * H, "c"), h(B * H, "h");
  launch(lstm_cell<kBug>, dim3(3), dim3(128), 0, nullptr, dev_gates, dev_c_prev, c, h, B, H);
  std::vector<double> want_c(B * H), want_h(B * H);
  for (int b = 0; b < B; ++b) {
    for (int j = 0; j < H; ++j) {
      const float* q = &gates[static_cast<std::size_t>(b) * 4 * H + j];
      double cell = sigmoid_of(q[H]) * c_prev[b * H + j] + sigmoid_of(q[0]) * std::tanh(static_cast<double>(q[2 * H]));
      want_c[b * H + j] = cell;
      want_h[b * H + j] = sigmoid_of(q[3 * H]) * std::tanh(cell);
    }
  }
  expect_close("c", c.host(), want_c);
  expect_close("h", h.host(), want_h);
}

void check_cross_entropy(decltype(&cross_entropy<256, Bug::none>) kernel, int rows, int classes) {
  std::size_t n = static_cast<std::size_t>(rows) * classes;
  auto x = normal_values(n, 10, 3.0f);
  std::vector<int> target(rows);
  std::mt19937 random(3);
  for (int& t : target) t = static_cast<int>(random() % classes);
  target[rows / 2] = -1;
  Floats dev_x(x, "logits"), loss(rows, "loss"), dlogits(n, "dlogits");
  Buffer<int> dev_target(target, "target");
  launch(kernel, dim3(rows), dim3(256), 0, nullptr, dev_x, dev_target, loss, dlogits, classes);
  std::vector<double> want_loss(rows), want_dlogits(n);
  for (int i = 0; i < rows; ++i) {
    const float* row = x.data() + static_cast<std::size_t>(i) * classes;
    double m = *std::max_element(row, row + classes), s = 0;
    for (int c = 0; c < classes; ++c) s += std::exp(row[c] - m);
    want_loss[i] = target[i] < 0 ? 0 : m + std::log(s) - row[target[i]];
    for (int c = 0; c < classes; ++c) {
      want_dlogits[static_cast<std::size_t>(i) * classes + c] =
          target[i] < 0 ? 0 : std::exp(row[c] - m) / s - (c == target[i] ? 1 : 0);
    }
  }
  expect_close("loss", loss.host(), want_loss);
  expect_close("dlogits", dlogits.host(), want_dlogits);
}

template <Bug kBug>
void cross_entropy_case() {
  check_cross_entropy(cross_entropy<256, kBug>, 6, 1000);
  check_cross_entropy(cross_entropy<256, kBug>, 4, 10);
}

template <Bug kBug>
void tree_sum_case() {
  auto x = normal_values(4 * 64, 11);
  Floats dev_x(x, "x"), out(8, "out");
  launch(tree_sum<kBug>, dim3(4), dim3(64), 0, nullptr, dev_x, out);
  std::vector<double> want(8, 0.0);
  for (std::size_t i = 0; i < x.size(); ++i) want[i / 32] += x[i];
  expect_close("sums", out.host(), want);
}

}  // namespace

std::vector<Case> row_cases() {
// clang-format off
#define ADJOINT_CASE(kernel, bug) {#kernel, #bug, Bug::bug, kernel##_case<Bug::bug>}
  // clang-format on
  return {
      ADJOINT_CASE(layer_norm, none),
      ADJOINT_CASE(layer_norm, half_warp_mask),
      ADJOINT_CASE(layer_norm, collective_under_lane_if),
      ADJOINT_CASE(layer_norm, reduction_one_step_short),
      ADJOINT_CASE(layer_norm, shuffle_down_broadcast),
      ADJOINT_CASE(layer_norm, one_vector_too_many),
      ADJOINT_CASE(layer_norm, misaligned_vector),
      ADJOINT_CASE(layer_norm, plain_add_across_blocks),
      ADJOINT_CASE(layer_norm, accumulator_not_cleared),
      ADJOINT_CASE(lstm, none),
      ADJOINT_CASE(lstm, wrong_gate_stride),
      ADJOINT_CASE(cross_entropy, none),
      ADJOINT_CASE(cross_entropy, return_before_barrier),
      ADJOINT_CASE(cross_entropy, no_barrier_before_maxima),
      ADJOINT_CASE(cross_entropy, reads_unwritten_slots),
      ADJOINT_CASE(cross_entropy, no_barrier_before_total),
      ADJOINT_CASE(cross_entropy, lost_update),
      ADJOINT_CASE(cross_entropy, shared_total_not_cleared),
      ADJOINT_CASE(tree_sum, none),
      ADJOINT_CASE(tree_sum, no_syncwarp_after_store),
      ADJOINT_CASE(tree_sum, no_syncwarp_in_tree),
  };
#undef ADJOINT_CASE
}

}  // namespace adjoint::simt::self_test
