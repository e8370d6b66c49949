#include "kernels/cpu/lstm_repeats.h"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm {
namespace {

/// Rows of `width` numbers that begin alike; rows of one letter are equal.
struct Text {
  Text(const std::vector<int>& letters, std::int64_t width) {
    const auto rows = static_cast<std::int64_t>(letters.size());
    for (std::int64_t i = 0; i < rows; ++i) {
      x_at.push_back((rows - 1 - i) * width);  // not in the order of memory
      x.insert(x.end(), static_cast<std::size_t>(width), 1.0f);
    }
    for (std::size_t i = 0; i < letters.size(); ++i)
      x[static_cast<std::size_t>(x_at[i] + width - 1)] = static_cast<float>(letters[i]);
    Carver counting(nullptr);
    repeats.carve(counting, rows);
    memory.resize(counting.bytes());
    Carver carver(memory.data());
    repeats.carve(carver, rows);
    repeats.find(x.data(), x_at.data(), rows, width);
  }

  std::vector<float> x;
  std::vector<std::int64_t> x_at;
  std::vector<std::byte> memory;
  Repeats repeats;
};

std::vector<int> letters(int rows, int alphabet) {
  std::vector<int> text;
  for (int i = 0; i < rows; ++i) text.push_back(i % alphabet);
  return text;
}

TEST(LstmRepeats, Are_rows_whose_bits_are_all_equal) {
  const Text text({4, 9, 4, 4, 9, 7, 9, 4}, 5);
  ASSERT_EQ(text.repeats.kinds, 3);
  for (int i = 0; const int kind : {0, 1, 0, 0, 1, 2, 1, 0}) EXPECT_EQ(text.repeats.kind[i++], kind);
  for (int k = 0; const int row : {0, 1, 5}) EXPECT_EQ(text.repeats.row[k++], row);
}

TEST(LstmRepeats, Are_not_looked_for_beyond_64_kinds_or_half_of_the_rows) {
  for (const auto& [rows, alphabet, kinds] :
       {std::array{200, 64, 64}, {200, 65, 0}, {20, 10, 10}, {20, 11, 0}, {3, 1, 1}, {3, 2, 0}, {1, 1, 0}, {0, 1, 0}})
    EXPECT_EQ(Text(letters(rows, alphabet), 3).repeats.kinds, kinds) << rows << " rows of " << alphabet << " letters";
}

TEST(LstmRepeats, Of_rows_without_elements_are_none) { EXPECT_EQ(Text({}, 0).repeats.kinds, 0); }

}  // namespace
}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm
