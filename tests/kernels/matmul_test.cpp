#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/thread_pool.h"

namespace adjoint {
namespace {

template <class T>
class MatmulOf : public ::testing::Test {};
using Floats = ::testing::Types<double, float, bf16>;
TYPED_TEST_SUITE(MatmulOf, Floats);

template <class T>
std::vector<T> random_values(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<T> v(n);
  for (T& x : v) x = T(uniform(random));
  return v;
}

/// What one product is made of. Leading dimensions exceed the rows by `gap`; what lies in the gaps is NaN in a and b,
/// and must survive in c.
struct Case {
  std::int64_t m, n, k;
  bool transpose_a = false, transpose_b = false;
  bool accumulate = false, bias = false;
  double alpha = 1.0;
  std::int64_t gap = 0;
  std::int64_t batches = 1;
  std::vector<std::int32_t> lengths = {};
  std::int64_t rows_per_length = 0;
  bool share_b = false;
};

std::string describe(const Case& c) {
  return "m " + std::to_string(c.m) + " n " + std::to_string(c.n) + " k " + std::to_string(c.k) + " ta " +
         std::to_string(c.transpose_a) + " tb " + std::to_string(c.transpose_b) + " acc " +
         std::to_string(c.accumulate) + " bias " + std::to_string(c.bias) + " gap " + std::to_string(c.gap) +
         " batches " + std::to_string(c.batches);
}

template <class T>
struct Problem {
  Case c;
  std::int64_t lda, ldb, ldc, a_batch, b_batch, c_batch;
  std::vector<T> a, b, out, before, bias;

  explicit Problem(const Case& what) : c(what) {
    const std::int64_t a_rows = c.transpose_a ? c.k : c.m, a_columns = c.transpose_a ? c.m : c.k;
    const std::int64_t b_rows = c.transpose_b ? c.n : c.k, b_columns = c.transpose_b ? c.k : c.n;
    lda = a_columns + c.gap;
    ldb = b_columns + c.gap;
    ldc = c.n + c.gap;
    a_batch = a_rows * lda;
    b_batch = b_rows * ldb;
    c_batch = c.m * ldc;
    const T nan(std::numeric_limits<float>::quiet_NaN());
    const auto fill = [&](std::int64_t rows, std::int64_t columns, std::int64_t ld, unsigned seed) {
      std::vector<T> v = random_values<T>(static_cast<std::size_t>(c.batches * rows * ld), seed);
      for (std::int64_t r = 0; r < c.batches * rows; ++r)
        for (std::int64_t j = columns; j < ld; ++j) v[static_cast<std::size_t>(r * ld + j)] = nan;
      return v;
    };
    a = fill(a_rows, a_columns, lda, 1);
    b = fill(b_rows, b_columns, ldb, 2);
    before = fill(c.m, c.n, ldc, 3);
    bias = random_values<T>(static_cast<std::size_t>(c.n), 4);
    if (!c.lengths.empty()) {  // what takes no part may hold anything
      const std::int64_t listed = c.transpose_a ? c.k : c.m;
      for (std::int64_t r = 0; r < listed; ++r) {
        if (takes_part(r)) continue;
        for (std::int64_t j = 0; j < lda; ++j) a[static_cast<std::size_t>(r * lda + j)] = nan;
      }
    }
  }

  bool takes_part(std::int64_t r) const {
    return c.lengths.empty() || r % c.rows_per_length < c.lengths[static_cast<std::size_t>(r / c.rows_per_length)];
  }

  Matmul call() {
    Matmul m{.dtype = dtype_of<T>,
             .batches = c.batches,
             .m = c.m,
             .n = c.n,
             .k = c.k,
             .a = a.data(),
             .lda = lda,
             .a_batch = a_batch,
             .transpose_a = c.transpose_a,
             .b = b.data(),
             .ldb = ldb,
             .b_batch = c.share_b ? 0 : b_batch,
             .transpose_b = c.transpose_b,
             .c = out.data(),
             .ldc = ldc,
             .c_batch = c_batch,
             .bias = c.bias ? bias.data() : nullptr,
             .alpha = c.alpha,
             .accumulate = c.accumulate,
             .row_lengths = c.lengths.empty() ? nullptr : c.lengths.data(),
             .rows_per_length = c.rows_per_length};
    return m;
  }

  const std::vector<T>& run(int threads) {
    out = before;
    cpu::ThreadPool pool(threads);
    cpu::run(cpu::At{&pool}, call());
    return out;
  }

