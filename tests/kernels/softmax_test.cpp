// Softmax and log-softmax against f64.

#include "kernels/softmax.h"

#include "tests/kernels/arrays.h"

namespace adjoint {
namespace {

using namespace adjoint::testing;

std::vector<double> softmax(const Array& x, std::int64_t first, std::int64_t width, bool log) {
  double top = -kInf, sum = 0;
  for (std::int64_t i = 0; i < width; ++i) top = std::max(top, x[first + i]);
  std::vector<double> y(static_cast<std::size_t>(width), log ? -kInf : 0.0);
  if (top == -kInf) return y;
  for (std::int64_t i = 0; i < width; ++i) sum += std::exp(x[first + i] - top);
  for (std::int64_t i = 0; i < width; ++i) {
    const double v = x[first + i] - top;
    y[static_cast<std::size_t>(i)] = log ? v - std::log(sum) : std::exp(v) / sum;
  }
  return y;
}

TEST(Softmax, Forward_is_the_definition_also_for_large_and_infinite_entries) {
  for (DType dtype : kFloats) {
    for (std::int64_t width : kOddSizes) {
      for (bool log : {false, true}) {
        SCOPED_TRACE(std::string(name(dtype)) + " width " + std::to_string(width) + (log ? " log" : ""));
        constexpr std::int64_t kRows = 5;
        Array x = Array(dtype, {kRows, width}).random(1, -6, 6), y(dtype, {kRows, width});
        for (std::int64_t i = 0; i < width; ++i) {
          x.put(width + i, x[width + i] + 1000);        // far from 0
          x.put(2 * width + i, -kInf);                  // nothing but -inf
          if (i % 3 == 1) x.put(3 * width + i, -kInf);  // masked in part
        }
        run(at(), SoftmaxForward{dtype, kRows, width, x.data(), y.data(), log});
        const double eps = epsilon(accumulator_of(dtype));
        for (std::int64_t row = 0; row < kRows; ++row) {
          const std::vector<double> expected = softmax(x, row * width, width, log);
          for (std::int64_t i = 0; i < width; ++i)
            ASSERT_TRUE(close(y[row * width + i], expected[static_cast<std::size_t>(i)],
                              epsilon(dtype) + (log ? 4 : 24) * eps, log ? 8 * eps : 0))
                << "row " << row << " at " << i;
        }
        ASSERT_TRUE(y.unspoiled());
        run(at(), SoftmaxForward{dtype, kRows, width, x.data(), x.data(), log});  // in place
        EXPECT_TRUE(x.same_bytes(y));
      }
    }
  }
}

TEST(Softmax, Nan_and_plus_infinity_spoil_their_own_row_only) {
  for (DType dtype : kFloats) {
    for (bool log : {false, true}) {
      for (double bad : {kNan, kInf}) {
        Array x = Array(dtype, {3, 20}).random(1, -1, 1), y(dtype, {3, 20});
        x.put(20 + 17, bad);
        run(at(), SoftmaxForward{dtype, 3, 20, x.data(), y.data(), log});
        EXPECT_TRUE(std::isnan(y[20 + 17]));
        for (int i = 0; i < 20; ++i) EXPECT_TRUE(std::isfinite(y[i]) && std::isfinite(y[40 + i]));
      }
    }
  }
}

TEST(Softmax, Backward_is_the_formula_assigned_or_added) {
  for (DType dtype : kFloats) {
    for (std::int64_t width : kOddSizes) {
      for (bool log : {false, true}) {
        SCOPED_TRACE(std::string(name(dtype)) + " width " + std::to_string(width) + (log ? " log" : ""));
        constexpr std::int64_t kRows = 4;
        const Dims shape = {kRows, width};
        Array x = Array(dtype, shape).random(1, -3, 3), y(dtype, shape), dx(dtype, shape);
        Array dy = Array(dtype, shape).random(2, -1, 1);
        for (std::int64_t i = 0; i < width; ++i) x.put(width + i, -kInf);
        run(at(), SoftmaxForward{dtype, kRows, width, x.data(), y.data(), log});
        run(at(), SoftmaxBackward{dtype, kRows, width, y.data(), dy.data(), {dx.data()}, log});
        Array twice = dx;
        run(at(), SoftmaxBackward{dtype, kRows, width, y.data(), dy.data(), {twice.data(), true}, log});
        for (std::int64_t row = 0; row < kRows; ++row) {
          double sum = 0, magnitude = 0;
          for (std::int64_t i = row * width; i < (row + 1) * width; ++i) {
            sum += log ? dy[i] : y[i] * dy[i];
            magnitude += std::abs(log ? dy[i] : y[i] * dy[i]);
          }
          for (std::int64_t i = row * width; i < (row + 1) * width; ++i) {
            const double expected = log ? dy[i] - std::exp(y[i]) * sum : y[i] * (dy[i] - sum);
            const double eps = epsilon(accumulator_of(dtype));
            ASSERT_TRUE(close(dx[i], expected, epsilon(dtype) + 4 * eps, (log ? 16 : 8) * eps * (1 + magnitude)))
                << "row " << row << " at " << i;
            ASSERT_EQ(twice[i], 2 * dx[i]);
          }
        }
        ASSERT_TRUE(dx.unspoiled());
      }
    }
  }
}

TEST(Softmax, One_two_and_four_threads_give_the_same_bits) {
  for (DType dtype : kFloats) {
    for (const Dims& shape : std::vector<Dims>{{3000, 33}, {3, 40000}}) {
      Array x = Array(dtype, shape).random(1, -3, 3), y(dtype, shape), dx(dtype, shape);
      run(at(1), SoftmaxForward{dtype, shape[0], shape[1], x.data(), y.data(), false});
      run(at(1), SoftmaxBackward{dtype, shape[0], shape[1], y.data(), x.data(), {dx.data()}, false});
      for (int threads : {2, 4}) {
        Array y2(dtype, shape), dx2(dtype, shape);
        run(at(threads), SoftmaxForward{dtype, shape[0], shape[1], x.data(), y2.data(), false});
        run(at(threads), SoftmaxBackward{dtype, shape[0], shape[1], y.data(), x.data(), {dx2.data()}, false});
        EXPECT_TRUE(y2.same_bytes(y));
        EXPECT_TRUE(dx2.same_bytes(dx));
      }
    }
  }
}

}  // namespace
}  // namespace adjoint
