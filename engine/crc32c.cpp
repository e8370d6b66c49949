#include "engine/crc32c.h"

#include <array>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace adjoint {
namespace {

static_assert(std::endian::native == std::endian::little, "the tables are read through little-endian words");

constexpr std::uint32_t kPolynomial = 0x82f63b78u;  // Castagnoli, bits reversed

// kTables[k][b]: the CRC of byte b followed by k zero bytes ("slicing by 8").
constexpr auto kTables = [] {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t b = 0; b < 256; ++b) {
    std::uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) ? kPolynomial : 0u);
    tables[0][b] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t b = 0; b < 256; ++b) {
      tables[k][b] = (tables[k - 1][b] >> 8) ^ tables[0][tables[k - 1][b] & 0xffu];
    }
  }
  return tables;
}();

std::uint64_t load_word(const std::byte* p) {
  std::uint64_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

std::uint32_t add_byte(std::uint32_t crc, std::byte b) {
  return (crc >> 8) ^ kTables[0][(crc ^ std::to_integer<std::uint32_t>(b)) & 0xffu];
}

#if defined(__x86_64__)

// The instruction has a latency of three cycles, so three independent lanes run at its full rate; their CRCs are then
// joined by appending zeros, a linear map that is looked up bytewise.
constexpr std::size_t kLane = 4096;

__attribute__((target("sse4.2"))) std::array<std::array<std::uint32_t, 256>, 4> make_lane_shift() {
  std::array<std::uint32_t, 32> of_bit{};
  for (std::size_t bit = 0; bit < 32; ++bit) {
    std::uint64_t crc = std::uint64_t{1} << bit;
    for (std::size_t i = 0; i < kLane; i += 8) crc = _mm_crc32_u64(crc, 0);
    of_bit[bit] = static_cast<std::uint32_t>(crc);
  }
  std::array<std::array<std::uint32_t, 256>, 4> shift{};
  for (std::size_t k = 0; k < 4; ++k) {
    for (std::size_t b = 0; b < 256; ++b) {
      for (std::size_t bit = 0; bit < 8; ++bit) {
        if (b >> bit & 1u) shift[k][b] ^= of_bit[8 * k + bit];
      }
    }
  }
  return shift;
}

__attribute__((target("sse4.2"))) std::uint32_t crc32c_instruction(std::span<const std::byte> bytes,
                                                                   std::uint32_t before) {
  static const auto shift = make_lane_shift();
  const auto append_lane = [](std::uint64_t crc) {
    return shift[0][crc & 0xffu] ^ shift[1][crc >> 8 & 0xffu] ^ shift[2][crc >> 16 & 0xffu] ^
           shift[3][crc >> 24 & 0xffu];
  };
  const std::byte* p = bytes.data();
  std::size_t left = bytes.size();
  std::uint64_t crc = ~before;
  for (; left >= 3 * kLane; p += 3 * kLane, left -= 3 * kLane) {
    std::uint64_t second = 0;
    std::uint64_t third = 0;
    for (std::size_t i = 0; i < kLane; i += 8) {
      crc = _mm_crc32_u64(crc, load_word(p + i));
      second = _mm_crc32_u64(second, load_word(p + kLane + i));
      third = _mm_crc32_u64(third, load_word(p + 2 * kLane + i));
    }
    crc = append_lane(append_lane(crc) ^ second) ^ third;
  }
  for (; left >= 8; p += 8, left -= 8) crc = _mm_crc32_u64(crc, load_word(p));
  for (; left > 0; ++p, --left) {
    crc = _mm_crc32_u8(static_cast<std::uint32_t>(crc), std::to_integer<unsigned char>(*p));
  }
  return ~static_cast<std::uint32_t>(crc);
}

#endif

}  // namespace

std::uint32_t crc32c_portable(std::span<const std::byte> bytes, std::uint32_t before) {
  const std::byte* p = bytes.data();
  std::size_t left = bytes.size();
  std::uint32_t crc = ~before;
  for (; left >= 8; p += 8, left -= 8) {
    const std::uint64_t word = load_word(p) ^ crc;
    crc = 0;
    for (std::size_t k = 0; k < 8; ++k) crc ^= kTables[7 - k][word >> (8 * k) & 0xffu];
  }
  for (; left > 0; ++p, --left) crc = add_byte(crc, *p);
  return ~crc;
}

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before) {
#if defined(__x86_64__)
  static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
  if (has_instruction) return crc32c_instruction(bytes, before);
#endif
  return crc32c_portable(bytes, before);
}

}  // namespace adjoint
