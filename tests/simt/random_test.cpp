// Draws and dropout word by word, in memory of exact size; tests/kernels/random_test.cpp has the distributions.

#include "kernels/random.h"

#include "kernels/base/philox.h"
#include "tests/simt/arrays.h"
#include "tests/simt/call.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

constexpr std::uint64_t kKey = 0x123456789abcdef0u, kCounter = 0xfffffff0u;

double uniform(std::int64_t i) { return philox_uniform(philox_word(kKey, kCounter, static_cast<std::uint64_t>(i))); }

TEST(RandomKernel, Draws_and_drops_by_the_word_of_each_element) {
  for (const Schedule& schedule : schedules(affordable_seeds() / 2)) {
    Under under(schedule);
    Buffer<PhiloxState> state(std::vector<PhiloxState>{{kKey, kCounter}}, "state");
    for (DType dtype : kFloats) {
      for (std::int64_t n : {0, 1, 3, 4, 8, 1023, 1024, 2049}) {
        for (Placing placing : {Placing::dense, Placing::odd}) {
          const std::string what = std::string(adjoint::name(dtype)) + " " + std::to_string(n) + ", " + name(schedule);
          std::vector<double> flat(static_cast<std::size_t>(n)), normal = flat, kept = flat, added = flat;
          const std::vector<double> x = uniform_values(dtype, n, 1, 1, 2), old = uniform_values(dtype, n, 2, 1, 2);
          for (std::int64_t i = 0; i < n; ++i) {
            const std::size_t k = static_cast<std::size_t>(i);
            flat[k] = -2 + 5 * uniform(i);
            const double angle = 2 * M_PI * uniform(i | 1);
            normal[k] = 1 + 0.5 * std::sqrt(-2 * std::log(1 - uniform(i & ~1))) *
                                (i % 2 == 0 ? std::cos(angle) : std::sin(angle));
            kept[k] = uniform(i) >= 0.3 ? x[k] / (1 - 0.3) : 0;
            added[k] = old[k] + kept[k];
          }
          const double small = dtype == DType::f64 ? 1e-14 : 2e-6;  // Box-Muller in f32: radius 6 times 2e-7
          Array a(dtype, {n}, placing), b(dtype, {n}, placing), c(dtype, {n}, placing), ax(dtype, {n}, x, placing);
          Array d(dtype, {n}, old, placing);
          run_call(RandomFill{RandomKind::uniform, dtype, n, state, a.data(), -2, 3});
          run_call(RandomFill{RandomKind::normal, dtype, n, state, b.data(), 1, 0.5});
          run_call(Dropout{dtype, n, state, 0.3, ax.data(), c.data()});
          run_call(Dropout{dtype, n, state, 0.3, ax.data(), d.data(), true});
          expect_near(a, flat, rounding(dtype), small, "uniform " + what);
          expect_near(b, normal, rounding(dtype), small, "normal " + what);
          expect_near(c, kept, rounding(dtype) + small, 0, "dropout " + what);
          expect_near(d, added, rounding(dtype) + small, 0, "dropout, added " + what);
        }
      }
    }
  }
}

TEST(RandomKernel, Advance_moves_the_counter_and_keeps_what_it_was) {
  Under under({Order::skewed, 1, kNan});
  Buffer<PhiloxState> state(std::vector<PhiloxState>{{5, 100}}, "state"), saved(1, "saved");
  run_call(RandomAdvance{state, saved, 7});
  run_call(RandomAdvance{state, nullptr, 1});
  EXPECT_EQ(state.host()[0].counter, 108u);
  EXPECT_EQ(state.host()[0].key, 5u);
  EXPECT_EQ(saved.host()[0].counter, 100u);
  EXPECT_EQ(saved.host()[0].key, 5u);
}

}  // namespace
}  // namespace adjoint::simt::self_test
