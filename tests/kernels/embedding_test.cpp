#include "kernels/embedding.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "tests/kernels/arrays.h"

namespace adjoint {
namespace {

using namespace adjoint::testing;

std::vector<std::int32_t> draw_ids(std::int64_t tokens, std::int64_t rows, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens));
  for (auto& id : ids) id = static_cast<std::int32_t>(random() % static_cast<unsigned>(rows));
  return ids;
}

void backward(const At& place, EmbeddingBackward call) {
  std::vector<unsigned char> scratch(scratch_bytes(at(), call) + 1, 0xA5);
  call.scratch = scratch.data();
  run(place, call);
  EXPECT_EQ(scratch.back(), 0xA5) << "wrote past the scratch it asked for";
}

TEST(Embedding, Forward_copies_the_rows_that_the_ids_name) {
  for (DType dtype : kFloats) {
    for (std::int64_t width : kOddSizes) {
      for (std::int64_t tokens : {0, 1, 130}) {
        const Array table = Array(dtype, {9, width}).random(1, -2, 2);
        const std::vector<std::int32_t> ids = draw_ids(tokens, 9, 2);
        Array y(dtype, {tokens, width});
        run(at(2), EmbeddingForward{dtype, tokens, 9, width, 10, ids.data(), table.view.data, y.data()});
        for (std::int64_t t = 0; t < tokens; ++t)
          for (std::int64_t i = 0; i < width; ++i)
            ASSERT_EQ(y[t * width + i], table[ids[static_cast<std::size_t>(t)] * width + i]);
        EXPECT_TRUE(y.unspoiled());
      }
    }
  }
}

#ifdef ADJOINT_KERNELS_ON_GPU
TEST(Embedding, Forward_of_a_bad_id_is_not_a_number) {  // a GPU cannot stop at it, and must not read out of range
  for (const std::int32_t bad : {11, 10, -1}) {
    const Array table = Array(DType::f32, {10, 4}).random(1, -1, 1);
    std::vector<std::int32_t> ids(12, 3);
    ids[7] = bad;
    Array y = Array(DType::f32, {12, 4});
    run(at(), EmbeddingForward{DType::f32, 12, 10, 4, 5, ids.data(), table.view.data, y.data()});
    for (std::int64_t i = 0; i < 48; ++i) EXPECT_EQ(std::isnan(y[i]), i / 4 == 7);
  }
}
#else
TEST(Embedding, Forward_names_the_place_of_a_bad_id_and_writes_nothing) {
  for (const std::int32_t bad : {11, 10, -1}) {
    const Array table = Array(DType::f32, {10, 4}).random(1, -1, 1);
    std::vector<std::int32_t> ids(12, 3);
    ids[7] = bad;
    Array y = Array(DType::f32, {12, 4}).random(2, -1, 1);
    const Array before = y;
    try {
      run(at(), EmbeddingForward{DType::f32, 12, 10, 4, 5, ids.data(), table.view.data, y.data()});
      FAIL() << "accepted id " << bad;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), "E-OP-010");
      EXPECT_EQ(e.exit(), Exit::data);
      EXPECT_EQ(std::string(e.what()), "embedding: example 1, position 2: index " + std::to_string(bad) +
                                           ", table has 10 rows; vocabulary of another run?");
    }
    EXPECT_TRUE(y.same_bytes(before));
  }
}
#endif

/// Every second token names row 1, so that its tokens are many; nobody names the last row.
std::vector<std::int32_t> draw_uneven_ids(std::int64_t tokens, std::int64_t rows) {
  std::vector<std::int32_t> ids = draw_ids(tokens, rows - 1, 3);
  for (std::size_t t = 0; t < ids.size(); t += 2) ids[t] = 1;
  return ids;
}

void check_backward(DType dtype, std::int64_t tokens, std::int64_t rows, std::int64_t width, std::int64_t padding,
                    bool accumulate) {
  const std::vector<std::int32_t> ids = draw_uneven_ids(tokens, rows);
  const Array dy = Array(dtype, {tokens, width}).random(4, -1, 1);
  Array dtable = Array(dtype, {rows, width}).random(5, -1, 1);
  const Array before = dtable;
  backward(at(), {dtype, tokens, rows, width, padding, ids.data(), dy.view.data, {dtable.data(), accumulate}});
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < width; ++i) {
      double sum = 0, magnitude = 1;
      for (std::int64_t t = 0; t < tokens; ++t) {
        if (ids[static_cast<std::size_t>(t)] != r || r == padding) continue;
        sum += dy[t * width + i];
        magnitude += std::fabs(dy[t * width + i]);
      }
      const double expected = sum + (accumulate ? before[r * width + i] : 0.0);
      ASSERT_TRUE(
          close(dtable[r * width + i], expected, epsilon(dtype), 40 * epsilon(accumulator_of(dtype)) * magnitude))
          << "row " << r << " column " << i;
      if (r == rows - 1 || r == padding) {
        ASSERT_EQ(dtable[r * width + i], accumulate ? before[r * width + i] : 0.0);
      }
    }
  }
  ASSERT_TRUE(dtable.unspoiled());
}

