// Draws from Philox streams, and dropout. A thread computes whole blocks of four words. Ten rounds cost some 20 issue
// slots an element, so that bf16 dropout is bound by instructions about as much as by its two streams of memory.

#include "kernels/random.h"

#include <cmath>

#include "kernels/base/philox.h"
#include "kernels/cuda/vector.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {

constexpr int kRandomThreads = 256;

/// Elements of a thread: at least a Philox block, at least a vector.
template <class S>
constexpr int kDrawn = kPerVector<S> < 4 ? 4 : kPerVector<S>;

template <class S>
__device__ __forceinline__ void draw(const PhiloxState& state, std::int64_t first, std::uint32_t (&word)[kDrawn<S>]) {
#pragma unroll
  for (int b = 0; b < kDrawn<S> / 4; ++b) {
    const PhiloxBlock block = philox(state.key, state.counter + static_cast<std::uint64_t>(first / 4 + b));
#pragma unroll
    for (int k = 0; k < 4; ++k) word[4 * b + k] = block.word[k];
  }
}

/// sin and cos of 2 pi u, u in [0, 1]. f32: 2e-7 absolute, reduced to an eighth of a turn, exactly.
__device__ __forceinline__ void sincos_turns(double u, double& sine, double& cosine) {
  sine = sin(6.28318530717958647692 * u);
  cosine = cos(6.28318530717958647692 * u);
}
__device__ __forceinline__ void sincos_turns(float u, float& sine, float& cosine) {
  const float v = u * 4.0f, n = rint(v), r = v - n, s = r * r;
  float a = s * -0.00460217707f + 0.0796802267f;
  a = a * s - 0.64596349f;
  a = (a * s + 1.57079637f) * r;
  float b = s * 0.000904021668f - 0.0208602883f;
  b = b * s + 0.253669232f;
  b = b * s - 1.23370051f;
  b = b * s + 1.0f;
  const int quarter = static_cast<int>(n);
  const float sine_size = (quarter & 1) != 0 ? b : a, cosine_size = (quarter & 1) != 0 ? a : b;
  sine = (quarter & 2) != 0 ? -sine_size : sine_size;
  cosine = ((quarter + 1) & 2) != 0 ? -cosine_size : cosine_size;
}

template <class S>
__global__ void __launch_bounds__(kRandomThreads)
    fill_random(S* y, std::int64_t n, const PhiloxState* state, RandomKind kind, acc_t<S> start, acc_t<S> scale,
                bool vectors) {
  using A = acc_t<S>;
  constexpr int count = kDrawn<S>;
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * kRandomThreads + threadIdx.x) * count;
  if (first >= n) return;
  std::uint32_t word[count];
  draw<S>(*state, first, word);
  A v[count];
#pragma unroll
  for (int k = 0; k < count; ++k) v[k] = static_cast<A>(philox_uniform(word[k]));
  if (kind == RandomKind::normal) {
#pragma unroll
    for (int k = 0; k < count; k += 2) {
      const A radius = sqrt(A(-2) * log(A(1) - v[k]));  // of (0, 1]: finite
      A sine, cosine;
      sincos_turns(v[k + 1], sine, cosine);
      v[k] = radius * cosine;
      v[k + 1] = radius * sine;
    }
  }
#pragma unroll
  for (int k = 0; k < count; ++k) v[k] = start + scale * v[k];
  if (vectors && first + count <= n) {
    store_pack<S, count>(y + first, v);
  } else {
#pragma unroll
    for (int k = 0; k < count; ++k)
      if (first + k < n) y[first + k] = static_cast<S>(v[k]);
  }
}

/// y (+)= x * scale where the 24 random bits reach the threshold, else 0.
template <class S>
__global__ void __launch_bounds__(kRandomThreads)
    drop_out(const S* x, S* y, std::int64_t n, const PhiloxState* state, std::uint32_t threshold, acc_t<S> scale,
             bool accumulate, bool vectors) {
  using A = acc_t<S>;
  constexpr int count = kDrawn<S>;
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * kRandomThreads + threadIdx.x) * count;
  if (first >= n) return;
  const bool whole = vectors && first + count <= n;
  A v[count], old[count];
  if (whole) {
    load_pack<S, count>(x + first, v);
    if (accumulate) load_pack<S, count>(y + first, old);
  } else {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      v[k] = first + k < n ? static_cast<A>(x[first + k]) : A(0);
      if (accumulate) old[k] = first + k < n ? static_cast<A>(y[first + k]) : A(0);
    }
  }
  std::uint32_t word[count];
  draw<S>(*state, first, word);
#pragma unroll
  for (int k = 0; k < count; ++k) {
    v[k] = word[k] >> 8 >= threshold ? v[k] * scale : A(0);
    if (accumulate) v[k] += old[k];
  }
  if (whole) {
    store_pack<S, count>(y + first, v);
  } else {
#pragma unroll
    for (int k = 0; k < count; ++k)
      if (first + k < n) y[first + k] = static_cast<S>(v[k]);
  }
}

__global__ void advance(PhiloxState* state, PhiloxState* saved, std::uint64_t blocks) {
  if (saved != nullptr) *saved = *state;
  state->counter += blocks;
}

template <class S>
dim3 blocks_for(std::int64_t n) {
  constexpr std::int64_t kPerBlock = kRandomThreads * kDrawn<S>;
  return dim3(static_cast<unsigned>((n + kPerBlock - 1) / kPerBlock));
}

void run(const At& at, const RandomFill& call) {
  if (call.n == 0) return;
  visit_float(call.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using A = acc_t<S>;
    const double scale = call.kind == RandomKind::normal ? call.b : call.b - call.a;
    launch(fill_random<S>, blocks_for<S>(call.n), dim3(kRandomThreads), 0, stream_of(at), static_cast<S*>(call.y),
           call.n, call.state, call.kind, static_cast<A>(call.a), static_cast<A>(scale), is_aligned(call.y, 16));
  });
}
ADJOINT_GPU_KERNEL(RandomFill)

void run(const At& at, const RandomAdvance& call) {
  launch(advance, dim3(1), dim3(1), 0, stream_of(at), call.state, call.saved, call.blocks);
}
ADJOINT_GPU_KERNEL(RandomAdvance)

void run(const At& at, const Dropout& call) {
  if (call.n == 0) return;
  // u >= p for u = w / 2^24, decided among integers: the same on every backend and in every dtype.
  const std::uint32_t threshold = static_cast<std::uint32_t>(std::ceil(call.p * 16777216.0));
  visit_float(call.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    launch(drop_out<S>, blocks_for<S>(call.n), dim3(kRandomThreads), 0, stream_of(at), static_cast<const S*>(call.x),
           static_cast<S*>(call.y), call.n, call.state, threshold, static_cast<acc_t<S>>(1.0 / (1.0 - call.p)),
           call.accumulate, is_aligned(call.x, 16) && is_aligned(call.y, 16));
  });
}
ADJOINT_GPU_KERNEL(Dropout)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
