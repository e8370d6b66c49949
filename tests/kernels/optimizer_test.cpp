#include "kernels/optimizer.h"

#include "tests/kernels/arrays.h"

namespace adjoint {
namespace {

using namespace adjoint::testing;

constexpr std::int64_t kSizes[] = {0, 1, 7, 31, 32, 33, 129, 16384, 40001};

void global_norm(const At& place, GlobalNorm call) {
  std::vector<unsigned char> scratch(scratch_bytes(at(), call) + 1, 0xA5);
  call.scratch = scratch.data();
  run(place, call);
  EXPECT_EQ(scratch.back(), 0xA5) << "wrote past the scratch it asked for";
}

TEST(GlobalNorm, Is_the_root_of_the_sum_of_squares_and_clips_above_the_limit) {
  for (DType dtype : kFloats) {
    const DType inner = accumulator_of(dtype);
    for (std::int64_t n : kSizes) {
      const Array g = Array(dtype, {n}).random(1, -1, 1);
      long double squares = 0;
      for (std::int64_t i = 0; i < n; ++i) squares += static_cast<long double>(g[i]) * g[i];
      const auto exact = static_cast<double>(std::sqrt(squares));
      for (double limit : {0.5, 1000.0}) {
        Array norm(inner, {1}), factor(inner, {1});
        global_norm(at(), {dtype, n, g.view.data, limit, norm.data(), factor.data()});
        EXPECT_TRUE(close(norm[0], exact, 4 * epsilon(inner), 0)) << name(dtype) << " n " << n;
        EXPECT_TRUE(close(factor[0], std::min(1.0, limit / (exact + 1e-6)), 4 * epsilon(inner), 0));
        EXPECT_TRUE(norm.unspoiled() && factor.unspoiled());
      }
    }
  }
}

TEST(GlobalNorm, Has_the_same_bits_for_any_number_of_threads) {
  for (DType dtype : kFloats) {
    const Array g = Array(dtype, {100003}).random(1, -1, 1);
    Array one(accumulator_of(dtype), {1});
    global_norm(at(1), {dtype, 100003, g.view.data, 1.0, one.data(), nullptr});
    for (int threads : {2, 4}) {
      Array many(accumulator_of(dtype), {1});
      global_norm(at(threads), {dtype, 100003, g.view.data, 1.0, many.data(), nullptr});
      EXPECT_TRUE(many.same_bytes(one));
    }
  }
}

TEST(GlobalNorm, Does_not_overflow_on_the_squares) {
  Array g(DType::f32, {40}), norm(DType::f32, {1}), factor(DType::f32, {1});
  for (std::int64_t i = 0; i < 40; ++i) g.put(i, 1e25);
  global_norm(at(), {DType::f32, 40, g.data(), 1.0, norm.data(), factor.data()});
  EXPECT_TRUE(close(norm[0], 1e25 * std::sqrt(40.0), 1e-6, 0));
  EXPECT_TRUE(close(factor[0], 1e-25 / std::sqrt(40.0), 1e-6, 0));
}

TEST(GlobalNorm, Gives_a_NaN_factor_when_the_norm_is_not_finite) {
  for (double bad : {kNan, kInf, -kInf}) {
    for (std::int64_t place : {0, 16, 38}) {
      Array g = Array(DType::f32, {39}).random(1, -1, 1), norm(DType::f32, {1}), factor(DType::f32, {1});
      g.put(place, bad);
      global_norm(at(), {DType::f32, 39, g.data(), 1.0, norm.data(), factor.data()});
      EXPECT_FALSE(std::isfinite(norm[0]));
      EXPECT_TRUE(std::isnan(factor[0]));
    }
  }
}

TEST(StepAdvance, Counts_one) {
  std::vector<std::int64_t> step{41};
  run(at(), StepAdvance{step.data()});
  EXPECT_EQ(step[0], 42);
}

TEST(Sgd, Is_the_definition_over_several_steps) {
  for (DType dtype : kFloats) {
    const DType inner = accumulator_of(dtype);
    for (std::int64_t n : kSizes) {
      for (int options = 0; options < 8; ++options) {
        const double momentum = (options & 1) != 0 ? 0.9 : 0.0, decay = (options & 2) != 0 ? 0.1 : 0.0;
        const bool nesterov = options == 5 || options == 7, clipped = (options & 4) != 0;
        SCOPED_TRACE(std::string(name(dtype)) + " n " + std::to_string(n) + " options " + std::to_string(options));
        Array p = Array(dtype, {n}).random(1, -1, 1), g = Array(dtype, {n}).random(2, -1, 1);
        Array v = Array(dtype, {n}).random(3, -1, 1), factor(inner, {1});
        factor.put(0, 0.25);
        const std::vector<double> lr{0.05};
        for (int step = 0; step < 2; ++step) {
          const Array p0 = p, v0 = v;
          run(at(), SgdUpdate{dtype, n, p.data(), g.data(), v.data(), lr.data(), clipped ? factor.data() : nullptr,
                              momentum, decay, nesterov});
          for (std::int64_t i = 0; i < n; ++i) {
            const double d = (clipped ? 0.25 : 1.0) * g[i] + decay * p0[i];
            const double velocity = momentum * v0[i] + d;
            const double move = momentum == 0 ? d : nesterov ? d + momentum * velocity : velocity;
            ASSERT_TRUE(close(v[i], momentum == 0 ? v0[i] : velocity, epsilon(dtype), 8 * epsilon(inner)));
            ASSERT_TRUE(close(p[i], p0[i] - lr[0] * move, epsilon(dtype), 8 * epsilon(inner)));
          }
        }
        ASSERT_TRUE(p.unspoiled() && v.unspoiled());
      }
    }
  }
}

struct Adam {
  DType dtype, inner;
  std::int64_t n;
  Array p, g, m, v, factor;
  std::vector<double> lr{0.01};
  std::vector<std::int64_t> step{3};

