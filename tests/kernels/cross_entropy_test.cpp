#include "kernels/cross_entropy.h"

#include "kernels/base/error.h"
#include "tests/kernels/arrays.h"

namespace adjoint {
namespace {

using namespace adjoint::testing;

constexpr std::int32_t kIgnore = -100;

struct CrossEntropyProblem {
  DType dtype, inner;
  std::int64_t rows, classes;
  Array x, loss, log_sum_exp, count, dloss;
  std::vector<std::int32_t> targets;

  CrossEntropyProblem(DType t, std::int64_t rows_, std::int64_t classes_)
      : dtype(t),
        inner(accumulator_of(t)),
        rows(rows_),
        classes(classes_),
        x(Array(t, {rows, classes}).random(1, -5, 5)),
        loss(inner, {1}),
        log_sum_exp(inner, {rows}),
        count(inner, {1}),
        dloss(inner, {1}) {
    std::mt19937 random(2);
    for (std::int64_t r = 0; r < rows; ++r)
      targets.push_back(r % 5 == 4 ? kIgnore : static_cast<std::int32_t>(random() % static_cast<unsigned>(classes)));
    dloss.put(0, 1.7);
  }

  void forward(const At& place) {
    CrossEntropyForward call{
        dtype, rows, classes, x.data(), targets.data(), kIgnore, loss.data(), log_sum_exp.data(), count.data()};
    std::vector<unsigned char> scratch(scratch_bytes(at(), call) + 1, 0xA5);
    call.scratch = scratch.data();
    run(place, call);
    EXPECT_EQ(scratch.back(), 0xA5) << "wrote past the scratch it asked for";
  }
  void backward(const At& place, Array& dx, bool accumulate) {
    run(place, CrossEntropyBackward{dtype,
                                    rows,
                                    classes,
                                    x.data(),
                                    targets.data(),
                                    kIgnore,
                                    log_sum_exp.data(),
                                    count.data(),
                                    dloss.data(),
                                    {dx.data(), accumulate}});
  }
  std::int32_t target(std::int64_t r) const { return targets[static_cast<std::size_t>(r)]; }
  double counted() const {
    double n = 0;
    for (std::int32_t t : targets) n += t != kIgnore ? 1 : 0;
    return n;
  }
  /// The largest element of a row, and the sum of exp(x - that).
  std::pair<double, double> exact_row(std::int64_t r) const {
    double top = -kInf, sum = 0;
    for (std::int64_t c = 0; c < classes; ++c) top = std::max(top, x[r * classes + c]);
    for (std::int64_t c = 0; c < classes; ++c) sum += std::exp(x[r * classes + c] - top);
    return {top, sum};
  }
  double exact_loss() const {
    double total = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto [top, sum] = exact_row(r);
      if (target(r) != kIgnore) total += (top - x[r * classes + target(r)]) + std::log(sum);
    }
    return total / std::max(counted(), 1.0);
  }
  std::vector<double> gradient(std::int64_t r) const {
    std::vector<double> g(static_cast<std::size_t>(classes), 0.0);
    if (target(r) == kIgnore) return g;
    const auto [top, sum] = exact_row(r);
    for (std::int64_t c = 0; c < classes; ++c) {
      const double p = std::exp(x[r * classes + c] - top) / sum;
      g[static_cast<std::size_t>(c)] = dloss[0] * (p - (c == target(r) ? 1 : 0)) / std::max(counted(), 1.0);
    }
    return g;
  }
};

void check(CrossEntropyProblem& p) {
  p.forward(at());
  const double eps = epsilon(p.inner);
  EXPECT_TRUE(close(p.loss[0], p.exact_loss(), 64 * eps, 64 * eps));
  EXPECT_EQ(p.count[0], p.counted());
  for (std::int64_t r = 0; r < p.rows; ++r) {
    const auto [top, sum] = p.exact_row(r);
    ASSERT_TRUE(p.target(r) == kIgnore || close(p.log_sum_exp[r], top + std::log(sum), 32 * eps, 32 * eps));
  }
  for (bool accumulate : {false, true}) {
    Array dx = Array(p.dtype, {p.rows, p.classes}).random(3, -1, 1);
    const Array before = dx;
    p.backward(at(), dx, accumulate);
    for (std::int64_t r = 0; r < p.rows; ++r) {
      const std::vector<double> expected = p.gradient(r);
      for (std::int64_t c = 0; c < p.classes; ++c) {
        const std::int64_t i = r * p.classes + c;
        // exp(x - log_sum_exp) costs |log_sum_exp| <= 16 roundings.
        ASSERT_TRUE(close(dx[i], expected[static_cast<std::size_t>(c)] + (accumulate ? before[i] : 0), epsilon(p.dtype),
                          64 * eps))
            << "row " << r << " class " << c;
      }
    }
    ASSERT_TRUE(dx.unspoiled());
  }
  ASSERT_TRUE(p.loss.unspoiled() && p.log_sum_exp.unspoiled() && p.count.unspoiled());
}

TEST(CrossEntropy, Is_the_definition_for_any_number_of_rows_and_classes) {
  for (DType dtype : kFloats) {
    for (std::int64_t classes : {1, 2, 7, 15, 16, 17, 31, 32, 33, 127, 128, 129, 1023, 2049}) {
      for (std::int64_t rows : {0, 1, 3, 4, 6, 21, 40}) {
        SCOPED_TRACE(std::string(name(dtype)) + " [" + std::to_string(rows) + ", " + std::to_string(classes) + "]");
        CrossEntropyProblem p(dtype, rows, classes);
        ASSERT_NO_FATAL_FAILURE(check(p));
      }
    }
  }
}

TEST(CrossEntropy, Gradient_may_be_written_over_the_logits) {
  for (DType dtype : kFloats) {
    for (std::int64_t classes : {7, 33, 150, 1501}) {
      SCOPED_TRACE(std::string(name(dtype)) + " " + std::to_string(classes));
      CrossEntropyProblem p(dtype, 9, classes);
      for (std::int64_t c = 0; c < classes; ++c) p.x.put(3 * classes + c, p.x[3 * classes + c] + 40);  // summed again
      p.forward(at());
      Array apart(dtype, {9, classes});
      p.backward(at(), apart, false);
      p.backward(at(), p.x, false);
      EXPECT_TRUE(p.x.same_bytes(apart));
    }
  }
}

TEST(CrossEntropy, Stays_exact_for_rows_far_from_zero) {
  for (DType dtype : kFloats) {
    for (double offset : {-1e4, 1e4, 1e30, -1e38, 1e38}) {
      CrossEntropyProblem p(dtype, 9, 20);
      for (std::int64_t i = 0; i < p.x.count(); ++i) p.x.put(i, offset + (std::fabs(offset) < 1e5 ? p.x[i] : 0));
      SCOPED_TRACE(std::string(name(dtype)) + " offset " + std::to_string(offset));
      ASSERT_NO_FATAL_FAILURE(check(p));
    }
    CrossEntropyProblem p(dtype, 4, 20);  // both ends of the range in a row
    for (std::int64_t r = 0; r < 4; ++r) {
      p.x.put(r * 20 + 3, 1e38);
      p.x.put(r * 20 + 4, -1e38);
      p.targets[static_cast<std::size_t>(r)] = r < 2 ? 3 : 4;
    }
    ASSERT_NO_FATAL_FAILURE(check(p));
  }
}

TEST(CrossEntropy, Masked_classes_have_no_probability_and_a_masked_target_an_infinite_loss) {
  for (DType dtype : kFloats) {
    CrossEntropyProblem p(dtype, 3, 9);
    p.targets = {1, 2, kIgnore};
    for (std::int64_t r = 0; r < 3; ++r)
      for (std::int64_t c = 5; c < 9; ++c) p.x.put(r * 9 + c, -kInf);
    ASSERT_NO_FATAL_FAILURE(check(p));
    p.targets[1] = 7;
    p.forward(at());
    EXPECT_EQ(p.loss[0], kInf);
    Array dx(dtype, {3, 9});
    p.backward(at(), dx, false);
    for (std::int64_t c = 0; c < 9; ++c)
      EXPECT_TRUE(close(dx[9 + c], p.gradient(1)[static_cast<std::size_t>(c)], epsilon(dtype), 64 * epsilon(p.inner)));
  }
}

TEST(CrossEntropy, A_row_of_only_minus_infinity_has_an_infinite_loss_and_a_finite_gradient) {
  for (DType dtype : kFloats) {
    CrossEntropyProblem p(dtype, 2, 9);
    p.targets = {1, 2};
    for (std::int64_t c = 0; c < 9; ++c) p.x.put(9 + c, -kInf);
    p.forward(at());
    EXPECT_EQ(p.loss[0], kInf);
    EXPECT_EQ(p.log_sum_exp[1], -kInf);
    Array dx(dtype, {2, 9});
    p.backward(at(), dx, false);
    for (std::int64_t c = 0; c < 9; ++c) EXPECT_EQ(dx[9 + c], c == 2 ? rounded(dtype, -p.dloss[0] / 2) : 0.0);
  }
}

TEST(CrossEntropy, Nan_reaches_the_loss_and_the_gradient_of_its_row) {
  for (DType dtype : kFloats) {
    CrossEntropyProblem p(dtype, 3, 20);
    p.x.put(20 + 19, kNan);
    p.forward(at());
    EXPECT_TRUE(std::isnan(p.loss[0]));
    Array dx(dtype, {3, 20});
    p.backward(at(), dx, false);
    for (std::int64_t i = 0; i < 60; ++i) EXPECT_EQ(std::isnan(dx[i]), i / 20 == 1) << i;
  }
}

TEST(CrossEntropy, No_counted_row_gives_a_loss_of_zero_and_no_gradient) {
  CrossEntropyProblem p(DType::f32, 3, 7);
  p.targets.assign(3, kIgnore);
  for (std::int64_t i = 0; i < 21; ++i) p.x.put(i, kNan);
  p.forward(at());
  EXPECT_EQ(p.loss[0], 0.0);
  Array dx(DType::f32, {3, 7});
  p.backward(at(), dx, false);
  for (std::int64_t i = 0; i < 21; ++i) EXPECT_EQ(dx[i], 0.0);
}

#ifdef ADJOINT_KERNELS_ON_GPU
TEST(CrossEntropy, Of_a_bad_target_is_not_a_number) {  // a GPU cannot stop at it, and must not read out of range
  for (const std::int32_t bad : {7, -1}) {
    CrossEntropyProblem p(DType::f32, 6, 7);
    p.targets[3] = bad;
    p.forward(at());
    EXPECT_TRUE(std::isnan(p.loss[0]));
  }
}
#else
TEST(CrossEntropy, Names_the_row_of_a_bad_target_and_writes_nothing) {
  for (const std::int32_t bad : {7, -1}) {
    CrossEntropyProblem p(DType::f32, 6, 7);
    p.targets[3] = bad;
    const Array loss = p.loss, saved = p.log_sum_exp;
    try {
      p.forward(at());
      FAIL() << "accepted target " << bad;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), "E-OP-011");
      EXPECT_EQ(e.exit(), Exit::data);
      EXPECT_EQ(std::string(e.what()), "cross_entropy: row 3: target " + std::to_string(bad) +
                                           " is out of range; expected 0..6, or -100 to leave it out");
    }
    EXPECT_TRUE(p.loss.same_bytes(loss) && p.log_sum_exp.same_bytes(saved));
  }
}
#endif