  void check() const {
    const double eps = std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24;
    const double store = std::is_same_v<T, bf16> ? 0x1p-8 : eps;
    for (std::int64_t z = 0; z < c.batches; ++z) {
      for (std::int64_t i = 0; i < c.m; ++i) {
        for (std::int64_t j = 0; j < ldc; ++j) {
          const auto at = static_cast<std::size_t>(z * c_batch + i * ldc + j);
          if (j >= c.n) {
            ASSERT_EQ(std::memcmp(&out[at], &before[at], sizeof(T)), 0) << describe(c) << ": gap written";
            continue;
          }
          double sum = 0.0, magnitude = 0.0;
          std::int64_t terms = 4;
          for (std::int64_t p = 0; p < c.k; ++p) {
            if (!takes_part(c.transpose_a ? p : i)) continue;
            const std::int64_t ai = z * a_batch + (c.transpose_a ? p * lda + i : i * lda + p);
            const std::int64_t bi = (c.share_b ? 0 : z * b_batch) + (c.transpose_b ? j * ldb + p : p * ldb + j);
            const double term = static_cast<double>(a[static_cast<std::size_t>(ai)]) *
                                static_cast<double>(b[static_cast<std::size_t>(bi)]);
            sum += term;
            magnitude += std::fabs(term);
            ++terms;
          }
          double want = c.alpha * sum;
          magnitude *= std::fabs(c.alpha);
          const bool part = c.transpose_a || takes_part(i);
          if (part && c.bias) {
            want += static_cast<double>(bias[static_cast<std::size_t>(j)]);
            magnitude += 1.0;
          }
          if (c.accumulate) {
            want += static_cast<double>(before[at]);
            magnitude += 1.0;
          }
          if (!part && !c.accumulate) want = 0.0;
          const double tolerance = static_cast<double>(terms) * eps * magnitude + store * std::fabs(want);
          ASSERT_NEAR(static_cast<double>(out[at]), want, tolerance)
              << describe(c) << " at [" << z << ", " << i << ", " << j << "]";
        }
      }
    }
  }
};

template <class T>
bool same_bits(const std::vector<T>& x, const std::vector<T>& y) {
  return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0);
}

constexpr std::int64_t kExtents[] = {0, 1, 7, 31, 32, 33, 127, 128, 129};

TYPED_TEST(MatmulOf, Equals_a_naive_product_for_every_extent_layout_and_gap) {
  int count = 0;
  for (const std::int64_t m : kExtents) {
    for (const std::int64_t n : kExtents) {
      for (const std::int64_t k : kExtents) {
        const int pick = count++;
        Case c{.m = m, .n = n, .k = k};
        c.transpose_a = (pick & 1) != 0;
        c.transpose_b = (pick & 2) != 0;
        c.accumulate = pick % 3 == 0;
        c.bias = pick % 5 < 2;
        c.alpha = pick % 7 < 2 ? -0.75 : 1.0;
        c.gap = pick % 4 == 0 ? 5 : 0;
        Problem<TypeParam> problem(c);
        problem.run(1);
        ASSERT_NO_FATAL_FAILURE(problem.check());
      }
    }
  }
}

TYPED_TEST(MatmulOf, Equals_a_naive_product_for_every_combination_of_options) {
  for (const std::int64_t m : {1, 3, 15, 29, 33}) {
    for (int options = 0; options < 64; ++options) {
      Case c{.m = m, .n = 37, .k = 19};
      c.transpose_a = (options & 1) != 0;
      c.transpose_b = (options & 2) != 0;
      c.accumulate = (options & 4) != 0;
      c.bias = (options & 8) != 0;
      c.alpha = (options & 16) != 0 ? 0.3 : 1.0;
      c.gap = (options & 32) != 0 ? 3 : 0;
      Problem<TypeParam> problem(c);
      problem.run(1);
      ASSERT_NO_FATAL_FAILURE(problem.check());
    }
  }
}

TYPED_TEST(MatmulOf, Equals_a_naive_product_when_k_needs_several_blocks) {
  for (int options = 0; options < 8; ++options) {
    for (const std::int64_t m : {2, 40}) {
      for (const std::int64_t k : {513, 1300, 9000}) {
        Case c{.m = m, .n = 35, .k = k};
        c.transpose_a = (options & 1) != 0;
        c.transpose_b = (options & 2) != 0;
        c.accumulate = (options & 4) != 0;
        c.bias = true;
        c.alpha = 0.5;
        Problem<TypeParam> problem(c);
        problem.run(2);
        ASSERT_NO_FATAL_FAILURE(problem.check());
      }
    }
  }
}

TYPED_TEST(MatmulOf, Gives_the_same_bits_for_any_number_of_threads) {
  for (int options = 0; options < 4; ++options) {
    for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{150, 130, 129},
                                  {400, 70, 150},
                                  {70, 600, 100},
                                  {5, 4000, 130},
                                  {300, 7, 1100},
                                  {21, 129, 256},
                                  {21, 257, 128},
                                  {128, 257, 21}}) {  // the last three: little more than one thread's
      Case c{.m = m, .n = n, .k = k, .bias = true};
      c.transpose_a = (options & 1) != 0;
      c.transpose_b = (options & 2) != 0;
      Problem<TypeParam> problem(c);
      const std::vector<TypeParam> one = problem.run(1);
      ASSERT_NO_FATAL_FAILURE(problem.check());
      EXPECT_TRUE(same_bits(problem.run(2), one)) << describe(c);
      EXPECT_TRUE(same_bits(problem.run(4), one)) << describe(c);
    }
  }
}

