#pragma once
// Random numbers: a counter in device memory, so that a recorded step draws new numbers at each replay.

#include <cstdint>

#include "engine/tensor.h"
#include "kernels/base/view.h"

namespace adjoint {

/// A Philox stream. The same seed gives the same numbers on every device, whatever the number of threads.
class Generator {
 public:
  explicit Generator(std::uint64_t seed, Device device = default_device());
  /// Goes on from a copy of another one's state(). Made by a kernel call, so also inside a recorded step.
  explicit Generator(const Tensor& state);

  /// A tensor of numbers from [low, high), or from N(mean, stddev²). Not differentiable.
  Tensor uniform(const Shape& shape, double low, double high, DType dtype = DType::f32);
  Tensor normal(const Shape& shape, double mean, double stddev, DType dtype = DType::f32);
  /// Reserves numbers for `elements` elements: the state at which they start, in device memory.
  Tensor draw(std::int64_t elements);

  /// Key and counter, as u8[16]: all there is to save and restore.
  const Tensor& state() const { return state_; }
  Device device() const { return state_.device(); }

 private:
  Tensor state_;
};

inline const PhiloxState* philox_state(const Tensor& drawn) { return drawn.data_as<PhiloxState>(); }

}  // namespace adjoint
