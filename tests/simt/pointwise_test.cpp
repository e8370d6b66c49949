// Pointwise kernels against the C library in double.

#include "kernels/pointwise.h"

#include "tests/simt/arrays.h"
#include "tests/simt/call.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

/// The functions' own text in double; what the text cannot say is written out here.
struct Reference {
  static double select(bool condition, double a, double b) { return condition ? a : b; }
  static double sqrt(double x) { return std::sqrt(x); }
  static double exp(double x) { return std::exp(x); }
  static double log(double x) { return std::log(x); }
  static double tanh(double x) { return std::tanh(x); }
  static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
  static double normal_cdf(double x) { return 0.5 * std::erfc(-x * std::sqrt(0.5)); }
  static double normal_pdf(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * M_PI); }
  static double gelu_tanh(double x) {
    const double u = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
    return x / (1 + std::exp(-2 * u));
  }
  static double gelu_tanh_slope(double x) {
    const double t = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
  }
};
using M = Reference;
constexpr double zero = 0, one = 1;

struct UnaryCase {
  UnaryKind kind;
  const char* name;
  double (*value)(double);
  double (*slope)(double, double);
};
const UnaryCase kUnary[] = {
#define ADJOINT_CASE(name, forward, derivative)                        \
  {UnaryKind::name, #name, [](double x) -> double { return forward; }, \
   []([[maybe_unused]] double x, [[maybe_unused]] double y) -> double { return derivative; }},
    ADJOINT_UNARY_FUNCTIONS(ADJOINT_CASE)
#undef ADJOINT_CASE
};
struct BinaryCase {
  BinaryKind kind;
  const char* name;
  double (*value)(double, double);
  double (*slope[2])(double, double);
};
const BinaryCase kBinary[] = {
#define ADJOINT_CASE(name, forward, by_a, by_b)                                          \
  {BinaryKind::name,                                                                     \
   #name,                                                                                \
   [](double a, double b) -> double { return forward; },                                 \
   {[]([[maybe_unused]] double a, [[maybe_unused]] double b) -> double { return by_a; }, \
    []([[maybe_unused]] double a, [[maybe_unused]] double b) -> double { return by_b; }}},
    ADJOINT_BINARY_FUNCTIONS(ADJOINT_CASE)
#undef ADJOINT_CASE
};

bool needs_positive(UnaryKind kind) {
  return kind == UnaryKind::sqrt || kind == UnaryKind::rsqrt || kind == UnaryKind::log || kind == UnaryKind::reciprocal;
}

/// f32 arithmetic of a function: 20 roundings (measured, kernels/cpu/simd_math.h: at most 7 ulp, gelu_tanh 16); then
/// one rounding to the storage type. bf16's hardware functions are exact here, so this does not cover their 2^-16.
double tolerance(DType dtype) { return dtype == DType::f64 ? 1e-14 : 20 * 0x1p-24 + rounding(dtype); }

std::string label(const char* name, DType dtype, const Dims& shape, const Schedule& schedule) {
  std::string s = std::string(name) + " " + adjoint::name(dtype) + " [";
  for (std::int64_t size : shape) s += std::to_string(size) + ",";
  return s + "] " + self_test::name(schedule);
}