TYPED_TEST(MatmulOf, Gives_a_row_the_same_bits_alone_as_among_others) {
  for (int options = 0; options < 4; ++options) {
    for (const std::int64_t k : {1, 40, 600}) {
      Case c{.m = 65, .n = 50, .k = k, .bias = true, .alpha = 0.7};
      c.transpose_a = (options & 1) != 0;
      c.transpose_b = (options & 2) != 0;
      Problem<TypeParam> all(c);
      all.run(1);
      for (const std::int64_t rows : {1, 2, 3, 5, 9, 16, 30}) {
        for (const std::int64_t from : {0, 11, 35}) {
          Problem<TypeParam> part(c);
          part.out = part.before;
          Matmul call = part.call();
          call.a = part.a.data() + (c.transpose_a ? from : from * part.lda);
          call.m = rows;
          cpu::ThreadPool pool(1);
          cpu::run(cpu::At{&pool}, call);
          ASSERT_EQ(std::memcmp(part.out.data(), all.out.data() + from * all.ldc,
                                static_cast<std::size_t>(rows * c.n) * sizeof(TypeParam)),
                    0)
              << describe(c) << " rows " << rows << " from " << from;
        }
      }
    }
  }
}

TYPED_TEST(MatmulOf, Multiplies_batches_and_reuses_a_matrix_whose_batch_stride_is_0) {
  for (int options = 0; options < 16; ++options) {
    Case c{.m = 20, .n = 18, .k = 33, .batches = 7};
    c.transpose_a = (options & 1) != 0;
    c.transpose_b = (options & 2) != 0;
    c.share_b = (options & 4) != 0;
    c.gap = (options & 8) != 0 ? 2 : 0;
    Problem<TypeParam> problem(c);
    const std::vector<TypeParam> one = problem.run(1);
    ASSERT_NO_FATAL_FAILURE(problem.check());
    EXPECT_TRUE(same_bits(problem.run(4), one)) << describe(c);
  }
  Case large{.m = 150, .n = 280, .k = 400, .batches = 2};
  Problem<TypeParam> problem(large);
  const std::vector<TypeParam> one = problem.run(1);
  ASSERT_NO_FATAL_FAILURE(problem.check());
  EXPECT_TRUE(same_bits(problem.run(2), one));
}

TYPED_TEST(MatmulOf, Works_on_the_rows_that_take_part_and_on_no_other) {
  for (const std::int64_t n : {1, 7, 33, 128}) {
    for (int options = 0; options < 16; ++options) {
      Case c{.m = 60, .n = n, .k = 21, .lengths = {3, 0, 20, 1, 13, 7}, .rows_per_length = 20};
      c.lengths.resize(3);
      c.transpose_a = (options & 1) != 0;
      c.transpose_b = (options & 2) != 0;
      c.accumulate = (options & 4) != 0;
      c.bias = (options & 8) != 0;
      if (c.transpose_a) {
        c.m = 21;
        c.k = 60;
      }
      Problem<TypeParam> problem(c);
      problem.run(1);
      ASSERT_NO_FATAL_FAILURE(problem.check());
    }
  }
}

