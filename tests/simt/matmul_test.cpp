// Matrix products against loops in double.

#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

#include "tests/simt/call.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

struct Problem {
  std::int64_t m, n, k;
  bool transpose_a = false, transpose_b = false, bias = false, accumulate = false;
  std::int64_t batches = 1, margin = 0;  // margin: leading dimensions are larger than the rows
  bool shared_b = false;                 // one b for all batches
  std::vector<std::int32_t> lengths = {};
  std::int64_t rows_per_length = 0;
  double alpha = 1.0;

  std::string text() const {
    return std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + (transpose_a ? " a'" : "") +
           (transpose_b ? " b'" : "") + (bias ? " bias" : "") + (accumulate ? " accumulate" : "") + " batches " +
           std::to_string(batches) + " margin " + std::to_string(margin) + (lengths.empty() ? "" : " lengths");
  }
};

template <class T>
void check(const Problem& p) {
  const std::int64_t lda = (p.transpose_a ? p.m : p.k) + p.margin, ldb = (p.transpose_b ? p.k : p.n) + p.margin;
  const std::int64_t ldc = p.n + p.margin, rows_a = p.transpose_a ? p.k : p.m, rows_b = p.transpose_b ? p.n : p.k;
  std::mt19937 random(static_cast<unsigned>(p.m * 31 + p.n * 7 + p.k));
  std::normal_distribution<float> normal;
  const auto values = [&](std::int64_t n) {
    std::vector<T> v(static_cast<std::size_t>(n));
    for (T& x : v) x = T(normal(random));
    return v;
  };
  std::vector<T> a = values(p.batches * rows_a * lda), b = values((p.shared_b ? 1 : p.batches) * rows_b * ldb);
  const std::vector<T> bias = values(p.n), c = values(p.batches * p.m * ldc);
  const auto takes_part = [&](std::int64_t row) {
    return p.lengths.empty() || row % p.rows_per_length < p.lengths[static_cast<std::size_t>(row / p.rows_per_length)];
  };
  // What takes no part may be anything.
  if (!p.lengths.empty()) {
    for (std::int64_t r = 0; r < rows_a; ++r)
      if (!takes_part(r))
        for (std::int64_t i = 0; i < lda; ++i) a[static_cast<std::size_t>(r * lda + i)] = T(NAN);
    if (p.transpose_a && !p.transpose_b)
      for (std::int64_t r = 0; r < rows_b; ++r)
        if (!takes_part(r))
          for (std::int64_t j = 0; j < ldb; ++j) b[static_cast<std::size_t>(r * ldb + j)] = T(NAN);
  }
  Buffer<T> dev_a(a, "a"), dev_b(b, "b"), dev_bias(bias, "bias"), dev_c(c, "c");
  const Buffer<std::int32_t> dev_lengths(p.lengths, "lengths");
  run_call(Matmul{.dtype = dtype_of<T>,
                  .batches = p.batches,
                  .m = p.m,
                  .n = p.n,
                  .k = p.k,
                  .a = dev_a.get(),
                  .lda = lda,
                  .a_batch = rows_a * lda,
                  .transpose_a = p.transpose_a,
                  .b = dev_b.get(),
                  .ldb = ldb,
                  .b_batch = p.shared_b ? 0 : rows_b * ldb,
                  .transpose_b = p.transpose_b,
                  .c = dev_c.get(),
                  .ldc = ldc,
                  .c_batch = p.m * ldc,
                  .bias = p.bias ? dev_bias.get() : nullptr,
                  .alpha = p.alpha,
                  .accumulate = p.accumulate,
                  .row_lengths = p.lengths.empty() ? nullptr : dev_lengths.get(),
                  .rows_per_length = p.rows_per_length});
  const std::vector<T> got = dev_c.host();
  // k roundings of the sum, of which each adds at most half an ulp of a partial sum, and one of the store.
  const double epsilon = sizeof(T) == 8 ? 0x1p-52 : 0x1p-23, store = sizeof(T) == 2 ? 0x1p-8 : epsilon;
  for (std::int64_t q = 0; q < p.batches; ++q) {
    for (std::int64_t i = 0; i < p.m; ++i) {
      for (std::int64_t j = 0; j < ldc; ++j) {
        const auto at = static_cast<std::size_t>((q * p.m + i) * ldc + j);
        const double before = static_cast<double>(c[at]);
        if (j >= p.n) {
          ASSERT_EQ(static_cast<double>(got[at]), before) << p.text() << ": wrote into the margin";
          continue;
        }
        double sum = 0, size = 0;
        for (std::int64_t r = 0; r < p.k; ++r) {
          if (p.transpose_a && !takes_part(r)) continue;
          const double left = static_cast<double>(
              a[static_cast<std::size_t>(q * rows_a * lda + (p.transpose_a ? r * lda + i : i * lda + r))]);
          const double right = static_cast<double>(b[static_cast<std::size_t>(
              (p.shared_b ? 0 : q) * rows_b * ldb + (p.transpose_b ? j * ldb + r : r * ldb + j))]);
          sum += left * right;
          size += std::abs(left * right);
        }
        const bool part = p.transpose_a || takes_part(i);
        double want = p.accumulate ? before : 0;
        if (part) want += p.alpha * sum + (p.bias ? static_cast<double>(bias[static_cast<std::size_t>(j)]) : 0);
        const double tolerance = epsilon * std::sqrt(static_cast<double>(p.k) + 1) * std::abs(p.alpha) * size +
                                 2 * store * (std::abs(want) + 1e-6);
        ASSERT_NEAR(static_cast<double>(got[at]), want, part ? tolerance : 0.0)
            << name(dtype_of<T>) << " " << p.text() << " batch " << q << " element " << i << "," << j;
      }
    }
  }
}