TEST(CrossEntropy, A_row_has_the_same_bits_wherever_it_lies_and_for_any_number_of_threads) {
  for (DType dtype : kFloats) {
    for (std::int64_t classes : {7, 150}) {
      CrossEntropyProblem one(dtype, 1501, classes);
      one.forward(at(1));
      Array dx(dtype, {1501, classes});
      one.backward(at(1), dx, false);
      for (int threads : {2, 4}) {
        CrossEntropyProblem many(dtype, 1501, classes);
        many.forward(at(threads));
        Array other(dtype, {1501, classes});
        many.backward(at(threads), other, false);
        EXPECT_TRUE(many.loss.same_bytes(one.loss) && many.log_sum_exp.same_bytes(one.log_sum_exp));
        EXPECT_TRUE(other.same_bytes(dx));
      }
      for (std::int64_t row : {0, 2, 1500}) {
        CrossEntropyProblem alone(dtype, 1, classes);
        for (std::int64_t c = 0; c < classes; ++c) alone.x.put(c, one.x[row * classes + c]);
        alone.targets = {one.target(row)};
        alone.forward(at());
        EXPECT_EQ(alone.log_sum_exp[0], one.log_sum_exp[row]) << "row " << row;
      }
    }
  }
}

}  // namespace
}  // namespace adjoint
