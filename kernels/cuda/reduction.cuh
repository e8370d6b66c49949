#pragma once
// Sums and maxima over any dimensions of a function of one element of each of several views.
//
// Rows (the innermost dimension is reduced): 1 … 32 lanes of a warp or a whole block share an output, each taking the
// elements of one 16-byte access in turn. Columns (it is kept): neighbouring threads take neighbouring outputs, and the
// rows of threads share the terms. What is too long for that is cut into chunks whose results are reduced the same way.
// The order follows from shape and dtype alone: where vectors cannot be loaded, the same thread takes the same
// elements.

#include <limits>
#include <string>

#include "kernels/base/error.h"
#include "kernels/cuda/layout.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {

constexpr unsigned kReductionThreads = 256;

struct Sum {
  template <class A>
  static constexpr A kIdentity = A(0);
  template <class A>
  static __device__ __forceinline__ A combine(A a, A b) {
    return a + b;
  }
};
struct Max {
  template <class A>
  static constexpr A kIdentity = -std::numeric_limits<A>::infinity();
  template <class A>
  static __device__ __forceinline__ A combine(A a, A b) {
    return a > b || a != a ? a : b;  // NaN wins
  }
};

/// The element itself.
struct Identity {
  template <class A, int n>
  __device__ __forceinline__ void operator()(const A (&in)[1][n], A (&out)[n]) const {
#pragma unroll
    for (int k = 0; k < n; ++k) out[k] = in[0][k];
  }
};

/// How a reduction is spread over the GPU.
struct ReductionPlan {
  bool rows;
  unsigned across;  ///< rows: threads of an output; columns: threads side by side
  unsigned blocks;  ///< of each chunk
  unsigned chunk;   ///< terms
  unsigned chunks;
};

/// n: elements of a vector.
inline ReductionPlan plan_reduction(bool rows, std::int64_t outputs, std::int64_t terms, int n) {
  constexpr std::int64_t kEnoughBlocks = 512, kFewest = 4, kMost = 32;
  const auto divide_up = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  const auto power_of_two = [](std::int64_t least) {
    unsigned p = 1;
    while (p < 32 && p < least) p *= 2;
    return p;
  };
  ReductionPlan plan;
  plan.rows = rows;
  std::int64_t together, serial, step;  // outputs of a block; terms that a thread combines one by one; of all threads
  if (rows) {
    const std::int64_t vectors = divide_up(terms, n);
    plan.across = vectors > 256 ? kReductionThreads : power_of_two(divide_up(vectors, 4));
    together = kReductionThreads / plan.across;
    step = std::int64_t{plan.across} * n;
    serial =
        vectors <= 8 * kReductionThreads ? vectors : divide_up(vectors * outputs, kReductionThreads * kEnoughBlocks);
  } else {
    const std::int64_t vectors = divide_up(outputs, n);
    plan.across = power_of_two(vectors);
    together = std::int64_t{plan.across} * n;
    step = kReductionThreads / plan.across;
    serial = terms <= 16 * step ? 16 : divide_up(terms * divide_up(vectors, plan.across), step * kEnoughBlocks);
  }
  serial = serial < kFewest ? kFewest : serial > kMost && terms > kMost * step ? kMost : serial;
  plan.blocks = static_cast<unsigned>(divide_up(outputs, together));
  plan.chunk = static_cast<unsigned>(serial * step < terms ? serial * step : terms);
  plan.chunks = terms > 0 ? static_cast<unsigned>(divide_up(terms, plan.chunk)) : 1;
  return plan;
}

template <int kInputs>
struct Reduction {
  Layout<kInputs> kept, reduced;
  const void* data[kInputs];
  bool repeated[kInputs];  ///< in vectors: one element for all
  bool vectors;
  unsigned across, chunk, chunks;
  void* result;
  void* partial;  ///< [chunks, outputs] in acc_t, or null
  double factor;
  bool accumulate;

