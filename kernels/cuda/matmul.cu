// Matrix products on CUDA cores: one thread sums each element of c over k from 0 on, whatever the tile, so that its
// bits depend on neither the tile nor the other rows; only products with a long k and few tiles are split over k, into
// parts that a second kernel adds in order. 7 instantiations: f32 in tiles of 128, 64 and 32, f64 and bf16 in 64
// and 32.

#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/cuda/compat.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

constexpr int kThreads = 256;

/// Which rows of a padded batch take part.
struct Rows {
  const std::int32_t* lengths;
  unsigned per_length;
  __device__ __forceinline__ bool take_part(std::int64_t row) const {
    const unsigned r = static_cast<unsigned>(row);
    return static_cast<std::int32_t>(r % per_length) < lengths[r / per_length];
  }
};

/// An operand as [outer, k]: outer is a's row or b's column. One of the two is contiguous, the other has stride ld.
template <class T>
struct Operand {
  const T* data;
  std::int64_t ld, batch;
  bool k_contiguous;
  bool packs;  // groups of 4 along the contiguous index are aligned
};

template <class T>
struct Product {
  Operand<T> a, b;
  std::int64_t m, n, k;
  std::int64_t batches, splits, split_k;  // a part sums split_k of k, a multiple of every tile's depth
  T* c;
  std::int64_t ldc, c_batch;
  bool packs_c;
  const T* bias;
  acc_t<T>* parts;  // [batches, splits, m, n] if splits > 1
  acc_t<T> alpha;
  bool accumulate;
  Rows rows;  // lengths may be null
  bool rows_are_k;
};

template <class T>
struct alignas(sizeof(T) >= 4 ? 16 : 8) Pack {
  T v[4];
};

/// Which index of an operand's rows in memory is one of those that may take no part: that of the row, or along it.
enum class Mask { none, slow, fast };

/// What one thread carries of a tile [kOuter, kDepth] from global to shared memory.
template <class T, int kOuter, int kDepth>
struct Fetch {
  static constexpr int kPacks = kOuter * kDepth / 4 / kThreads;
  static_assert(kPacks >= 1 && kOuter * kDepth % (4 * kThreads) == 0);
  static constexpr int kStride = kOuter + 4;  // of shared memory: keeps packs aligned and spreads the banks
  Pack<T> held[kPacks];

  __device__ __forceinline__ static void place(bool k_contiguous, int i, int& outer, int& p) {
    const int pack = static_cast<int>(threadIdx.x) + i * kThreads;
    if (k_contiguous) {
      outer = pack / (kDepth / 4);
      p = pack % (kDepth / 4) * 4;
    } else {
      p = pack / (kOuter / 4);
      outer = pack % (kOuter / 4) * 4;
    }
  }

  /// Elements beyond the ends are 0, and so are those whose row or k takes no part: they are not read, since nobody may
  /// have written them. Only b's k can run along a pack.
  __device__ __forceinline__ void load(const Operand<T>& x, const T* data, std::int64_t outer0, std::int64_t outer_end,
                                       std::int64_t k0, std::int64_t k_end, const Rows& rows, Mask mask) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      int outer, p;
      place(x.k_contiguous, i, outer, p);
      const std::int64_t o = outer0 + outer, q = k0 + p;
      const std::int64_t slow = x.k_contiguous ? o : q, fast = x.k_contiguous ? q : o;
      const std::int64_t slow_end = x.k_contiguous ? outer_end : k_end, fast_end = x.k_contiguous ? k_end : outer_end;
      const T* from = data + slow * x.ld + fast;
      // How many of the four there are: none of a row without part.
      const bool there = slow < slow_end && (mask != Mask::slow || rows.take_part(slow));
      const int count = there ? static_cast<int>(min(fast_end - fast, std::int64_t(4))) : 0;
      if (x.packs && count == 4 && mask != Mask::fast) {
        held[i] = *reinterpret_cast<const Pack<T>*>(from);
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const bool part = e < count && (mask != Mask::fast || rows.take_part(fast + e));
          held[i].v[e] = part ? from[e] : T(0.0f);
        }
      }
    }
  }

  /// Into tile[p][outer].
  __device__ __forceinline__ void store(acc_t<T>* tile, bool k_contiguous) const {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      int outer, p;
      place(k_contiguous, i, outer, p);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        tile[(k_contiguous ? p + e : p) * kStride + (k_contiguous ? outer : outer + e)] =
            static_cast<acc_t<T>>(held[i].v[e]);
      }
    }
  }
};

