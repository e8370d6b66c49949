// Optimizers over flat buffers, or over the listed rows of a table: one pass of 16-byte accesses, so bytes moved over
// bandwidth is the floor (f32 Adam: 28 bytes an element).

#include "kernels/optimizer.h"

#include <algorithm>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/vector.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kMostBlocks = 2048;     // enough to fill any GPU; a thread then goes on to its next elements
constexpr std::int64_t kNormChunk = 4096;  // elements that one block sums: of the shape alone, so the order is too
constexpr int kFinishThreads = 1024;       // of the one block that adds up the blocks

template <class A>
__device__ __forceinline__ A factor_of(const void* factor) {
  return factor == nullptr ? A(1) : *static_cast<const A*>(factor);
}

/// base^exponent. Not pow(): its rare path is a call, around which registers would have to be saved.
__device__ __forceinline__ double power(double base, std::int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1, base *= base)
    if (exponent & 1) result *= base;
  return result;
}

template <class T>
struct Sgd {
  using A = acc_t<T>;
  static constexpr int kConstants = 2;
  T* p;
  const T* g;
  T* v;
  const double* lr;
  const void* factor;
  A momentum, decay;
  bool nesterov;

  __device__ void prepare(A* c) const {
    c[0] = static_cast<A>(*lr);
    c[1] = factor_of<A>(factor);
  }
  template <int n>
  __device__ __forceinline__ void update(std::int64_t i, const A* c) const {
    A value[n], gradient[n], velocity[n];
    load_pack<T, n>(p + i, value);
    load_pack<T, n>(g + i, gradient);
    if (momentum != A(0)) load_pack<T, n>(v + i, velocity);
#pragma unroll
    for (int k = 0; k < n; ++k) {
      A d = c[1] * gradient[k] + decay * value[k];
      if (momentum != A(0)) {
        velocity[k] = momentum * velocity[k] + d;
        d = nesterov ? d + momentum * velocity[k] : velocity[k];
      }
      value[k] -= c[0] * d;
    }
    if (momentum != A(0)) store_pack<T, n>(v + i, velocity);
    store_pack<T, n>(p + i, value);
  }
};

template <class T>
struct Adam {
  using A = acc_t<T>;
  static constexpr int kConstants = 5;
  T* p;
  const T* g;
  A* m;
  A* v;
  const double* lr;
  const std::int64_t* step;
  const void* factor;
  double beta1, beta2, weight_decay;
  A eps;
  bool decoupled;

  __device__ void prepare(A* c) const {
    const double rate = *lr;
    c[0] = factor_of<A>(factor);
    c[1] = static_cast<A>(rate / (1 - power(beta1, *step)));
    c[2] = static_cast<A>(1 / sqrt(1 - power(beta2, *step)));
    c[3] = static_cast<A>(decoupled ? 1 - rate * weight_decay : 1.0);
    c[4] = static_cast<A>(decoupled ? 0.0 : weight_decay);
  }
  template <int n>
  __device__ __forceinline__ void update(std::int64_t i, const A* c) const {
    const A b1 = static_cast<A>(beta1), b2 = static_cast<A>(beta2);
    const A rest1 = static_cast<A>(1 - beta1), rest2 = static_cast<A>(1 - beta2);
    A value[n], gradient[n], first[n], second[n];
    load_pack<T, n>(p + i, value);
    load_pack<T, n>(g + i, gradient);
    load_pack<A, n>(m + i, first);
    load_pack<A, n>(v + i, second);
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const A d = c[0] * gradient[k] + c[4] * value[k];
      first[k] = b1 * first[k] + rest1 * d;
      second[k] = b2 * second[k] + rest2 * (d * d);
      value[k] = c[3] * value[k] - c[1] * first[k] / (sqrt(second[k]) * c[2] + eps);
    }
    store_pack<A, n>(m + i, first);
    store_pack<A, n>(v + i, second);
    store_pack<T, n>(p + i, value);
  }
};

template <class T>
struct Average {
  using A = acc_t<T>;
  static constexpr int kConstants = 1;
  T* a;
  const T* p;
  const std::int64_t* step;
  double decay;

  __device__ void prepare(A* c) const {
    const double t = static_cast<double>(*step);
    c[0] = static_cast<A>(1 - fmin(decay, (1 + t) / (10 + t)));
  }
  template <int n>
  __device__ __forceinline__ void update(std::int64_t i, const A* c) const {
    A average[n], value[n];
    load_pack<T, n>(a + i, average);
    load_pack<T, n>(p + i, value);
#pragma unroll
    for (int k = 0; k < n; ++k) average[k] += c[0] * (value[k] - average[k]);
    store_pack<T, n>(a + i, average);
  }
};

