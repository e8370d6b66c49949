// Layer normalisation. A warp keeps one row in registers, so x is read once (floor: 2 passes over the row forward, 3
// backward); rows that do not fit or cannot be loaded in packs of 16 bytes take a block each. Backward strides few
// blocks over all rows; each gathers dgamma and dbeta in registers, and a second kernel adds the blocks' parts in
// order. Instantiated for rows of up to 2 packs a lane and of up to 32 values or 8 packs.

#include "kernels/layer_norm.h"

#include <algorithm>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/vector.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

constexpr int kWarps = 8;
constexpr int kRowThreads = 128;          // of a block that has one row
constexpr std::int64_t kMostParts = 264;  // of the shape alone: the order of summation must not depend on the device
constexpr std::int64_t kRowsAPart = 32;   // at least, in a part of the general column sums

template <class T>
struct Forward {
  std::int64_t rows, width;
  const T* x;
  const T* residual;
  const T* gamma;
  const T* beta;
  acc_t<T> eps;
  T* sum;
  T* y;
  acc_t<T>* mean;
  acc_t<T>* rstd;
  bool aligned;  // every pointer, to 16 bytes
};

template <class T>
struct Backward {
  std::int64_t rows, width;
  const T* s;
  const T* gamma;
  const acc_t<T>* mean;
  const acc_t<T>* rstd;
  const T* dy;
  const T* dsum;
  GradOut dx, dresidual;
  acc_t<T>* parts;  // [parts, 2, width], or null if neither dgamma nor dbeta is wanted
  bool aligned;     // every pointer, to 16 bytes
};

/// A lane's share of a row: packs lane, lane + 32, … of n elements.
template <class T, int kPacks>
struct Row {
  static constexpr int n = kPerVector<T>;
  using A = acc_t<T>;
  A v[kPacks][n];

  __device__ __forceinline__ static std::int64_t place(int p) {
    return (static_cast<std::int64_t>(threadIdx.x % 32) + 32 * p) * n;
  }
  template <class F>
  __device__ __forceinline__ static void each(std::int64_t width, F f) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (place(p) < width) f(p, place(p));
  }
};

// Where memory does not start at 16 bytes, the same thread takes the same elements one by one: the order of summation,
// and so the bits of a result, must not depend on where it lies.
template <class T, int n>
__device__ __forceinline__ void load_values(const T* p, acc_t<T> (&v)[n], bool aligned) {
  if (aligned) return load_pack<T, n>(p, v);
#pragma unroll
  for (int k = 0; k < n; ++k) v[k] = static_cast<acc_t<T>>(p[k]);
}
template <class T, int n>
__device__ __forceinline__ void store_values(T* p, const acc_t<T> (&v)[n], bool aligned) {
  if (aligned) return store_pack<T, n>(p, v);
#pragma unroll
  for (int k = 0; k < n; ++k) p[k] = static_cast<T>(v[k]);
}

template <class T, int n>
__device__ __forceinline__ void put_pack(const GradOut& to, std::int64_t at, const acc_t<T> (&v)[n], bool aligned) {
  T* const p = static_cast<T*>(to.data) + at;
  acc_t<T> out[n];
  if (to.accumulate) {
    load_values<T, n>(p, out, aligned);
#pragma unroll
    for (int k = 0; k < n; ++k) out[k] += v[k];
    store_values<T, n>(p, out, aligned);
  } else {
    store_values<T, n>(p, v, aligned);
  }
}

