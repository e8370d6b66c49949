// GELU of a sum with a bias. A thread has one pack of columns, whose bias it loads once, and passes down a part of the
// rows; where rows are shorter than a block is wide, a block has several parts. Bound by memory: 2 streams forward, 3
// backward. The column sums of the parts are added in order by a second kernel. One kernel a dtype and direction: which
// form of GELU is a run-time argument that all threads share.

#include "kernels/bias_gelu.h"

#include <algorithm>

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/vector.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

constexpr int kThreads = 128;
constexpr std::int64_t kRowsForward = 4;   // of a part
constexpr std::int64_t kMostParts = 256;   // backward; of the shape alone: they decide the order of summation
constexpr std::int64_t kRowsBackward = 8;  // of a part, at least

template <class T>
struct BiasGelu {
  std::int64_t rows, width;
  std::int64_t rows_a_part;
  int across;           // threads of a block side by side in a row, a power of two
  std::int64_t strips;  // blocks that a row takes
  const T* x;
  const T* bias;
  const T* dy;      // backward
  T* y;             // forward
  GradOut dx;       // backward
  acc_t<T>* parts;  // backward: [parts, width], or null if dbias is not wanted
  const std::int32_t* row_lengths;
  std::int64_t rows_per_length;
  bool tanh_form;
  bool vectors;  // a row is whole packs, and all of them lie at multiples of 16 bytes
};

/// n elements from p on, of which `count` exist; the others are 0.
template <class T, int n>
__device__ __forceinline__ void load_some(const T* p, acc_t<T> (&v)[n], std::int64_t count, bool vectors) {
  if (vectors) return load_pack<T, n>(p, v);
#pragma unroll
  for (int k = 0; k < n; ++k) v[k] = k < count ? static_cast<acc_t<T>>(p[k]) : acc_t<T>(0);
}
template <class T, int n>
__device__ __forceinline__ void store_some(T* p, const acc_t<T> (&v)[n], std::int64_t count, bool vectors) {
  if (vectors) return store_pack<T, n>(p, v);
#pragma unroll
  for (int k = 0; k < n; ++k)
    if (k < count) p[k] = static_cast<T>(v[k]);
}

/// Calls f(row, takes part) for the rows of this thread's part, if it has a column; returns whether it has.
template <class T, class F>
__device__ __forceinline__ void each_row(const BiasGelu<T>& call, std::int64_t part, F f) {
  const std::int64_t first = part * call.rows_a_part, last = min(first + call.rows_a_part, call.rows);
  std::int64_t group = 0, place = 0;
  if (call.row_lengths != nullptr && first < last) {
    group = first / call.rows_per_length;
    place = first % call.rows_per_length;
  }
  for (std::int64_t row = first; row < last; ++row) {
    f(row, call.row_lengths == nullptr || place < call.row_lengths[group]);
    if (++place == call.rows_per_length) {
      place = 0;
      ++group;
    }
  }
}

/// Which part of the rows and which first column a thread has.
template <class T>
__device__ __forceinline__ std::int64_t part_of(const BiasGelu<T>& call) {
  return blockIdx.x / call.strips * (kThreads / call.across) + threadIdx.x / call.across;
}
template <class T>
__device__ __forceinline__ std::int64_t column_of(const BiasGelu<T>& call) {
  return (blockIdx.x % call.strips * call.across + threadIdx.x % call.across) * kPerVector<T>;
}

