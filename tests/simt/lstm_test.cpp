// The LSTM against its formulas in double, at widths around those that its kernels are compiled for.

#include "kernels/lstm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <list>
#include <random>
#include <string>

#include "tests/kernels/lstm_reference.h"
#include "tests/simt/call.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

using lstm_reference::Arrays;
using lstm_reference::Case;

template <class S>
S narrow(double v) {
  return S(static_cast<acc_t<S>>(v));
}

/// Whether element i of the array is of a padded step: nothing may depend on it.
bool is_padded(const Case& c, const std::string& name, std::int64_t i) {
  if (name != "x" && name != "dy") return false;
  const std::int64_t width = name == "x" ? c.input : c.hidden * (c.half ? 2 : 1), row = i / width;
  const std::int64_t b = c.time_major ? row % c.batch : row / c.time, t = c.time_major ? row / c.batch : row % c.time;
  return t >= c.length(b);
}

template <class S>
class Run {
  using A = acc_t<S>;

 public:
  Run(const Case& c, bool accumulate) : c_(c), accumulate_(accumulate) {
    std::mt19937 bits(static_cast<unsigned>(c.hidden * 31 + c.input * 7 + c.batch));
    for (const auto& [name, size] : lstm_reference::input_sizes(c)) {
      const double scale = name[0] == 'w' ? 1.5 / std::sqrt(static_cast<double>(c.hidden + c.input + 1)) : 1.0;
      std::normal_distribution<double> normal(0.0, scale);
      std::vector<S> values;
      wide_[name];
      for (std::int64_t i = 0; i < size; ++i) {
        values.push_back(narrow<S>(normal(bits)));
        wide_[name].push_back(static_cast<double>(values.back()));
        if (is_padded(c, name, i)) values.back() = narrow<S>(NAN);
      }
      buffer(name, values);
    }
  }

  void check() {
    const LstmShape shape = this->shape();
    Buffer<A> saved(static_cast<std::size_t>(shape.saved_elements()), "saved");
    const auto fill = [&](const char* name, std::int64_t size, bool added) {
      std::vector<S> values(static_cast<std::size_t>(size), narrow<S>(kBefore));
      (added ? added_ : written_).push_back(name);
      return buffer(name, values);
    };
    const std::int64_t half = c_.half ? c_.hidden : 0, state = c_.batch * c_.hidden;
    S* const y = fill("y", c_.y_size(), false) + half;
    S* const h_n = fill("h_n", state, false);
    S* const c_n = fill("c_n", state, false);
    run_call(LstmForward{.shape = shape,
                         .x = input("x"),
                         .w_ih = input("w_ih"),
                         .w_hh = input("w_hh"),
                         .b_ih = input("b_ih", c_.bias),
                         .b_hh = input("b_hh", c_.bias),
                         .h0 = input("h0", c_.h0),
                         .c0 = input("c0", c_.c0),
                         .y = y,
                         .h_n = h_n,
                         .c_n = c_n,
                         .saved = saved.get()});
    for (const auto& [name, size] : lstm_reference::gradient_sizes(c_)) fill(name.c_str(), size, true);
    const auto out = [&](const char* name) { return GradOut{at(name), accumulate_}; };
    run_call(LstmBackward{.shape = shape,
                          .x = input("x"),
                          .w_ih = input("w_ih"),
                          .w_hh = input("w_hh"),
                          .h0 = input("h0", c_.h0),
                          .c0 = input("c0", c_.c0),
                          .y = y,
                          .saved = saved.get(),
                          .dy = c_.dy ? at("dy") + half : nullptr,
                          .dh_n = input("dh_n", c_.dh_n),
                          .dc_n = input("dc_n", c_.dc_n),
                          .dx = out("dx"),
                          .dw_ih = out("dw_ih"),
                          .dw_hh = out("dw_hh"),
                          .db_ih = out("db_ih"),
                          .db_hh = out("db_hh"),
                          .dh0 = out("dh0"),
                          .dc0 = out("dc0")});
    const Arrays<double> want = lstm_reference::reference(c_, wide_);
    for (const std::string& name : written_) compare(name, want.at(name), false);
    for (const std::string& name : added_) compare(name, want.at(name), accumulate_);
  }

 private:
  static constexpr double kBefore = 0.75;

  S* buffer(const std::string& name, const std::vector<S>& values) {
    buffers_.emplace_back(name, std::vector<S>(values));
    return buffers_.back().second.get();
  }
  S* at(const std::string& name) const {
    for (const auto& [known, buffer] : buffers_)
      if (known == name) return buffer.get();
    return nullptr;
  }
  const void* input(const char* name, bool present = true) const { return present ? at(name) : nullptr; }

  LstmShape shape() {
    const std::int64_t y = c_.hidden * (c_.half ? 2 : 1);
    if (!c_.lengths.empty()) lengths_.emplace_back(c_.lengths, "lengths");
    return {.dtype = dtype_of<S>,
            .batch = c_.batch,
            .time = c_.time,
            .input = c_.input,
            .hidden = c_.hidden,
            .x_stride = {c_.time_major ? c_.input : c_.time * c_.input, c_.time_major ? c_.batch * c_.input : c_.input},
            .y_stride = {c_.time_major ? y : c_.time * y, c_.time_major ? c_.batch * y : y},
            .lengths = lengths_.empty() ? nullptr : lengths_.back().get(),
            .reverse = c_.reverse};
  }

