#include "kernels/layer_norm.h"

#include "tests/kernels/arrays.h"

namespace adjoint {
namespace {

using namespace adjoint::testing;

constexpr double kEps = 1e-5;

constexpr std::int64_t kWidths[] = {1, 31, 32, 33, 127, 128, 129, 1000, 1023};

struct LayerNormProblem {
  DType dtype, inner;
  std::int64_t rows, width;
  bool residual, affine;
  Array x, r, gamma, beta, sum, y, mean, rstd;

  LayerNormProblem(DType t, std::int64_t rows_, std::int64_t width_, bool with_residual, bool with_affine,
                   double offset = 0.5)
      : dtype(t),
        inner(accumulator_of(t)),
        rows(rows_),
        width(width_),
        residual(with_residual),
        affine(with_affine),
        x(Array(t, {rows, width}).random(1, offset - 2, offset + 2)),
        r(Array(t, {rows, width}).random(2, -1, 1)),
        gamma(Array(t, {width}).random(3, 0.5, 1.5)),
        beta(Array(t, {width}).random(4, -1, 1)),
        sum(t, {rows, width}),
        y(t, {rows, width}),
        mean(inner, {rows}),
        rstd(inner, {rows}) {}

  void forward(const At& place) {
    run(place, LayerNormForward{.dtype = dtype,
                                .rows = rows,
                                .width = width,
                                .x = x.data(),
                                .residual = residual ? r.data() : nullptr,
                                .gamma = affine ? gamma.data() : nullptr,
                                .beta = affine ? beta.data() : nullptr,
                                .eps = kEps,
                                .sum = residual ? sum.data() : nullptr,
                                .y = y.data(),
                                .mean = mean.data(),
                                .rstd = rstd.data()});
  }
  double s(std::int64_t i) const { return residual ? rounded(dtype, x[i] + r[i]) : x[i]; }
  double scale(std::int64_t i) const { return affine ? gamma[i] : 1.0; }
  double exact_mean(std::int64_t row) const {
    double m = 0;
    for (std::int64_t i = 0; i < width; ++i) m += s(row * width + i) / static_cast<double>(width);
    return m;
  }
  double exact_rstd(std::int64_t row) const {
    const double mean = exact_mean(row);
    double v = 0;
    for (std::int64_t i = 0; i < width; ++i)
      v += (s(row * width + i) - mean) * (s(row * width + i) - mean) / static_cast<double>(width);
    return 1 / std::sqrt(v + kEps);
  }
};

TEST(LayerNorm, Forward_is_the_definition) {
  for (DType dtype : kFloats) {
    for (std::int64_t width : kWidths) {
      for (std::int64_t rows : {0, 1, 3, 4, 9}) {
        for (int options = 0; options < 4; ++options) {
          LayerNormProblem p(dtype, rows, width, (options & 1) != 0, (options & 2) != 0);
          SCOPED_TRACE(std::string(name(dtype)) + " width " + std::to_string(width) + " options " +
                       std::to_string(options));
          p.forward(at());
          const double eps = epsilon(p.inner);
          for (std::int64_t row = 0; row < rows; ++row) {
            const double mean = p.exact_mean(row), rstd = p.exact_rstd(row);
            ASSERT_TRUE(close(p.mean[row], mean, 32 * eps, 32 * eps));
            ASSERT_TRUE(close(p.rstd[row], rstd, 64 * eps, 0));
            for (std::int64_t i = 0; i < width; ++i) {
              const double expected = (p.s(row * width + i) - mean) * rstd * p.scale(i) + (p.affine ? p.beta[i] : 0.0);
              // 32 roundings of s, which is below 4 here, are divided by the deviation.
              ASSERT_TRUE(close(p.y[row * width + i], expected, 2 * epsilon(dtype), 32 * eps * (4 * rstd + 2)))
                  << "row " << row << " column " << i;
              if (p.residual) {
                ASSERT_EQ(p.sum[row * width + i], p.s(row * width + i));
              }
            }
          }
          ASSERT_TRUE(p.y.unspoiled() && p.sum.unspoiled() && p.mean.unspoiled() && p.rstd.unspoiled());
        }
      }
    }
  }
}

TEST(LayerNorm, Keeps_the_variance_of_values_far_from_zero) {
  LayerNormProblem p(DType::f32, 3, 200, false, false, 10000.0);  // E[x^2] - E[x]^2 would lose every digit of it
  p.forward(at());
  for (std::int64_t row = 0; row < 3; ++row)
    EXPECT_TRUE(close(p.rstd[row], p.exact_rstd(row), 1e-4, 0)) << p.exact_rstd(row);
}

TEST(LayerNorm, Equal_values_give_beta) {
  LayerNormProblem p(DType::f32, 2, 33, false, true);
  for (std::int64_t i = 0; i < 66; ++i) p.x.put(i, 3.0);
  p.forward(at());
  for (std::int64_t i = 0; i < 66; ++i) EXPECT_TRUE(close(p.y[i], p.beta[i % 33], 0, 1e-4));
}

struct Gradients {
  Array dx, dresidual, dgamma, dbeta;
  Gradients(DType dtype, std::int64_t rows, std::int64_t width)
      : dx(Array(dtype, {rows, width}).random(11, -1, 1)),
        dresidual(Array(dtype, {rows, width}).random(12, -1, 1)),
        dgamma(Array(dtype, {width}).random(13, -1, 1)),
        dbeta(Array(dtype, {width}).random(14, -1, 1)) {}
};

void backward(const At& place, LayerNormProblem& p, Array& dy, Array* dsum, Gradients& g, bool accumulate, int wanted) {
  LayerNormBackward call{.dtype = p.dtype,
                         .rows = p.rows,
                         .width = p.width,
                         .s = p.residual ? p.sum.data() : p.x.data(),
                         .gamma = p.affine ? p.gamma.data() : nullptr,
                         .mean = p.mean.data(),
                         .rstd = p.rstd.data(),
                         .dy = dy.data(),
                         .dsum = dsum != nullptr ? dsum->data() : nullptr,
                         .dx = {(wanted & 1) != 0 ? g.dx.data() : nullptr, accumulate},
                         .dresidual = {(wanted & 2) != 0 ? g.dresidual.data() : nullptr, accumulate},
                         .dgamma = {(wanted & 4) != 0 ? g.dgamma.data() : nullptr, accumulate},
                         .dbeta = {(wanted & 8) != 0 ? g.dbeta.data() : nullptr, accumulate}};
  std::vector<unsigned char> scratch(scratch_bytes(at(), call) + 1, 0xA5);
  call.scratch = scratch.data();
  run(place, call);
  EXPECT_EQ(scratch.back(), 0xA5) << "wrote past the scratch it asked for";
}

TEST(LayerNorm, Backward_is_the_definition) {
  for (DType dtype : kFloats) {
    for (std::int64_t width : {1, 7, 31, 32, 33, 128, 129, 1000}) {
      for (std::int64_t rows : {0, 1, 5, 70}) {
        for (int options = 0; options < 16; ++options) {
          if (rows * width > 4000 && options % 5 != 0) continue;  // each on and off, in four of the sixteen
          LayerNormProblem p(dtype, rows, width, (options & 1) != 0, (options & 2) != 0);
          const bool accumulate = (options & 4) != 0, with_dsum = (options & 8) != 0;
          SCOPED_TRACE(std::string(name(dtype)) + " [" + std::to_string(rows) + ", " + std::to_string(width) +
                       "] options " + std::to_string(options));
          p.forward(at());
          Array dy = Array(dtype, {rows, width}).random(6, -1, 1), dsum = Array(dtype, {rows, width}).random(7, -1, 1);
          Gradients g(dtype, rows, width);
          const Gradients before = g;
          backward(at(), p, dy, with_dsum ? &dsum : nullptr, g, accumulate, 15);
          const double eps = epsilon(p.inner);
          std::vector<double> dgamma(static_cast<std::size_t>(width)), dbeta(dgamma);
          for (std::int64_t row = 0; row < rows; ++row) {
            const double mean = p.mean[row], rstd = p.rstd[row];
            double sum = 0, dot = 0;
            const auto normal = [&](std::int64_t i) { return (p.s(row * width + i) - mean) * rstd; };
            for (std::int64_t i = 0; i < width; ++i) {
              const double d = dy[row * width + i];
              sum += d * p.scale(i) / static_cast<double>(width);
              dot += d * p.scale(i) * normal(i) / static_cast<double>(width);
              dgamma[static_cast<std::size_t>(i)] += d * normal(i);
              dbeta[static_cast<std::size_t>(i)] += d;
            }
            for (std::int64_t i = 0; i < width; ++i) {
              const std::int64_t at_i = row * width + i;
              double expected = rstd * (dy[at_i] * p.scale(i) - sum - normal(i) * dot);
              if (with_dsum) expected += dsum[at_i];
              const double tolerance = 64 * eps * (1 + rstd) * (1 + std::fabs(normal(i)));
              ASSERT_TRUE(close(g.dx[at_i], expected + (accumulate ? before.dx[at_i] : 0), epsilon(dtype), tolerance));
              ASSERT_TRUE(close(g.dresidual[at_i], expected + (accumulate ? before.dresidual[at_i] : 0), epsilon(dtype),
                                tolerance));
            }
          }
          for (std::int64_t i = 0; i < width; ++i) {
            const auto u = static_cast<std::size_t>(i);
            const double tolerance = 8 * eps * static_cast<double>(rows + 8);
            ASSERT_TRUE(close(g.dgamma[i], dgamma[u] + (accumulate ? before.dgamma[i] : 0), epsilon(dtype), tolerance));
            ASSERT_TRUE(close(g.dbeta[i], dbeta[u] + (accumulate ? before.dbeta[i] : 0), epsilon(dtype), tolerance));
          }
          ASSERT_TRUE(g.dx.unspoiled() && g.dresidual.unspoiled() && g.dgamma.unspoiled() && g.dbeta.unspoiled());
        }
      }
    }
  }
}

TEST(LayerNorm, Backward_writes_only_the_gradients_that_are_wanted) {
  for (int wanted = 0; wanted < 16; ++wanted) {
    LayerNormProblem p(DType::f32, 9, 40, true, true);
    p.forward(at());
    Array dy = Array(DType::f32, {9, 40}).random(6, -1, 1);
    Gradients all(DType::f32, 9, 40), some(DType::f32, 9, 40);
    const Gradients before = some;
    backward(at(), p, dy, nullptr, all, false, 15);
    backward(at(), p, dy, nullptr, some, false, wanted);
    EXPECT_TRUE(some.dx.same_bytes((wanted & 1) != 0 ? all.dx : before.dx));
    EXPECT_TRUE(some.dresidual.same_bytes((wanted & 2) != 0 ? all.dresidual : before.dresidual));
    EXPECT_TRUE(some.dgamma.same_bytes((wanted & 4) != 0 ? all.dgamma : before.dgamma));
    EXPECT_TRUE(some.dbeta.same_bytes((wanted & 8) != 0 ? all.dbeta : before.dbeta));
  }
}

TEST(LayerNorm, A_row_has_the_same_bits_wherever_it_lies_and_for_any_number_of_threads) {
  for (DType dtype : kFloats) {
    constexpr std::int64_t kRows = 301, kWidth = 130;
    LayerNormProblem p(dtype, kRows, kWidth, true, true);
    p.forward(at(1));
    Array dy = Array(dtype, {kRows, kWidth}).random(6, -1, 1);
    Gradients one(dtype, kRows, kWidth);
    backward(at(1), p, dy, nullptr, one, true, 15);
    for (int threads : {2, 4}) {
      LayerNormProblem q(dtype, kRows, kWidth, true, true);
      q.forward(at(threads));
      EXPECT_TRUE(q.y.same_bytes(p.y) && q.mean.same_bytes(p.mean) && q.rstd.same_bytes(p.rstd));
      Gradients many(dtype, kRows, kWidth);
      backward(at(threads), q, dy, nullptr, many, true, 15);
      EXPECT_TRUE(many.dx.same_bytes(one.dx) && many.dgamma.same_bytes(one.dgamma) && many.dbeta.same_bytes(one.dbeta));
    }
    for (std::int64_t row : {0, 3, 300}) {
      LayerNormProblem alone(dtype, 1, kWidth, true, true);
      const std::size_t bytes = kWidth * size_of(dtype);
      const auto offset = static_cast<std::size_t>(row) * bytes;
      std::memcpy(alone.x.data(), static_cast<char*>(p.x.data()) + offset, bytes);
      std::memcpy(alone.r.data(), static_cast<char*>(p.r.data()) + offset, bytes);
      alone.forward(at());
      EXPECT_EQ(std::memcmp(alone.y.data(), static_cast<char*>(p.y.data()) + offset, bytes), 0) << "row " << row;
    }
  }
}

TEST(LayerNorm, Nan_spoils_its_own_row_only) {
  LayerNormProblem p(DType::f32, 6, 40, false, true);
  p.x.put(2 * 40 + 39, kNan);
  p.forward(at());
  for (std::int64_t i = 0; i < p.y.count(); ++i) ASSERT_EQ(std::isnan(p.y[i]), i / 40 == 2) << i;
}

}  // namespace
}  // namespace adjoint