/// Every element, or every element of the listed rows, in packs of n where `packs` says that they are aligned.
template <class T, class Update>
__global__ void __launch_bounds__(kThreads)
    update_flat(std::int64_t elements, RowList rows, std::int64_t width, bool packs, Update update) {
  using A = acc_t<T>;
  constexpr int n = kPerVector<T>;
  __shared__ SharedArray<A, Update::kConstants> shared;
  if (threadIdx.x == 0) update.prepare(&shared[0]);
  __syncthreads();
  A constants[Update::kConstants];
#pragma unroll
  for (int k = 0; k < Update::kConstants; ++k) constants[k] = shared[k];

  const std::int64_t count = rows.count != nullptr ? *rows.count * width : elements;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const auto place = [&](std::int64_t i) {
    return rows.count != nullptr ? rows.rows[i / width] * width + i % width : i;
  };
  const std::int64_t in_packs = packs ? count / n * n : 0;
#pragma unroll 1
  for (std::int64_t i = first * n; i < in_packs; i += step * n) update.template update<n>(place(i), constants);
#pragma unroll 1
  for (std::int64_t i = in_packs + first; i < count; i += step) update.template update<1>(place(i), constants);
}

template <class T, class Call, class Update>
void launch_update(const At& at, const Call& call, bool aligned, const Update& update) {
  constexpr int n = kPerVector<T>;
  if (call.rows.count == nullptr && call.n == 0) return;
  if (call.rows.count != nullptr && call.width == 0) return;
  // How many rows are listed is known on the device alone.
  const std::int64_t blocks =
      call.rows.count != nullptr ? kMostBlocks / 8 : (call.n + kThreads * n - 1) / (kThreads * n);
  const bool packs = aligned && (call.rows.count == nullptr || call.width % n == 0);
  launch(update_flat<T, Update>, dim3(static_cast<unsigned>(std::min<std::int64_t>(blocks, kMostBlocks))),
         dim3(kThreads), 0, stream_of(at), call.n, call.rows, call.width, packs, update);
}

/// The block's part of sum g^2, in f64: an f32 sum of squares overflows for gradients of 1e19.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_squares(std::int64_t count, const T* g, bool packs, double* parts) {
  constexpr int n = kPerVector<T>;
  const std::int64_t begin = blockIdx.x * kNormChunk, end = min(count, begin + kNormChunk);
  double sum = 0;
  const std::int64_t in_packs = packs ? begin + (end - begin) / n * n : begin;
#pragma unroll 4
  for (std::int64_t i = begin + threadIdx.x * n; i < in_packs; i += kThreads * n) {
    acc_t<T> value[n];
    load_pack<T, n>(g + i, value);
#pragma unroll
    for (int k = 0; k < n; ++k) sum += static_cast<double>(value[k]) * static_cast<double>(value[k]);
  }
  for (std::int64_t i = in_packs + threadIdx.x; i < end; i += kThreads) {
    const double value = static_cast<double>(static_cast<acc_t<T>>(g[i]));
    sum += value * value;
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

template <class A>
__global__ void __launch_bounds__(kFinishThreads)
    finish_norm(std::int64_t count, const double* parts, double* more, double max_norm, A* norm, A* factor) {
  double sum = 0;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < count; i += kFinishThreads) sum += parts[i];
  sum = block_sum<kFinishThreads>(sum);
  if (threadIdx.x != 0) return;
  if (more != nullptr) {
    sum += *more;
    *more = 0;
  }
  const double length = sqrt(sum);
  *norm = static_cast<A>(length);
  if (factor != nullptr)
    *factor = isfinite(length) ? static_cast<A>(fmin(1.0, max_norm / (length + 1e-6))) : static_cast<A>(NAN);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_row_squares(std::int64_t width, const T* g, RowList rows, double* total) {
  const std::int64_t count = *rows.count * width;
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) {
    const double value = static_cast<double>(static_cast<acc_t<T>>(g[rows.rows[i / width] * width + i % width]));
    sum += value * value;
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) *total += sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads) clear_rows(std::int64_t width, T* g, RowList rows) {
  for (std::int64_t i = blockIdx.x; i < *rows.count; i += gridDim.x) {
    const std::int64_t row = rows.rows[i];
    for (std::int64_t j = threadIdx.x; j < width; j += kThreads) g[row * width + j] = T(0.0f);
    if (threadIdx.x == 0) rows.listed[row] = 0;
  }
}
__global__ void empty_list(std::int64_t* count) { *count = 0; }