  /// f32 sums of a few hundred terms are off by some 1e-6 of the largest value; bf16 rounds once, by at most 2^-9 of
  /// the value, and 2^-8 leaves room for an f32 error at a tie.
  void compare(const std::string& name, const std::vector<double>& want, bool added) const {
    const double of_array = sizeof(S) == 8 ? 1e-12 : 1e-5, of_value = sizeof(S) == 2 ? 0x1p-8 : 0.0;
    double largest = 1e-3;
    for (const double v : want) largest = std::max(largest, std::abs(v));
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double got = static_cast<double>(at(name)[i]), e = want[i] + (added ? kBefore : 0.0);
      if (name == "y" && c_.half && static_cast<std::int64_t>(i) % (2 * c_.hidden) < c_.hidden) {
        ASSERT_EQ(got, kBefore) << "the other half of y was written, " << c_.text();
      } else {
        ASSERT_NEAR(got, e, of_array * (largest + 1.0) + of_value * std::abs(e))
            << dtype_of_name() << name << "[" << i << "]" << (added ? " added, " : ", ") << c_.text();
      }
    }
  }
  static std::string dtype_of_name() { return std::string(adjoint::name(dtype_of<S>)) + " "; }

  const Case& c_;
  bool accumulate_;
  Arrays<double> wide_;
  std::list<std::pair<std::string, Buffer<S>>> buffers_;
  std::list<Buffer<std::int32_t>> lengths_;
  std::vector<std::string> written_, added_;
};

/// Each case in each dtype, the schedules taking turns, and assigning and accumulating too.
void check(const std::vector<Case>& cases) {
  const std::vector<Schedule> all = schedules(affordable_seeds());
  std::size_t turn = 0;
  for (const Case& c : cases) {
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      const Schedule& schedule = all[turn % all.size()];
      Under under(schedule);
      visit_float(dtype, [&](auto type) { Run<typename decltype(type)::type>(c, turn % 2 != 0).check(); });
      if (::testing::Test::HasFailure()) FAIL() << name(schedule);
      ++turn;
    }
  }
}

TEST(LstmKernel, Equals_the_formulas_at_widths_around_the_compiled_ones) {
  for (const std::int64_t h : {1, 4, 31, 32, 33, 64, 65, 96, 100, 128})
    check({{.batch = 3, .time = 4, .input = 5, .hidden = h, .lengths = {2, 4, 3}}});
}

TEST(LstmKernel, Goes_step_by_step_where_weights_do_not_fit) {
  check({{.batch = 3, .time = 3, .input = 4, .hidden = 129, .lengths = {1, 3, 0}},
         {.batch = 2, .time = 3, .input = 3, .hidden = 132, .lengths = {3, 1}, .reverse = true, .time_major = true},
         {.batch = 2, .time = 2, .input = 3, .hidden = 130, .bias = false, .h0 = false, .c0 = false, .half = true},
         {.batch = 2, .time = 2, .input = 3, .hidden = 129, .dy = false, .dh_n = false},
         {.batch = 2, .time = 1, .input = 3, .hidden = 160, .dc_n = false},
         {.batch = 2, .time = 0, .input = 3, .hidden = 129}});
}

TEST(LstmKernel, Takes_every_option) {
  const Case base{.batch = 5, .time = 5, .input = 6, .hidden = 19, .lengths = {5, 0, 3, 1, 4}};
  std::vector<Case> cases;
  for (int bits = 0; bits < 512; bits += 37) {
    const auto bit = [&](int i) { return (bits >> i & 1) != 0; };
    Case c = base;
    if (bit(0)) c.lengths.clear();
    c.reverse = bit(1);
    c.bias = !bit(2);
    c.h0 = c.c0 = !bit(3);
    c.dy = !bit(4);
    c.dh_n = !bit(5);
    c.dc_n = !bit(6);
    c.time_major = bit(7);
    c.half = bit(8);
    cases.push_back(c);
  }
  check(cases);
}

TEST(LstmKernel, Takes_extents_of_nothing_and_one) {
  check({{.batch = 0, .time = 3, .input = 2, .hidden = 4},
         {.batch = 2, .time = 0, .input = 2, .hidden = 4},
         {.batch = 2, .time = 3, .input = 0, .hidden = 4},
         {.batch = 2, .time = 3, .input = 2, .hidden = 0},
         {.batch = 1, .time = 1, .input = 1, .hidden = 1},
         {.batch = 3, .time = 2, .input = 2, .hidden = 6, .lengths = {0, 0, 0}},
         {.batch = 40, .time = 20, .input = 3, .hidden = 5}});  // long sums over rows
}

TEST(LstmKernel, Does_not_leave_the_arrays_for_lengths_out_of_range) {
  Buffer<float> x(std::vector<float>(12, 0.5f)), w_ih(std::vector<float>(32, 0.1f)), w_hh(std::vector<float>(64, 0.1f));
  Buffer<float> y(24), h_n(8), c_n(8);
  const auto run = [&](std::vector<std::int32_t> lengths) {
    const Buffer<std::int32_t> dev_lengths(lengths, "lengths");
    run_call(LstmForward{.shape = {.dtype = DType::f32,
                                   .batch = 2,
                                   .time = 3,
                                   .input = 2,
                                   .hidden = 4,
                                   .x_stride = {6, 2},
                                   .y_stride = {12, 4},
                                   .lengths = dev_lengths.get()},
                         .x = x.get(),
                         .w_ih = w_ih.get(),
                         .w_hh = w_hh.get(),
                         .b_ih = nullptr,
                         .b_hh = nullptr,
                         .h0 = nullptr,
                         .c0 = nullptr,
                         .y = y.get(),
                         .h_n = h_n.get(),
                         .c_n = c_n.get(),
                         .saved = nullptr});
    return y.host();
  };
  EXPECT_EQ(run({2147483647, -2147483647 - 1}), run({3, 0}));
}

}  // namespace
}  // namespace adjoint::simt::self_test