  template <class Out>
  __device__ __forceinline__ void write(unsigned which, unsigned output, acc_t<Out> v) const {
    using A = acc_t<Out>;
    if (partial != nullptr) {
      static_cast<A*>(partial)[static_cast<std::size_t>(which) * kept.count + output] = v;
      return;
    }
    Out* const y = static_cast<Out*>(result) + output;
    v *= static_cast<A>(factor);
    *y = static_cast<Out>(accumulate ? static_cast<A>(*y) + v : v);
  }
  /// The values of n elements side by side.
  template <class In, int n, class F>
  __device__ __forceinline__ void load_vector(const std::int64_t (&from)[kInputs], unsigned place,
                                              const Layout<kInputs>& l, acc_t<In> (&in)[kInputs][n]) const {
    std::int64_t at[kInputs];
    l.place(place, at);
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      const In* p = static_cast<const In*>(data[i]) + from[i] + at[i];
      if (repeated[i]) {
        const acc_t<In> one = static_cast<acc_t<In>>(*p);
#pragma unroll
        for (int k = 0; k < n; ++k) in[i][k] = one;
      } else {
        load_pack<In, n>(p, in[i]);
      }
    }
  }
  /// The value of one element.
  template <class In, class F>
  __device__ __forceinline__ acc_t<In> value(const std::int64_t (&from)[kInputs], unsigned place,
                                             const Layout<kInputs>& l, const F& f) const {
    std::int64_t at[kInputs];
    l.place(place, at);
    acc_t<In> in[kInputs][1], out[1] = {};
#pragma unroll
    for (int i = 0; i < kInputs; ++i)
      in[i][0] = static_cast<acc_t<In>>(static_cast<const In*>(data[i])[from[i] + at[i]]);
    f(in, out);
    return out[0];
  }
};

/// Vectors loaded before the first is used.
template <int kInputs>
constexpr int kAhead = kInputs == 1 ? 4 : 1;

template <class In, class Out, class Op, int kInputs, class F>
__global__ void __launch_bounds__(kReductionThreads, 2) reduce_rows(Reduction<kInputs> call, F f) {
  using A = acc_t<In>;
  constexpr int n = kPerVector<In>, ahead = kAhead<kInputs>;
  const unsigned block = blockIdx.x / call.chunks, which = blockIdx.x % call.chunks;
  const unsigned lane = threadIdx.x % call.across;
  const unsigned output = block * (kReductionThreads / call.across) + threadIdx.x / call.across;
  const bool is_there = output < call.kept.count;
  A total[n];
#pragma unroll
  for (int k = 0; k < n; ++k) total[k] = Op::template kIdentity<A>;
  if (is_there) {
    std::int64_t from[kInputs];
    call.kept.place(output, from);
    const unsigned begin = which * call.chunk, end = min(call.reduced.count, begin + call.chunk);
    const unsigned step = call.across * n;
    unsigned t = begin + lane * n;
    if (call.vectors) {
#pragma unroll 1
      for (; t + (ahead - 1) * step + n <= end; t += ahead * step) {
        A in[ahead][kInputs][n], out[n];
#pragma unroll
        for (int j = 0; j < ahead; ++j) call.template load_vector<In, n, F>(from, t + j * step, call.reduced, in[j]);
#pragma unroll
        for (int j = 0; j < ahead; ++j) {
          f(in[j], out);
#pragma unroll
          for (int k = 0; k < n; ++k) total[k] = Op::combine(total[k], out[k]);
        }
      }
    }
#pragma unroll 1
    for (; t < end; t += step) {
#pragma unroll
      for (int k = 0; k < n; ++k)
        if (t + k < end) total[k] = Op::combine(total[k], call.template value<In>(from, t + k, call.reduced, f));
    }
  }
#pragma unroll
  for (int d = n / 2; d > 0; d /= 2) {
#pragma unroll
    for (int k = 0; k < d; ++k) total[k] = Op::combine(total[k], total[k + d]);
  }
  A v = total[0];
  for (unsigned d = min(call.across, 32u) / 2; d > 0; d /= 2)
    v = Op::combine(v, __shfl_xor_sync(0xffffffffu, v, static_cast<int>(d)));
  if (call.across > 32) {  // then the whole block has one output
    constexpr int kWarps = kReductionThreads / 32;
    __shared__ SharedArray<A, kWarps> part;
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    v = part[0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) v = Op::combine(v, part[w]);
  }
  if (is_there && lane == 0) call.template write<Out>(which, output, v);
}

