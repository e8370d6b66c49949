// Reductions, the gradient of max and arg max under many schedules; tests/kernels/reduce_test.cpp has the values.

#include "kernels/reduce.h"

#include "tests/simt/arrays.h"
#include "tests/simt/call.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

struct Reduction {
  Dims shape, kept;  // kept: 1 where reduced
};
// Rows by 1 … 32 lanes, by blocks and in chunks; columns side by side, few and in chunks; both; all; nothing.
const Reduction kCases[] = {{{5, 3}, {5, 1}},          {{3, 37}, {3, 1}},
                            {{9, 96}, {9, 1}},         {{2, 9001}, {2, 1}},
                            {{37, 5}, {1, 5}},         {{20, 130}, {1, 130}},
                            {{700, 12}, {1, 12}},      {{4, 3, 8}, {1, 3, 1}},
                            {{2, 40, 16}, {2, 1, 16}}, {{3, 5, 2, 7}, {1, 5, 1, 7}},
                            {{40, 40}, {1, 1}},        {{6, 7}, {6, 7}},
                            {{3, 0}, {3, 1}},          {{}, {}}};

TEST(ReduceKernel, Sums_and_maxima_do_not_depend_on_schedule_or_layout) {
  for (const Reduction& c : kCases) {
    for (DType dtype : kFloats) {
      const std::vector<double> x = uniform_values(dtype, count_of(c.shape), 1, -2, 2);
      const std::vector<double> old = uniform_values(dtype, count_of(c.kept), 2, -2, 2);
      std::vector<double> sum(old.size(), 0.0), largest(old.size(), -INFINITY), sum_seen, added_seen;
      {
        Array y(dtype, c.kept);
        const View to = expanded(y.view, c.shape);
        for (std::size_t i = 0; i < x.size(); ++i) {
          const std::size_t at = static_cast<std::size_t>(place_in(to, static_cast<std::int64_t>(i)));
          sum[at] += x[i];
          largest[at] = std::max(largest[at], x[i]);
        }
      }
      // Every term is rounded some 30 times at most on its way, and there are fewer than 20000 of magnitude 2.
      const double absolute = static_cast<double>(x.size()) * (dtype == DType::f64 ? 1e-14 : 30 * 0x1p-24);
      int which = 0;
      for (const Schedule& schedule : schedules(affordable_seeds())) {
        if (x.size() > 5000 && which >= 3) break;
        const Placing placing = kPlacings[which++ % 5];
        Under under(schedule);
        Array ax(dtype, c.shape, x, placing), y(dtype, c.kept), more(dtype, c.kept, old), top(dtype, c.kept);
        const std::string what = std::string(adjoint::name(dtype)) + ", case " + std::to_string(&c - kCases) + ", " +
                                 name(schedule) + ", layout " + std::to_string(which);
        run_call(Reduce{ReduceKind::sum, ax.view, expanded(y.view, c.shape), 0.5});
        run_call(Reduce{ReduceKind::sum, ax.view, expanded(more.view, c.shape), 0.5, true});
        std::vector<double> want = sum, want_more = old;
        for (std::size_t i = 0; i < want.size(); ++i) want_more[i] += (want[i] *= 0.5);
        expect_near(y, want, rounding(dtype), absolute, what + ", sum");
        expect_near(more, want_more, rounding(dtype), absolute, what + ", added");
        if (sum_seen.empty()) {
          sum_seen = y.values();
          added_seen = more.values();
        }
        EXPECT_EQ(y.values(), sum_seen) << what;
        EXPECT_EQ(more.values(), added_seen) << what;
        if (x.empty()) continue;
        run_call(Reduce{ReduceKind::max, ax.view, expanded(top.view, c.shape)});
        expect_near(top, largest, 0, 0, what + ", max");
      }
    }
  }
}

TEST(ReduceKernel, The_gradient_of_max_goes_to_the_first_of_equals) {
  for (const Reduction& c : kCases) {
    if (count_of(c.shape) == 0) continue;
    for (DType dtype : kFloats) {
      std::vector<double> x = uniform_values(dtype, count_of(c.shape), 1, -4, 4);
      for (double& v : x) v = std::floor(v);
      const std::vector<double> dy = uniform_values(dtype, count_of(c.kept), 2, -2, 2);
      const std::vector<double> old = uniform_values(dtype, count_of(c.shape), 3, -2, 2);
      Array top(dtype, c.kept), ady(dtype, c.kept, dy);
      const View y = expanded(top.view, c.shape), vdy = expanded(ady.view, c.shape);
      std::vector<double> best(dy.size(), -INFINITY), want(x.size(), 0.0), added = old;
      std::vector<std::size_t> first(dy.size(), 0);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const std::size_t at = static_cast<std::size_t>(place_in(y, static_cast<std::int64_t>(i)));
        if (x[i] <= best[at]) continue;
        best[at] = x[i];
        first[at] = i;
      }
      for (std::size_t k = 0; k < first.size(); ++k) added[first[k]] += want[first[k]] = dy[k];
      int which = 0;
      for (const Schedule& schedule : schedules(affordable_seeds() / 2)) {
        if (x.size() > 5000 && which >= 2) break;
        Under under(schedule);
        Array ax(dtype, c.shape, x, kPlacings[which++ % 5]), assigned(dtype, c.shape), more(dtype, c.shape, old);
        run_call(Reduce{ReduceKind::max, ax.view, y});
        run_call(MaxBackward{ax.view, y, vdy, {assigned.data(), false}});
        run_call(MaxBackward{ax.view, y, vdy, {more.data(), true}});
        run_call(MaxBackward{ax.view, y, vdy, {nullptr, false}});
        expect_near(assigned, want, 0, 0, name(schedule));
        expect_near(more, added, rounding(dtype), rounding(dtype), name(schedule));
      }
    }
  }
}

TEST(ReduceKernel, Arg_max_takes_the_first_of_equals_and_the_first_nan) {
  for (const Schedule& schedule : schedules(affordable_seeds() / 2)) {
    Under under(schedule);
    for (DType dtype : kFloats) {
      for (std::int64_t width : {1, 8, 33, 96, 300}) {
        for (Placing placing : {Placing::dense, Placing::odd}) {
          const std::int64_t rows = 11;
          std::vector<double> values = uniform_values(dtype, rows * width, 5, -5, 5);
          for (double& v : values) v = std::floor(v);
          for (std::int64_t i = 0; i < width; ++i) values[static_cast<std::size_t>(width + i)] = -INFINITY;
          values[static_cast<std::size_t>(2 * width + width / 2)] = NAN;
          values[static_cast<std::size_t>(3 * width - 1)] = NAN;
          Array x(dtype, {rows, width}, values, placing);
          Buffer<std::int32_t> index(static_cast<std::size_t>(rows), "index");
          run_call(ArgMax{dtype, rows, width, x.data(), index});
          for (std::int64_t r = 0; r < rows; ++r) {
            std::int64_t want = 0;
            for (std::int64_t i = 1; i < width; ++i) {
              const double best = x[r * width + want], v = x[r * width + i];
              if (best == best && (v > best || v != v)) want = i;
            }
            EXPECT_EQ(index.host()[static_cast<std::size_t>(r)], want)
                << adjoint::name(dtype) << ", width " << width << ", row " << r << ", " << name(schedule);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace adjoint::simt::self_test
