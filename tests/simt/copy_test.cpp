// Copies and fills of every layout under many schedules, the cutting of views that are too large to number, and
// division by multiplication; tests/kernels/copy_test.cpp has the conversions.

#include "kernels/copy.h"

#include "kernels/cuda/layout.cuh"
#include "tests/simt/arrays.h"
#include "tests/simt/call.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

constexpr DType kAll[] = {DType::f64, DType::f32, DType::bf16, DType::i32, DType::u8};

TEST(CopyKernel, Moves_between_all_layouts_and_dtypes) {
  int which = 0;
  for (const Schedule& schedule : schedules(affordable_seeds() / 2)) {
    Under under(schedule);
    for (const Dims& shape :
         {Dims{}, Dims{0}, Dims{37}, Dims{2048}, Dims{64, 65}, Dims{3, 40, 33}, Dims{2, 3, 1, 4, 2, 9}}) {
      for (DType from : kAll) {
        for (DType to : kAll) {
          std::vector<double> x = uniform_values(DType::i32, count_of(shape), 1, 0, 100);  // exact in all of them
          const Placing a = kPlacings[which % 5], b = kPlacings[which / 5 % 5];
          ++which;
          Array ax(from, shape, x, a), y(to, shape, b);
          const std::string what = std::string(adjoint::name(from)) + " to " + adjoint::name(to) + ", rank " +
                                   std::to_string(shape.size()) + ", " + name(schedule);
          run_call(Copy{ax.view, y.view});
          expect_near(y, x, 0, 0, what);
          if (!is_float(to)) continue;
          Array sum(to, shape, x, b);
          run_call(Copy{ax.view, sum.view, true});
          for (double& v : x) v *= 2;  // at most 200: exact in bf16 too
          expect_near(sum, x, 0, 0, what + ", added");
        }
      }
    }
  }
}

TEST(CopyKernel, Reads_repeated_elements) {
  Under under({Order::skewed, 1, kNan});
  for (DType dtype : kAll) {
    Array row(dtype, {40}, uniform_values(DType::i32, 40, 1, 0, 100)), one(dtype, {}, {7}), y(dtype, {9, 40});
    run_call(Copy{expanded(row.view, {9, 40}), y.view});
    for (std::int64_t i = 0; i < y.view.count(); ++i) EXPECT_EQ(y[i], row[i % 40]);
    run_call(Copy{expanded(one.view, {9, 40}), y.view});
    for (std::int64_t i = 0; i < y.view.count(); ++i) EXPECT_EQ(y[i], 7);
    Array column(dtype, {9, 1}, uniform_values(DType::i32, 9, 2, 0, 100));
    run_call(Copy{expanded(column.view, {9, 40}), y.view});
    for (std::int64_t i = 0; i < y.view.count(); ++i) EXPECT_EQ(y[i], column[i / 40]);
  }
}

TEST(CopyKernel, Fill_sets_every_element_and_nothing_else) {
  for (const Schedule& schedule : schedules(affordable_seeds() / 4)) {
    Under under(schedule);
    for (DType dtype : kAll) {
      for (const Dims& shape : {Dims{}, Dims{0}, Dims{15}, Dims{16}, Dims{4099}, Dims{5, 33}, Dims{2, 3, 1, 4, 2, 8}}) {
        for (Placing placing : kPlacings) {
          Array y(dtype, shape, placing);
          run_call(Fill{y.view, 3});
          expect_near(y, std::vector<double>(static_cast<std::size_t>(count_of(shape)), 3.0), 0, 0, name(schedule));
        }
      }
    }
  }
}

TEST(CopyKernel, Views_are_cut_into_pieces_that_cover_them_once) {
  const View whole{nullptr, DType::f32, 3, {5, 7, 3}, {21, 3, 1}}, other{nullptr, DType::u8, 3, {5, 7, 3}, {1, 5, 35}};
  for (std::int64_t limit : {1, 2, 10, 104, 105}) {
    std::vector<int> seen(105, 0), seen_other(105, 0);
    for_pieces({whole, other}, limit, [&](const View(&piece)[2]) {
      EXPECT_LE(piece[0].count(), limit);
      ASSERT_EQ(piece[0].count(), piece[1].count());
      for (std::int64_t i = 0; i < piece[0].count(); ++i) {
        ++seen[static_cast<std::size_t>(reinterpret_cast<std::intptr_t>(piece[0].data) / 4 + place_in(piece[0], i))];
        ++seen_other[static_cast<std::size_t>(reinterpret_cast<std::intptr_t>(piece[1].data) + place_in(piece[1], i))];
      }
    });
    EXPECT_EQ(seen, std::vector<int>(105, 1)) << limit;
    EXPECT_EQ(seen_other, std::vector<int>(105, 1)) << limit;
  }
}

TEST(CopyKernel, Division_by_multiplication_is_exact) {
  std::mt19937 random(1);
  const auto check = [](unsigned n, unsigned d) { EXPECT_EQ(Divisor(d).quotient(n), n / d) << n << " / " << d; };
  constexpr unsigned kMost = 0x7fffffffu;
  for (unsigned d :
       {1u, 2u, 3u, 5u, 7u, 641u, 65535u, 65536u, 65537u, (1u << 30) - 1, 1u << 30, (1u << 30) + 1, kMost}) {
    for (unsigned n : {0u, 1u, d - 1, d, kMost - 1, kMost}) check(n, d);
    for (int i = 0; i < 1000; ++i) check(random() & kMost, d);
    for (unsigned q = kMost / d; q > 0 && q > kMost / d - 3; --q) {
      check(q * d, d);
      check(q * d - 1, d);
    }
  }
  for (int i = 0; i < 10000; ++i) check(random() & kMost, (random() & kMost) >> (random() % 31) | 1);
}

}  // namespace
}  // namespace adjoint::simt::self_test