template <class T, int kPacks>
__global__ void __launch_bounds__(kWarps * 32) forward_in_warps(Forward<T> call) {
  using A = acc_t<T>;
  using R = Row<T, kPacks>;
  constexpr int n = R::n;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= call.rows) return;  // whole warps, and there is no barrier
  const std::int64_t begin = row * call.width;
  R s;
  A total = 0;
  R::each(call.width, [&](int p, std::int64_t i) {
    load_values<T, n>(call.x + begin + i, s.v[p], call.aligned);
    if (call.residual != nullptr) {
      A r[n];
      load_values<T, n>(call.residual + begin + i, r, call.aligned);
#pragma unroll
      for (int k = 0; k < n; ++k) s.v[p][k] = static_cast<A>(static_cast<T>(s.v[p][k] + r[k]));  // as it is kept
      store_values<T, n>(call.sum + begin + i, s.v[p], call.aligned);
    }
#pragma unroll
    for (int k = 0; k < n; ++k) total += s.v[p][k];
  });
  const A mean = warp_sum(total) / static_cast<A>(call.width);
  A squares = 0;
  R::each(call.width, [&](int p, std::int64_t) {
#pragma unroll
    for (int k = 0; k < n; ++k) squares += (s.v[p][k] - mean) * (s.v[p][k] - mean);
  });
  const A rstd = A(1) / sqrt(warp_sum(squares) / static_cast<A>(call.width) + call.eps);
  R::each(call.width, [&](int p, std::int64_t i) {
    A scale[n], shift[n];
#pragma unroll
    for (int k = 0; k < n; ++k) scale[k] = A(1), shift[k] = A(0);
    if (call.gamma != nullptr) load_values<T, n>(call.gamma + i, scale, call.aligned);
    if (call.beta != nullptr) load_values<T, n>(call.beta + i, shift, call.aligned);
#pragma unroll
    for (int k = 0; k < n; ++k) s.v[p][k] = (s.v[p][k] - mean) * rstd * scale[k] + shift[k];
    store_values<T, n>(call.y + begin + i, s.v[p], call.aligned);
  });
  if (threadIdx.x % 32 == 0) {
    call.mean[row] = mean;
    call.rstd[row] = rstd;
  }
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) forward_in_blocks(Forward<T> call) {
  using A = acc_t<T>;
  const std::int64_t row = blockIdx.x, begin = row * call.width;
  const auto at = [&](std::int64_t i) {
    A v = static_cast<A>(call.x[begin + i]);
    if (call.residual != nullptr) v = static_cast<A>(static_cast<T>(v + static_cast<A>(call.residual[begin + i])));
    return v;
  };
  A total = 0, squares = 0;
  for (std::int64_t i = threadIdx.x; i < call.width; i += kRowThreads) total += at(i);
  const A mean = block_sum<kRowThreads>(total) / static_cast<A>(call.width);
  for (std::int64_t i = threadIdx.x; i < call.width; i += kRowThreads) squares += (at(i) - mean) * (at(i) - mean);
  const A rstd = A(1) / sqrt(block_sum<kRowThreads>(squares) / static_cast<A>(call.width) + call.eps);
  for (std::int64_t i = threadIdx.x; i < call.width; i += kRowThreads) {
    const A s = at(i), scale = call.gamma != nullptr ? static_cast<A>(call.gamma[i]) : A(1);
    const A shift = call.beta != nullptr ? static_cast<A>(call.beta[i]) : A(0);
    if (call.residual != nullptr) call.sum[begin + i] = static_cast<T>(s);
    call.y[begin + i] = static_cast<T>((s - mean) * rstd * scale + shift);
  }
  if (threadIdx.x == 0) {
    call.mean[row] = mean;
    call.rstd[row] = rstd;
  }
}

