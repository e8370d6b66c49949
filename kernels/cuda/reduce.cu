// Reductions over any dimensions (reduction.cuh), the gradient of max, and arg max. Bound by reading x once; the
// gradient of max clears dx and reads x once.

#include "kernels/reduce.h"

#include "kernels/cuda/reduction.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {

template <class Op>
void reduce_partials(Stream stream, const void* partial, std::int64_t terms, const View& result, std::int64_t outputs,
                     double factor, bool accumulate, void* scratch) {
  visit_float(result.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using A = acc_t<S>;
    View from, to;
    from.data = const_cast<void*>(partial);
    from.dtype = dtype_of<A>;
    from.rank = 2;
    from.shape[0] = terms;
    from.shape[1] = outputs;
    from.stride[0] = outputs;
    from.stride[1] = 1;
    to = from;
    to.data = result.data;
    to.dtype = result.dtype;
    to.stride[0] = 0;
    const View views[] = {from, to};
    run_reduction<A, S, Op, 1>(stream, views, Identity{}, factor, accumulate, scratch);
  });
}
template void reduce_partials<Sum>(Stream, const void*, std::int64_t, const View&, std::int64_t, double, bool, void*);
template void reduce_partials<Max>(Stream, const void*, std::int64_t, const View&, std::int64_t, double, bool, void*);

std::size_t scratch_bytes(const At&, const Reduce& call) { return reduction_scratch(call.y); }
ADJOINT_GPU_SCRATCH(Reduce)

void run(const At& at, const Reduce& call) {
  const View views[] = {call.x, call.y};
  visit_float(call.y.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    if (call.kind == ReduceKind::sum) {
      run_reduction<S, S, Sum, 1>(stream_of(at), views, Identity{}, call.factor, call.accumulate, call.scratch);
    } else {
      run_reduction<S, S, Max, 1>(stream_of(at), views, Identity{}, call.factor, false, call.scratch);
    }
  });
}
ADJOINT_GPU_KERNEL(Reduce)

// ---- The gradient of max ----

/// x, y, dy, dx.
struct MaxSlopes {
  Layout<4> kept, reduced;
  const void* data[3];
  void* dx;
  unsigned across;    ///< threads of an output
  bool side_by_side;  ///< the threads of an output are neighbours; else those of neighbouring outputs are
  bool accumulate;
};

/// Adds dy at the first term of each output that is its maximum.
template <class S>
__global__ void __launch_bounds__(kReductionThreads) add_at_first_max(MaxSlopes call) {
  using A = acc_t<S>;
  constexpr unsigned kNowhere = 0xffffffffu;
  __shared__ SharedArray<unsigned, kReductionThreads> found;
  const unsigned outputs = kReductionThreads / call.across;  // of a block
  const unsigned lane = call.side_by_side ? threadIdx.x % call.across : threadIdx.x / outputs;
  const unsigned mine = call.side_by_side ? threadIdx.x / call.across : threadIdx.x % outputs;
  const unsigned output = blockIdx.x * outputs + mine;
  const unsigned apart = call.side_by_side ? 1 : outputs;
  unsigned first = kNowhere;
  std::int64_t from[4];
  if (output < call.kept.count) {
    call.kept.place(output, from);
    const A y = static_cast<A>(static_cast<const S*>(call.data[1])[from[1]]);
#pragma unroll 1
    for (unsigned t = lane; t < call.reduced.count; t += call.across) {
      std::int64_t at[4];
      call.reduced.place(t, at);
      const A x = static_cast<A>(static_cast<const S*>(call.data[0])[from[0] + at[0]]);
      if (x == y || (x != x && y != y)) {
        first = t;
        break;
      }
    }
  }
  found[threadIdx.x] = first;
  __syncthreads();
  for (unsigned half = call.across / 2; half > 0; half /= 2) {
    if (lane < half) found[threadIdx.x] = min(found[threadIdx.x], found[threadIdx.x + half * apart]);
    __syncthreads();
  }
  first = found[threadIdx.x];
  if (lane == 0 && output < call.kept.count && first != kNowhere) {
    std::int64_t at[4];
    call.reduced.place(first, at);
    S* const dx = static_cast<S*>(call.dx) + from[3] + at[3];
    const A dy = static_cast<A>(static_cast<const S*>(call.data[2])[from[2]]);
    *dx = static_cast<S>(call.accumulate ? static_cast<A>(*dx) + dy : dy);
  }
}

