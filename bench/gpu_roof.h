#pragma once
// What a kernel cannot be faster than: bytes over measured bandwidth, arithmetic over the card's peaks.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/base/gpu_api.h"

namespace adjoint::bench {

/// The units that a case's arithmetic needs: those of f32, tensor cores in TF32, or in bf16.
enum class Unit { fma, tf32, bf16 };

inline const char* name(Unit unit) {
  return unit == Unit::fma ? "f32 units" : unit == Unit::tf32 ? "tensor cores (TF32)" : "tensor cores (bf16)";
}

/// The least that a case must do.
struct Cost {
  double bytes = 0;
  double flops = 0;
  Unit unit = Unit::fma;
  double exponentials = 0;
  double steps = 0;  ///< of a recurrence, one after the other
};

/// A card's ceilings, per second. 0: not known, and then nothing is held against it.
struct Roof {
  double bandwidth = 0;  ///< measured: a large copy, bytes read and written
  double fma = 0, tf32 = 0, bf16 = 0;
  double exponentials = 0;
};

/// Peaks from multiprocessors and their highest clock; operations a clock by compute capability, as NVIDIA states them
/// for dense operands and sums in f32.
inline Roof peaks_of(const GpuProperties& gpu) {
  struct PerClock {
    int from;
    double fma, bf16;
  };
  // 8.6 and 8.9 of GeForce cards do half as much with sums in f32: the higher number is the roof.
  constexpr PerClock kTable[] = {{75, 128, 0},    {80, 128, 2048},  {86, 256, 1024},  {89, 256, 1024},
                                 {90, 256, 4096}, {100, 256, 8192}, {110, 256, 8192}, {120, 256, 1024}};
  const PerClock* found = nullptr;
  for (const PerClock& row : kTable)
    if (row.from <= gpu.compute_capability) found = &row;
  Roof roof;
  if (found == nullptr) return roof;
  const double clocks = 1e3 * gpu.clock_khz * gpu.multiprocessors;
  roof.fma = clocks * found->fma;
  roof.bf16 = clocks * found->bf16;
  roof.tf32 = roof.bf16 / 2;
  roof.exponentials = 16 * clocks;
  return roof;
}

struct Floor {
  double seconds = 0;
  std::string bound = "unknown";
};

/// The largest of the times that a roof allows, and which it is.
inline Floor floor_of(const Cost& cost, const Roof& roof) {
  Floor floor;
  const auto raise = [&](double amount, double rate, const std::string& bound) {
    if (rate > 0 && amount / rate > floor.seconds) floor = {amount / rate, bound};
  };
  raise(cost.bytes, roof.bandwidth, "memory");
  raise(cost.flops,
        cost.unit == Unit::fma    ? roof.fma
        : cost.unit == Unit::tf32 ? roof.tf32
                                  : roof.bf16,
        name(cost.unit));
  raise(cost.exponentials, roof.exponentials, "exponentials");
  return floor;
}

/// Beyond this a case's operands cannot lie in any level 2 cache.
constexpr double kLargeBytes = 120e6;

/// Why a measurement cannot be true: a cache, zeros, or a missing wait has been measured. Empty: it can be.
/// `touched` bytes lie between two uses of the same memory.
inline std::string impossible(double seconds, const Cost& cost, const Roof& roof, double touched) {
  if (!(seconds > 0) || !std::isfinite(seconds)) return fmt::format("a time of {} s", seconds);
  const auto above = [](double did, double most, const char* unit, const char* what) {
    return fmt::format("{:.1f} {} are above {}, {:.1f} {}", did, unit, what, most, unit);
  };
  if (touched > kLargeBytes && roof.bandwidth > 0 && seconds < 0.97 * cost.bytes / roof.bandwidth)
    return above(cost.bytes / seconds * 1e-9, roof.bandwidth * 1e-9, "GB/s", "the measured copy");
  const double peak = cost.unit == Unit::fma ? roof.fma : cost.unit == Unit::tf32 ? roof.tf32 : roof.bf16;
  if (peak > 0 && cost.flops / seconds > peak)
    return above(cost.flops / seconds * 1e-12, peak * 1e-12, "TFLOP/s", "the card's peak");
  constexpr double kFastestStep = 0.2e-6;
  if (roof.bandwidth > 0 && seconds < cost.steps * kFastestStep)
    return above(cost.steps / seconds * 1e-6, 1e-6 / kFastestStep, "steps/us", "what any recurrence does");
  return "";
}

}  // namespace adjoint::bench
