#include "kernels/lstm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/thread_pool.h"

namespace adjoint {
namespace {

/// A call of both directions, in the words of the contract.
struct Case {
  std::int64_t batch, time, input, hidden;
  std::vector<std::int32_t> lengths = {};  // empty: null
  bool reverse = false;
  bool bias = true, h0 = true, c0 = true;
  bool dy = true, dh_n = true, dc_n = true;
  bool time_major = false;
  bool half = false;  // y is the second half of rows that are 2H wide

  std::int64_t length(std::int64_t b) const { return lengths.empty() ? time : lengths[static_cast<std::size_t>(b)]; }
  std::int64_t x_at(std::int64_t b, std::int64_t t) const {
    return (time_major ? t * batch + b : b * time + t) * input;
  }
  std::int64_t y_at(std::int64_t b, std::int64_t t) const {
    return (time_major ? t * batch + b : b * time + t) * hidden * (half ? 2 : 1) + (half ? hidden : 0);
  }
  std::int64_t x_size() const { return batch * time * input; }
  std::int64_t y_size() const { return batch * time * hidden * (half ? 2 : 1); }

  std::string text() const {
    std::string s = "B" + std::to_string(batch) + " T" + std::to_string(time) + " I" + std::to_string(input) + " H" +
                    std::to_string(hidden) + " lengths";
    for (const std::int32_t n : lengths) s += " " + std::to_string(n);
    for (const auto& [set, name] : {std::pair{reverse, " reverse"},
                                    {!bias, " no bias"},
                                    {!h0, " no h0"},
                                    {!c0, " no c0"},
                                    {!dy, " no dy"},
                                    {!dh_n, " no dh_n"},
                                    {!dc_n, " no dc_n"},
                                    {time_major, " time-major"},
                                    {half, " half"}})
      if (set) s += name;
    return s;
  }
};

/// Arrays by the names of the contract.
template <class S>
using Arrays = std::map<std::string, std::vector<S>>;

std::vector<std::pair<std::string, std::int64_t>> input_sizes(const Case& c) {
  const std::int64_t gates = 4 * c.hidden, state = c.batch * c.hidden;
  return {{"x", c.x_size()}, {"w_ih", gates * c.input}, {"w_hh", gates * c.hidden},
          {"b_ih", gates},   {"b_hh", gates},           {"h0", state},
          {"c0", state},     {"dy", c.y_size()},        {"dh_n", state},
          {"dc_n", state}};
}
std::vector<std::pair<std::string, std::int64_t>> gradient_sizes(const Case& c) {
  const std::int64_t gates = 4 * c.hidden, state = c.batch * c.hidden;
  return {{"dx", c.x_size()}, {"dw_ih", gates * c.input}, {"dw_hh", gates * c.hidden},
          {"db_ih", gates},   {"db_hh", gates},           {"dh0", state},
          {"dc0", state}};
}

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
  return arrays;
}

/// What the caller of `accumulate` finds in the gradients before the call.
template <class S>
S earlier(std::size_t i) {
  return from_double<S>(0.25 * static_cast<double>(i % 7) - 0.5);
}
constexpr double kUntouched = -77.0;

/// Runs forward and backward; scratch is filled with NaN bytes first and must not be overrun.
template <class S>
Arrays<S> run_kernel(const Case& c, const Arrays<S>& in, int threads, bool accumulate = false, bool with_saved = true) {
  using A = acc_t<S>;
  cpu::ThreadPool pool(threads);
  const cpu::At at{&pool};
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

  const auto run = [&](auto& call) {
    constexpr std::size_t kGuard = 256;
    const std::size_t bytes = cpu::scratch_bytes(call);
    std::vector<std::byte> memory(bytes + kGuard + 64, std::byte{0xff});
    void* aligned = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64;
    call.scratch = aligned;
    cpu::run(at, call);
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
  run(forward);
  if (!with_saved) return out;

  for (const auto& [name, size] : gradient_sizes(c)) {
    std::vector<S>& a = out[name];
    a.assign(static_cast<std::size_t>(size), untouched);
    if (accumulate)
      for (std::size_t i = 0; i < a.size(); ++i) a[i] = earlier<S>(i);
  }
  const auto gradient = [&](const char* name) { return GradOut{out[name].data(), accumulate}; };
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
  run(backward);
  return out;
}

double sigmoid(double v) { return 1.0 / (1.0 + std::exp(-v)); }

/// The formulas of the contract and their derivatives, one example and one step after the other.
Arrays<double> reference(const Case& c, const Arrays<double>& in) {
  const std::int64_t I = c.input, H = c.hidden;
  const auto at = [](const std::vector<double>& a, std::int64_t i) { return a[static_cast<std::size_t>(i)]; };
  const std::vector<double>&x = in.at("x"), &w_ih = in.at("w_ih"), &w_hh = in.at("w_hh"), &b_ih = in.at("b_ih"),
        &b_hh = in.at("b_hh");
  Arrays<double> out;
  for (const auto& [name, size] : gradient_sizes(c)) out[name].assign(static_cast<std::size_t>(size), 0.0);
  out["y"].assign(static_cast<std::size_t>(c.y_size()), 0.0);
  out["h_n"].assign(static_cast<std::size_t>(c.batch * H), 0.0);
  out["c_n"] = out["h_n"];
  struct Step {
    std::vector<double> i, f, g, o, c, h;
  };
  for (std::int64_t b = 0; b < c.batch; ++b) {
    Step start{{}, {}, {}, {}, std::vector<double>(static_cast<std::size_t>(H)), {}};
    start.h = start.c;
    for (std::int64_t u = 0; u < H; ++u) {
      if (c.h0) start.h[static_cast<std::size_t>(u)] = at(in.at("h0"), b * H + u);
      if (c.c0) start.c[static_cast<std::size_t>(u)] = at(in.at("c0"), b * H + u);
    }
    std::vector<Step> steps{start};
    std::vector<std::int64_t> times{-1};
    for (std::int64_t k = 0; k < c.length(b); ++k) {
      const std::int64_t t = c.reverse ? c.length(b) - 1 - k : k;
      const Step& before = steps.back();
      Step now;
      for (std::int64_t u = 0; u < H; ++u) {
        double z[4];
        for (std::int64_t q = 0; q < 4; ++q) {
          const std::int64_t row = q * H + u;
          z[q] = c.bias ? at(b_ih, row) + at(b_hh, row) : 0.0;
          for (std::int64_t k2 = 0; k2 < I; ++k2) z[q] += at(x, c.x_at(b, t) + k2) * at(w_ih, row * I + k2);
          for (std::int64_t k2 = 0; k2 < H; ++k2) z[q] += at(before.h, k2) * at(w_hh, row * H + k2);
        }
        now.i.push_back(sigmoid(z[0]));
        now.f.push_back(sigmoid(z[1]));
        now.g.push_back(std::tanh(z[2]));
        now.o.push_back(sigmoid(z[3]));
        now.c.push_back(now.f.back() * at(before.c, u) + now.i.back() * now.g.back());
        now.h.push_back(now.o.back() * std::tanh(now.c.back()));
        out["y"][static_cast<std::size_t>(c.y_at(b, t) + u)] = now.h.back();
      }
      steps.push_back(now);
      times.push_back(t);
    }
    std::vector<double> dh(static_cast<std::size_t>(H)), dc = dh;
    for (std::int64_t u = 0; u < H; ++u) {
      const std::size_t i = static_cast<std::size_t>(b * H + u), v = static_cast<std::size_t>(u);
      out["h_n"][i] = steps.back().h[v];
      out["c_n"][i] = steps.back().c[v];
      dh[v] = c.dh_n ? in.at("dh_n")[i] : 0.0;
      dc[v] = c.dc_n ? in.at("dc_n")[i] : 0.0;
    }
    for (std::size_t s = steps.size() - 1; s > 0; --s) {
      const Step &now = steps[s], &before = steps[s - 1];
      const std::int64_t t = times[s];
      std::vector<double> dz(static_cast<std::size_t>(4 * H));
      for (std::int64_t u = 0; u < H; ++u) {
        const std::size_t v = static_cast<std::size_t>(u);
        if (c.dy) dh[v] += at(in.at("dy"), c.y_at(b, t) + u);
        const double tanh_c = std::tanh(now.c[v]);
        dc[v] += dh[v] * now.o[v] * (1.0 - tanh_c * tanh_c);
        dz[v] = dc[v] * now.g[v] * now.i[v] * (1.0 - now.i[v]);
        dz[static_cast<std::size_t>(H + u)] = dc[v] * before.c[v] * now.f[v] * (1.0 - now.f[v]);
        dz[static_cast<std::size_t>(2 * H + u)] = dc[v] * now.i[v] * (1.0 - now.g[v] * now.g[v]);
        dz[static_cast<std::size_t>(3 * H + u)] = dh[v] * tanh_c * now.o[v] * (1.0 - now.o[v]);
        dc[v] *= now.f[v];
      }
      std::fill(dh.begin(), dh.end(), 0.0);
      for (std::int64_t row = 0; row < 4 * H; ++row) {
        const double d = at(dz, row);
        double *dw_ih = out["dw_ih"].data() + row * I, *dw_hh = out["dw_hh"].data() + row * H;
        double* dx = out["dx"].data() + c.x_at(b, t);
        out["db_ih"][static_cast<std::size_t>(row)] += d;
        out["db_hh"][static_cast<std::size_t>(row)] += d;
        for (std::int64_t k = 0; k < I; ++k) {
          dw_ih[k] += d * at(x, c.x_at(b, t) + k);
          dx[k] += d * at(w_ih, row * I + k);
        }
        for (std::int64_t k = 0; k < H; ++k) {
          dw_hh[k] += d * at(before.h, k);
          dh[static_cast<std::size_t>(k)] += d * at(w_hh, row * H + k);
        }
      }
    }
    for (std::int64_t u = 0; u < H; ++u) {
      out["dh0"][static_cast<std::size_t>(b * H + u)] = dh[static_cast<std::size_t>(u)];
      out["dc0"][static_cast<std::size_t>(b * H + u)] = dc[static_cast<std::size_t>(u)];
    }
  }
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
    all.push_back(c);
  }
  return all;
}

template <class S>
class Lstm : public testing::Test {};
using Floats = testing::Types<double, float, bf16>;
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
                 Case{.batch = 1, .time = 20, .input = 64, .hidden = 70}}) {
    for (std::int64_t b = 0; b < c.batch; ++b)
      c.lengths.push_back(static_cast<std::int32_t>((b * 5 + 9) % (c.time + 1)));
    const Arrays<S> in = random_inputs<S>(c, 11), one = run_kernel<S>(c, in, 1);
    for (const int threads : {2, 4, 8}) {
      const Arrays<S> many = run_kernel<S>(c, in, threads);
      for (const auto& [name, values] : one)
        expect_equal_bits(values, many.at(name), name + " with " + std::to_string(threads) + " threads");
    }
  }
}

TYPED_TEST(Lstm, Gives_a_padded_sequence_the_bits_it_has_alone) {
  using S = TypeParam;
  for (const bool reverse : {false, true})
    for (const bool states : {false, true}) {
      Case c{.batch = 41, .time = 12, .input = 10, .hidden = 35, .reverse = reverse, .h0 = states, .c0 = states};
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