template <class In, class Out, class Op, int kInputs, class F>
__global__ void __launch_bounds__(kReductionThreads, 2) reduce_columns(Reduction<kInputs> call, F f) {
  using A = acc_t<In>;
  constexpr int n = kPerVector<In>, ahead = kAhead<kInputs>;
  __shared__ SharedArray<A, n * kReductionThreads> part;  // [n, rows of threads, threads side by side]
  const unsigned block = blockIdx.x / call.chunks, which = blockIdx.x % call.chunks;
  const unsigned across = call.across, rows = kReductionThreads / across;
  const unsigned x = threadIdx.x % across, y = threadIdx.x / across;
  const unsigned first = block * (across * n);  // of the block's outputs
  const unsigned begin = which * call.chunk, end = min(call.reduced.count, begin + call.chunk);
  // A thread's outputs: side by side, or one of each group of `across`.
  const unsigned mine = first + (call.vectors ? x * n : x), apart = call.vectors ? 1 : across;
  std::int64_t from[kInputs];
  if (call.vectors && mine + n <= call.kept.count) {
    A total[n];
#pragma unroll
    for (int k = 0; k < n; ++k) total[k] = Op::template kIdentity<A>;
    call.kept.place(mine, from);
    unsigned r = begin + y;
    const auto rows_from = [&](auto count) {
      A in[count][kInputs][n], out[n];
#pragma unroll
      for (int j = 0; j < count; ++j) call.template load_vector<In, n, F>(from, r + j * rows, call.reduced, in[j]);
#pragma unroll
      for (int j = 0; j < count; ++j) {
        f(in[j], out);
#pragma unroll
        for (int k = 0; k < n; ++k) total[k] = Op::combine(total[k], out[k]);
      }
      r += count * rows;
    };
    if constexpr (ahead > 1) {
#pragma unroll 1
      while (r + (ahead - 1) * rows < end) rows_from(std::integral_constant<int, ahead>());
    }
#pragma unroll 1
    while (r < end) rows_from(std::integral_constant<int, 1>());
#pragma unroll
    for (int k = 0; k < n; ++k) part[k * kReductionThreads + threadIdx.x] = total[k];
  } else {
#pragma unroll 1
    for (unsigned k = 0; k < n; ++k) {
      A total = Op::template kIdentity<A>;
      const unsigned output = mine + k * apart;
      if (output < call.kept.count) {
        call.kept.place(output, from);
#pragma unroll 1
        for (unsigned r = begin + y; r < end; r += rows)
          total = Op::combine(total, call.template value<In>(from, r, call.reduced, f));
      }
      part[k * kReductionThreads + threadIdx.x] = total;
    }
  }
  __syncthreads();
  for (unsigned half = rows / 2; half > 0; half /= 2) {
    if (y < half) {
#pragma unroll
      for (int k = 0; k < n; ++k) {
        const unsigned at = k * kReductionThreads + threadIdx.x;
        part[at] = Op::combine(static_cast<A>(part[at]), static_cast<A>(part[at + half * across]));
      }
    }
    __syncthreads();
  }
  if (threadIdx.x < across * n && first + threadIdx.x < call.kept.count) {
    const unsigned k = call.vectors ? threadIdx.x % n : threadIdx.x / across;
    const unsigned column = call.vectors ? threadIdx.x / n : threadIdx.x % across;
    call.template write<Out>(which, first + threadIdx.x, part[k * kReductionThreads + column]);
  }
}

/// What a result's view says about its reduction: which dimensions, and which kernel they want.
struct ReductionShape {
  std::int64_t outputs = 1, terms = 1;
  bool rows = false;

  explicit ReductionShape(const View& result) {
    for (int d = 0; d < result.rank; ++d) {
      if (result.shape[d] == 1) continue;
      rows = result.stride[d] == 0;
      (rows ? terms : outputs) *= result.shape[d];
    }
  }
};

inline bool is_reduced(const View& result) {
  for (int d = 0; d < result.rank; ++d)
    if (result.stride[d] == 0 && result.shape[d] != 1) return true;
  return false;
}

constexpr std::size_t kScratchPiece = 256;  // bytes; pieces of scratch begin at multiples of it

