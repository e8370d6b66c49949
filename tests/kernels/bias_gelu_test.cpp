#include "kernels/bias_gelu.h"

#include "tests/kernels/arrays.h"

namespace adjoint {
namespace {

using namespace adjoint::testing;

double value(double x, bool tanh_form) {
  if (!tanh_form) return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
  return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
double slope(double x, bool tanh_form) {
  if (!tanh_form) return 0.5 * std::erfc(-x * std::sqrt(0.5)) + x * std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI);
  const double c = 2 * std::sqrt(2 / M_PI), s = 1 / (1 + std::exp(-c * (x + 0.044715 * x * x * x)));
  return s + x * s * (1 - s) * c * (1 + 3 * 0.044715 * x * x);
}

struct Problem {
  DType dtype;
  std::int64_t rows, width;
  bool tanh_form, has_bias = true;
  Array x, bias, dy, y, dx, dbias;
  std::vector<std::int32_t> lengths;
  std::int64_t rows_per_length = 0;

  Problem(DType t, std::int64_t rows_, std::int64_t width_, bool tanh_form_)
      : dtype(t),
        rows(rows_),
        width(width_),
        tanh_form(tanh_form_),
        x(Array(t, {rows, width}).random(1, -4, 4)),
        bias(Array(t, {width}).random(2, -1, 1)),
        dy(Array(t, {rows, width}).random(3, -1, 1)),
        y(t, {rows, width}),
        dx(Array(t, {rows, width}).random(4, -1, 1)),
        dbias(Array(t, {width}).random(5, -1, 1)) {}

