#pragma once
// Random numbers in device memory (kernels/base/philox.h), and dropout.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

enum class RandomKind : std::uint8_t { uniform, normal };

/// y[i] = a + (b - a) u, u = philox_uniform(word i) (uniform), or a + b z (normal: Box-Muller on pairs of elements,
/// u and v from words 2j and 2j+1: z[2j] = r cos(2 pi v), z[2j+1] = r sin(2 pi v), r = sqrt(-2 ln(1 - u))).
/// y dense [n], float dtype; computed in f64 for f64 and f32 otherwise.
struct RandomFill {
  RandomKind kind;
  DType dtype;
  std::int64_t n;
  const PhiloxState* state;
  void* y;
  double a;
  double b;
};

/// *saved = *state (if saved is not null); state->counter += blocks. Orders draws inside a recorded step.
struct RandomAdvance {
  PhiloxState* state;
  PhiloxState* saved;
  std::uint64_t blocks;
};

/// y[i] (+)= x[i] * (1 / (1 - p)) if philox_uniform(word i) >= p (compared exactly, not with p rounded), else 0. Its
/// own gradient: forward on x, backward on dy.
struct Dropout {
  DType dtype;
  std::int64_t n;
  const PhiloxState* state;
  double p;
  const void* x;
  void* y;
  bool accumulate = false;
};

}  // namespace adjoint

ADJOINT_CPU_KERNEL(RandomFill)
ADJOINT_CPU_KERNEL(RandomAdvance)
ADJOINT_CPU_KERNEL(Dropout)
