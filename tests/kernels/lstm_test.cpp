#include "kernels/lstm.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/kernels/arrays.h"
#include "tests/kernels/lstm_reference.h"

namespace adjoint {
namespace {

using namespace lstm_reference;

template <class S>
S from_double(double v) {
  if constexpr (sizeof(S) == 2)
    return S(static_cast<float>(v));
  else
    return static_cast<S>(v);
}

template <class S>
Arrays<S> random_inputs(const Case& c, std::uint32_t seed) {
  std::mt19937 bits(seed);
  Arrays<S> arrays;
  for (const auto& [name, size] : input_sizes(c)) {
    const double scale = name[0] == 'w' ? 1.5 / std::sqrt(static_cast<double>(c.hidden + c.input + 1)) : 1.0;
    std::normal_distribution<double> normal(0.0, scale);
    std::vector<S>& a = arrays[name];
    for (std::int64_t i = 0; i < size; ++i) a.push_back(from_double<S>(normal(bits)));
  }
  if (c.alphabet > 0) {
    std::vector<S>& x = arrays["x"];
    const auto copy = [&](std::int64_t from, std::int64_t to, std::int64_t n) {
      std::copy_n(x.begin() + from * c.input, n, x.begin() + to * c.input);
    };
    const std::int64_t rows = c.batch * c.time, alike = c.input > 8 ? 4 : 0;  // letters that begin alike
    for (std::int64_t row = 1; row < std::min(c.alphabet, rows); ++row) copy(0, row, alike);
    for (std::int64_t row = c.alphabet; row < rows; ++row) copy((row * row + row / 3) % c.alphabet, row, c.input);
  }
  return arrays;
}

/// What the caller of `accumulate` finds in the gradients before the call.
template <class S>
S earlier(std::size_t i) {
  return from_double<S>(0.25 * static_cast<double>(i % 7) - 0.5);
}
constexpr double kUntouched = -77.0;

/// Runs forward and backward; scratch is filled with NaN bytes first and must not be overrun. `only`: the one gradient
/// that is wanted, else all.
template <class S>
Arrays<S> run_kernel(const Case& c, const Arrays<S>& in, int threads, bool accumulate = false, bool with_saved = true,
                     const std::string& only = "") {
  using A = acc_t<S>;
  const auto data = [&](const char* name, bool present) -> const void* {
    return present ? static_cast<const void*>(in.at(name).data()) : nullptr;
  };
  const std::int64_t y_stride = c.hidden * (c.half ? 2 : 1);
  LstmShape shape{
      .dtype = dtype_of<S>,
      .batch = c.batch,
      .time = c.time,
      .input = c.input,
      .hidden = c.hidden,
      .x_stride = {c.time_major ? c.input : c.time * c.input, c.time_major ? c.batch * c.input : c.input},
      .y_stride = {c.time_major ? y_stride : c.time * y_stride, c.time_major ? c.batch * y_stride : y_stride},
      .lengths = c.lengths.empty() ? nullptr : c.lengths.data(),
      .reverse = c.reverse};
  Arrays<S> out;
  const S untouched = from_double<S>(kUntouched);
  out["y"].assign(static_cast<std::size_t>(c.y_size()), untouched);
  out["h_n"].assign(static_cast<std::size_t>(c.batch * c.hidden), untouched);
  out["c_n"].assign(static_cast<std::size_t>(c.batch * c.hidden), untouched);
  std::vector<A> saved(static_cast<std::size_t>(shape.saved_elements()), std::numeric_limits<A>::quiet_NaN());
  const std::int64_t offset = c.half ? c.hidden : 0;

  const testing::At& place = testing::at(threads);
  const auto run_call = [&](auto& call) {
    constexpr std::size_t kGuard = 256;
    const std::size_t bytes = scratch_bytes(place, call);
    std::vector<std::byte> memory(bytes + kGuard + 64, std::byte{0xff});
    void* aligned = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64;
    call.scratch = aligned;
    run(place, call);
    for (std::size_t i = 0; i < kGuard; ++i)
      ASSERT_EQ(static_cast<std::byte*>(aligned)[bytes + i], std::byte{0xff}) << "scratch overrun at +" << i;
  };
  LstmForward forward{.shape = shape,
                      .x = data("x", true),
                      .w_ih = data("w_ih", true),
                      .w_hh = data("w_hh", true),
                      .b_ih = data("b_ih", c.bias),
                      .b_hh = data("b_hh", c.bias),
                      .h0 = data("h0", c.h0),
                      .c0 = data("c0", c.c0),
                      .y = out["y"].data() + offset,
                      .h_n = out["h_n"].data(),
                      .c_n = out["c_n"].data(),
                      .saved = with_saved ? saved.data() : nullptr};
  run_call(forward);
  if (!with_saved) return out;

  for (const auto& [name, size] : gradient_sizes(c)) {
    std::vector<S>& a = out[name];
    a.assign(static_cast<std::size_t>(size), untouched);
    if (accumulate)
      for (std::size_t i = 0; i < a.size(); ++i) a[i] = earlier<S>(i);
  }
  const auto gradient = [&](const char* name) {
    return GradOut{only.empty() || only == name ? out[name].data() : nullptr, accumulate};
  };
  LstmBackward backward{.shape = shape,
                        .x = data("x", true),
                        .w_ih = data("w_ih", true),
                        .w_hh = data("w_hh", true),
                        .h0 = data("h0", c.h0),
                        .c0 = data("c0", c.c0),
                        .y = out["y"].data() + offset,
                        .saved = saved.data(),
                        .dy = c.dy ? in.at("dy").data() + offset : nullptr,
                        .dh_n = data("dh_n", c.dh_n),
                        .dc_n = data("dc_n", c.dc_n),
                        .dx = gradient("dx"),
                        .dw_ih = gradient("dw_ih"),
                        .dw_hh = gradient("dw_hh"),
                        .db_ih = gradient("db_ih"),
                        .db_hh = gradient("db_hh"),
                        .dh0 = gradient("dh0"),
                        .dc0 = gradient("dc0")};
  run_call(backward);
  return out;
}

template <class S>
Arrays<double> widen(const Arrays<S>& arrays) {
  Arrays<double> wide;
  for (const auto& [name, values] : arrays) wide[name].assign(values.begin(), values.end());
  return wide;
}

/// The error of sums of a few hundred terms, against the largest value of the array; a bf16 result is rounded once
/// more, by at most 2^-8 of itself.
template <class S>
void expect_near(const Case& c, const Arrays<S>& got, const Arrays<double>& want, double of_earlier = 0.0) {
  const double of_array = sizeof(S) == 8 ? 1e-12 : 1e-5, of_value = sizeof(S) == 2 ? 1.0 / 256 : 0.0;
  for (const auto& [name, values] : got) {
    const std::vector<double>& expected = want.at(name);
    ASSERT_EQ(values.size(), expected.size());
    double largest = 1e-3;
    for (const double v : expected) largest = std::max(largest, std::abs(v));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double v = static_cast<double>(values[i]);
      if (name == "y" && c.half && static_cast<std::int64_t>(i) % (2 * c.hidden) < c.hidden) {
        ASSERT_EQ(v, static_cast<double>(from_double<S>(kUntouched)))
            << "the other half of y was written, " << c.text();
        continue;
      }
      const bool added = name[0] == 'd' && of_earlier != 0.0;
      const double e = expected[i] + (added ? static_cast<double>(earlier<S>(i)) : 0.0);
      ASSERT_NEAR(v, e, of_array * (largest + (added ? 1.0 : 0.0)) + of_value * std::abs(e))
          << name << "[" << i << "], " << c.text();
    }
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  // Widths around the register and tile sizes, one at a time.
  for (const std::int64_t h : {1, 3, 8, 15, 16, 17, 31, 33, 64, 65, 100})
    all.push_back({.batch = 3, .time = 4, .input = 5, .hidden = h, .lengths = {2, 4, 3}});
  for (const std::int64_t i : {0, 1, 6, 16, 31, 33, 48, 65, 100})
    all.push_back({.batch = 4, .time = 3, .input = i, .hidden = 20, .lengths = {3, 0, 1, 3}});
  for (const std::int64_t b : {0, 1, 2, 5, 6, 7, 8, 13, 33})
    all.push_back({.batch = b, .time = 3, .input = 7, .hidden = 17});
  for (const std::int64_t t : {0, 1, 2, 19}) all.push_back({.batch = 3, .time = t, .input = 4, .hidden = 6});
  all.push_back({.batch = 2, .time = 3, .input = 4, .hidden = 0});
  all.push_back({.batch = 40, .time = 21, .input = 19, .hidden = 18});  // more rows than one gradient block holds
  all.push_back({.batch = 3, .time = 5, .input = 140, .hidden = 33});   // more inputs than one gradient task takes
  all.push_back({.batch = 4, .time = 5, .input = 3, .hidden = 9, .lengths = {0, 0, 0, 0}});
#ifndef ADJOINT_KERNELS_ON_GPU  // which do not look for equal inputs
  // Few different inputs, more of them than are looked for, and widths whose first bytes are all.
  for (const std::int64_t i : {0, 1, 2, 37, 70})
    for (const std::int64_t alphabet : {1, 7, 64, 65})
      all.push_back({.batch = 9, .time = 16, .input = i, .hidden = 19, .alphabet = alphabet});
  for (const std::int64_t b : {1, 3, 5, 33})
    all.push_back({.batch = b, .time = 11, .input = 66, .hidden = 34, .reverse = b == 5, .alphabet = 5});
#endif
  // Every combination of the switches.
  for (int bits = 0; bits < 1024; bits += 1) {
    if (bits % 7 != 0 && bits != 1023) continue;
    const auto bit = [&](int i) { return (bits >> i & 1) != 0; };
    Case c{.batch = 9, .time = 5, .input = 6, .hidden = 19};
    if (bit(0)) c.lengths = {5, 0, 3, 1, 4, 4, 2, 5, 0};
    c.reverse = bit(1);
    c.bias = !bit(2);
    c.h0 = !bit(3);
    c.c0 = !bit(4);
    c.dy = !bit(5);
    c.dh_n = !bit(6);
    c.dc_n = !bit(7);
    c.time_major = bit(8);
    c.half = bit(9);
    c.alphabet = bits % 3 == 0 ? 4 : 0;
    all.push_back(c);
  }
  return all;
}

template <class S>
class Lstm : public ::testing::Test {};
using Floats = ::testing::Types<double, float, bf16>;
TYPED_TEST_SUITE(Lstm, Floats);

TYPED_TEST(Lstm, Equals_the_formulas_in_double) {
  using S = TypeParam;
  std::uint32_t seed = 1;
  for (const Case& c : cases()) {
    const Arrays<S> in = random_inputs<S>(c, seed++);
    expect_near<S>(c, run_kernel<S>(c, in, 1), reference(c, widen(in)));
    if (this->HasFatalFailure()) return;
  }
}

TYPED_TEST(Lstm, Adds_to_gradients_when_told_to) {
  using S = TypeParam;
  for (const bool reverse : {false, true}) {
    const Case c{.batch = 5, .time = 4, .input = 37, .hidden = 21, .lengths = {4, 2, 0, 3, 1}, .reverse = reverse};
    const Arrays<S> in = random_inputs<S>(c, 7);
    expect_near<S>(c, run_kernel<S>(c, in, 2, true), reference(c, widen(in)), 1.0);
  }
}

template <class S>
void expect_equal_bits(const std::vector<S>& a, const std::vector<S>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size());
  ASSERT_TRUE(a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(S)) == 0) << what;
}

