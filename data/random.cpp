#include "data/random.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/base/real_math.h"

namespace adjoint::data {

namespace {

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;

uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

}  // namespace

CounterRandom::CounterRandom(uint64_t seed, uint64_t stream) : key_(mix(mix(seed + kGolden) + stream)) {}

uint64_t CounterRandom::next() { return mix(key_ + kGolden * ++position_); }

uint64_t CounterRandom::below(uint64_t bound) {
  // Numbers under 2^64 mod bound are drawn again: what remains is a whole number of full ranges.
  const uint64_t biased = (0 - bound) % bound;
  uint64_t value = next();
  while (value < biased) value = next();
  return value % bound;
}

double CounterRandom::uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

double CounterRandom::normal() {
  const double radius = std::sqrt(-2.0 * real::log(1.0 - uniform()));
  double sine, cosine;
  real::sincos_turns(uniform(), sine, cosine);
  return radius * cosine;
}

PythonRandom::PythonRandom(uint64_t seed) {
  const uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  const size_t key_words = key[1] != 0 ? 2 : 1;
  seed_word(19650218);
  size_t i = 1;
  auto advance = [&] {
    if (++i == kWords) {
      state_[0] = state_[kWords - 1];
      i = 1;
    }
  };
  for (size_t step = 0; step < kWords; ++step) {
    const uint32_t before = state_[i - 1] ^ (state_[i - 1] >> 30);
    const size_t j = step % key_words;
    state_[i] = (state_[i] ^ (before * 1664525u)) + key[j] + static_cast<uint32_t>(j);
    advance();
  }
  for (size_t step = 1; step < kWords; ++step) {
    const uint32_t before = state_[i - 1] ^ (state_[i - 1] >> 30);
    state_[i] = (state_[i] ^ (before * 1566083941u)) - static_cast<uint32_t>(i);
    advance();
  }
  state_[0] = 0x80000000u;
}

void PythonRandom::seed_word(uint32_t seed) {
  state_[0] = seed;
  for (uint32_t i = 1; i < kWords; ++i) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
}

uint32_t PythonRandom::next() {
  if (position_ == kWords) {
    for (size_t i = 0; i < kWords; ++i) {
      const uint32_t joined = (state_[i] & 0x80000000u) | (state_[(i + 1) % kWords] & 0x7fffffffu);
      state_[i] = state_[(i + 397) % kWords] ^ (joined >> 1) ^ ((joined & 1u) != 0 ? 0x9908b0dfu : 0u);
    }
    position_ = 0;
  }
  uint32_t value = state_[position_++];
  value ^= value >> 11;
  value ^= (value << 7) & 0x9d2c5680u;
  value ^= (value << 15) & 0xefc60000u;
  return value ^ (value >> 18);
}

uint32_t PythonRandom::below(uint32_t bound) {
  const int bits = std::bit_width(bound);
  uint32_t value = next() >> (32 - bits);
  while (value >= bound) value = next() >> (32 - bits);
  return value;
}

}  // namespace adjoint::data