template <class T, int kPacks>
__global__ void __launch_bounds__(kWarps * 32) backward_in_warps(Backward<T> call) {
  using A = acc_t<T>;
  using R = Row<T, kPacks>;
  constexpr int n = R::n;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  R of_gamma{}, of_beta{};
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp; row < call.rows;
       row += static_cast<std::int64_t>(gridDim.x) * kWarps) {
    const std::int64_t begin = row * call.width;
    const A mean = call.mean[row], rstd = call.rstd[row];
    R normal, g;
    A sum = 0, dot = 0;
    R::each(call.width, [&](int p, std::int64_t i) {
      A scale[n];
#pragma unroll
      for (int k = 0; k < n; ++k) scale[k] = A(1);
      if (call.gamma != nullptr) load_values<T, n>(call.gamma + i, scale, call.aligned);
      load_values<T, n>(call.s + begin + i, normal.v[p], call.aligned);
      load_values<T, n>(call.dy + begin + i, g.v[p], call.aligned);
#pragma unroll
      for (int k = 0; k < n; ++k) {
        normal.v[p][k] = (normal.v[p][k] - mean) * rstd;
        of_gamma.v[p][k] += g.v[p][k] * normal.v[p][k];
        of_beta.v[p][k] += g.v[p][k];
        g.v[p][k] *= scale[k];
        sum += g.v[p][k];
        dot += g.v[p][k] * normal.v[p][k];
      }
    });
    const A mean_g = warp_sum(sum) / static_cast<A>(call.width), mean_dot = warp_sum(dot) / static_cast<A>(call.width);
    if (call.dx.data == nullptr && call.dresidual.data == nullptr) continue;
    R::each(call.width, [&](int p, std::int64_t i) {
      A more[n];
#pragma unroll
      for (int k = 0; k < n; ++k) more[k] = A(0);
      if (call.dsum != nullptr) load_values<T, n>(call.dsum + begin + i, more, call.aligned);
#pragma unroll
      for (int k = 0; k < n; ++k) more[k] += rstd * (g.v[p][k] - mean_g - normal.v[p][k] * mean_dot);
      if (call.dx.data != nullptr) put_pack<T, n>(call.dx, begin + i, more, call.aligned);
      if (call.dresidual.data != nullptr) put_pack<T, n>(call.dresidual, begin + i, more, call.aligned);
    });
  }
  if (call.parts == nullptr) return;  // all threads alike

  // The warps' columns, one after another, in shared memory: warp 0 adds them to its own in order.
  Smem smem;
  A* const columns = smem.take<A>(static_cast<std::size_t>(2 * call.width));
  for (int turn = 1; turn < kWarps; ++turn) {
    if (warp == turn) {
      R::each(call.width, [&](int p, std::int64_t i) {
#pragma unroll
        for (int k = 0; k < n; ++k) {
          columns[i + k] = of_gamma.v[p][k];
          columns[call.width + i + k] = of_beta.v[p][k];
        }
      });
    }
    __syncthreads();
    if (warp == 0) {
      R::each(call.width, [&](int p, std::int64_t i) {
#pragma unroll
        for (int k = 0; k < n; ++k) {
          of_gamma.v[p][k] += columns[i + k];
          of_beta.v[p][k] += columns[call.width + i + k];
        }
      });
    }
    __syncthreads();
  }
  if (warp == 0) {
    A* const part = call.parts + static_cast<std::int64_t>(blockIdx.x) * 2 * call.width;
    R::each(call.width, [&](int p, std::int64_t i) {
#pragma unroll
      for (int k = 0; k < n; ++k) {
        part[i + k] = of_gamma.v[p][k];
        part[call.width + i + k] = of_beta.v[p][k];
      }
    });
  }
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) backward_in_blocks(Backward<T> call) {
  using A = acc_t<T>;
  const std::int64_t row = blockIdx.x, begin = row * call.width;
  const A mean = call.mean[row], rstd = call.rstd[row];
  const auto scaled = [&](std::int64_t i) {
    return static_cast<A>(call.dy[begin + i]) * (call.gamma != nullptr ? static_cast<A>(call.gamma[i]) : A(1));
  };
  const auto normal = [&](std::int64_t i) { return (static_cast<A>(call.s[begin + i]) - mean) * rstd; };
  A sum = 0, dot = 0;
  for (std::int64_t i = threadIdx.x; i < call.width; i += kRowThreads) {
    sum += scaled(i);
    dot += scaled(i) * normal(i);
  }
  const A mean_g = block_sum<kRowThreads>(sum) / static_cast<A>(call.width);
  const A mean_dot = block_sum<kRowThreads>(dot) / static_cast<A>(call.width);
  for (std::int64_t i = threadIdx.x; i < call.width; i += kRowThreads) {
    A d[1] = {rstd * (scaled(i) - mean_g - normal(i) * mean_dot)};
    if (call.dsum != nullptr) d[0] += static_cast<A>(call.dsum[begin + i]);
    if (call.dx.data != nullptr) put_pack<T, 1>(call.dx, begin + i, d, true);
    if (call.dresidual.data != nullptr) put_pack<T, 1>(call.dresidual, begin + i, d, true);
  }
}