std::vector<Problem> problems() {
  return {{.m = 1, .n = 1, .k = 1},
          {.m = 5, .n = 7, .k = 3, .bias = true},
          {.m = 31, .n = 33, .k = 32, .transpose_b = true, .alpha = 0.5},
          {.m = 33, .n = 31, .k = 37, .transpose_a = true, .accumulate = true, .margin = 4},
          {.m = 40, .n = 36, .k = 35, .transpose_a = true, .transpose_b = true, .margin = 3},
          {.m = 32, .n = 32, .k = 64, .bias = true, .batches = 3, .shared_b = true},
          {.m = 6, .n = 5, .k = 0, .bias = true},
          {.m = 6, .n = 5, .k = 0, .accumulate = true},
          {.m = 4, .n = 0, .k = 3},
          {.m = 12, .n = 20, .k = 9, .bias = true, .lengths = {3, 0, 4}, .rows_per_length = 4},
          {.m = 12, .n = 8, .k = 9, .accumulate = true, .lengths = {1, 4, 2}, .rows_per_length = 4},
          {.m = 16, .n = 12, .k = 80, .transpose_a = true, .lengths = {40, 0}, .rows_per_length = 40},
          {.m = 9, .n = 34, .k = 1100, .transpose_a = true, .accumulate = true},  // split over k
          {.m = 10, .n = 12, .k = 1056, .transpose_b = true, .bias = true, .lengths = {1, 0}, .rows_per_length = 5}};
}

TEST(MatmulKernel, Equals_loops_for_every_layout) {
  for (const Schedule& schedule : schedules(1)) {
    Under under(schedule);
    for (const Problem& p : problems()) {
      check<float>(p);
      check<double>(p);
      check<bf16>(p);
      if (::testing::Test::HasFailure()) FAIL() << name(schedule);
    }
  }
}

TEST(MatmulKernel, Uses_larger_tiles_for_larger_products) {
  // 12 x 11 tiles of 64 and 128 wanted for them: one row of a tile more than a full one, and a ragged last column.
  const Problem medium{.m = 705, .n = 705, .k = 18, .bias = true}, large{.m = 1450, .n = 1441, .k = 17};
  Under under({Order::skewed, 3, kNan});
  check<float>(medium);
  check<double>({.m = 705, .n = 705, .k = 18, .transpose_a = true, .transpose_b = true});
  check<bf16>(medium);
  if (!has_checker()) check<float>(large);
}

}  // namespace
}  // namespace adjoint::simt::self_test