template <class T, int kM, int kN, int kDepth, int kRows, int kColumns>
__global__ void __launch_bounds__(kThreads) multiply(Product<T> x) {
  using A = acc_t<T>;
  static_assert(kM / kRows * (kN / kColumns) == kThreads);
  using FetchA = Fetch<T, kM, kDepth>;
  using FetchB = Fetch<T, kN, kDepth>;
  constexpr int kSizeA = kDepth * FetchA::kStride, kSizeB = kDepth * FetchB::kStride;
  Smem smem;
  A* const tile_a = smem.take<A>(2 * kSizeA);
  A* const tile_b = smem.take<A>(2 * kSizeB);

  // In 32 bits, as the grid's size is: a 64-bit division is a call.
  unsigned id = blockIdx.x;
  const auto tiles_n = static_cast<unsigned>((x.n + kN - 1) / kN), tiles_m = static_cast<unsigned>((x.m + kM - 1) / kM);
  const std::int64_t n0 = static_cast<std::int64_t>(id % tiles_n) * kN;
  id /= tiles_n;
  const std::int64_t m0 = static_cast<std::int64_t>(id % tiles_m) * kM;
  id /= tiles_m;
  const auto splits = static_cast<unsigned>(x.splits);
  const std::int64_t split = id % splits, batch = id / splits;
  const std::int64_t k_begin = split * x.split_k, k_end = min(x.k, k_begin + x.split_k);
  const T* const a = x.a.data + batch * x.a.batch;
  const T* const b = x.b.data + batch * x.b.batch;

  // Rows without part are zeros in a and, where they are k, in b too: there may be anything in them.
  const bool mask_rows = x.rows.lengths != nullptr && !x.rows_are_k, mask_k = x.rows.lengths != nullptr && x.rows_are_k;
  const Mask mask_a = mask_rows || mask_k ? Mask::slow : Mask::none;
  const Mask mask_b = !mask_k ? Mask::none : x.b.k_contiguous ? Mask::fast : Mask::slow;
  bool any = true;
  if (mask_rows) {
    const std::int64_t i = m0 + threadIdx.x;
    any = __syncthreads_or(static_cast<int>(threadIdx.x) < kM && i < x.m && x.rows.take_part(i)) != 0;
  }
  /// The first depth tile from k0 on that has work.
  const auto next = [&](std::int64_t k0) {
    while (mask_k && k0 < k_end) {
      const std::int64_t p = k0 + threadIdx.x;
      if (__syncthreads_or(static_cast<int>(threadIdx.x) < kDepth && p < k_end && x.rows.take_part(p)) != 0) break;
      k0 += kDepth;
    }
    return k0;
  };

  const int row = static_cast<int>(threadIdx.x) / (kN / kColumns) * kRows;
  const int column = static_cast<int>(threadIdx.x) % (kN / kColumns) * kColumns;
  A sum[kRows][kColumns] = {};
  FetchA fetch_a;
  FetchB fetch_b;
  std::int64_t k0 = any ? next(k_begin) : k_end;
  if (k0 < k_end) {
    fetch_a.load(x.a, a, m0, x.m, k0, k_end, x.rows, mask_a);
    fetch_b.load(x.b, b, n0, x.n, k0, k_end, x.rows, mask_b);
    fetch_a.store(tile_a, x.a.k_contiguous);
    fetch_b.store(tile_b, x.b.k_contiguous);
  }
  for (int stage = 0; k0 < k_end; stage ^= 1) {
    __syncthreads();
    const std::int64_t k1 = next(k0 + kDepth);
    if (k1 < k_end) {  // on its way while this tile is multiplied
      fetch_a.load(x.a, a, m0, x.m, k1, k_end, x.rows, mask_a);
      fetch_b.load(x.b, b, n0, x.n, k1, k_end, x.rows, mask_b);
    }
    const A* const ta = tile_a + stage * kSizeA + row;
    const A* const tb = tile_b + stage * kSizeB + column;
#pragma unroll
    for (int p = 0; p < kDepth; ++p) {
      A left[kRows], right[kColumns];
#pragma unroll
      for (int i = 0; i < kRows; ++i) left[i] = ta[p * FetchA::kStride + i];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) right[j] = tb[p * FetchB::kStride + j];
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum[i][j] += left[i] * right[j];
    }
    if (k1 < k_end) {  // into the other half: everyone has left it at the barrier above
      fetch_a.store(tile_a + (stage ^ 1) * kSizeA, x.a.k_contiguous);
      fetch_b.store(tile_b + (stage ^ 1) * kSizeB, x.b.k_contiguous);
    }
    k0 = k1;
  }