/// The general column sums: a thread a column, a part of the rows a block.
template <class T>
__global__ void __launch_bounds__(kRowThreads) sum_columns(Backward<T> call, std::int64_t rows_a_part) {
  using A = acc_t<T>;
  const std::int64_t blocks = (call.width + kRowThreads - 1) / kRowThreads;
  const std::int64_t part = blockIdx.x / blocks, i = blockIdx.x % blocks * kRowThreads + threadIdx.x;
  if (i >= call.width) return;
  A of_gamma = 0, of_beta = 0;
  for (std::int64_t row = part * rows_a_part; row < min(call.rows, (part + 1) * rows_a_part); ++row) {
    const A g = static_cast<A>(call.dy[row * call.width + i]);
    of_gamma += g * (static_cast<A>(call.s[row * call.width + i]) - call.mean[row]) * call.rstd[row];
    of_beta += g;
  }
  call.parts[part * 2 * call.width + i] = of_gamma;
  call.parts[(part * 2 + 1) * call.width + i] = of_beta;
}

template <class T>
__global__ void __launch_bounds__(kRowThreads)
    add_parts(std::int64_t parts, std::int64_t width, const acc_t<T>* part, GradOut dgamma, GradOut dbeta) {
  using A = acc_t<T>;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (i >= width) return;
  A sum[2][1] = {};
  for (std::int64_t p = 0; p < parts; ++p) {
    sum[0][0] += part[p * 2 * width + i];
    sum[1][0] += part[(p * 2 + 1) * width + i];
  }
  if (dgamma.data != nullptr) put_pack<T, 1>(dgamma, i, sum[0], true);
  if (dbeta.data != nullptr) put_pack<T, 1>(dbeta, i, sum[1], true);
}

bool wants_columns(const LayerNormBackward& call) { return call.dgamma.data != nullptr || call.dbeta.data != nullptr; }

/// Parts of the column sums: the larger of what either kernel makes, so that scratch depends on the shape alone.
std::int64_t parts_of(const LayerNormBackward& call) { return std::min(blocks_for(call.rows, kWarps), kMostParts); }

template <class T>
constexpr int kMostPacks = sizeof(T) == 2 ? 4 : 8;  // more values than 32 a lane would not fit into registers

bool all_aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* p) { return is_aligned(p, 16); });
}

/// Packs a lane needs for a row, or 0 if rows cannot be held in packs.
template <class T>
int packs_of(std::int64_t width) {
  constexpr int n = kPerVector<T>;
  if (width % n != 0) return 0;
  const std::int64_t packs = blocks_for(width, 32 * n);
  return packs <= 2 ? 2 : packs <= kMostPacks<T> ? kMostPacks<T> : 0;
}