TYPED_TEST(Lstm, Gives_the_same_bits_for_any_number_of_threads) {
  using S = TypeParam;
  for (Case c : {Case{.batch = 37, .time = 9, .input = 20, .hidden = 48},
                 Case{.batch = 37, .time = 9, .input = 20, .hidden = 48, .alphabet = 6},
                 Case{.batch = 1, .time = 20, .input = 64, .hidden = 70}}) {
    for (std::int64_t b = 0; b < c.batch; ++b)
      c.lengths.push_back(static_cast<std::int32_t>((b * 5 + 9) % (c.time + 1)));
    const Arrays<S> in = random_inputs<S>(c, 11), one = run_kernel<S>(c, in, 1);
    for (const int threads : {2, 4}) {
      const Arrays<S> many = run_kernel<S>(c, in, threads);
      for (const auto& [name, values] : one)
        expect_equal_bits(values, many.at(name), name + " with " + std::to_string(threads) + " threads");
    }
  }
}

#ifndef ADJOINT_KERNELS_ON_GPU
/// Of whole registers and not, with and without states: a small batch of many units, whose steps threads share.
TYPED_TEST(Lstm, Gives_the_same_bits_when_threads_share_its_steps) {
  using S = TypeParam;
  const Case cases[] = {{.batch = 1, .time = 20, .input = 64, .hidden = 128, .h0 = false, .c0 = false},
                        {.batch = 1, .time = 20, .input = 64, .hidden = 128, .alphabet = 7},
                        {.batch = 1, .time = 7, .input = 5, .hidden = 203},
                        {.batch = 0, .time = 3, .input = 5, .hidden = 128},
                        {.batch = 1, .time = 0, .input = 5, .hidden = 128},
                        {.batch = 1, .time = 1, .input = 3, .hidden = 97, .reverse = true},
                        {.batch = 3, .time = 11, .input = 33, .hidden = 130, .h0 = false},
                        {.batch = 2, .time = 9, .input = 16, .hidden = 256, .reverse = true, .c0 = false}};
  for (Case c : cases)
    for (const bool padded : {false, true}) {
      for (std::int64_t b = 0; padded && b < c.batch; ++b)
        c.lengths.push_back(static_cast<std::int32_t>((b * 5 + 9) % (c.time + 1)));
      const Arrays<S> in = random_inputs<S>(c, 11), one = run_kernel<S>(c, in, 1, padded);
      for (const int threads : {2, 3, 4, 8})
        for (int again = 0; again < 3; ++again) {
          const Arrays<S> many = run_kernel<S>(c, in, threads, padded);
          for (const auto& [name, values] : one)
            expect_equal_bits(values, many.at(name),
                              fmt::format("{} of [{},{}] with {} threads", name, c.batch, c.hidden, threads));
        }
    }
}
#endif

