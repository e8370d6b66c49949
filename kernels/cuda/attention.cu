// Attention: which kernel a call gets.
//
//   f64, widths above 128, before sm_80     attention_general.cuh      3 dtypes x (forward, dq, dk and dv, weights)
//   up to 64 queries and 64 keys            attention_short.cuh        2 dtypes x 3 widths x (forward, backward)
//   else                                    attention_tensor_core.cuh  (4 + 2) widths x (forward, dq, dk and dv),
//                                                                      2 dtypes x 2 widths of weights
// and dot_rows for each dtype: 49 kernels. Only dtype and padded width are template arguments, since they set registers
// and shared memory; masks, bias, dropout, strides and accumulation are tests of whole blocks at run time.
//
// Expected on an H200, not measured: of mma.sync without wgmma about a third of the tensor cores' peak for long bf16
// sequences; launch latency for short ones.

#include "kernels/attention.h"

#include <algorithm>

#include "kernels/cuda/attention_general.cuh"
#include "kernels/cuda/attention_short.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

std::int64_t tiles_of(std::int64_t n, std::int64_t tile) { return (n + tile - 1) / tile; }

dim3 blocks(std::int64_t n) { return dim3(static_cast<unsigned>(n)); }

/// B H Q.
std::int64_t rows_of(const AttentionShape& s) { return s.batch * s.heads * s.queries; }

namespace general = attention::general;

template <class T>
void general_forward(Stream stream, const AttentionForward& call) {
  const AttentionShape& s = call.shape;
  const std::int64_t tiles = tiles_of(s.queries, general::kRows);
  // Without columns there is still a log-sum-exp to give.
  const std::int64_t slices = std::max<std::int64_t>(tiles_of(s.value_width, general::kSlice<acc_t<T>>), 1);
  launch(general::forward<T>, blocks(s.batch * s.heads * tiles * slices), dim3(general::kThreads),
         general::forward_shared_bytes<T>(), stream, call, tiles, slices);
}

template <class T>
void general_backward(Stream stream, const AttentionBackward& call) {
  const AttentionShape& s = call.shape;
  constexpr std::int64_t kSlice = general::kSlice<acc_t<T>>;
  const auto* delta = static_cast<const acc_t<T>*>(call.scratch);
  if ((call.dq.data != nullptr || call.dbias.data != nullptr) && s.queries > 0) {
    const std::int64_t tiles = tiles_of(s.queries, general::kRows);
    const std::int64_t slices = call.dq.data == nullptr ? 1 : std::max<std::int64_t>(tiles_of(s.width, kSlice), 1);
    launch(general::gradient<T, false>, blocks(s.batch * s.heads * tiles * slices), dim3(general::kThreads),
           general::gradient_shared_bytes<T, false>(), stream, call, delta, tiles, slices);
  }
  if ((call.dk.data != nullptr || call.dv.data != nullptr) && s.keys > 0) {
    const std::int64_t tiles = tiles_of(s.keys, general::kRows);
    const std::int64_t slices = std::max<std::int64_t>(tiles_of(std::max(s.width, s.value_width), kSlice), 1);
    launch(general::gradient<T, true>, blocks(s.batch * s.heads * tiles * slices), dim3(general::kThreads),
           general::gradient_shared_bytes<T, true>(), stream, call, delta, tiles, slices);
  }
}

template <class T>
void general_weights(Stream stream, const AttentionWeights& call) {
  const AttentionShape& s = call.shape;
  const std::int64_t tiles = tiles_of(s.queries, general::kRows);
  launch(general::weights<T>, blocks(s.batch * s.heads * tiles), dim3(general::kThreads),
         general::weights_shared_bytes<T>(), stream, call, tiles);
}

template <class T>
void launch_delta(Stream stream, const AttentionBackward& call) {
  constexpr int kThreads = 128;
  const std::int64_t rows = rows_of(call.shape);
  const bool vectors = call.shape.value_width * sizeof(T) % 16 == 0 &&
                       (reinterpret_cast<std::uintptr_t>(call.y) | reinterpret_cast<std::uintptr_t>(call.dy)) % 16 == 0;
  if (rows == 0) return;
  launch(attention::dot_rows<T, kThreads>, blocks(tiles_of(rows, kThreads / 8)), dim3(kThreads), 0, stream, call.shape,
         static_cast<const T*>(call.y), static_cast<const T*>(call.dy), static_cast<acc_t<T>*>(call.scratch), rows,
         vectors);
}

/// Tiles of the tensor-core kernels: what fits into the 99 KB of shared memory of consumer cards, and into registers.
/// kM: groups of 16 queries a warp has; a fragment of K or V then serves as many products.
template <class T, int kWidth>
struct Tiling;
template <int kWidth>
struct Tiling<bf16, kWidth> {
  static constexpr int kM = 2, kTile = kWidth <= 64 ? 64 : 32, kGradientTile = kTile, kStages = 2;
};
template <int kWidth>
struct Tiling<float, kWidth> {
  static constexpr int kM = kWidth <= 64 ? 2 : 1, kTile = kWidth <= 64 ? 32 : 16, kGradientTile = kTile;
  static constexpr int kStages = kWidth <= 64 ? 2 : 1;
};

