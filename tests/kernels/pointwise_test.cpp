// Pointwise kernels against the C library in f64, element by element.

#include "kernels/pointwise.h"

#include <functional>

#include "tests/kernels/arrays.h"

namespace adjoint {
namespace {

using namespace adjoint::testing;

struct Unary {
  UnaryKind kind;
  const char* name;
  double low, high;                             // where arguments are drawn
  std::function<double(double)> value;          // f(x)
  std::function<double(double, double)> slope;  // f'(x), by x and the stored y
};

double cdf(double x) { return 0.5 * std::erfc(-x * std::sqrt(0.5)); }
double pdf(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * M_PI); }
double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
double gelu_tanh_slope(double x) {
  const double t = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

const std::vector<Unary>& unary_functions() {
  static const std::vector<Unary> list = {
      {UnaryKind::neg, "neg", -4, 4, [](double x) { return -x; }, [](double, double) { return -1.0; }},
      {UnaryKind::abs, "abs", -4, 4, [](double x) { return std::abs(x); },
       [](double x, double) { return x < 0   ? -1.0
                                     : x > 0 ? 1.0
                                             : x * 0; }},
      {UnaryKind::square, "square", -4, 4, [](double x) { return x * x; }, [](double x, double) { return 2 * x; }},
      {UnaryKind::sqrt, "sqrt", 0.1, 4, [](double x) { return std::sqrt(x); },
       [](double, double y) { return 0.5 / y; }},
      {UnaryKind::rsqrt, "rsqrt", 0.1, 4, [](double x) { return 1 / std::sqrt(x); },
       [](double x, double y) { return -0.5 * y / x; }},
      {UnaryKind::reciprocal, "reciprocal", 0.1, 4, [](double x) { return 1 / x; },
       [](double, double y) { return -y * y; }},
      {UnaryKind::exp, "exp", -4, 4, [](double x) { return std::exp(x); }, [](double, double y) { return y; }},
      {UnaryKind::log, "log", 0.1, 4, [](double x) { return std::log(x); }, [](double x, double) { return 1 / x; }},
      {UnaryKind::tanh, "tanh", -4, 4, [](double x) { return std::tanh(x); },
       [](double, double y) { return 1 - y * y; }},
      {UnaryKind::sigmoid, "sigmoid", -4, 4, [](double x) { return 1 / (1 + std::exp(-x)); },
       [](double, double y) { return y * (1 - y); }},
      {UnaryKind::relu, "relu", -4, 4, [](double x) { return x > 0    ? x
                                                             : x == x ? 0.0
                                                                      : x; },
       [](double x, double) { return x > 0 ? 1.0 : 0.0; }},
      {UnaryKind::gelu, "gelu", -4, 4, [](double x) { return x * cdf(x); },
       [](double x, double) { return cdf(x) + x * pdf(x); }},
      {UnaryKind::gelu_tanh, "gelu_tanh", -4, 4, gelu_tanh, [](double x, double) { return gelu_tanh_slope(x); }},
  };
  return list;
}

/// Our f32 functions are within 7 ulp or 5e-7; then one rounding to the dtype. f64's are the C library's.
double relative_tolerance(DType dtype) {
  return dtype == DType::f64 ? 16 * epsilon(dtype) : 16 * epsilon(DType::f32) + epsilon(dtype);
}
double absolute_tolerance(DType dtype) { return dtype == DType::f64 ? 1e-15 : 6e-7; }

const std::vector<Dims>& shapes() {
  static const std::vector<Dims> list = [] {
    std::vector<Dims> s;
    for (std::int64_t n : kOddSizes) s.push_back({n});
    for (const Dims& more :
         std::vector<Dims>{{}, {0, 3}, {3, 1, 5}, {5, 70}, {7, 200}, {2, 3, 4, 5}, {2, 1, 3, 2, 3, 2}, {3, 20000}})
      s.push_back(more);
    return s;
  }();
  return list;
}

TEST(Unary, Every_function_is_tested_here) {
#define ADJOINT_COUNT(...) +1
  EXPECT_EQ(unary_functions().size(), 0u ADJOINT_UNARY_FUNCTIONS(ADJOINT_COUNT));
#undef ADJOINT_COUNT
}

TEST(Unary, Forward_is_the_function_and_no_layout_changes_a_bit) {
  for (const Unary& f : unary_functions()) {
    for (DType dtype : kFloats) {
      for (const Dims& shape : shapes()) {
        SCOPED_TRACE(std::string(f.name) + " " + name(dtype) + " " + text(shape));
        const Array x = Array(dtype, shape).random(1, f.low, f.high);
        Array y(dtype, shape);
        run(at(), UnaryForward{f.kind, x.view, y.view});
        for (std::int64_t i = 0; i < x.count(); ++i)
          ASSERT_TRUE(close(y[i], f.value(x[i]), relative_tolerance(dtype), absolute_tolerance(dtype))) << " at " << i;
        ASSERT_TRUE(y.unspoiled());
        if (x.count() > 2000) continue;
        for (Layout from : kLayouts) {
          for (Layout to : kLayouts) {
            Array other(dtype, shape, to);
            run(at(), UnaryForward{f.kind, x.as(from).view, other.view});
            ASSERT_TRUE(other.same_elements(y) && other.unspoiled());
          }
        }
      }
    }
  }
}

TEST(Unary, Backward_is_the_slope_times_dy_assigned_or_added) {
  for (const Unary& f : unary_functions()) {
    for (DType dtype : kFloats) {
      for (const Dims& shape : shapes()) {
        SCOPED_TRACE(std::string(f.name) + " " + name(dtype) + " " + text(shape));
        const Array x = Array(dtype, shape).random(1, f.low, f.high);
        Array y(dtype, shape), dy = Array(dtype, shape).random(2, -1, 1), dx(dtype, shape);
        run(at(), UnaryForward{f.kind, x.view, y.view});
        run(at(), UnaryBackward{f.kind, x.view, y.data(), dy.data(), {dx.data(), false}});
        for (std::int64_t i = 0; i < x.count(); ++i)
          ASSERT_TRUE(close(dx[i], dy[i] * f.slope(x[i], y[i]), relative_tolerance(dtype), absolute_tolerance(dtype)))
              << " at " << i << " x " << x[i];
        ASSERT_TRUE(dx.unspoiled());
        Array twice = dx;
        run(at(), UnaryBackward{f.kind, x.view, y.data(), dy.data(), {twice.data(), true}});
        for (std::int64_t i = 0; i < x.count(); ++i) ASSERT_EQ(twice[i], 2 * dx[i]);
        if (x.count() > 2000) continue;
        for (Layout from : {Layout::transposed, Layout::gaps}) {
          Array other(dtype, shape);
          run(at(), UnaryBackward{f.kind, x.as(from).view, y.data(), dy.data(), {other.data(), false}});
          ASSERT_TRUE(other.same_bytes(dx));
        }
        Array shared = dy;  // in the memory of dy
        run(at(), UnaryBackward{f.kind, x.view, y.data(), shared.data(), {shared.data(), false}});
        ASSERT_TRUE(shared.same_bytes(dx));
      }
    }
  }
}

TEST(Unary, Special_values_give_what_the_function_gives) {
  for (const Unary& f : unary_functions()) {
    for (DType dtype : kFloats) {
      Array x(dtype, {7}), y(dtype, {7});
      const double special[] = {kNan, kInf, -kInf, 0.0, -0.0, 1e38, -1e38};
      for (int i = 0; i < 7; ++i) x.put(i, special[i]);
      run(at(), UnaryForward{f.kind, x.view, y.view});
      for (int i = 0; i < 7; ++i) {
        const double expected = dtype == DType::f64 ? f.value(x[i]) : static_cast<float>(f.value(x[i]));
        EXPECT_TRUE(close(y[i], expected, relative_tolerance(dtype), 1e-37))
            << f.name << "(" << x[i] << ") " << name(dtype);
      }
    }
  }
}

TEST(Unary, A_repeated_argument_is_read_in_place) {
  Array x = Array(DType::f32, {1}).random(1, 0.5, 1), y(DType::f32, {5, 40});
  run(at(), UnaryForward{UnaryKind::exp, expanded(x.view, {5, 40}), y.view});
  for (std::int64_t i = 0; i < 200; ++i) EXPECT_EQ(y[i], y[0]);
}

struct Binary {
  BinaryKind kind;
  const char* name;
  std::function<double(double, double)> value;
  std::function<double(double, double)> slope[2];
};

const std::vector<Binary>& binary_functions() {
  const auto one = [](double, double) { return 1.0; };
  static const std::vector<Binary> list = {
      {BinaryKind::add, "add", [](double a, double b) { return a + b; }, {one, one}},
      {BinaryKind::sub, "sub", [](double a, double b) { return a - b; }, {one, [](double, double) { return -1.0; }}},
      {BinaryKind::mul,
       "mul",
       [](double a, double b) { return a * b; },
       {[](double, double b) { return b; }, [](double a, double) { return a; }}},
      {BinaryKind::div,
       "div",
       [](double a, double b) { return a / b; },
       {[](double, double b) { return 1 / b; }, [](double a, double b) { return -a / (b * b); }}},
      {BinaryKind::maximum,
       "maximum",
       [](double a, double b) { return a >= b   ? a
                                       : a == a ? b
                                                : a; },
       {[](double a, double b) { return a >= b ? 1.0 : 0.0; }, [](double a, double b) { return a >= b ? 0.0 : 1.0; }}},
      {BinaryKind::minimum,
       "minimum",
       [](double a, double b) { return a <= b   ? a
                                       : a == a ? b
                                                : a; },
       {[](double a, double b) { return a <= b ? 1.0 : 0.0; }, [](double a, double b) { return a <= b ? 0.0 : 1.0; }}},
  };
  return list;
}

TEST(Binary, Every_function_is_tested_here) {
#define ADJOINT_COUNT(...) +1
  EXPECT_EQ(binary_functions().size(), 0u ADJOINT_BINARY_FUNCTIONS(ADJOINT_COUNT));
#undef ADJOINT_COUNT
}

struct Broadcast {
  Dims a, b, y;
};

const std::vector<Broadcast>& broadcasts() {
  static const std::vector<Broadcast> list = [] {
    std::vector<Broadcast> s;
    for (std::int64_t n : kOddSizes) {
      s.push_back({{n}, {n}, {n}});
      s.push_back({{5, n}, {n}, {5, n}});     // a bias
      s.push_back({{n, 3}, {1}, {n, 3}});     // a scalar
      s.push_back({{n, 7}, {n, 1}, {n, 7}});  // a column
      s.push_back({{4, n}, {4, 1}, {4, n}});
    }
    s.push_back({{1}, {1}, {1}});
    s.push_back({{}, {}, {}});
    s.push_back({{1}, {2000}, {2000}});
    s.push_back({{100, 1}, {1, 50}, {100, 50}});              // an outer product
    s.push_back({{3, 1, 5, 1}, {1, 4, 1, 6}, {3, 4, 5, 6}});  // alternating
    s.push_back({{2, 1, 3, 1, 2, 1}, {1, 2, 1, 3, 1, 2}, {2, 2, 3, 3, 2, 2}});
    s.push_back({{300, 70}, {70}, {300, 70}});
    s.push_back({{40, 600}, {1, 600}, {40, 600}});
    s.push_back({{2, 40000}, {2, 1}, {2, 40000}});
    s.push_back({{3, 5000, 3}, {3, 1, 3}, {3, 5000, 3}});
    return s;
  }();
  return list;
}

Array operand(DType dtype, const Dims& shape, unsigned seed) {
  Array a = Array(dtype, shape).random(seed, 0.5, 2);
  for (std::int64_t i = 0; i < a.count(); i += 3) a.put(i, -a[i]);
  return a;
}

TEST(Binary, Forward_is_the_function_with_any_broadcast_and_layout) {
  for (const Binary& f : binary_functions()) {
    for (DType dtype : kFloats) {
      for (const Broadcast& c : broadcasts()) {
        SCOPED_TRACE(std::string(f.name) + " " + name(dtype) + " " + text(c.a) + " " + text(c.b));
        const Array a = operand(dtype, c.a, 1), b = operand(dtype, c.b, 2);
        Array y(dtype, c.y);
        const View va = expanded(a.view, c.y), vb = expanded(b.view, c.y);
        run(at(), BinaryForward{f.kind, va, vb, y.view});
        for (std::int64_t i = 0; i < y.count(); ++i) {
          const double pa = get(dtype, va.data, Array::place(va, i)), pb = get(dtype, vb.data, Array::place(vb, i));
          ASSERT_TRUE(close(y[i], f.value(pa, pb), 1.01 * epsilon(dtype) + epsilon(DType::f64), 1e-300)) << " at " << i;
        }
        ASSERT_TRUE(y.unspoiled());
        Array swapped(dtype, c.y), straight(dtype, c.y);
        if (f.kind == BinaryKind::mul || f.kind == BinaryKind::add) {
          run(at(), BinaryForward{f.kind, vb, va, swapped.view});
          ASSERT_TRUE(swapped.same_bytes(y));
        }
        if (y.count() > 2000) continue;
        for (Layout layout : kLayouts) {
          const Array other_a = a.as(layout), other_b = b.as(Layout::gaps);
          Array other(dtype, c.y, layout);
          run(at(), BinaryForward{f.kind, expanded(other_a.view, c.y), expanded(other_b.view, c.y), other.view});
          ASSERT_TRUE(other.same_elements(y) && other.unspoiled());
        }
      }
    }
  }
}

TEST(Binary, Backward_sums_over_what_was_repeated) {
  for (const Binary& f : binary_functions()) {
    for (DType dtype : kFloats) {
      for (const Broadcast& c : broadcasts()) {
        const Array a = operand(dtype, c.a, 1), b = operand(dtype, c.b, 2);
        Array dy = Array(dtype, c.y).random(3, -1, 1);
        const View va = expanded(a.view, c.y), vb = expanded(b.view, c.y);
        for (int which : {0, 1}) {
          SCOPED_TRACE(std::string(f.name) + " " + name(dtype) + " " + text(c.a) + " " + text(c.b) + " operand " +
                       std::to_string(which));
          Array d(dtype, which == 0 ? c.a : c.b);
          const View vd = expanded(d.view, c.y);
          std::vector<double> sum(static_cast<std::size_t>(d.count())), magnitude(sum.size());
          for (std::int64_t i = 0; i < dy.count(); ++i) {
            const double g = dy[i] * f.slope[which](get(dtype, va.data, Array::place(va, i)),
                                                    get(dtype, vb.data, Array::place(vb, i)));
            sum[static_cast<std::size_t>(Array::place(vd, i))] += g;
            magnitude[static_cast<std::size_t>(Array::place(vd, i))] += std::abs(g);
          }
          run(at(), BinaryBackward{f.kind, which, va, vb, dy.data(), vd, false});
          // 16 roundings of the accumulator over the sum of magnitudes, one of the result.
          const double eps = epsilon(accumulator_of(dtype));
          for (std::int64_t i = 0; i < d.count(); ++i) {
            const std::size_t k = static_cast<std::size_t>(i);
            ASSERT_TRUE(close(d[i], sum[k], epsilon(dtype), 16 * eps * magnitude[k])) << " at " << i;
          }
          ASSERT_TRUE(d.unspoiled());
          Array twice = d;
          run(at(), BinaryBackward{f.kind, which, va, vb, dy.data(), expanded(twice.view, c.y), true});
          for (std::int64_t i = 0; i < d.count(); ++i)
            ASSERT_TRUE(close(twice[i], 2 * d[i], 2 * epsilon(dtype), 0)) << " at " << i;
          if (dy.count() > 2000) continue;
          for (Layout layout : {Layout::transposed, Layout::gaps}) {
            const Array other_a = a.as(layout), other_b = b.as(layout);
            Array other(dtype, which == 0 ? c.a : c.b);
            run(at(), BinaryBackward{f.kind, which, expanded(other_a.view, c.y), expanded(other_b.view, c.y), dy.data(),
                                     expanded(other.view, c.y), false});
            ASSERT_TRUE(other.same_bytes(d));
          }
        }
      }
    }
  }
}

TEST(Pointwise, One_two_and_four_threads_give_the_same_bits) {
  for (DType dtype : kFloats) {
    for (const Broadcast& c : std::vector<Broadcast>{{{300, 1000}, {1000}, {300, 1000}},
                                                     {{300, 1000}, {300, 1}, {300, 1000}},
                                                     {{300000}, {1}, {300000}},
                                                     {{50, 1, 400}, {1, 20, 1}, {50, 20, 400}}}) {
      const Array a = operand(dtype, c.a, 1), b = operand(dtype, c.b, 2);
      Array dy = Array(dtype, c.y).random(3, -1, 1), y(dtype, c.y), d(dtype, c.b), u(dtype, c.a);
      const View va = expanded(a.view, c.y), vb = expanded(b.view, c.y);
      run(at(1), BinaryForward{BinaryKind::mul, va, vb, y.view});
      run(at(1), BinaryBackward{BinaryKind::mul, 1, va, vb, dy.data(), expanded(d.view, c.y), false});
      run(at(1), UnaryForward{UnaryKind::tanh, a.view, u.view});
      for (int threads : {2, 4}) {
        Array y2(dtype, c.y), d2(dtype, c.b), u2(dtype, c.a);
        run(at(threads), BinaryForward{BinaryKind::mul, va, vb, y2.view});
        run(at(threads), BinaryBackward{BinaryKind::mul, 1, va, vb, dy.data(), expanded(d2.view, c.y), false});
        run(at(threads), UnaryForward{UnaryKind::tanh, a.view, u2.view});
        EXPECT_TRUE(y2.same_bytes(y));
        EXPECT_TRUE(d2.same_bytes(d));
        EXPECT_TRUE(u2.same_bytes(u));
      }
    }
  }
}

TEST(ScaleShift, Scales_shifts_and_adds) {
  for (DType dtype : kFloats) {
    for (std::int64_t n : {0, 1, 31, 32, 33, 127, 128, 129, 1023, 50000}) {
      const Array x = Array(dtype, {n}).random(1, 1, 2);
      Array y(dtype, {n});
      run(at(), ScaleShift{dtype, n, x.view.data, y.data(), 2.5, 0.25});
      for (std::int64_t i = 0; i < n; ++i)
        ASSERT_TRUE(close(y[i], 2.5 * x[i] + 0.25, 1.5 * epsilon(dtype) + epsilon(accumulator_of(dtype)), 0));
      Array sum = y;
      run(at(), ScaleShift{dtype, n, x.view.data, sum.data(), -1, 0, true});
      for (std::int64_t i = 0; i < n; ++i)
        ASSERT_TRUE(close(sum[i], y[i] - x[i], epsilon(dtype), 2 * epsilon(accumulator_of(dtype))));
      EXPECT_TRUE(y.unspoiled() && sum.unspoiled());
    }
  }
}

}  // namespace
}  // namespace adjoint