TYPED_TEST(Lstm, Gives_a_padded_sequence_the_bits_it_has_alone) {
  using S = TypeParam;
  for (const std::int64_t alphabet : {0, 4})
    for (const bool states : {false, true}) {
      Case c{.batch = 41,
             .time = 12,
             .input = 10,
             .hidden = 35,
             .reverse = states == (alphabet == 0),
             .h0 = states,
             .c0 = states,
             .alphabet = alphabet};
      for (std::int64_t b = 0; b < c.batch; ++b) c.lengths.push_back(static_cast<std::int32_t>((b * 7) % 13));
      const Arrays<S> in = random_inputs<S>(c, 5), batch = run_kernel<S>(c, in, 2);
      for (std::int64_t b = 0; b < c.batch; ++b) {
        Case alone = c;
        alone.batch = 1;
        alone.time = c.length(b);
        alone.lengths.clear();
        Arrays<S> one = in;
        const auto cut = [](const std::vector<S>& a, std::int64_t first, std::int64_t n) {
          return std::vector<S>(a.begin() + first, a.begin() + first + n);
        };
        one["x"] = cut(in.at("x"), c.x_at(b, 0), alone.time * c.input);
        one["dy"] = cut(in.at("dy"), c.y_at(b, 0), alone.time * c.hidden);
        for (const char* name : {"h0", "c0", "dh_n", "dc_n"}) one[name] = cut(in.at(name), b * c.hidden, c.hidden);
        const Arrays<S> result = run_kernel<S>(alone, one, 1);
        const std::string what = " of example " + std::to_string(b) + " of length " + std::to_string(alone.time);
        expect_equal_bits(result.at("y"), cut(batch.at("y"), c.y_at(b, 0), alone.time * c.hidden), "y" + what);
        for (const char* name : {"h_n", "c_n", "dh0", "dc0"})
          expect_equal_bits(result.at(name), cut(batch.at(name), b * c.hidden, c.hidden), name + what);
        expect_equal_bits(result.at("dx"), cut(batch.at("dx"), c.x_at(b, 0), alone.time * c.input), "dx" + what);
      }
    }
}