#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const std::int64_t r = m0 + row + i;
    if (r >= x.m) break;
    if (x.splits > 1) {
      A* const to = x.parts + ((batch * x.splits + split) * x.m + r) * x.n + n0 + column;
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
        if (n0 + column + j < x.n) to[j] = sum[i][j];
      continue;
    }
    const bool part = !mask_rows || x.rows.take_part(r);
    T* const to = x.c + batch * x.c_batch + r * x.ldc + n0 + column;
    T out[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      if (n0 + column + j >= x.n) continue;
      A value = x.alpha * sum[i][j];
      if (x.accumulate) {
        value += static_cast<A>(to[j]);
      } else if (x.bias != nullptr) {
        value += static_cast<A>(x.bias[n0 + column + j]);
      }
      out[j] = part || x.accumulate ? static_cast<T>(value) : T(0.0f);
    }
    if (!part && x.accumulate) continue;
    if constexpr (kColumns % 4 == 0) {
      if (x.packs_c && n0 + column + kColumns <= x.n) {
#pragma unroll
        for (int j = 0; j < kColumns; j += 4)
          *reinterpret_cast<Pack<T>*>(to + j) = Pack<T>{{out[j], out[j + 1], out[j + 2], out[j + 3]}};
        continue;
      }
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j)
      if (n0 + column + j < x.n) to[j] = out[j];
  }
}

/// c from the parts of a product that was split over k, added in their order.
template <class T>
__global__ void __launch_bounds__(kThreads) add_parts(Product<T> x) {
  using A = acc_t<T>;
  const std::int64_t count = x.batches * x.m * x.n, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const std::int64_t j = i % x.n, r = i / x.n % x.m, batch = i / x.n / x.m;
    const bool part = x.rows.lengths == nullptr || x.rows_are_k || x.rows.take_part(r);
    A value = A(0);
    for (std::int64_t s = 0; s < x.splits; ++s) value += x.parts[((batch * x.splits + s) * x.m + r) * x.n + j];
    T* const to = x.c + batch * x.c_batch + r * x.ldc + j;
    if (x.accumulate) {
      if (part) *to = static_cast<T>(static_cast<A>(*to) + x.alpha * value);
    } else {
      const A bias = x.bias != nullptr ? static_cast<A>(x.bias[j]) : A(0);
      *to = part ? static_cast<T>(x.alpha * value + bias) : T(0.0f);
    }
  }
}

// Numbers of the shape alone, not of the device: the order of summation must not depend on where it runs.
constexpr std::int64_t kBlocksWanted = 264;  // two for each multiprocessor of an H200
constexpr std::int64_t kLongK = 512;         // parts are no shorter: below, the second kernel costs more than it brings