constexpr std::int64_t kWidest = 128;

/// Calls f with the first of the widths that holds `width` columns; rows are padded to it with zeros.
template <int kFirst, int... kRest, class F>
void with_width(std::int64_t width, F&& f) {
  if constexpr (sizeof...(kRest) > 0) {
    if (width > kFirst) return with_width<kRest...>(width, f);
  }
  f(std::integral_constant<int, kFirst>{});
}
/// bf16, which is what large models use, has all four widths. Each width is three long kernels.
template <class T, class F>
void with_long_width(std::int64_t width, F&& f) {
  if constexpr (std::is_same_v<T, bf16>) {
    with_width<32, 64, 96, 128>(width, f);
  } else {
    with_width<64, 128>(width, f);
  }
}

/// Whether rows at x can be moved 16 bytes at a time.
template <class T>
bool in_vectors(const void* x, const std::int64_t (&stride)[3], const AttentionShape& s, std::int64_t positions,
                std::int64_t width) {
  constexpr std::int64_t kVec = 16 / sizeof(T);
  const auto fits = [](std::int64_t extent, std::int64_t step) { return extent <= 1 || step % kVec == 0; };
  return width % kVec == 0 && reinterpret_cast<std::uintptr_t>(x) % 16 == 0 && fits(s.batch, stride[0]) &&
         fits(s.heads, stride[1]) && fits(positions, stride[2]);
}
template <class T>
bool in_vectors(const void* x, std::int64_t width) {
  return width % static_cast<std::int64_t>(16 / sizeof(T)) == 0 && reinterpret_cast<std::uintptr_t>(x) % 16 == 0;
}
template <class T>
attention::Vectors vectors_of(const AttentionShape& s, const void* q, const void* k, const void* v) {
  return {.q = in_vectors<T>(q, s.q_stride, s, s.queries, s.width),
          .k = in_vectors<T>(k, s.k_stride, s, s.keys, s.width),
          .v = in_vectors<T>(v, s.v_stride, s, s.keys, s.value_width)};
}

/// Whether a call is for the kernels that hold a head as a whole.
bool is_short(const AttentionShape& s, std::size_t shared_bytes) {
  return s.queries <= attention::kShort && s.keys <= attention::kShort &&
         shared_bytes <= device_limits().shared_memory_per_block;
}

/// Whether the device and these widths are for the tensor-core kernels.
bool on_tensor_cores(std::int64_t width) { return width <= kWidest && device_limits().compute_capability >= 80; }

/// False if the call has to take the general kernels.
template <class T>
bool tensor_core_forward(Stream stream, const AttentionForward& call) {
  const AttentionShape& s = call.shape;
  const std::int64_t width = std::max(s.width, s.value_width);
  if (!on_tensor_cores(width)) return false;
  attention::Vectors vectors = vectors_of<T>(s, call.q, call.k, call.v);
  vectors.y = in_vectors<T>(call.y, s.value_width);
  bool done = false;
  with_width<32, 64, 128>(width, [&](auto padded) {
    constexpr int kWidth = decltype(padded)::value;
    const std::size_t shared = attention::short_forward_shared_bytes<T, kWidth>(s);
    if (!is_short(s, shared)) return;
    const int warps = attention::warps_a_head(s.queries);
    launch(attention::short_forward<T, kWidth>, blocks(tiles_of(s.batch * s.heads, attention::kWarps / warps)),
           dim3(attention::kThreads), shared, stream, call, vectors, warps);
    done = true;
  });
  if (done) return true;
  with_long_width<T>(width, [&](auto padded) {
    constexpr int kWidth = decltype(padded)::value;
    using Tiles = Tiling<T, kWidth>;
    constexpr std::size_t kShared = attention::forward_shared_bytes<T, kWidth, Tiles::kM, Tiles::kTile>();
    static_assert(kShared <= 99 * 1024);
    if (kShared > device_limits().shared_memory_per_block) return;
    const std::int64_t tiles = tiles_of(s.queries, 16 * Tiles::kM * attention::kWarps);
    launch(attention::forward<T, kWidth, Tiles::kM, Tiles::kTile>, blocks(s.batch * s.heads * tiles),
           dim3(attention::kThreads), kShared, stream, call, vectors, tiles);
    done = true;
  });
  return done;
}

