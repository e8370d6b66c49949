// Reductions over every subset of dimensions against plain loops in f64.

#include "kernels/reduce.h"

#include "kernels/copy.h"
#include "tests/kernels/arrays.h"

namespace adjoint {
namespace {

using namespace adjoint::testing;

/// The shape of the result that keeps the dimensions whose bit is not set: 1 where reduced.
Dims kept_shape(const Dims& shape, unsigned reduced) {
  Dims kept = shape;
  for (std::size_t i = 0; i < kept.size(); ++i)
    if (reduced >> i & 1) kept[i] = 1;
  return kept;
}

/// A result seen with x's shape: stride 0 on every reduced dimension, of size 1 too.
View result_view(const Array& y, const Dims& shape, unsigned reduced) {
  View v = expanded(y.view, shape);
  for (std::size_t i = 0; i < shape.size(); ++i)
    if (reduced >> i & 1) v.stride[i] = 0;
  return v;
}

const std::vector<Dims> kShapes = {{},
                                   {1},
                                   {31},
                                   {32},
                                   {33},
                                   {127},
                                   {128},
                                   {129},
                                   {1023},
                                   {40000},
                                   {1, 1},
                                   {5, 7},
                                   {7, 1, 33},
                                   {129, 31},
                                   {31, 129},
                                   {1023, 3},
                                   {3, 1023},
                                   {70, 700},
                                   {5, 33, 20},
                                   {33, 5, 40},
                                   {3, 4, 5, 6},
                                   {2, 3, 2, 3, 2, 3},
                                   {3, 20000, 2},
                                   {2, 40000}};

TEST(Reduce, Sums_over_every_subset_of_dimensions) {
  for (DType dtype : kFloats) {
    for (const Dims& shape : kShapes) {
      const Array x = Array(dtype, shape).random(1, -1, 1);
      for (unsigned reduced = 0; reduced < 1u << shape.size(); ++reduced) {
        SCOPED_TRACE(std::string(name(dtype)) + " " + text(shape) + " reduced " + std::to_string(reduced));
        Array y(dtype, kept_shape(shape, reduced));
        const View vy = result_view(y, shape, reduced);
        std::vector<double> sum(static_cast<std::size_t>(y.count())), magnitude(sum.size());
        for (std::int64_t i = 0; i < x.count(); ++i) {
          sum[static_cast<std::size_t>(Array::place(vy, i))] += x[i];
          magnitude[static_cast<std::size_t>(Array::place(vy, i))] += std::abs(x[i]);
        }
        run(at(), Reduce{ReduceKind::sum, x.view, vy, 0.5});
        const double eps = epsilon(accumulator_of(dtype));
        for (std::int64_t i = 0; i < y.count(); ++i) {
          const std::size_t k = static_cast<std::size_t>(i);
          ASSERT_TRUE(close(y[i], 0.5 * sum[k], epsilon(dtype) + eps, 16 * eps * magnitude[k])) << "at " << i;
        }
        ASSERT_TRUE(y.unspoiled());
        Array more = y;
        run(at(), Reduce{ReduceKind::sum, x.view, result_view(more, shape, reduced), 0.5, true});
        for (std::int64_t i = 0; i < y.count(); ++i)
          ASSERT_TRUE(close(more[i], 2 * y[i], 2 * epsilon(dtype), 2 * eps * magnitude[static_cast<std::size_t>(i)]));
        for (Layout layout : {Layout::transposed, Layout::gaps}) {
          Array other(dtype, kept_shape(shape, reduced));
          run(at(), Reduce{ReduceKind::sum, x.as(layout).view, result_view(other, shape, reduced), 0.5});
          ASSERT_TRUE(other.same_bytes(y));
        }
      }
    }
  }
}

TEST(Reduce, Finds_the_largest_and_its_gradient_goes_to_the_first_of_equals) {
  for (DType dtype : kFloats) {
    for (const Dims& shape : kShapes) {
      Array x = Array(dtype, shape).random(1, -8, -1);
      for (std::int64_t i = 0; i < x.count(); ++i) x.put(i, std::floor(x[i]));  // many equals
      for (unsigned reduced = 0; reduced < 1u << shape.size(); ++reduced) {
        SCOPED_TRACE(std::string(name(dtype)) + " " + text(shape) + " reduced " + std::to_string(reduced));
        const Dims kept = kept_shape(shape, reduced);
        Array y(dtype, kept), dy = Array(dtype, kept).random(2, 0.5, 1), dx = Array(dtype, shape).random(3, -1, 1);
        const View vy = result_view(y, shape, reduced), vdy = result_view(dy, shape, reduced);
        run(at(), Reduce{ReduceKind::max, x.view, vy});
        std::vector<double> best(static_cast<std::size_t>(y.count()), -kInf);
        std::vector<std::int64_t> first(best.size(), -1);
        for (std::int64_t i = 0; i < x.count(); ++i) {
          const std::size_t k = static_cast<std::size_t>(Array::place(vy, i));
          if (x[i] > best[k]) {
            best[k] = x[i];
            first[k] = i;
          }
        }
        for (std::int64_t i = 0; i < y.count(); ++i) ASSERT_EQ(y[i], best[static_cast<std::size_t>(i)]);
        ASSERT_TRUE(y.unspoiled());
        const Array old = dx;
        run(at(), MaxBackward{x.as(Layout::gaps).view, vy, vdy, {dx.data(), false}});
        Array added = old;
        run(at(), MaxBackward{x.view, vy, vdy, {added.data(), true}});
        for (std::int64_t i = 0; i < x.count(); ++i) {
          const std::size_t k = static_cast<std::size_t>(Array::place(vy, i));
          const double slope = first[k] == i ? dy[static_cast<std::int64_t>(k)] : 0;
          ASSERT_EQ(dx[i], slope) << "at " << i;
          ASSERT_TRUE(close(added[i], old[i] + slope, epsilon(dtype), 0)) << "at " << i;
        }
        ASSERT_TRUE(dx.unspoiled());
      }
    }
  }
}

TEST(Reduce, Nan_wins_a_maximum_and_spoils_a_sum) {
  for (DType dtype : kFloats) {
    for (std::int64_t n : {1, 15, 16, 17, 33, 600}) {
      for (std::int64_t where : {std::int64_t{0}, n / 2, n - 1}) {
        Array x = Array(dtype, {n}).random(1, -1, 1), y(dtype, {1}), dy(dtype, {1}), dx(dtype, {n});
        x.put(where, kNan);
        dy.put(0, 2);
        run(at(), Reduce{ReduceKind::max, x.view, expanded(y.view, {n})});
        EXPECT_TRUE(std::isnan(y[0]));
        run(at(), MaxBackward{x.view, expanded(y.view, {n}), expanded(dy.view, {n}), {dx.data(), false}});
        for (std::int64_t i = 0; i < n; ++i) EXPECT_EQ(dx[i], i == where ? 2 : 0);
        run(at(), Reduce{ReduceKind::sum, x.view, expanded(y.view, {n})});
        EXPECT_TRUE(std::isnan(y[0]));
      }
    }
    Array x(dtype, {20, 3}), y(dtype, {1, 3});
    run(at(), Fill{x.view, -kInf});
    x.put(7 * 3 + 1, kNan);
    run(at(), Reduce{ReduceKind::max, x.view, expanded(y.view, {20, 3})});
    EXPECT_EQ(y[0], -kInf);
    EXPECT_TRUE(std::isnan(y[1]));
  }
}

TEST(Reduce, An_empty_sum_is_zero) {
  for (DType dtype : kFloats) {
    Array x(dtype, {3, 0, 2}), y(dtype, {3, 1, 2});
    run(at(), Fill{y.view, 5});
    run(at(), Reduce{ReduceKind::sum, x.view, expanded(y.view, {3, 0, 2}), 1.0, true});
    for (int i = 0; i < 6; ++i) EXPECT_EQ(y[i], 5);
    run(at(), Reduce{ReduceKind::sum, x.view, expanded(y.view, {3, 0, 2})});
    for (int i = 0; i < 6; ++i) EXPECT_EQ(y[i], 0);
    Array nothing(dtype, {0, 1});
    run(at(), Reduce{ReduceKind::sum, Array(dtype, {0, 4}).view, expanded(nothing.view, {0, 4})});
    EXPECT_TRUE(nothing.unspoiled());
  }
}

TEST(Reduce, A_long_sum_keeps_its_digits) {
  // One after another, 4e6 additions of 0.1 in f32 end 10 % off.
  Array x(DType::f32, {2000, 2000});
  run(at(), Fill{x.view, 0.1});
  for (unsigned reduced : {1u, 2u, 3u}) {
    Array y(DType::f32, kept_shape({2000, 2000}, reduced));
    run(at(), Reduce{ReduceKind::sum, x.view, result_view(y, {2000, 2000}, reduced)});
    const double expected = 4e6 / static_cast<double>(y.count()) * x[0];
    for (std::int64_t i = 0; i < y.count(); ++i) ASSERT_TRUE(close(y[i], expected, 1e-6, 0));
  }
}

TEST(Reduce, One_two_and_four_threads_give_the_same_bits) {
  for (DType dtype : kFloats) {
    for (const Dims& shape : std::vector<Dims>{{300, 700}, {7, 300, 90}, {200000}, {3, 50000}}) {
      const Array x = Array(dtype, shape).random(1, -1, 1);
      for (unsigned reduced = 1; reduced < 1u << shape.size(); ++reduced) {
        for (ReduceKind kind : {ReduceKind::sum, ReduceKind::max}) {
          Array y(dtype, kept_shape(shape, reduced));
          run(at(1), Reduce{kind, x.view, result_view(y, shape, reduced)});
          Array dx(dtype, shape);
          run(at(1), MaxBackward{x.view, result_view(y, shape, reduced), result_view(y, shape, reduced), {dx.data()}});
          for (int threads : {2, 4}) {
            Array other(dtype, kept_shape(shape, reduced)), other_dx(dtype, shape);
            run(at(threads), Reduce{kind, x.view, result_view(other, shape, reduced)});
            run(at(threads),
                MaxBackward{x.view, result_view(y, shape, reduced), result_view(y, shape, reduced), {other_dx.data()}});
            EXPECT_TRUE(other.same_bytes(y)) << name(dtype) << text(shape) << reduced;
            EXPECT_TRUE(other_dx.same_bytes(dx)) << name(dtype) << text(shape) << reduced;
          }
        }
      }
    }
  }
}

TEST(ArgMax, Is_the_first_of_the_largest_or_the_first_nan) {
  for (DType dtype : kFloats) {
    for (std::int64_t width : {1, 2, 15, 16, 17, 31, 33, 127, 128, 129, 1023}) {
      constexpr std::int64_t kRows = 5;
      Array x = Array(dtype, {kRows, width}).random(static_cast<unsigned>(width), -6, 6);
      for (std::int64_t i = 0; i < x.count(); ++i) x.put(i, std::floor(x[i]));
      for (std::int64_t i = 0; i < width; ++i) x.put(width + i, -kInf);
      if (width > 2) x.put(2 * width + width - 2, kNan);
      x.put(2 * width + width - 1, kNan);
      std::int32_t index[kRows];
      run(at(), ArgMax{dtype, kRows, width, x.data(), index});
      for (std::int64_t r = 0; r < kRows; ++r) {
        std::int64_t expected = 0;
        for (std::int64_t i = 1; i < width; ++i) {
          const double best = x[r * width + expected], v = x[r * width + i];
          if (best == best && (v > best || v != v)) expected = i;
        }
        EXPECT_EQ(index[r], expected) << name(dtype) << " width " << width << " row " << r;
      }
    }
  }
  run(at(), ArgMax{DType::f32, 0, 4, nullptr, nullptr});
}

}  // namespace
}  // namespace adjoint