TYPED_TEST(MatmulOf, Writes_zeros_when_no_row_takes_part) {
  for (const bool transpose_a : {false, true}) {
    Case c{.m = 24, .n = 17, .k = 24, .transpose_a = transpose_a, .lengths = {0, 0}, .rows_per_length = 12};
    Problem<TypeParam> problem(c);
    problem.run(1);
    ASSERT_NO_FATAL_FAILURE(problem.check());
    problem.c.accumulate = true;
    EXPECT_TRUE(same_bits(problem.run(1), problem.before));
  }
}

TYPED_TEST(MatmulOf, Gives_a_sequence_of_a_padded_batch_the_same_bits_as_alone) {
  const std::int64_t time = 11, width = 40;
  Case c{.m = 6 * time, .n = 70, .k = width, .bias = true, .lengths = {3, 11, 0, 1, 9, 10}, .rows_per_length = time};
  Problem<TypeParam> batch(c);
  const std::vector<TypeParam> one = batch.run(1);
  ASSERT_NO_FATAL_FAILURE(batch.check());
  EXPECT_TRUE(same_bits(batch.run(2), one));
  for (std::size_t s = 0; s < c.lengths.size(); ++s) {
    const auto from = static_cast<std::int64_t>(s) * time;
    Problem<TypeParam> alone(c);
    alone.out = alone.before;
    Matmul call = alone.call();
    call.row_lengths = nullptr;
    call.a = alone.a.data() + from * alone.lda;
    call.m = c.lengths[s];
    cpu::ThreadPool pool(1);
    cpu::run(cpu::At{&pool}, call);
    EXPECT_EQ(std::memcmp(alone.out.data(), batch.out.data() + from * batch.ldc,
                          static_cast<std::size_t>(c.lengths[s] * c.n) * sizeof(TypeParam)),
              0)
        << "sequence " << s;
  }
}

TYPED_TEST(MatmulOf, Accumulating_twice_adds_twice) {
  Case c{.m = 33, .n = 34, .k = 1, .accumulate = true};
  Problem<TypeParam> problem(c);
  problem.before.assign(problem.before.size(), TypeParam(0.0f));
  const std::vector<TypeParam> once = problem.run(1);
  problem.before = once;
  problem.run(1);
  for (std::size_t i = 0; i < once.size(); ++i)
    ASSERT_EQ(static_cast<double>(problem.out[i]), 2.0 * static_cast<double>(once[i]));
}

TYPED_TEST(MatmulOf, Carries_NaN_and_infinity_even_where_they_meet_a_zero) {
  for (const float special : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (int options = 0; options < 4; ++options) {
      for (const std::int64_t m : {1, 40}) {
        Case c{.m = m, .n = 20, .k = 18};
        c.transpose_a = (options & 1) != 0;
        c.transpose_b = (options & 2) != 0;
        Problem<TypeParam> problem(c);
        const std::int64_t p = 17, j = 19;
        problem.b[static_cast<std::size_t>(c.transpose_b ? j * problem.ldb + p : p * problem.ldb + j)] =
            TypeParam(special);
        for (std::int64_t i = 0; i < m; ++i)
          problem.a[static_cast<std::size_t>(c.transpose_a ? p * problem.lda + i : i * problem.lda + p)] =
              TypeParam(0.0f);
        problem.run(1);
        for (std::int64_t i = 0; i < m; ++i) {
          for (std::int64_t q = 0; q < c.n; ++q) {
            const auto value = static_cast<double>(problem.out[static_cast<std::size_t>(i * problem.ldc + q)]);
            ASSERT_EQ(std::isnan(value), q == j) << describe(c) << " at [" << i << ", " << q << "]";
          }
        }
      }
    }
  }
}

TYPED_TEST(MatmulOf, Rounds_once_at_the_store) {
  // 1 + 512 * 2^-10 in steps that a bf16 partial sum would lose.
  const std::int64_t k = 513;
  std::vector<TypeParam> a(k, TypeParam(0x1p-10f)), b(k, TypeParam(1.0f)), c(1);
  a[0] = TypeParam(1.0f);
  const Matmul call{.dtype = dtype_of<TypeParam>,
                    .m = 1,
                    .n = 1,
                    .k = k,
                    .a = a.data(),
                    .lda = k,
                    .b = b.data(),
                    .ldb = 1,
                    .c = c.data(),
                    .ldc = 1};
  cpu::ThreadPool pool(1);
  cpu::run(cpu::At{&pool}, call);
  EXPECT_EQ(static_cast<double>(c[0]), 1.5);
}

}  // namespace
}  // namespace adjoint