void check_unary(const UnaryCase& f, DType dtype, const Dims& shape, Placing placing, Placing result,
                 const std::string& what) {
  const std::int64_t n = count_of(shape);
  const std::vector<double> x = uniform_values(dtype, n, 1, needs_positive(f.kind) ? 0.1 : -4, 4);
  const std::vector<double> dy = uniform_values(dtype, n, 2, -2, 2), old = uniform_values(dtype, n, 3, -2, 2);
  Array ax(dtype, shape, x, placing), ay(dtype, shape, result);
  run_call(UnaryForward{f.kind, ax.view, ay.view});
  std::vector<double> y(x.size()), dx(x.size()), added(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = f.value(x[i]);
  expect_near(ay, y, tolerance(dtype), 1e-12 * (dtype == DType::f64 ? 1e-3 : 1e6), what + " forward");

  for (std::size_t i = 0; i < x.size(); ++i) {
    y[i] = rounded(dtype, y[i]);
    dx[i] = dy[i] * f.slope(x[i], y[i]);
    added[i] = old[i] + dx[i];
  }
  // A slope that is a difference (1 - y y, a cdf and x pdf) has an absolute error of some roundings.
  const double absolute = dtype == DType::f64 ? 1e-14 : 4e-6;
  Array y_dense(dtype, shape, y), dy_dense(dtype, shape, dy), assigned(dtype, shape), sum(dtype, shape, old);
  run_call(UnaryBackward{f.kind, ax.view, y_dense.data(), dy_dense.data(), {assigned.data(), false}});
  expect_near(assigned, dx, tolerance(dtype), absolute, what + " backward");
  run_call(UnaryBackward{f.kind, ax.view, y_dense.data(), dy_dense.data(), {sum.data(), true}});
  expect_near(sum, added, tolerance(dtype), absolute + 3 * tolerance(dtype), what + " backward, added");
  run_call(UnaryBackward{f.kind, ax.view, y_dense.data(), dy_dense.data(), {dy_dense.data(), false}});
  expect_near(dy_dense, dx, tolerance(dtype), absolute, what + " backward, in dy's place");
}

TEST(PointwiseKernel, Unary_functions_and_slopes_match_the_C_library) {
  const Schedule schedule{Order::skewed, 1, kNan};
  Under under(schedule);
  for (const UnaryCase& f : kUnary)
    for (DType dtype : kFloats)
      check_unary(f, dtype, {3, 37}, Placing::dense, Placing::dense, label(f.name, dtype, {3, 37}, schedule));
}

TEST(PointwiseKernel, Unary_takes_every_layout_and_size) {
  const UnaryCase& f = kUnary[static_cast<int>(UnaryKind::square)];
  for (const Schedule& schedule : schedules(affordable_seeds() / 4)) {
    Under under(schedule);
    for (DType dtype : kFloats) {
      for (const Dims& shape : {Dims{}, Dims{0}, Dims{1}, Dims{7}, Dims{8}, Dims{2047}, Dims{2048}, Dims{4100},
                                Dims{3, 0, 2}, Dims{5, 16}, Dims{2, 1, 3, 1, 33}, Dims{2, 3, 2, 2, 2, 8}}) {
        for (Placing placing : kPlacings) {
          if (count_of(shape) > 500 && (placing == Placing::gaps || placing == Placing::backwards)) continue;
          const std::string what = label("square", dtype, shape, schedule) + std::to_string(static_cast<int>(placing));
          check_unary(f, dtype, shape, placing, Placing::dense, what);
          if (placing != Placing::dense) check_unary(f, dtype, shape, placing, placing, what + " both");
        }
      }
    }
  }
}

TEST(PointwiseKernel, Special_values_pass_as_the_functions_say) {
  Under under({Order::ascending, 1, kNan});
  const double inf = INFINITY, nan = NAN;
  const auto expect = [&](UnaryKind kind, const std::vector<double>& x, const std::vector<double>& y) {
    for (DType dtype : kFloats) {
      Array ax(dtype, {static_cast<std::int64_t>(x.size())}, x), ay(dtype, {static_cast<std::int64_t>(x.size())});
      run_call(UnaryForward{kind, ax.view, ay.view});
      expect_near(ay, y, 0.01, 0, std::string("special values of ") + kUnary[static_cast<int>(kind)].name);
    }
  };
  expect(UnaryKind::relu, {nan, -inf, inf, -1}, {nan, 0, inf, 0});
  expect(UnaryKind::gelu, {nan, 100, inf, -40}, {nan, 100, inf, 0});
  expect(UnaryKind::gelu_tanh, {nan, 100, inf, -40}, {nan, 100, inf, 0});
  expect(UnaryKind::sigmoid, {nan, 1000, -1000, inf}, {nan, 1, 0, 1});
  expect(UnaryKind::exp, {nan, -inf, inf, 0}, {nan, 0, inf, 1});
  expect(UnaryKind::log, {nan, 0, inf, -1}, {nan, -inf, inf, nan});
  // The far tail, where 1 - cdf would have lost everything.
  expect(UnaryKind::gelu, {-6, -10}, {-6 * M::normal_cdf(-6), -10 * M::normal_cdf(-10)});
}

struct Shapes {
  Dims a, b, y;
};
const Shapes kShapes[] = {
    {{5}, {5}, {5}},
    {{3, 37}, {37}, {3, 37}},
    {{64, 48}, {48}, {64, 48}},
    {{6, 1}, {1, 40}, {6, 40}},
    {{}, {300}, {300}},
    {{2, 3, 16}, {3, 1}, {2, 3, 16}},
    {{2, 1, 5, 1}, {3, 1, 8}, {2, 3, 5, 8}},
    {{700}, {1}, {700}},
    {{0, 4}, {4}, {0, 4}},
    {{2, 3, 1, 2, 1, 2}, {1, 3, 2, 2, 2, 2}, {2, 3, 2, 2, 2, 2}},
};

void check_binary(const BinaryCase& f, DType dtype, const Shapes& s, Placing placing, const std::string& what) {
  const double low = f.kind == BinaryKind::div ? 0.5 : -3;
  const std::vector<double> a = uniform_values(dtype, count_of(s.a), 1, low, 3);
  const std::vector<double> b = uniform_values(dtype, count_of(s.b), 2, low, 3);
  const std::int64_t n = count_of(s.y);
  const std::vector<double> dy = uniform_values(dtype, n, 3, -2, 2);
  Array aa(dtype, s.a, a, placing), ab(dtype, s.b, b, placing), ay(dtype, s.y), ady(dtype, s.y, dy);
  const View va = expanded(aa.view, s.y), vb = expanded(ab.view, s.y);
  run_call(BinaryForward{f.kind, va, vb, ay.view});
  std::vector<double> y(dy.size());
  const auto operands = [&](std::int64_t i) {
    return std::pair{value_at(dtype, aa.data(), place_in(va, i)), value_at(dtype, ab.data(), place_in(vb, i))};
  };
  for (std::int64_t i = 0; i < n; ++i) y[i] = f.value(operands(i).first, operands(i).second);
  expect_near(ay, y, tolerance(dtype), 1e-15, what + " forward");

  for (int which = 0; which < 2; ++which) {
    const Dims& own = which == 0 ? s.a : s.b;
    const std::vector<double> old = uniform_values(dtype, count_of(own), 4, -2, 2);
    Array assigned(dtype, own), sum(dtype, own, old);
    const View d = expanded(assigned.view, s.y);
    std::vector<double> want(old.size(), 0.0), size(old.size(), 0.0), added = old;
    for (std::int64_t i = 0; i < n; ++i) {
      const double term = dy[i] * f.slope[which](operands(i).first, operands(i).second);
      want[place_in(d, i)] += term;
      size[place_in(d, i)] += std::abs(term);
    }
    double largest = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      added[i] += want[i];
      largest = std::max(largest, size[i]);
    }
    // Sums: every term is rounded at most some 20 times on its way, relative to the sum of magnitudes.
    const double absolute = largest * (dtype == DType::f64 ? 1e-14 : 30 * 0x1p-24);
    run_call(BinaryBackward{f.kind, which, va, vb, ady.data(), d, false});
    expect_near(assigned, want, tolerance(dtype), absolute, what + " gradient " + std::to_string(which));
    run_call(BinaryBackward{f.kind, which, va, vb, ady.data(), expanded(sum.view, s.y), true});
    expect_near(sum, added, tolerance(dtype), absolute + 3 * tolerance(dtype),
                what + " gradient added " + std::to_string(which));
  }
}

