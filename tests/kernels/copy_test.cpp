// Copies between all dtypes and layouts against element-by-element conversion.

#include "kernels/copy.h"

#include "tests/kernels/arrays.h"

namespace adjoint {
namespace {

using namespace adjoint::testing;

/// bf16 by choosing the nearest of the candidates around the value in f64, ties to the even one.
double nearest_bf16(double v) {
  if (std::isnan(v) || std::isinf(v) || v == 0) return v;
  const double step = std::ldexp(1.0, std::max(std::ilogb(v), -126) - 7);
  const double r = std::nearbyint(v / step) * step;
  return std::abs(r) >= 0x1p128 ? std::copysign(kInf, v) : r;
}

double converted(DType to, double v) {
  switch (to) {
    case DType::f64: return v;
    case DType::f32: return static_cast<float>(v);
    case DType::bf16: return nearest_bf16(v);
    case DType::i32: return std::isnan(v) ? 0 : std::trunc(std::min(std::max(v, -2147483648.0), 2147483647.0));
    case DType::u8: return std::isnan(v) ? 0 : std::trunc(std::min(std::max(v, 0.0), 255.0));
  }
  return 0;
}

const std::vector<Dims> kShapes = {{},
                                   {0},
                                   {1},
                                   {31},
                                   {32},
                                   {33},
                                   {127},
                                   {128},
                                   {129},
                                   {1023},
                                   {3, 0},
                                   {5, 7},
                                   {33, 70},
                                   {17, 16},
                                   {3, 20, 40},
                                   {2, 3, 4, 5},
                                   {2, 1, 3, 2, 3, 2},
                                   {40, 1000}};

TEST(Copy, Converts_between_all_dtypes_and_layouts) {
  for (DType from : kAll) {
    for (DType to : kAll) {
      for (const Dims& shape : kShapes) {
        const Array x =
            Array(from, shape).random(1, from == DType::u8 || (from == DType::i32 && to == DType::u8) ? 0 : -90, 120);
        for (Layout from_layout : kLayouts) {
          for (Layout to_layout : kLayouts) {
            SCOPED_TRACE(std::string(name(from)) + " to " + name(to) + " " + text(shape) + " layouts " +
                         std::to_string(static_cast<int>(from_layout)) + std::to_string(static_cast<int>(to_layout)));
            Array y(to, shape, to_layout);
            run(at(), Copy{x.as(from_layout).view, y.view});
            for (std::int64_t i = 0; i < x.count(); ++i) ASSERT_EQ(y[i], converted(to, x[i])) << "at " << i;
            ASSERT_TRUE(y.unspoiled());
          }
        }
      }
    }
  }
}

TEST(Copy, Integers_wrap_from_i32_to_u8) {
  Array x(DType::i32, {4}), y(DType::u8, {4});
  const double values[] = {-1, 256, 511, 7};
  for (int i = 0; i < 4; ++i) x.put(i, values[i]);
  run(at(), Copy{x.view, y.view});
  EXPECT_EQ(y[0], 255);
  EXPECT_EQ(y[1], 0);
  EXPECT_EQ(y[2], 255);
  EXPECT_EQ(y[3], 7);
}

TEST(Copy, Rounds_once_and_keeps_special_values) {
  // Halfway between two bf16 after a first rounding to f32, but not before it.
  const double above = 1.0 + 0x1p-8 + 0x1p-30, below = 1.0 + 3 * 0x1p-8 - 0x1p-30;
  const double values[] = {above, below, -above, kNan, kInf, -kInf, 3.4e38, 1e300, -1e300, 1e-310, 1e-40, -0.0};
  for (DType to : kAll) {
    Array x(DType::f64, {12}), y(to, {12});
    for (int i = 0; i < 12; ++i) x.put(i, values[i]);
    run(at(), Copy{x.view, y.view});
    for (int i = 0; i < 12; ++i) {
      if (to == DType::bf16 && std::abs(values[i]) < 1e-45) continue;
      EXPECT_TRUE(close(y[i], converted(to, values[i]), 0, 0)) << values[i] << " to " << name(to);
    }
  }
  Array x(DType::i32, {2}), y(DType::bf16, {2});
  x.put(0, 16777216.0 * 64 + 4194304 + 1);  // just above a tie
  x.put(1, 16777216.0 * 64 + 4194304);
  run(at(), Copy{x.view, y.view});
  EXPECT_EQ(y[0], 16777216.0 * 64 + 8388608);
  EXPECT_EQ(y[1], 16777216.0 * 64);
}

TEST(Copy, Adds_in_the_accumulator_and_rounds_once) {
  for (DType from : kAll) {
    for (DType to : kFloats) {
      for (const Dims& shape : kShapes) {
        for (Layout layout : kLayouts) {
          SCOPED_TRACE(std::string(name(from)) + " to " + name(to) + " " + text(shape));
          const Array x = Array(from, shape).random(1, 0, 50), old = Array(to, shape).random(2, -3, 3);
          Array y = old.as(layout);
          run(at(), Copy{x.as(Layout::gaps).view, y.view, true});
          for (std::int64_t i = 0; i < x.count(); ++i) {
            double expected = converted(accumulator_of(to), x[i]) + old[i];
            if (to != DType::f64) expected = static_cast<float>(expected);
            ASSERT_EQ(y[i], converted(to, expected)) << "at " << i;
          }
          ASSERT_TRUE(y.unspoiled());
        }
      }
    }
  }
}

TEST(Copy, Reads_repeated_and_offset_and_reversed_views) {
  const Array x = Array(DType::f32, {40}).random(1, -1, 1);
  for (const Dims& shape : std::vector<Dims>{{30, 40}, {2, 300, 40}}) {
    Array y(DType::f32, shape);
    run(at(), Copy{expanded(x.view, shape), y.view});
    for (std::int64_t i = 0; i < y.count(); ++i) ASSERT_EQ(y[i], x[i % 40]);
  }
  Array column(DType::bf16, {20, 1}), wide(DType::bf16, {20, 700});
  column.random(3, -1, 1);
  run(at(), Copy{expanded(column.view, {20, 700}), wide.view});
  for (std::int64_t i = 0; i < wide.count(); ++i) ASSERT_EQ(wide[i], column[i / 700]);
  View backwards = x.view;
  backwards.data = static_cast<float*>(x.view.data) + 39;
  backwards.stride[0] = -1;
  Array y(DType::f32, {40});
  run(at(), Copy{backwards, y.view});
  for (std::int64_t i = 0; i < 40; ++i) ASSERT_EQ(y[i], x[39 - i]);
}

TEST(Copy, Threads_change_nothing) {
  for (Layout layout : kLayouts) {
    const Array x = Array(DType::f32, {300, 700}).random(1, -1, 1);
    for (int threads : {2, 4}) {
      Array y(DType::f32, {300, 700}), z(DType::bf16, {300, 700});
      run(at(threads), Copy{x.as(layout).view, y.view});
      run(at(threads), Copy{x.as(layout).view, z.view});
      EXPECT_TRUE(y.same_elements(x));
      for (std::int64_t i = 0; i < x.count(); ++i) ASSERT_EQ(z[i], nearest_bf16(x[i]));
    }
  }
}

TEST(Fill, Sets_every_element_and_nothing_else) {
  for (DType dtype : kAll) {
    for (const Dims& shape : kShapes) {
      for (Layout layout : kLayouts) {
        for (double value : {0.0, 3.3, 77.7}) {
          Array y(dtype, shape, layout);
          run(at(2), Fill{y.view, value});
          for (std::int64_t i = 0; i < y.count(); ++i) ASSERT_EQ(y[i], converted(dtype, value));
          ASSERT_TRUE(y.unspoiled());
        }
      }
    }
  }
}

}  // namespace
}  // namespace adjoint