TYPED_TEST(Lstm, Gives_the_same_output_when_nothing_is_saved) {
  using S = TypeParam;
  const Case c{.batch = 10, .time = 6, .input = 9, .hidden = 33, .lengths = {6, 1, 2, 3, 4, 5, 6, 0, 1, 2}};
  const Arrays<S> in = random_inputs<S>(c, 3), with = run_kernel<S>(c, in, 1),
                  without = run_kernel<S>(c, in, 1, false, false);
  for (const auto& [name, values] : without) expect_equal_bits(values, with.at(name), name);
}

TYPED_TEST(Lstm, Gives_each_gradient_without_the_others) {
  using S = TypeParam;
  const Case c{.batch = 10, .time = 4, .input = 9, .hidden = 33, .lengths = {4, 1, 2, 3, 4, 4, 2, 0, 1, 2}};
  const Arrays<S> in = random_inputs<S>(c, 3), all = run_kernel<S>(c, in, 1);
  for (const auto& [name, size] : gradient_sizes(c)) {
    const Arrays<S> one = run_kernel<S>(c, in, 1, false, true, name);
    expect_equal_bits(one.at(name), all.at(name), name);
    for (const auto& [other, values] : one) {
      if (other[0] != 'd' || other == name) continue;
      for (const S v : values) ASSERT_EQ(static_cast<double>(v), kUntouched) << other << " when only " << name;
    }
  }
}

