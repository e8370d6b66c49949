// The generator against the published known answers, and the draws against their definition word by word.

#include "kernels/random.h"

#include "kernels/base/philox.h"
#include "tests/kernels/arrays.h"

namespace adjoint {
namespace {

using namespace adjoint::testing;

TEST(Philox, Gives_the_known_answers) {
  // Random123's kat_vectors, philox4x32 10, has all zeros. The other two are its vectors of all ones and of digits of
  // pi with the upper half of the counter at 0, as ours is: by an implementation that gives the published ones too.
  const struct {
    std::uint64_t key, counter;
    std::uint32_t word[4];
  } answers[] = {
      {0, 0, {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}},
      {0xffffffffffffffffu, 0xffffffffffffffffu, {0x4d18d7d2u, 0x430ac65au, 0xbd2fa22au, 0x0afae10du}},
      {0x299f31d0a4093822u, 0x85a308d3243f6a88u, {0xe69c9c31u, 0xb5a3d762u, 0xe733bfc1u, 0x341a787cu}},
  };
  for (const auto& known : answers) {
    const PhiloxBlock block = philox(known.key, known.counter);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(block.word[i], known.word[i]);
  }
}

constexpr std::uint64_t kKey = 0x123456789abcdef0u;
// A counter that carries into its upper half within a draw.
constexpr std::uint64_t kCounter = 0xfffffff0u;
/// Where a device reads it: made when the first test asks.
const PhiloxState* state() {
  static const auto* made = new PhiloxState{kKey, kCounter};
  return made;
}

TEST(RandomFill, Uniform_takes_word_i_for_element_i) {
  for (DType dtype : kFloats) {
    for (std::int64_t n : {0, 1, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1023, 70000}) {
      Array y(dtype, {n});
      run(at(), RandomFill{RandomKind::uniform, dtype, n, state(), y.data(), -2, 3});
      for (std::int64_t i = 0; i < n; ++i) {
        const double u = philox_uniform(philox_word(kKey, kCounter, static_cast<std::uint64_t>(i)));
        ASSERT_TRUE(close(y[i], -2 + 5 * u, epsilon(dtype), 8 * epsilon(accumulator_of(dtype)))) << "at " << i;
      }
      EXPECT_TRUE(y.unspoiled());
    }
  }
}

TEST(RandomFill, Normal_is_box_muller_on_pairs_of_words) {
  for (DType dtype : kFloats) {
    for (std::int64_t n : {0, 1, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1023, 70000}) {
      Array y(dtype, {n});
      run(at(), RandomFill{RandomKind::normal, dtype, n, state(), y.data(), 1, 0.5});
      double sum = 0, squares = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        const std::uint64_t pair = static_cast<std::uint64_t>(i / 2 * 2);
        const double u1 = 1 - philox_uniform(philox_word(kKey, kCounter, pair));
        const double u2 = philox_uniform(philox_word(kKey, kCounter, pair + 1));
        const double z = std::sqrt(-2 * std::log(u1)) * (i % 2 ? std::sin(2 * M_PI * u2) : std::cos(2 * M_PI * u2));
        ASSERT_TRUE(close(y[i], 1 + 0.5 * z, epsilon(dtype), dtype == DType::f64 ? 1e-14 : 2e-6)) << "at " << i;
        sum += y[i];
        squares += (y[i] - 1) * (y[i] - 1);
      }
      if (n == 70000) {  // 5 standard errors
        EXPECT_NEAR(sum / 70000, 1.0, 5 * 0.5 / std::sqrt(70000.0));
        EXPECT_NEAR(squares / 70000, 0.25, 5 * 0.25 * std::sqrt(2.0 / 70000));
      }
      EXPECT_TRUE(y.unspoiled());
    }
  }
}

TEST(RandomAdvance, Moves_the_counter_and_keeps_what_it_was) {
  std::vector<PhiloxState> state{{5, 100}}, saved{{0, 0}};
  run(at(), RandomAdvance{state.data(), saved.data(), 7});
  EXPECT_EQ(state[0].counter, 107u);
  EXPECT_EQ(saved[0].counter, 100u);
  EXPECT_EQ(saved[0].key, 5u);
  run(at(), RandomAdvance{state.data(), nullptr, 1});
  EXPECT_EQ(state[0].counter, 108u);
}

TEST(Dropout, Keeps_an_element_if_its_word_is_not_below_p) {
  for (DType dtype : kFloats) {
    for (double p : {0.0, 0.1, 0.5, 0.9999, 1.0}) {
      for (std::int64_t n : {0, 1, 31, 32, 33, 127, 128, 129, 1023, 70000}) {
        const Array x = Array(dtype, {n}).random(1, 1, 2);
        Array y(dtype, {n});
        run(at(), Dropout{dtype, n, state(), p, x.view.data, y.data()});
        for (std::int64_t i = 0; i < n; ++i) {
          const double u = philox_uniform(philox_word(kKey, kCounter, static_cast<std::uint64_t>(i)));
          ASSERT_TRUE(close(y[i], u >= p ? x[i] / (1 - p) : 0, epsilon(dtype) + 2 * epsilon(accumulator_of(dtype)), 0))
              << "at " << i << " p " << p;
        }
        EXPECT_TRUE(y.unspoiled());
        Array twice = y;
        run(at(), Dropout{dtype, n, state(), p, x.view.data, twice.data(), true});
        for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(twice[i], 2 * y[i]);
      }
    }
  }
}

TEST(Dropout, Keeps_an_element_whose_number_is_exactly_p) {
  const double p = philox_uniform(philox_word(kKey, kCounter, 17));
  ASSERT_GT(p, 0);
  for (DType dtype : kFloats) {
    Array x(dtype, {18}), y(dtype, {18});
    x.random(1, 1, 2);
    run(at(), Dropout{dtype, 18, state(), p, x.data(), y.data()});
    EXPECT_NE(y[17], 0);
    run(at(), Dropout{dtype, 18, state(), p + 1e-9, x.data(), y.data()});
    EXPECT_EQ(y[17], 0);
  }
}

TEST(Dropout, Draws_the_same_mask_in_every_dtype) {
  constexpr std::int64_t kSize = 5000;
  std::vector<bool> mask;
  for (DType dtype : kFloats) {
    Array x(dtype, {kSize}), y(dtype, {kSize});
    x.random(1, 1, 2);
    run(at(), Dropout{dtype, kSize, state(), 0.3, x.data(), y.data()});
    for (std::int64_t i = 0; i < kSize; ++i) {
      if (dtype == DType::f64) mask.push_back(y[i] != 0);
      ASSERT_EQ(y[i] != 0, mask[static_cast<std::size_t>(i)]);
    }
  }
}

TEST(Random, One_two_and_four_threads_give_the_same_bits) {
  constexpr std::int64_t kSize = 200001;
  for (DType dtype : kFloats) {
    const Array x = Array(dtype, {kSize}).random(1, 1, 2);
    Array normal(dtype, {kSize}), dropped(dtype, {kSize});
    run(at(1), RandomFill{RandomKind::normal, dtype, kSize, state(), normal.data(), 0, 1});
    run(at(1), Dropout{dtype, kSize, state(), 0.5, x.view.data, dropped.data()});
    for (int threads : {2, 4}) {
      Array normal2(dtype, {kSize}), dropped2(dtype, {kSize});
      run(at(threads), RandomFill{RandomKind::normal, dtype, kSize, state(), normal2.data(), 0, 1});
      run(at(threads), Dropout{dtype, kSize, state(), 0.5, x.view.data, dropped2.data()});
      EXPECT_TRUE(normal2.same_bytes(normal));
      EXPECT_TRUE(dropped2.same_bytes(dropped));
    }
  }
}

}  // namespace
}  // namespace adjoint