template <class T>
bool tensor_core_backward(Stream stream, const AttentionBackward& call) {
  const AttentionShape& s = call.shape;
  const std::int64_t width = std::max(s.width, s.value_width);
  if (!on_tensor_cores(width)) return false;
  attention::Vectors vectors = vectors_of<T>(s, call.q, call.k, call.v);
  vectors.y = in_vectors<T>(call.y, s.value_width);
  vectors.dy = in_vectors<T>(call.dy, s.value_width);
  vectors.dq = in_vectors<T>(call.dq.data, s.width);
  vectors.dk = in_vectors<T>(call.dk.data, s.width);
  vectors.dv = in_vectors<T>(call.dv.data, s.value_width);
  bool done = false;
  with_width<32, 64, 128>(width, [&](auto padded) {
    constexpr int kWidth = decltype(padded)::value;
    const std::size_t shared = attention::short_backward_shared_bytes<T, kWidth>(s);
    if (!is_short(s, shared)) return;
    const int warps = attention::warps_a_head(std::max(s.queries, s.keys));
    launch(attention::short_backward<T, kWidth>, blocks(tiles_of(s.batch * s.heads, attention::kWarps / warps)),
           dim3(attention::kShortBackwardThreads), shared, stream, call, vectors, warps);
    done = true;
  });
  if (done) return true;
  with_long_width<T>(width, [&](auto padded) {
    constexpr int kWidth = decltype(padded)::value;
    using Tiles = Tiling<T, kWidth>;
    constexpr int kTile = Tiles::kGradientTile, kStages = Tiles::kStages;
    constexpr std::size_t kShared = std::max(attention::gradient_shared_bytes<T, kWidth, kTile, kStages, false>(),
                                             attention::gradient_shared_bytes<T, kWidth, kTile, kStages, true>());
    static_assert(kShared <= 99 * 1024);
    if (kShared > device_limits().shared_memory_per_block) return;
    launch_delta<T>(stream, call);
    const auto* delta = static_cast<const float*>(call.scratch);
    const std::int64_t heads = s.batch * s.heads;
    if ((call.dq.data != nullptr || call.dbias.data != nullptr) && s.queries > 0) {
      const std::int64_t tiles = tiles_of(s.queries, attention::kGradientRows);
      launch(attention::gradient<T, kWidth, kTile, kStages, false>, blocks(heads * tiles), dim3(attention::kThreads),
             attention::gradient_shared_bytes<T, kWidth, kTile, kStages, false>(), stream, call, vectors, delta, tiles);
    }
    if ((call.dk.data != nullptr || call.dv.data != nullptr) && s.keys > 0) {
      const std::int64_t tiles = tiles_of(s.keys, attention::kGradientRows);
      launch(attention::gradient<T, kWidth, kTile, kStages, true>, blocks(heads * tiles), dim3(attention::kThreads),
             attention::gradient_shared_bytes<T, kWidth, kTile, kStages, true>(), stream, call, vectors, delta, tiles);
    }
    done = true;
  });
  return done;
}

template <class T>
bool tensor_core_weights(Stream stream, const AttentionWeights& call) {
  const AttentionShape& s = call.shape;
  if (!on_tensor_cores(s.width)) return false;
  bool done = false;
  with_width<64, 128>(s.width, [&](auto padded) {
    constexpr int kWidth = decltype(padded)::value, kTile = sizeof(T) == 2 ? 64 : 32;
    constexpr std::size_t kShared = attention::weights_shared_bytes<T, kWidth, kTile>();
    static_assert(kShared <= 99 * 1024);
    if (kShared > device_limits().shared_memory_per_block) return;
    const std::int64_t tiles = tiles_of(s.queries, 16 * attention::kWarps);
    launch(attention::weights<T, kWidth, kTile>, blocks(s.batch * s.heads * tiles), dim3(attention::kThreads), kShared,
           stream, call, vectors_of<T>(s, call.q, call.k, nullptr), tiles);
    done = true;
  });
  return done;
}

}  // namespace

void run(const At& at, const AttentionForward& call) {
  if (rows_of(call.shape) == 0) return;
  visit_float(call.shape.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (!std::is_same_v<T, double>) {
      if (tensor_core_forward<T>(stream_of(at), call)) return;
    }
    general_forward<T>(stream_of(at), call);
  });
}
ADJOINT_GPU_KERNEL(AttentionForward)

std::size_t scratch_bytes(const At&, const AttentionForward&) { return 0; }
ADJOINT_GPU_SCRATCH(AttentionForward)

void run(const At& at, const AttentionBackward& call) {
  if (call.shape.batch * call.shape.heads == 0) return;
  visit_float(call.shape.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (!std::is_same_v<T, double>) {
      if (tensor_core_backward<T>(stream_of(at), call)) return;
    }
    launch_delta<T>(stream_of(at), call);
    general_backward<T>(stream_of(at), call);
  });
}
ADJOINT_GPU_KERNEL(AttentionBackward)

/// delta, one number a query.
std::size_t scratch_bytes(const At&, const AttentionBackward& call) {
  return static_cast<std::size_t>(rows_of(call.shape)) * size_of(accumulator_of(call.shape.dtype));
}
ADJOINT_GPU_SCRATCH(AttentionBackward)

void run(const At& at, const AttentionWeights& call) {
  if (rows_of(call.shape) == 0 || call.shape.keys == 0) return;
  visit_float(call.shape.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (!std::is_same_v<T, double>) {
      if (tensor_core_weights<T>(stream_of(at), call)) return;
    }
    general_weights<T>(stream_of(at), call);
  });
}
ADJOINT_GPU_KERNEL(AttentionWeights)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