__global__ void step_advance(std::int64_t* step) { *step += 1; }

std::int64_t norm_chunks(std::int64_t n) { return (n + kNormChunk - 1) / kNormChunk; }

template <class F>
void visit(DType dtype, F&& f) {
  visit_float(dtype, [&](auto type) { f.template operator()<typename decltype(type)::type>(); });
}

}  // namespace

std::size_t scratch_bytes(const At&, const GlobalNorm& call) {
  return static_cast<std::size_t>(norm_chunks(call.n)) * sizeof(double);
}

void run(const At& at, const GlobalNorm& call) {
  visit(call.dtype, [&]<class T>() {
    using A = acc_t<T>;
    double* const parts = static_cast<double*>(call.scratch);
    const std::int64_t chunks = norm_chunks(call.n);
    if (chunks > 0) {
      launch(sum_squares<T>, dim3(static_cast<unsigned>(chunks)), dim3(kThreads), 0, stream_of(at), call.n,
             static_cast<const T*>(call.g), is_aligned(call.g, 16), parts);
    }
    launch(finish_norm<A>, dim3(1), dim3(kFinishThreads), 0, stream_of(at), chunks, parts, call.more, call.max_norm,
           static_cast<A*>(call.norm), static_cast<A*>(call.factor));
  });
}

void run(const At& at, const RowSquares& call) {
  visit(call.dtype, [&]<class T>() {
    launch(sum_row_squares<T>, dim3(1), dim3(kThreads), 0, stream_of(at), call.width, static_cast<const T*>(call.g),
           call.rows, call.sum);
  });
}

void run(const At& at, const RowsClear& call) {
  visit(call.dtype, [&]<class T>() {
    launch(clear_rows<T>, dim3(256), dim3(kThreads), 0, stream_of(at), call.width, static_cast<T*>(call.g), call.rows);
  });
  launch(empty_list, dim3(1), dim3(1), 0, stream_of(at), call.rows.count);
}

void run(const At& at, const StepAdvance& call) { launch(step_advance, dim3(1), dim3(1), 0, stream_of(at), call.step); }

void run(const At& at, const SgdUpdate& call) {
  visit(call.dtype, [&]<class T>() {
    using A = acc_t<T>;
    launch_update<T>(at, call, is_aligned(call.p, 16) && is_aligned(call.g, 16) && is_aligned(call.v, 16),
                     Sgd<T>{.p = static_cast<T*>(call.p),
                            .g = static_cast<const T*>(call.g),
                            .v = static_cast<T*>(call.v),
                            .lr = call.lr,
                            .factor = call.factor,
                            .momentum = static_cast<A>(call.momentum),
                            .decay = static_cast<A>(call.weight_decay),
                            .nesterov = call.nesterov});
  });
}

void run(const At& at, const AdamUpdate& call) {
  visit(call.dtype, [&]<class T>() {
    using A = acc_t<T>;
    launch_update<T>(
        at, call, is_aligned(call.p, 16) && is_aligned(call.g, 16) && is_aligned(call.m, 16) && is_aligned(call.v, 16),
        Adam<T>{.p = static_cast<T*>(call.p),
                .g = static_cast<const T*>(call.g),
                .m = static_cast<A*>(call.m),
                .v = static_cast<A*>(call.v),
                .lr = call.lr,
                .step = call.step,
                .factor = call.factor,
                .beta1 = call.beta1,
                .beta2 = call.beta2,
                .weight_decay = call.weight_decay,
                .eps = static_cast<A>(call.eps),
                .decoupled = call.decoupled});
  });
}

void run(const At& at, const AverageUpdate& call) {
  struct Flat {
    std::int64_t n, width = 0;
    RowList rows = {};
  };
  visit(call.dtype, [&]<class T>() {
    launch_update<T>(
        at, Flat{call.n}, is_aligned(call.a, 16) && is_aligned(call.p, 16),
        Average<T>{
            .a = static_cast<T*>(call.a), .p = static_cast<const T*>(call.p), .step = call.step, .decay = call.decay});
  });
}

ADJOINT_GPU_KERNEL(RowSquares)
ADJOINT_GPU_KERNEL(RowsClear)
ADJOINT_GPU_SCRATCH(GlobalNorm)
ADJOINT_GPU_KERNEL(GlobalNorm)
ADJOINT_GPU_KERNEL(StepAdvance)
ADJOINT_GPU_KERNEL(SgdUpdate)
ADJOINT_GPU_KERNEL(AdamUpdate)
ADJOINT_GPU_KERNEL(AverageUpdate)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
