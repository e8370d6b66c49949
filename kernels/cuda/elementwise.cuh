#pragma once
// Functions of one element of each of several views, written to one element of another. One kernel for every layout: a
// thread takes the elements of one 16-byte access where all views have them side by side (or repeat one), else as many
// single elements, a block apart.

#include "kernels/cuda/layout.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {

constexpr int kElementwiseThreads = 256;

/// kInputs views and, last, the result.
template <int kInputs>
struct Elementwise {
  static constexpr int kResult = kInputs;

  Layout<kInputs + 1> layout;
  void* data[kInputs + 1];
  bool repeated[kInputs + 1];  ///< in vectors: one element for all
  bool vectors;
  bool accumulate;
};

/// result (+)= f(inputs): f(const A (&in)[kInputs][n], A (&out)[n]) with A = acc_t<S>.
template <class S, int kInputs, class F>
__global__ void __launch_bounds__(kElementwiseThreads) elementwise(Elementwise<kInputs> call, F f) {
  using A = acc_t<S>;
  constexpr int n = kPerVector<S>;
  const unsigned block_first = blockIdx.x * (kElementwiseThreads * n);
  const unsigned first = block_first + threadIdx.x * (call.vectors ? n : 1);
  const unsigned step = call.vectors ? 1 : kElementwiseThreads;
  const bool whole = call.vectors && first + n <= call.layout.count;
  A in[kInputs][n], out[n];
  S* const result = static_cast<S*>(call.data[kInputs]);
  std::int64_t at[kInputs + 1];

  if (whole) {
    call.layout.place(first, at);
#pragma unroll
    for (int j = 0; j < kInputs; ++j) {
      const S* p = static_cast<const S*>(call.data[j]) + at[j];
      if (call.repeated[j]) {
        const A one = static_cast<A>(*p);
#pragma unroll
        for (int k = 0; k < n; ++k) in[j][k] = one;
      } else {
        load_pack<S, n>(p, in[j]);
      }
    }
  } else {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const bool is_there = first + k * step < call.layout.count;
      if (is_there) call.layout.place(first + k * step, at);
#pragma unroll
      for (int j = 0; j < kInputs; ++j)
        in[j][k] = is_there ? static_cast<A>(static_cast<const S*>(call.data[j])[at[j]]) : A(1);
    }
  }

  f(in, out);

  if (whole) {
    if (call.accumulate) {
      A old[n];
      load_pack<S, n>(result + at[kInputs], old);
#pragma unroll
      for (int k = 0; k < n; ++k) out[k] += old[k];
    }
    store_pack<S, n>(result + at[kInputs], out);
  } else {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      if (first + k * step >= call.layout.count) continue;
      call.layout.place(first + k * step, at);
      S* const y = result + at[kInputs];
      *y = static_cast<S>(call.accumulate ? static_cast<A>(*y) + out[k] : out[k]);
    }
  }
}

/// Launches it over views of one shape and dtype, the result last.
template <class S, int kInputs, class F>
void run_elementwise(Stream stream, const View (&views)[kInputs + 1], bool accumulate, const F& f) {
  constexpr int n = kPerVector<S>;
  for_pieces(views, kLayoutLimit, [&](const View(&piece)[kInputs + 1]) {
    const Dimensions<kInputs + 1> dimensions = dimensions_of(piece, true);
    if (dimensions.count() == 0) return;
    Elementwise<kInputs> call;
    call.layout = dimensions.layout();
    call.accumulate = accumulate;
    call.vectors = dimensions.has_vectors(n);
    for (int i = 0; i <= kInputs; ++i) {
      call.data[i] = piece[i].data;
      call.repeated[i] = dimensions.rank > 0 && dimensions.stride[i][dimensions.rank - 1] == 0;
      call.vectors = call.vectors && (call.repeated[i] || is_aligned(piece[i].data, 16));
    }
    const unsigned per_block = kElementwiseThreads * n;
    launch(elementwise<S, kInputs, F>, dim3(call.layout.count / per_block + (call.layout.count % per_block != 0)),
           dim3(kElementwiseThreads), 0, stream, call, f);
  });
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