TEST(Embedding, Backward_sums_the_tokens_of_each_row) {
  for (DType dtype : kFloats) {
    for (std::int64_t rows : {7, 40}) {
      for (std::int64_t width : {0, 1, 32, 33, 128, 260}) {
        for (std::int64_t tokens : {0, 1, 31, 32, 33, 200}) {
          for (bool accumulate : {false, true}) {
            for (std::int64_t padding : {-1, 2}) {
              SCOPED_TRACE(std::string(name(dtype)) + " rows " + std::to_string(rows) + " width " +
                           std::to_string(width) + " tokens " + std::to_string(tokens));
              ASSERT_NO_FATAL_FAILURE(check_backward(dtype, tokens, rows, width, padding, accumulate));
            }
          }
        }
      }
    }
  }
}

TEST(Embedding, Backward_of_a_row_with_very_many_tokens) {
  check_backward(DType::f32, 1500, 40, 5, 3, false);
  check_backward(DType::bf16, 9000, 3, 5, -1, false);
}

TEST(Embedding, Backward_lists_each_row_once_in_the_order_of_its_first_token) {
  for (std::int64_t rows : {7, 40}) {
    const std::vector<std::int32_t> ids = draw_uneven_ids(300, rows);
    const Array dy = Array(DType::f32, {300, 4}).random(4, -1, 1);
    Array dtable = Array(DType::f32, {rows, 4}).random(5, 0, 0);
    std::vector<std::int64_t> count(1, 1);
    std::vector<std::int32_t> list(static_cast<std::size_t>(rows), -1);
    std::vector<std::uint8_t> listed(list.size(), 0);
    list[0] = 5;  // from an earlier call
    listed[5] = 1;
    std::vector<std::int32_t> expected = {5};
    for (const std::int32_t id : ids)
      if (id != 2 && std::find(expected.begin(), expected.end(), id) == expected.end()) expected.push_back(id);
    EmbeddingBackward call{DType::f32, 300, rows, 4, 2, ids.data(), dy.view.data, {dtable.data(), true}};
    call.touched = {count.data(), list.data(), listed.data()};
    backward(at(), call);
    ASSERT_EQ(count[0], static_cast<std::int64_t>(expected.size()));
    list.resize(expected.size());
    EXPECT_EQ(list, expected);
    for (std::size_t r = 0; r < listed.size(); ++r)
      EXPECT_EQ(listed[r] != 0, std::find(list.begin(), list.end(), r) != list.end()) << r;
  }
}

TEST(Embedding, Backward_accumulating_onto_its_own_result_doubles_it) {
  for (DType dtype : kFloats) {
    const std::vector<std::int32_t> ids = draw_ids(300, 20, 3);
    const Array dy = Array(dtype, {300, 33}).random(4, -1, 1);
    Array dtable(dtype, {20, 33});
    backward(at(), {dtype, 300, 20, 33, -1, ids.data(), dy.view.data, {dtable.data(), false}});
    const Array once = dtable;
    backward(at(), {dtype, 300, 20, 33, -1, ids.data(), dy.view.data, {dtable.data(), true}});
    // The second sum is rounded once, to what it was rounded to before, unless bf16 keeps fewer digits than the sum.
    const double tolerance = dtype == DType::bf16 ? 2 * epsilon(dtype) : 0;
    for (std::int64_t i = 0; i < dtable.count(); ++i) ASSERT_TRUE(close(dtable[i], 2 * once[i], tolerance, 0));
  }
}

TEST(Embedding, Gives_the_same_bits_for_any_number_of_threads) {
  for (DType dtype : kFloats) {
    const std::vector<std::int32_t> ids = draw_ids(2000, 3000, 6);
    const Array dy = Array(dtype, {2000, 100}).random(7, -1, 1);
    const Array start = Array(dtype, {3000, 100}).random(8, -1, 1);
    for (bool accumulate : {false, true}) {
      Array one = start;
      backward(at(1), {dtype, 2000, 3000, 100, 0, ids.data(), dy.view.data, {one.data(), accumulate}});
      for (int threads : {2, 4}) {
        Array many = start;
        backward(at(threads), {dtype, 2000, 3000, 100, 0, ids.data(), dy.view.data, {many.data(), accumulate}});
        EXPECT_TRUE(many.same_bytes(one));
      }
    }
  }
}

TEST(Embedding, Backward_carries_NaN_to_its_row_only) {
  const std::vector<std::int32_t> ids = {1, 2, 1};
  Array dy = Array(DType::f32, {3, 20}).random(1, -1, 1), dtable(DType::f32, {4, 20});
  dy.put(2 * 20 + 19, kNan);
  backward(at(), {DType::f32, 3, 4, 20, -1, ids.data(), dy.data(), {dtable.data(), false}});
  for (std::int64_t i = 0; i < dtable.count(); ++i) EXPECT_EQ(std::isnan(dtable[i]), i == 20 + 19) << i;
}

}  // namespace
}  // namespace adjoint