  Adam(DType t, std::int64_t n_)
      : dtype(t),
        inner(accumulator_of(t)),
        n(n_),
        p(Array(t, {n}).random(1, -1, 1)),
        g(Array(t, {n}).random(2, -1, 1)),
        m(Array(inner, {n}).random(3, -1, 1)),
        v(Array(inner, {n}).random(4, 0, 1)),
        factor(inner, {1}) {
    factor.put(0, 0.5);
  }
  void update(const At& place, double decay, bool decoupled, bool clipped) {
    run(place, AdamUpdate{dtype, n, p.data(), g.data(), m.data(), v.data(), lr.data(), step.data(),
                          clipped ? factor.data() : nullptr, 0.9, 0.999, 1e-8, decay, decoupled});
  }
};

TEST(Adam, Is_the_definition_over_several_steps) {
  for (DType dtype : kFloats) {
    for (std::int64_t n : kSizes) {
      for (int options = 0; options < 8; ++options) {
        const double decay = (options & 1) != 0 ? 0.1 : 0.0;
        const bool decoupled = (options & 2) != 0, clipped = (options & 4) != 0;
        SCOPED_TRACE(std::string(name(dtype)) + " n " + std::to_string(n) + " options " + std::to_string(options));
        Adam a(dtype, n);
        for (; a.step[0] < 5; ++a.step[0]) {
          const Array p0 = a.p, m0 = a.m, v0 = a.v;
          a.update(at(), decay, decoupled, clipped);
          const double eps = epsilon(a.inner), t = static_cast<double>(a.step[0]);
          for (std::int64_t i = 0; i < n; ++i) {
            const double g = (clipped ? 0.5 : 1.0) * a.g[i] + (decoupled ? 0.0 : decay * p0[i]);
            const double m = 0.9 * m0[i] + (1 - 0.9) * g, v = 0.999 * v0[i] + (1 - 0.999) * g * g;
            const double p = p0[i] - (decoupled ? a.lr[0] * decay * p0[i] : 0.0) -
                             a.lr[0] * (m / (1 - std::pow(0.9, t))) / (std::sqrt(v / (1 - std::pow(0.999, t))) + 1e-8);
            ASSERT_TRUE(close(a.m[i], m, 4 * eps, 4 * eps));
            ASSERT_TRUE(close(a.v[i], v, 8 * eps, 0));
            ASSERT_TRUE(close(a.p[i], p, epsilon(dtype), 16 * eps)) << i;
          }
        }
        ASSERT_TRUE(a.p.unspoiled() && a.m.unspoiled() && a.v.unspoiled());
      }
    }
  }
}

TEST(Adam, The_first_step_is_the_learning_rate_whatever_the_size_of_the_gradient) {
  for (double size : {1e-6, 1.0, 1e6}) {
    Adam a(DType::f32, 40);
    a.step[0] = 1;
    for (std::int64_t i = 0; i < 40; ++i) {
      a.p.put(i, 0);
      a.g.put(i, i % 2 == 0 ? size : -size);
      a.m.put(i, 0);
      a.v.put(i, 0);
    }
    a.update(at(), 0.0, true, false);
    for (std::int64_t i = 0; i < 40; ++i) EXPECT_TRUE(close(a.p[i], i % 2 == 0 ? -0.01 : 0.01, 0.011, 0));
  }
}

TEST(Adam, Has_the_same_bits_for_any_number_of_threads) {
  for (DType dtype : kFloats) {
    Adam one(dtype, 100003);
    one.update(at(1), 0.1, true, true);
    for (int threads : {2, 4}) {
      Adam many(dtype, 100003);
      many.update(at(threads), 0.1, true, true);
      EXPECT_TRUE(many.p.same_bytes(one.p) && many.m.same_bytes(one.m) && many.v.same_bytes(one.v));
    }
  }
}

TEST(Adam, A_NaN_clip_factor_shows_in_every_parameter) {
  Adam a(DType::f32, 39);
  a.factor.put(0, kNan);
  a.update(at(), 0.0, true, true);
  for (std::int64_t i = 0; i < 39; ++i) EXPECT_TRUE(std::isnan(a.p[i]));
}

TEST(Average, Is_the_definition) {
  for (DType dtype : kFloats) {
    for (std::int64_t n : kSizes) {
      for (std::int64_t t : {std::int64_t{1}, std::int64_t{10'000}}) {
        const Array p = Array(dtype, {n}).random(1, -1, 1);
        Array a = Array(dtype, {n}).random(2, -1, 1);
        const Array before = a;
        const std::vector<std::int64_t> step{t};
        run(at(), AverageUpdate{dtype, n, a.data(), p.view.data, step.data(), 0.9});
        const double d = t == 1 ? 2.0 / 11 : 0.9;
        for (std::int64_t i = 0; i < n; ++i)
          ASSERT_TRUE(
              close(a[i], before[i] + (1 - d) * (p[i] - before[i]), epsilon(dtype), 8 * epsilon(accumulator_of(dtype))))
              << name(dtype) << " n " << n << " element " << i;
        ASSERT_TRUE(a.unspoiled());
      }
    }
  }
}

TEST(Rows, Of_a_list_are_squared_and_cleared) {
  constexpr std::int64_t kRows = 20;
  for (DType dtype : kFloats) {
    for (std::int64_t width : {1, 8, 33}) {
      Array g = Array(dtype, {kRows, width}).random(1, -1, 1);
      const Array before = g;
      std::vector<std::int32_t> list{7, 0, 19, 3};
      list.resize(kRows, -1);
      std::vector<std::int64_t> count{4};
      std::vector<std::uint8_t> listed(kRows, 0);
      for (int i = 0; i < 4; ++i) listed[static_cast<std::size_t>(list[static_cast<std::size_t>(i)])] = 1;
      const std::vector<std::uint8_t> of_list = listed;
      std::vector<double> sum{2};
      double expected = 2;
      for (std::int64_t i = 0; i < kRows * width; ++i)
        if (of_list[static_cast<std::size_t>(i / width)] != 0) expected += g[i] * g[i];
      const RowList rows{count.data(), list.data(), listed.data()};
      run(at(), RowSquares{dtype, width, g.view.data, rows, sum.data()});
      EXPECT_TRUE(close(sum[0], expected, 1e-12, 0)) << name(dtype) << " width " << width;
      EXPECT_TRUE(g.same_bytes(before));
      run(at(), RowsClear{dtype, width, g.data(), rows});
      for (std::int64_t i = 0; i < kRows * width; ++i)
        ASSERT_EQ(g[i], of_list[static_cast<std::size_t>(i / width)] != 0 ? 0 : before[i]) << name(dtype) << " " << i;
      EXPECT_TRUE(g.unspoiled());
      EXPECT_EQ(count[0], 0);
      EXPECT_EQ(listed, std::vector<std::uint8_t>(kRows, 0));
    }
  }
}

}  // namespace
}  // namespace adjoint