template <class T>
__global__ void __launch_bounds__(kThreads) bias_gelu_forward(BiasGelu<T> call) {
  using A = acc_t<T>;
  using M = Math<T>;
  constexpr int n = kPerVector<T>;
  const std::int64_t column = column_of(call), count = call.width - column;
  if (count <= 0) return;
  A bias[n] = {};
  if (call.bias != nullptr) load_some<T, n>(call.bias + column, bias, count, call.vectors);
  each_row(call, part_of(call), [&](std::int64_t row, bool takes_part) {
    A v[n] = {};
    if (takes_part) {
      load_some<T, n>(call.x + row * call.width + column, v, count, call.vectors);
#pragma unroll
      for (int k = 0; k < n; ++k) {
        const A x = v[k] + bias[k];
        v[k] = call.tanh_form ? M::gelu_tanh(x) : x * M::normal_cdf(x);
      }
    }
    store_some<T, n>(call.y + row * call.width + column, v, count, call.vectors);
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads) bias_gelu_backward(BiasGelu<T> call) {
  using A = acc_t<T>;
  using M = Math<T>;
  constexpr int n = kPerVector<T>;
  const std::int64_t column = column_of(call), count = call.width - column, part = part_of(call);
  if (count <= 0 || part * call.rows_a_part >= call.rows) return;
  A bias[n] = {}, sum[n] = {};
  if (call.bias != nullptr) load_some<T, n>(call.bias + column, bias, count, call.vectors);
  each_row(call, part, [&](std::int64_t row, bool takes_part) {
    const std::int64_t at = row * call.width + column;
    A g[n] = {};
    if (takes_part) {
      A v[n];
      load_some<T, n>(call.x + at, v, count, call.vectors);
      load_some<T, n>(call.dy + at, g, count, call.vectors);
#pragma unroll
      for (int k = 0; k < n; ++k) {
        const A x = v[k] + bias[k];
        g[k] *= call.tanh_form ? M::gelu_tanh_slope(x) : M::normal_cdf(x) + x * M::normal_pdf(x);
        sum[k] += g[k];
      }
    }
    if (call.dx.data == nullptr || (call.dx.accumulate && !takes_part)) return;
    T* const dx = static_cast<T*>(call.dx.data) + at;
    if (call.dx.accumulate) {
      A before[n];
      load_some<T, n>(dx, before, count, call.vectors);
#pragma unroll
      for (int k = 0; k < n; ++k) g[k] += before[k];
    }
    store_some<T, n>(dx, g, count, call.vectors);
  });
  if (call.parts == nullptr) return;
#pragma unroll
  for (int k = 0; k < n; ++k)
    if (k < count) call.parts[part * call.width + column + k] = sum[k];
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    add_bias_parts(std::int64_t parts, std::int64_t width, const acc_t<T>* part, GradOut dbias) {
  using A = acc_t<T>;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= width) return;
  A sum = 0;
  for (std::int64_t p = 0; p < parts; ++p) sum += part[p * width + i];
  T* const out = static_cast<T*>(dbias.data) + i;
  *out = static_cast<T>(dbias.accumulate ? static_cast<A>(*out) + sum : sum);
}

std::int64_t rows_a_part(const BiasGeluBackward& call) {
  return std::max(blocks_for(call.rows, kMostParts), kRowsBackward);
}

/// What both directions share; returns the blocks to launch.
template <class T, class Call>
unsigned spread(const Call& call, std::int64_t rows, BiasGelu<T>& work) {
  work.rows = call.rows;
  work.width = call.width;
  work.rows_a_part = rows;
  work.x = static_cast<const T*>(call.x);
  work.bias = static_cast<const T*>(call.bias);
  work.row_lengths = call.row_lengths;
  work.rows_per_length = call.rows_per_length;
  work.tanh_form = call.tanh_form;
  const std::int64_t packs = blocks_for(call.width, kPerVector<T>);
  work.across = 1;
  while (work.across < kThreads && work.across < packs) work.across *= 2;
  work.strips = blocks_for(packs, work.across);
  work.vectors = call.width % kPerVector<T> == 0 && is_aligned(call.x, 16) && is_aligned(call.bias, 16);
  return static_cast<unsigned>(blocks_for(blocks_for(call.rows, rows), kThreads / work.across) * work.strips);
}

}  // namespace

std::size_t scratch_bytes(const At&, const BiasGeluBackward& call) {
  if (call.dbias.data == nullptr) return 0;
  return static_cast<std::size_t>(blocks_for(call.rows, rows_a_part(call)) * call.width) *
         size_of(accumulator_of(call.dtype));
}

void run(const At& at, const BiasGeluForward& call) {
  if (call.rows == 0 || call.width == 0) return;
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    BiasGelu<T> work{};
    const unsigned blocks = spread(call, kRowsForward, work);
    work.y = static_cast<T*>(call.y);
    work.vectors = work.vectors && is_aligned(call.y, 16);
    launch(bias_gelu_forward<T>, dim3(blocks), dim3(kThreads), 0, stream_of(at), work);
  });
}

void run(const At& at, const BiasGeluBackward& call) {
  if (call.width == 0) return;
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    if (call.rows > 0) {
      BiasGelu<T> work{};
      const unsigned blocks = spread(call, rows_a_part(call), work);
      work.dy = static_cast<const T*>(call.dy);
      work.dx = call.dx;
      work.parts = call.dbias.data != nullptr ? static_cast<A*>(call.scratch) : nullptr;
      work.vectors = work.vectors && is_aligned(call.dy, 16) && is_aligned(call.dx.data, 16);
      if (call.dx.data != nullptr || work.parts != nullptr)
        launch(bias_gelu_backward<T>, dim3(blocks), dim3(kThreads), 0, stream_of(at), work);
    }
    if (call.dbias.data != nullptr) {
      launch(add_bias_parts<T>, dim3(static_cast<unsigned>(blocks_for(call.width, kThreads))), dim3(kThreads), 0,
             stream_of(at), blocks_for(call.rows, rows_a_part(call)), call.width, static_cast<const A*>(call.scratch),
             call.dbias);
    }
  });
}

ADJOINT_GPU_KERNEL(BiasGeluForward)
ADJOINT_GPU_SCRATCH(BiasGeluBackward)
ADJOINT_GPU_KERNEL(BiasGeluBackward)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
