#pragma once
// Random numbers of the data side: the same on every platform and standard library.

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace adjoint::data {

/// Counter-based generator: number i of stream s of seed k is a pure function of (k, s, i), so any order of examples
/// can be rebuilt from integers alone. The mixing function is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
class CounterRandom {
 public:
  explicit CounterRandom(uint64_t seed, uint64_t stream = 0);

  uint64_t next();
  /// Uniform in 0 … bound-1, without bias; bound >= 1.
  uint64_t below(uint64_t bound);
  /// Uniform in [0, 1), a multiple of 2^-53.
  double uniform();
  /// Standard normal, by Box and Muller's transform.
  double normal();

 private:
  uint64_t key_;
  uint64_t position_ = 0;
};

/// Fisher-Yates.
template <class T>
void shuffle(std::vector<T>& items, CounterRandom& random) {
  for (size_t left = items.size(); left > 1; --left) std::swap(items[left - 1], items[random.below(left)]);
}

/// Python's `random.Random(seed)`: MT19937 seeded by an integer, and the two draws that the published string-reversal
/// exercise makes. Written to Matsumoto and Nishimura's description and CPython's documented draw order.
class PythonRandom {
 public:
  explicit PythonRandom(uint64_t seed);

  /// random.randrange(low, high)
  int64_t randrange(int64_t low, int64_t high) { return low + below(static_cast<uint32_t>(high - low)); }
  /// index of random.choice(sequence of `size` items)
  int64_t choice(int64_t size) { return below(static_cast<uint32_t>(size)); }

 private:
  static constexpr size_t kWords = 624;

  uint32_t below(uint32_t bound);
  uint32_t next();
  void seed_word(uint32_t seed);

  std::array<uint32_t, kWords> state_{};
  size_t position_ = kWords;
};

}  // namespace adjoint::data