TEST(LstmReplay, Reads_the_lengths_of_each_run) {
  std::vector<std::int32_t> lengths = {3, 0, 2};
  const Case c{.batch = 3, .time = 3, .input = 2, .hidden = 4, .h0 = false, .c0 = false};
  const Arrays<double> in = random_inputs<double>(c, 9);
  std::vector<double> y(36), h_n(12), c_n(12);
  LstmForward call{.shape = {.dtype = DType::f64,
                             .batch = 3,
                             .time = 3,
                             .input = 2,
                             .hidden = 4,
                             .x_stride = {6, 2},
                             .y_stride = {12, 4},
                             .lengths = lengths.data()},
                   .x = in.at("x").data(),
                   .w_ih = in.at("w_ih").data(),
                   .w_hh = in.at("w_hh").data(),
                   .b_ih = in.at("b_ih").data(),
                   .b_hh = in.at("b_hh").data(),
                   .h0 = nullptr,
                   .c0 = nullptr,
                   .y = y.data(),
                   .h_n = h_n.data(),
                   .c_n = c_n.data(),
                   .saved = nullptr};
  std::vector<double> scratch(scratch_bytes(testing::at(), call) / sizeof(double) + 8);
  call.scratch = scratch.data() + (64 - reinterpret_cast<std::uintptr_t>(scratch.data()) % 64) % 64 / sizeof(double);
  for (const std::vector<std::int32_t>& next : {std::vector{3, 0, 2}, {1, 3, 3}, {0, 0, 0}, {2, 3, 1}}) {
    std::copy(next.begin(), next.end(), lengths.begin());
    run(testing::at(), call);
    Case now = c;
    now.lengths = next;
    const Arrays<double> want = reference(now, in);
    expect_near<double>(now, {{"y", y}, {"h_n", h_n}, {"c_n", c_n}}, want);
  }
}

TEST(LstmGradient, Equals_a_four_point_difference_of_the_forward_kernel) {
  for (const bool reverse : {false, true}) {
    const Case c{
        .batch = 3, .time = 4, .input = 3, .hidden = 5, .lengths = {4, 2, 3}, .reverse = reverse, .time_major = true};
    Arrays<double> in = random_inputs<double>(c, 2);
    const Arrays<double> gradients = run_kernel<double>(c, in, 1);
    const auto loss = [&] {
      const Arrays<double> out = run_kernel<double>(c, in, 1, false, false);
      double sum = 0.0;
      for (const auto& [value, weight] : {std::pair{"y", "dy"}, {"h_n", "dh_n"}, {"c_n", "dc_n"}})
        for (std::size_t i = 0; i < out.at(value).size(); ++i) sum += out.at(value)[i] * in.at(weight)[i];
      return sum;
    };
    for (const char* name : {"x", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0"}) {
      const std::vector<double>& gradient = gradients.at(std::string("d") + name);
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        double& v = in[name][i];
        const double middle = v, step = 1e-3;
        const auto at = [&](double d) {
          v = middle + d;
          return loss();
        };
        // Error of the formula: step^4 / 30 times a fifth derivative of order one, 1e-13; of the losses, 1e-12.
        const double numeric = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
        v = middle;
        ASSERT_NEAR(gradient[i], numeric, 1e-8) << "d" << name << "[" << i << "], " << c.text();
      }
    }
  }
}

}  // namespace
}  // namespace adjoint