std::int64_t tiles_of(const Matmul& call, std::int64_t tile) {
  return call.batches * ((call.m + tile - 1) / tile) * ((call.n + tile - 1) / tile);
}
std::int64_t tile_of(const Matmul& call) {
  if (call.dtype == DType::f32 && tiles_of(call, 128) >= kBlocksWanted / 2) return 128;
  return tiles_of(call, 64) >= kBlocksWanted / 2 ? 64 : 32;
}
std::int64_t splits_of(const Matmul& call) {
  const std::int64_t wanted =
      std::min(kBlocksWanted / std::max<std::int64_t>(tiles_of(call, tile_of(call)), 1), call.k / kLongK);
  return std::max<std::int64_t>(wanted, 1);
}

bool aligned(const void* data, std::size_t bytes) { return reinterpret_cast<std::uintptr_t>(data) % bytes == 0; }

template <class T, int kM, int kN, int kDepth, int kRows, int kColumns>
void launch_tiles(const At& at, const Product<T>& x) {
  const std::int64_t blocks = x.batches * x.splits * ((x.m + kM - 1) / kM) * ((x.n + kN - 1) / kN);
  constexpr std::size_t kShared =
      2 * kDepth * (Fetch<T, kM, kDepth>::kStride + Fetch<T, kN, kDepth>::kStride) * sizeof(acc_t<T>);
  launch(multiply<T, kM, kN, kDepth, kRows, kColumns>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), kShared,
         stream_of(at), x);
}

template <class T>
void run_as(const At& at, const Matmul& call) {
  constexpr std::size_t kPack = sizeof(Pack<T>) < 16 ? sizeof(Pack<T>) : 16;
  const auto operand = [&](const void* data, std::int64_t ld, std::int64_t batch, bool k_contiguous) {
    return Operand<T>{static_cast<const T*>(data), ld, batch, k_contiguous,
                      aligned(data, kPack) && ld % 4 == 0 && batch % 4 == 0};
  };
  const std::int64_t splits = splits_of(call);
  Product<T> x{.a = operand(call.a, call.lda, call.a_batch, !call.transpose_a),
               .b = operand(call.b, call.ldb, call.b_batch, call.transpose_b),
               .m = call.m,
               .n = call.n,
               .k = call.k,
               .batches = call.batches,
               .splits = splits,
               .split_k = ((call.k + splits - 1) / splits + 31) / 32 * 32,
               .c = static_cast<T*>(call.c),
               .ldc = call.ldc,
               .c_batch = call.c_batch,
               .packs_c = aligned(call.c, kPack) && call.ldc % 4 == 0 && call.c_batch % 4 == 0,
               .bias = static_cast<const T*>(call.bias),
               .parts = static_cast<acc_t<T>*>(call.scratch),
               .alpha = static_cast<acc_t<T>>(call.alpha),
               .accumulate = call.accumulate,
               .rows = {call.row_lengths, static_cast<unsigned>(std::max<std::int64_t>(call.rows_per_length, 1))},
               .rows_are_k = call.transpose_a};
  const std::int64_t tile = tile_of(call);
  if (tile == 32) {
    launch_tiles<T, 32, 32, 32, 2, 2>(at, x);
  } else if constexpr (sizeof(T) == 4) {
    if (tile == 128) {
      launch_tiles<T, 128, 128, 16, 8, 8>(at, x);
    } else {
      launch_tiles<T, 64, 64, 16, 4, 4>(at, x);
    }
  } else {
    launch_tiles<T, 64, 64, 16, 4, 4>(at, x);
  }
  if (splits > 1) {
    const std::int64_t blocks = std::min<std::int64_t>((x.batches * x.m * x.n + kThreads - 1) / kThreads, 4096);
    launch(add_parts<T>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream_of(at), x);
  }
}

}  // namespace

std::size_t scratch_bytes(const At&, const Matmul& call) {
  const std::int64_t splits = splits_of(call);
  if (splits == 1) return 0;
  return static_cast<std::size_t>(call.batches * splits * call.m * call.n) * size_of(accumulator_of(call.dtype));
}

void run(const At& at, const Matmul& call) {
  if (call.batches == 0 || call.m == 0 || call.n == 0) return;
  visit_float(call.dtype, [&](auto type) { run_as<typename decltype(type)::type>(at, call); });
}

ADJOINT_GPU_SCRATCH(Matmul)
ADJOINT_GPU_KERNEL(Matmul)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