inline std::size_t partial_bytes(const ReductionPlan& plan, std::int64_t outputs, std::size_t size) {
  if (plan.chunks == 1) return 0;
  const std::size_t bytes = static_cast<std::size_t>(plan.chunks) * static_cast<std::size_t>(outputs) * size;
  return (bytes + kScratchPiece - 1) / kScratchPiece * kScratchPiece;
}

/// Scratch of the reduction to this view.
inline std::size_t reduction_scratch(const View& result) {
  const ReductionShape shape(result);
  const std::size_t size = size_of(accumulator_of(result.dtype));
  ReductionPlan plan =
      plan_reduction(shape.rows, shape.outputs, shape.terms, 16 / static_cast<int>(size_of(result.dtype)));
  std::size_t bytes = 0;
  while (plan.chunks > 1) {
    bytes += partial_bytes(plan, shape.outputs, size);
    plan = plan_reduction(shape.outputs == 1, shape.outputs, plan.chunks, 16 / static_cast<int>(size));
  }
  return bytes;
}

/// result (+)= factor * Op over the partial results [terms, outputs], which are in the accumulator dtype. Defined in
/// reduce.cu.
template <class Op>
void reduce_partials(Stream stream, const void* partial, std::int64_t terms, const View& result, std::int64_t outputs,
                     double factor, bool accumulate, void* scratch);

/// result (+)= factor * Op of f(inputs) over the dimensions in which the result, the last view, has stride 0. Scratch
/// as reduction_scratch says. At most 2^31 - 1 outputs, and as many terms.
template <class In, class Out, class Op, int kInputs, class F>
void run_reduction(Stream stream, const View (&views)[kInputs + 1], const F& f, double factor, bool accumulate,
                   void* scratch) {
  constexpr int n = kPerVector<In>;
  const View& result = views[kInputs];
  const ReductionShape shape(result);
  if (shape.outputs == 0) return;
  ADJOINT_CHECK(shape.outputs <= kLayoutLimit && shape.terms <= kLayoutLimit, "E-GPU-007", Exit::device,
                "reduce: " + std::to_string(shape.outputs) + " results of " + std::to_string(shape.terms) +
                    " elements each; expected at most 2147483647 of both; try smaller batches");
  Dimensions<kInputs> kept, reduced;
  for (int d = 0; d < result.rank; ++d) {
    std::int64_t strides[kInputs];
    for (int i = 0; i < kInputs; ++i) strides[i] = views[i].stride[d];
    (result.stride[d] == 0 ? reduced : kept).add(result.shape[d], strides);
  }
  const ReductionPlan plan = plan_reduction(shape.rows, shape.outputs, shape.terms, n);
  Reduction<kInputs> call;
  call.kept = kept.layout();
  call.reduced = reduced.layout();
  const Dimensions<kInputs>&inner = plan.rows ? reduced : kept, &outer = plan.rows ? kept : reduced;
  call.vectors = inner.has_vectors(n);
  for (int i = 0; i < kInputs; ++i) {
    call.data[i] = views[i].data;
    call.repeated[i] = inner.rank > 0 && inner.stride[i][inner.rank - 1] == 0;
    if (call.repeated[i]) continue;
    call.vectors = call.vectors && is_aligned(views[i].data, 16);
    for (int d = 0; d < outer.rank; ++d) call.vectors = call.vectors && outer.stride[i][d] % n == 0;
  }
  call.across = plan.across;
  call.chunk = plan.chunk;
  call.chunks = plan.chunks;
  call.result = result.data;
  call.partial = plan.chunks > 1 ? scratch : nullptr;
  call.factor = factor;
  call.accumulate = accumulate;
  launch(plan.rows ? reduce_rows<In, Out, Op, kInputs, F> : reduce_columns<In, Out, Op, kInputs, F>,
         dim3(plan.blocks * plan.chunks), dim3(kReductionThreads), 0, stream, call, f);
  if (plan.chunks > 1) {
    reduce_partials<Op>(stream, scratch, plan.chunks, result, shape.outputs, factor, accumulate,
                        static_cast<char*>(scratch) + partial_bytes(plan, shape.outputs, sizeof(acc_t<In>)));
  }
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
