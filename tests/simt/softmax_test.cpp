// Softmax and log-softmax under many schedules: rows held by lanes, by blocks, and rows too wide to hold.

#include "kernels/softmax.h"

#include "tests/simt/arrays.h"
#include "tests/simt/call.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

struct Size {
  std::int64_t rows, width;
};
// f64 holds 256 elements in a warp and 2048 in a block, f32 twice and bf16 four times as many.
const Size kSizes[] = {{1, 1},   {70, 7},   {9, 20},   {5, 64},   {3, 129}, {3, 256},
                       {2, 515}, {2, 1024}, {2, 2050}, {1, 4104}, {1, 8211}};

struct SoftmaxProblem {
  std::vector<double> x, dy, y, dx;
};

/// y and dx by the definition; row 0 is all -inf where there are others, and dx is of y as the dtype holds it.
SoftmaxProblem problem(DType dtype, const Size& size, bool log) {
  SoftmaxProblem p{uniform_values(dtype, size.rows * size.width, 1, -6, 6),
                   uniform_values(dtype, size.rows * size.width, 2, -2, 2),
                   {},
                   {}};
  p.y.resize(p.x.size());
  p.dx.resize(p.x.size());
  const std::size_t width = static_cast<std::size_t>(size.width);
  for (std::size_t r = 0; r < static_cast<std::size_t>(size.rows); ++r) {
    double* const x = &p.x[r * width];
    if (r == 0 && size.rows > 1) std::fill(x, x + width, -INFINITY);
    if (r == 1) x[width - 1] = 300;  // shifts its row far down
    double top = -INFINITY, sum = 0, total = 0;
    for (std::size_t i = 0; i < width; ++i) top = std::max(top, x[i]);
    for (std::size_t i = 0; i < width; ++i) sum += top == -INFINITY ? 0 : std::exp(x[i] - top);
    for (std::size_t i = 0; i < width; ++i) {
      const bool nothing = top == -INFINITY;
      p.y[r * width + i] =
          log ? (nothing ? -INFINITY : x[i] - top - std::log(sum)) : (nothing ? 0.0 : std::exp(x[i] - top) / sum);
      const double y = rounded(dtype, p.y[r * width + i]), dy = p.dy[r * width + i];
      total += log ? dy : y * dy;
    }
    for (std::size_t i = 0; i < width; ++i) {
      const double y = rounded(dtype, p.y[r * width + i]), dy = p.dy[r * width + i];
      p.dx[r * width + i] = log ? dy - std::exp(y) * total : y * (dy - total);
    }
  }
  return p;
}

TEST(SoftmaxKernel, Is_the_definition_for_every_width_and_schedule) {
  for (bool log : {false, true}) {
    for (DType dtype : kFloats) {
      // f32: some 10 roundings, and of a sum of 8000 terms by threads of at most 33; bf16 adds its own.
      const double relative = dtype == DType::f64 ? 1e-14 : 60 * 0x1p-24 + rounding(dtype);
      for (const Size& size : kSizes) {
        const SoftmaxProblem p = problem(dtype, size, log);
        const Dims shape{size.rows, size.width};
        std::vector<double> y_rounded = p.y, old = uniform_values(dtype, size.rows * size.width, 3, -2, 2), added = old;
        for (std::size_t i = 0; i < added.size(); ++i) {
          y_rounded[i] = rounded(dtype, y_rounded[i]);
          added[i] += p.dx[i];
        }
        // The sum's error, times y <= 1.
        const double absolute = static_cast<double>(size.width) * (dtype == DType::f64 ? 1e-15 : 4 * 0x1p-24);
        int which = 0;
        for (const Schedule& schedule : schedules(affordable_seeds() / 2)) {
          if (size.width > 1000 && which >= 2) break;
          const Placing placing = which++ % 2 == 0 ? Placing::dense : Placing::odd;
          Under under(schedule);
          const std::string what = std::string(log ? "log-softmax " : "softmax ") + adjoint::name(dtype) + " [" +
                                   std::to_string(size.rows) + "," + std::to_string(size.width) + "], " +
                                   name(schedule);
          Array x(dtype, shape, p.x, placing), y(dtype, shape, placing);
          run_call(SoftmaxForward{dtype, size.rows, size.width, x.data(), y.data(), log});
          expect_near(y, p.y, relative, log ? relative * 10 : dtype == DType::f64 ? 0 : 0x1p-126, what);
          run_call(SoftmaxForward{dtype, size.rows, size.width, x.data(), x.data(), log});
          EXPECT_EQ(x.values(), y.values()) << what << ", in place";
          Array ay(dtype, shape, y_rounded, placing), dy(dtype, shape, p.dy, placing);
          Array dx(dtype, shape, placing), more(dtype, shape, old, placing);
          run_call(SoftmaxBackward{dtype, size.rows, size.width, ay.data(), dy.data(), {dx.data(), false}, log});
          expect_near(dx, p.dx, relative, absolute, what + ", backward");
          run_call(SoftmaxBackward{dtype, size.rows, size.width, ay.data(), dy.data(), {more.data(), true}, log});
          expect_near(more, added, relative, absolute + 4 * relative, what + ", backward, added");
          run_call(SoftmaxBackward{dtype, size.rows, size.width, ay.data(), dy.data(), {nullptr, false}, log});
        }
      }
    }
  }
}

TEST(SoftmaxKernel, A_nan_spoils_its_own_row_only) {
  Under under({Order::skewed, 1, kLarge});
  for (DType dtype : kFloats) {
    for (std::int64_t width : {20, 600, 9000}) {
      std::vector<double> values = uniform_values(dtype, 3 * width, 1, -1, 1);
      values[static_cast<std::size_t>(width + width / 2)] = NAN;
      Array x(dtype, {3, width}, values), y(dtype, {3, width});
      run_call(SoftmaxForward{dtype, 3, width, x.data(), y.data(), false});
      for (std::int64_t i = 0; i < 3 * width; ++i) ASSERT_EQ(std::isnan(y[i]), i / width == 1) << width << " " << i;
    }
  }
}

}  // namespace
}  // namespace adjoint::simt::self_test
