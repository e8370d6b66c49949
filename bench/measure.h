#pragma once
// Timing as bench/peers/harness.py does it: each batch on its own in every pass, so that a disturbance spoils one
// sample, not a pass, and short batches do not pass for fast ones.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

namespace adjoint::bench {

struct Timing {
  double min_ms = 0;     ///< mean over batches of that batch's best pass
  double median_ms = 0;  ///< mean over batches of that batch's median pass
  int passes = 0;
  int repeats = 1;  ///< calls in one sample
};

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Times call(batch), which must have run before. Work without batches is timed in blocks of `block` seconds. A pass
/// longer than `seconds` warms up once and is timed less often.
template <class Call>
Timing measure(Call&& call, int batches, double seconds, double block = 2e-3) {
  constexpr int kMinPasses = 5, kWarmUpPasses = 2;
  constexpr double kOverrun = 5;
  using Clock = std::chrono::steady_clock;
  double one_pass = 0;
  for (int i = 0; i < kWarmUpPasses; ++i) {
    const auto start = Clock::now();
    for (int b = 0; b < batches; ++b) call(b);
    one_pass = seconds_since(start);
    if (one_pass > seconds) break;
  }
  Timing timing;
  if (batches == 1) timing.repeats = std::max(1, static_cast<int>(std::lround(block / std::max(one_pass, 1e-9))));
  std::vector<std::vector<double>> samples(static_cast<std::size_t>(batches));
  const auto begin = Clock::now();
  for (double elapsed = 0; elapsed < seconds || (timing.passes < kMinPasses && elapsed < kOverrun * seconds);) {
    for (int b = 0; b < batches; ++b) {
      const auto start = Clock::now();
      for (int r = 0; r < timing.repeats; ++r) call(b);
      samples[static_cast<std::size_t>(b)].push_back(seconds_since(start) / timing.repeats * 1e3);
    }
    ++timing.passes;
    elapsed = seconds_since(begin);
  }
  for (std::vector<double>& sample : samples) {
    std::sort(sample.begin(), sample.end());
    const std::size_t n = sample.size();
    timing.min_ms += sample[0] / batches;
    timing.median_ms += (sample[(n - 1) / 2] + sample[n / 2]) / 2 / batches;
  }
  return timing;
}

}  // namespace adjoint::bench
