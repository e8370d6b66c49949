// Attention: which kernel a call gets.

#include "kernels/attention.h"

#include "kernels/cuda/attention_general.cuh"

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

}  // namespace

void run(const At& at, const AttentionForward& call) {
  if (rows_of(call.shape) == 0) return;
  visit_float(call.shape.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
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
    general_weights<T>(stream_of(at), call);
  });
}
ADJOINT_GPU_KERNEL(AttentionWeights)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
