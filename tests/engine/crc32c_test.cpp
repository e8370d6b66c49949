#include "engine/crc32c.h"

#include <gtest/gtest.h>

#include <random>
#include <string_view>
#include <vector>

namespace adjoint {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(Crc32c, Equals_published_values) {
  EXPECT_EQ(crc32c(bytes_of("")), 0u);
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe3069283u);
  // RFC 3720, B.4
  const std::vector<std::byte> zeros(32);
  const std::vector<std::byte> ones(32, std::byte{0xff});
  std::vector<std::byte> rising(32);
  for (std::size_t i = 0; i < rising.size(); ++i) rising[i] = static_cast<std::byte>(i);
  EXPECT_EQ(crc32c(zeros), 0x8a9136aau);
  EXPECT_EQ(crc32c(ones), 0x62a8ab43u);
  EXPECT_EQ(crc32c(rising), 0x46dd794eu);
  EXPECT_EQ(crc32c_portable(rising), 0x46dd794eu);
}

TEST(Crc32c, Is_the_same_with_and_without_the_instruction_at_any_length_and_alignment) {
  std::mt19937 random(7);
  std::vector<std::byte> data(100'000);
  for (std::byte& b : data) b = static_cast<std::byte>(random());
  for (int i = 0; i < 300; ++i) {
    const std::size_t begin = random() % 64;
    const std::size_t limit = i % 3 == 0 ? data.size() - begin : 64;  // long ones take the three lanes
    const auto part = std::span(data).subspan(begin, random() % limit);
    const std::uint32_t before = random();
    ASSERT_EQ(crc32c(part, before), crc32c_portable(part, before)) << "offset " << begin << ", " << part.size();
  }
}

TEST(Crc32c, Sums_a_stream_piece_by_piece) {
  std::vector<std::byte> data(40'000, std::byte{0x5a});
  data[17] = std::byte{1};
  const std::uint32_t whole = crc32c(data);
  for (const std::size_t cut : {0u, 1u, 17u, 12'288u, 39'999u, 40'000u}) {
    EXPECT_EQ(crc32c(std::span(data).subspan(cut), crc32c(std::span(data).first(cut))), whole) << cut;
  }
}

}  // namespace
}  // namespace adjoint