template <class T>
void forward(const At& at, const LayerNormForward& call) {
  const Forward<T> f{.rows = call.rows,
                     .width = call.width,
                     .x = static_cast<const T*>(call.x),
                     .residual = static_cast<const T*>(call.residual),
                     .gamma = static_cast<const T*>(call.gamma),
                     .beta = static_cast<const T*>(call.beta),
                     .eps = static_cast<acc_t<T>>(call.eps),
                     .sum = static_cast<T*>(call.sum),
                     .y = static_cast<T*>(call.y),
                     .mean = static_cast<acc_t<T>*>(call.mean),
                     .rstd = static_cast<acc_t<T>*>(call.rstd),
                     .aligned = all_aligned({call.x, call.residual, call.gamma, call.beta, call.sum, call.y})};
  const int packs = packs_of<T>(call.width);
  if (packs == 0) {
    launch(forward_in_blocks<T>, dim3(static_cast<unsigned>(call.rows)), dim3(kRowThreads), 0, stream_of(at), f);
    return;
  }
  launch(packs == 2 ? forward_in_warps<T, 2> : forward_in_warps<T, kMostPacks<T>>,
         dim3(static_cast<unsigned>(blocks_for(call.rows, kWarps))), dim3(kWarps * 32), 0, stream_of(at), f);
}

template <class T>
void backward(const At& at, const LayerNormBackward& call) {
  using A = acc_t<T>;
  const Backward<T> b{
      .rows = call.rows,
      .width = call.width,
      .s = static_cast<const T*>(call.s),
      .gamma = static_cast<const T*>(call.gamma),
      .mean = static_cast<const A*>(call.mean),
      .rstd = static_cast<const A*>(call.rstd),
      .dy = static_cast<const T*>(call.dy),
      .dsum = static_cast<const T*>(call.dsum),
      .dx = call.dx,
      .dresidual = call.dresidual,
      .parts = wants_columns(call) ? static_cast<A*>(call.scratch) : nullptr,
      .aligned = all_aligned({call.s, call.gamma, call.dy, call.dsum, call.dx.data, call.dresidual.data})};
  std::int64_t parts = parts_of(call);
  const int packs = packs_of<T>(call.width);
  if (call.rows > 0 && packs != 0) {
    const std::size_t shared = b.parts != nullptr ? static_cast<std::size_t>(2 * call.width) * sizeof(A) : 0;
    launch(packs == 2 ? backward_in_warps<T, 2> : backward_in_warps<T, kMostPacks<T>>,
           dim3(static_cast<unsigned>(parts)), dim3(kWarps * 32), shared, stream_of(at), b);
  } else if (call.rows > 0) {
    if (call.dx.data != nullptr || call.dresidual.data != nullptr)
      launch(backward_in_blocks<T>, dim3(static_cast<unsigned>(call.rows)), dim3(kRowThreads), 0, stream_of(at), b);
    const std::int64_t rows_a_part = std::max(blocks_for(call.rows, parts), kRowsAPart);
    parts = blocks_for(call.rows, rows_a_part);
    if (b.parts != nullptr) {
      launch(sum_columns<T>, dim3(static_cast<unsigned>(parts * blocks_for(call.width, kRowThreads))),
             dim3(kRowThreads), 0, stream_of(at), b, rows_a_part);
    }
  }
  if (wants_columns(call)) {
    launch(add_parts<T>, dim3(static_cast<unsigned>(blocks_for(call.width, kRowThreads))), dim3(kRowThreads), 0,
           stream_of(at), call.rows > 0 ? parts : 0, call.width, static_cast<const A*>(call.scratch), call.dgamma,
           call.dbeta);
  }
}

}  // namespace

std::size_t scratch_bytes(const At&, const LayerNormBackward& call) {
  if (!wants_columns(call)) return 0;
  return static_cast<std::size_t>(parts_of(call) * 2 * call.width) * size_of(accumulator_of(call.dtype));
}

void run(const At& at, const LayerNormForward& call) {
  if (call.rows == 0) return;
  visit_float(call.dtype, [&](auto type) { forward<typename decltype(type)::type>(at, call); });
}

void run(const At& at, const LayerNormBackward& call) {
  if (call.width == 0) return;
  visit_float(call.dtype, [&](auto type) { backward<typename decltype(type)::type>(at, call); });
}

ADJOINT_GPU_KERNEL(LayerNormForward)
ADJOINT_GPU_SCRATCH(LayerNormBackward)
ADJOINT_GPU_KERNEL(LayerNormBackward)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