TEST(PointwiseKernel, Binary_functions_and_gradients_broadcast) {
  const Schedule schedule{Order::skewed, 1, kNan};
  Under under(schedule);
  for (const BinaryCase& f : kBinary)
    for (DType dtype : kFloats)
      for (const Shapes& s : kShapes) check_binary(f, dtype, s, Placing::dense, label(f.name, dtype, s.y, schedule));
}

TEST(PointwiseKernel, Binary_takes_every_layout_under_every_schedule) {
  for (const Schedule& schedule : schedules(affordable_seeds() / 4)) {
    Under under(schedule);
    for (DType dtype : kFloats)
      for (const Shapes& s : kShapes)
        for (Placing placing : kPlacings) {
          if (count_of(s.y) > 400 && placing != Placing::odd) continue;
          check_binary(kBinary[static_cast<int>(BinaryKind::mul)], dtype, s, placing,
                       label("mul", dtype, s.y, schedule) + std::to_string(static_cast<int>(placing)));
        }
  }
}

TEST(PointwiseKernel, Broadcast_gradients_in_chunks_are_right_and_the_same_in_every_layout) {
  Under under({Order::skewed, 2, kLarge});
  const BinaryCase& mul = kBinary[static_cast<int>(BinaryKind::mul)];
  for (DType dtype : kFloats) {
    check_binary(mul, dtype, {{1500, 24}, {24}, {1500, 24}}, Placing::dense, "many rows");
    check_binary(mul, dtype, {{2, 9000}, {2, 1}, {2, 9000}}, Placing::dense, "long rows");
    const Shapes s{{200, 40}, {200, 1}, {200, 40}};
    std::vector<double> first;
    for (Placing placing : kPlacings) {
      Array a(dtype, s.a, uniform_values(dtype, count_of(s.a), 1, -3, 3), placing);
      Array b(dtype, s.b, uniform_values(dtype, count_of(s.b), 2, -3, 3), placing);
      Array dy(dtype, s.y, uniform_values(dtype, count_of(s.y), 3, -3, 3)), d(dtype, s.b);
      run_call(BinaryBackward{mul.kind, 1, a.view, expanded(b.view, s.y), dy.data(), expanded(d.view, s.y), false});
      if (first.empty()) first = d.values();
      EXPECT_EQ(d.values(), first) << adjoint::name(dtype) << ", layout " << static_cast<int>(placing);
    }
  }
}