  bool takes_part(std::int64_t row) const {
    return lengths.empty() || row % rows_per_length < lengths[static_cast<std::size_t>(row / rows_per_length)];
  }
  void forward(const At& place) {
    run(place, BiasGeluForward{.dtype = dtype,
                               .rows = rows,
                               .width = width,
                               .x = x.data(),
                               .bias = has_bias ? bias.data() : nullptr,
                               .y = y.data(),
                               .row_lengths = lengths.empty() ? nullptr : lengths.data(),
                               .rows_per_length = rows_per_length,
                               .tanh_form = tanh_form});
  }
  void backward(const At& place, bool accumulate, bool wants_dx = true, bool wants_dbias = true) {
    BiasGeluBackward call{.dtype = dtype,
                          .rows = rows,
                          .width = width,
                          .x = x.data(),
                          .bias = has_bias ? bias.data() : nullptr,
                          .dy = dy.data(),
                          .dx = {wants_dx ? dx.data() : nullptr, accumulate},
                          .dbias = {wants_dbias ? dbias.data() : nullptr, accumulate},
                          .row_lengths = lengths.empty() ? nullptr : lengths.data(),
                          .rows_per_length = rows_per_length,
                          .tanh_form = tanh_form};
    std::vector<unsigned char> scratch(scratch_bytes(place, call) + 64, 0xA5);
    call.scratch = scratch.data();
    run(place, call);
    EXPECT_EQ(scratch.back(), 0xA5) << "wrote past the scratch it asked for";
  }
};

/// Sequences of 7 rows, some empty, some full; the last one longer than it has rows.
void give_lengths(Problem& p) {
  p.rows_per_length = 7;
  for (std::int64_t first = 0; first < p.rows; first += 7)
    p.lengths.push_back(static_cast<std::int32_t>(first * 5 % 8));
}

TEST(BiasGelu, Is_the_definition_forward_and_backward) {
  for (DType dtype : kFloats) {
    for (std::int64_t width : kOddSizes) {
      for (std::int64_t rows : {0, 1, 16, 37}) {
        for (int options = 0; options < 8; ++options) {
          const bool accumulate = (options & 4) != 0;
          Problem p(dtype, rows, width, (options & 1) != 0);
          if ((options & 2) != 0) give_lengths(p);
          SCOPED_TRACE(std::string(name(dtype)) + " [" + std::to_string(rows) + ", " + std::to_string(width) +
                       "] options " + std::to_string(options));
          const Array dx = p.dx, dbias = p.dbias;
          p.forward(at());
          p.backward(at(), accumulate);
          const double eps = epsilon(accumulator_of(dtype));
          std::vector<double> sum(static_cast<std::size_t>(width));
          for (std::int64_t i = 0; i < rows * width; ++i) {
            const bool there = p.takes_part(i / width);
            const double x = p.x[i] + p.bias[i % width];
            const double g = there ? p.dy[i] * slope(x, p.tanh_form) : 0.0;
            ASSERT_TRUE(close(p.y[i], there ? value(x, p.tanh_form) : 0.0, 2 * epsilon(dtype), 64 * eps)) << x;
            ASSERT_TRUE(close(p.dx[i], g + (accumulate ? dx[i] : 0.0), 2 * epsilon(dtype), 64 * eps)) << x;
            sum[static_cast<std::size_t>(i % width)] += g;
          }
          for (std::int64_t i = 0; i < width; ++i) {
            const double expected = sum[static_cast<std::size_t>(i)] + (accumulate ? dbias[i] : 0.0);
            ASSERT_TRUE(close(p.dbias[i], expected, 2 * epsilon(dtype), 64 * eps * static_cast<double>(rows + 1)));
          }
          ASSERT_TRUE(p.y.unspoiled() && p.dx.unspoiled() && p.dbias.unspoiled());
        }
      }
    }
  }
}

TEST(BiasGelu, Without_a_bias_adds_nothing) {
  for (DType dtype : kFloats) {
    Problem zeros(dtype, 21, 37, true), none(dtype, 21, 37, true);
    for (std::int64_t i = 0; i < zeros.width; ++i) zeros.bias.put(i, 0.0);
    none.has_bias = false;
    for (Problem* p : {&zeros, &none}) {
      p->forward(at());
      p->backward(at(), false);
    }
    EXPECT_TRUE(none.y.same_bytes(zeros.y) && none.dx.same_bytes(zeros.dx) && none.dbias.same_bytes(zeros.dbias));
  }
}

TEST(BiasGelu, Writes_only_the_gradients_that_are_wanted) {
  for (bool dx : {false, true}) {
    for (bool dbias : {false, true}) {
      Problem all(DType::f32, 21, 40, false), some(DType::f32, 21, 40, false);
      give_lengths(all);
      give_lengths(some);
      const Array old_dx = some.dx, old_dbias = some.dbias;
      all.backward(at(), false);
      some.backward(at(), false, dx, dbias);
      EXPECT_TRUE(some.dx.same_bytes(dx ? all.dx : old_dx));
      EXPECT_TRUE(some.dbias.same_bytes(dbias ? all.dbias : old_dbias));
    }
  }
}

TEST(BiasGelu, Has_the_same_bits_for_any_number_of_threads) {
  for (DType dtype : kFloats) {
    Problem one(dtype, 301, 130, false);
    give_lengths(one);
    one.forward(at(1));
    one.backward(at(1), true);
    for (int threads : {2, 4}) {
      Problem many(dtype, 301, 130, false);
      give_lengths(many);
      many.forward(at(threads));
      many.backward(at(threads), true);
      EXPECT_TRUE(many.y.same_bytes(one.y) && many.dx.same_bytes(one.dx) && many.dbias.same_bytes(one.dbias));
    }
  }
}

TEST(BiasGelu, Rows_that_take_no_part_may_hold_anything) {
  Problem p(DType::f32, 14, 20, false);
  p.rows_per_length = 7;
  p.lengths = {7, 3};
  for (std::int64_t i = 10 * 20; i < 14 * 20; ++i) {
    p.x.put(i, kNan);
    p.dy.put(i, kNan);
  }
  p.forward(at());
  p.backward(at(), false);
  for (std::int64_t i = 0; i < 14 * 20; ++i) {
    ASSERT_EQ(p.y[i] == 0.0 && p.dx[i] == 0.0, i >= 10 * 20) << i;
    ASSERT_FALSE(std::isnan(p.dbias[i % 20]));
  }
}

}  // namespace
}  // namespace adjoint