void run(const At& at, const MaxBackward& call) {
  const ReductionShape shape(call.y);
  if (call.dx.data == nullptr || shape.outputs == 0 || shape.terms == 0) return;
  ADJOINT_CHECK(shape.outputs <= kLayoutLimit && shape.terms <= kLayoutLimit, "E-GPU-007", Exit::device,
                "max: the gradient of " + std::to_string(shape.outputs) + " maxima of " + std::to_string(shape.terms) +
                    " elements each; expected at most 2147483647 of both; try smaller batches");
  const DType dtype = call.x.dtype;
  if (!call.dx.accumulate) zero(call.dx.data, static_cast<std::size_t>(call.x.count()) * size_of(dtype), stream_of(at));
  const View views[] = {call.x, call.y, call.dy, dense_like(call.x, call.dx.data, dtype)};
  Dimensions<4> kept, reduced;
  for (int d = 0; d < call.x.rank; ++d) {
    std::int64_t strides[4];
    for (int i = 0; i < 4; ++i) strides[i] = views[i].stride[d];
    (call.y.stride[d] == 0 ? reduced : kept).add(call.x.shape[d], strides);
  }
  MaxSlopes slopes;
  slopes.kept = kept.layout();
  slopes.reduced = reduced.layout();
  for (int i = 0; i < 3; ++i) slopes.data[i] = views[i].data;
  slopes.dx = call.dx.data;
  slopes.side_by_side = shape.rows;
  slopes.accumulate = call.dx.accumulate;
  // Enough threads on an output for some four terms each; no fewer than 32 outputs side by side.
  slopes.across = 1;
  while (slopes.across < (shape.rows ? kReductionThreads : 8) && slopes.across * 4 < shape.terms) slopes.across *= 2;
  const std::int64_t outputs = kReductionThreads / slopes.across;
  visit_float(dtype, [&](auto type) {
    launch(add_at_first_max<typename decltype(type)::type>,
           dim3(static_cast<unsigned>((shape.outputs + outputs - 1) / outputs)), dim3(kReductionThreads), 0,
           stream_of(at), slopes);
  });
}
ADJOINT_GPU_KERNEL(MaxBackward)

// ---- Arg max ----

template <class A>
struct Candidate {
  A value;
  int index;

  /// The larger; a NaN before all else; the first of equals.
  __device__ __forceinline__ void meet(A other, int other_index) {
    const bool nan = value != value, other_nan = other != other;
    const bool equal = value == other || (nan && other_nan);
    const bool takes_over = equal ? other_index < index : other_nan || (!nan && other > value);
    if (takes_over) {
      value = other;
      index = other_index;
    }
  }
};

/// `across` lanes of a warp to a row.
template <class S>
__global__ void __launch_bounds__(kReductionThreads)
    arg_max(const S* x, std::int32_t* index, std::int64_t rows, std::int64_t width, unsigned across, bool vectors) {
  using A = acc_t<S>;
  constexpr int n = kPerVector<S>;
  const unsigned lane = threadIdx.x % across;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kReductionThreads / across) + threadIdx.x / across;
  Candidate<A> best{-std::numeric_limits<A>::infinity(), static_cast<int>(width)};  // loses against any element
  if (row < rows) {
    const S* const p = x + row * width;
#pragma unroll 1
    for (std::int64_t i = lane * n; i < width; i += across * n) {
      if (vectors && i + n <= width) {
        A v[n];
        load_pack<S, n>(p + i, v);
#pragma unroll
        for (int k = 0; k < n; ++k) best.meet(v[k], static_cast<int>(i) + k);
      } else {
#pragma unroll 1
        for (std::int64_t k = i; k < min(i + n, width); ++k) best.meet(static_cast<A>(p[k]), static_cast<int>(k));
      }
    }
  }
  for (unsigned d = across / 2; d > 0; d /= 2) {
    const A value = __shfl_xor_sync(0xffffffffu, best.value, static_cast<int>(d));
    const int at = __shfl_xor_sync(0xffffffffu, best.index, static_cast<int>(d));
    best.meet(value, at);
  }
  if (row < rows && lane == 0) index[row] = best.index;
}

void run(const At& at, const ArgMax& call) {
  if (call.rows == 0) return;
  visit_float(call.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    constexpr int n = kPerVector<S>;
    unsigned across = 1;
    while (across < 32 && across * n * 2 < call.width) across *= 2;
    const std::int64_t together = kReductionThreads / across;
    launch(arg_max<S>, dim3(static_cast<unsigned>((call.rows + together - 1) / together)), dim3(kReductionThreads), 0,
           stream_of(at), static_cast<const S*>(call.x), call.index, call.rows, call.width, across,
           call.width % n == 0 && is_aligned(call.x, 16));
  });
}
ADJOINT_GPU_KERNEL(ArgMax)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