TEST(PointwiseKernel, Scale_shift_scales_shifts_and_adds) {
  for (const Schedule& schedule : schedules(affordable_seeds() / 4)) {
    Under under(schedule);
    for (DType dtype : kFloats) {
      for (std::int64_t n : {0, 1, 31, 2049}) {
        const std::vector<double> x = uniform_values(dtype, n, 1, -3, 3), old = uniform_values(dtype, n, 2, -3, 3);
        Array ax(dtype, {n}, x), y(dtype, {n}), sum(dtype, {n}, old);
        run_call(ScaleShift{dtype, n, ax.data(), y.data(), 1.5, -0.25});
        run_call(ScaleShift{dtype, n, ax.data(), sum.data(), 1.5, -0.25, true});
        std::vector<double> want(x.size()), added(x.size());
        for (std::size_t i = 0; i < x.size(); ++i) {
          want[i] = 1.5 * x[i] - 0.25;
          added[i] = old[i] + want[i];
        }
        expect_near(y, want, tolerance(dtype), tolerance(dtype), label("scale", dtype, {n}, schedule));
        expect_near(sum, added, tolerance(dtype), 5 * tolerance(dtype), label("scale, added", dtype, {n}, schedule));
      }
    }
  }
}

}  // namespace
}  // namespace adjoint::simt::self_test
