// Softmax cross-entropy. A group of lanes takes a row: 4 lanes for up to 16 classes, a warp for up to 1024, else a
// block; maximum and sum of exponentials in one pass over the row. The rows' losses are added in order by one block, in
// f64. Floor: one pass over x forward, two backward.
//
// A lane reads units of 4 bytes, up to 8 of them in flight, not packs of 16: a vocabulary's size is seldom a multiple
// of 8, so rows start anywhere, and which lane adds which class must not depend on where. Units stay coalesced
// everywhere, and 32 bytes a thread in flight are enough to keep memory busy. Classes are counted in int, as targets
// are.

#include "kernels/cross_entropy.h"

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/vector.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kSumThreads = 1024;  // of the one block that adds up the rows
// A log-sum-exp is only as fine as its own size: beyond this, x - log_sum_exp would lose the low bits of a probability.
constexpr float kLargeLogSum = 16.0f;

/// e^x for x <= 0. For f32 by exp2: the product costs |x| roundings, and a term that far below the largest counts the
/// less for it.
__device__ __forceinline__ float exponential(float x) { return exp2f(x * 1.44269504f); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

/// A lane's share of some classes of a row.
template <class T, int kGroup>
struct Share {
  using A = acc_t<T>;
  static constexpr int n = sizeof(T) < 4 ? 4 / static_cast<int>(sizeof(T)) : 1;  // classes of a unit
  static constexpr int kUnits = kGroup == 4 ? 4 / n : 8;                         // 4 lanes have their row in one go
  static constexpr int kClasses = kUnits * n * kGroup;                           // of the whole group
  A v[kUnits][n];

  /// Calls f(unit, k, class) for each of the lane's classes; those from `classes` on do not exist.
  template <class F>
  __device__ __forceinline__ static void each(int first, F f) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
#pragma unroll
      for (int k = 0; k < n; ++k) f(u, k, first + (u * kGroup + static_cast<int>(threadIdx.x) % kGroup) * n + k);
  }
  /// Whether a unit may be accessed as one.
  __device__ __forceinline__ static bool is_whole(const T* row) {
    return n > 1 && reinterpret_cast<std::uintptr_t>(row) % 4 == 0;
  }
  /// Classes that do not exist are -inf.
  __device__ __forceinline__ void load(const T* row, int first, int classes, bool whole) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const int i = first + (u * kGroup + static_cast<int>(threadIdx.x) % kGroup) * n;
      if (whole && i + n <= classes) {
        load_pack<T, n>(row + i, v[u]);
      } else {
#pragma unroll
        for (int k = 0; k < n; ++k) v[u][k] = i + k < classes ? static_cast<A>(row[i + k]) : static_cast<A>(-INFINITY);
      }
    }
  }
  __device__ __forceinline__ void store(T* row, int first, int classes, bool whole) const {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const int i = first + (u * kGroup + static_cast<int>(threadIdx.x) % kGroup) * n;
      if (whole && i + n <= classes) {
        store_pack<T, n>(row + i, v[u]);
      } else {
#pragma unroll
        for (int k = 0; k < n; ++k)
          if (i + k < classes) row[i + k] = static_cast<T>(v[u][k]);
      }
    }
  }
};

/// The largest of some numbers, and the sum of exp(x - largest) over them.
template <class A>
struct Exponentials {
  A largest = static_cast<A>(-INFINITY);
  A sum = 0;

  template <int kUnits, int n>
  __device__ __forceinline__ void add(const A (&x)[kUnits][n]) {
    A top = largest;
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
#pragma unroll
      for (int k = 0; k < n; ++k) top = fmax(top, x[u][k]);  // not a NaN: that comes into the sum
    const A shift = top == static_cast<A>(-INFINITY) ? A(0) : top;
    A more = 0;
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
#pragma unroll
      for (int k = 0; k < n; ++k) more += exponential(x[u][k] - shift);
    sum = sum * exponential(largest - shift) + more;
    largest = top;
  }
  __device__ __forceinline__ void add(A other_largest, A other_sum) {
    const A top = fmax(largest, other_largest);
    if (top == static_cast<A>(-INFINITY)) {
      sum += other_sum;  // 0, or NaN
      return;
    }
    sum = sum * exponential(largest - top) + other_sum * exponential(other_largest - top);
    largest = top;
  }
};

/// Of a whole row, in every thread of its group. All threads of the block call it.
template <int kGroup, class T>
__device__ Exponentials<acc_t<T>> exponentials(const T* row, int classes, bool is_there) {
  using A = acc_t<T>;
  using S = Share<T, kGroup>;
  Exponentials<A> e;
  if (is_there) {
    const bool whole = S::is_whole(row);
#pragma unroll 1
    for (int first = 0; first < classes; first += S::kClasses) {
      S x;
      x.load(row, first, classes, whole);
      e.add(x.v);
    }
  }
  constexpr int kLanes = kGroup < 32 ? kGroup : 32;
#pragma unroll
  for (int d = kLanes / 2; d > 0; d >>= 1) {
    const A largest = __shfl_xor_sync(0xffffffffu, e.largest, d), sum = __shfl_xor_sync(0xffffffffu, e.sum, d);
    // Both partners must merge in one order to get equal bits.
    Exponentials<A> first = e, second{largest, sum};
    if ((threadIdx.x & d) != 0) {
      first = second;
      second = e;
    }
    first.add(second.largest, second.sum);
    e = first;
  }
  if constexpr (kGroup > 32) {
    __shared__ SharedArray<A, kGroup / 32> largest;
    __shared__ SharedArray<A, kGroup / 32> sum;
    if (threadIdx.x % 32 == 0) {
      largest[threadIdx.x / 32] = e.largest;
      sum[threadIdx.x / 32] = e.sum;
    }
    __syncthreads();
    e = {largest[0], sum[0]};
    for (int w = 1; w < kGroup / 32; ++w) e.add(largest[w], sum[w]);
    __syncthreads();
  } else {
    __syncwarp();  // a backward in place writes what other lanes have read
  }
  return e;
}

template <class T, int kGroup>
__global__ void __launch_bounds__(kThreads)
    forward_rows(std::int64_t rows, int classes, const T* x, const std::int32_t* targets, std::int32_t ignore,
                 acc_t<T>* log_sum_exp, acc_t<T>* loss) {
  using A = acc_t<T>;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  const bool is_there = row < rows;
  const Exponentials<A> e = exponentials<kGroup>(x + row * classes, classes, is_there);
  if (!is_there || threadIdx.x % kGroup != 0) return;
  const std::int32_t target = targets[row];
  if (target == ignore) {
    log_sum_exp[row] = loss[row] = A(0);
    return;
  }
  const A shift = e.largest == static_cast<A>(-INFINITY) ? A(0) : e.largest, log_sum = log(e.sum);
  log_sum_exp[row] = shift + log_sum;
  if (target < 0 || target >= classes) {
    loss[row] = static_cast<A>(NAN);
  } else {
    loss[row] =
        e.sum == A(0) ? static_cast<A>(INFINITY) : (shift - static_cast<A>(x[row * classes + target])) + log_sum;
  }
}

template <class A>
__global__ void __launch_bounds__(kSumThreads) mean_loss(std::int64_t rows, const std::int32_t* targets,
                                                         std::int32_t ignore, const A* row_loss, A* loss, A* count) {
  double total = 0, counted = 0;
#pragma unroll 4
  for (std::int64_t r = threadIdx.x; r < rows; r += kSumThreads) {
    total += static_cast<double>(row_loss[r]);
    counted += targets[r] != ignore ? 1 : 0;
  }
  total = block_sum<kSumThreads>(total);
  counted = block_sum<kSumThreads>(counted);
  if (threadIdx.x != 0) return;
  *loss = static_cast<A>(total / fmax(counted, 1.0));
  *count = static_cast<A>(counted);
}

template <class T, int kGroup>
__global__ void __launch_bounds__(kThreads)
    backward_rows(std::int64_t rows, int classes, const T* x, const std::int32_t* targets, std::int32_t ignore,
                  const acc_t<T>* log_sum_exp, const acc_t<T>* count, const acc_t<T>* dloss, T* dx, bool accumulate) {
  using A = acc_t<T>;
  const A factor = *dloss / (*count > A(0) ? *count : A(1));
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  const bool is_there = row < rows;
  const std::int32_t target = is_there ? targets[row] : ignore;
  const bool counts = target != ignore;
  A shift = counts ? log_sum_exp[row] : A(0), log_sum = 0;
  const bool again = counts && !(fabs(shift) <= static_cast<A>(kLargeLogSum));
  if (__syncthreads_or(again) != 0) {  // together, since a block may be one row and has barriers inside
    const Exponentials<A> e = exponentials<kGroup>(x + row * classes, classes, is_there);
    if (again) {
      shift = e.largest == static_cast<A>(-INFINITY) ? A(0) : e.largest;
      log_sum = e.sum == A(0) ? A(0) : log(e.sum);  // a row of only -inf has exponentials 0
    }
  }
  if (!is_there || (!counts && accumulate)) return;
  using S = Share<T, kGroup>;
  const T* const from = x + row * classes;
  T* const to = dx + row * classes;
  const bool whole_from = S::is_whole(from), whole_to = S::is_whole(to);
#pragma unroll 1
  for (int first = 0; first < classes; first += S::kClasses) {
    S g, before;
    g.load(from, first, classes, whole_from);
    if (accumulate) before.load(to, first, classes, whole_to);
    S::each(first, [&](int u, int k, int i) {
      const A p = exponential(g.v[u][k] - shift - log_sum);
      const A d = counts ? factor * (i == target ? p - A(1) : p) : A(0);
      g.v[u][k] = accumulate ? before.v[u][k] + d : d;
    });
    g.store(to, first, classes, whole_to);
  }
}

/// Calls f with the group's size as a compile-time constant.
template <class F>
void with_group(std::int64_t classes, F&& f) {
  if (classes <= 16) {
    f.template operator()<4>();
  } else if (classes <= 1024) {
    f.template operator()<32>();
  } else {
    f.template operator()<kThreads>();
  }
}

template <int kGroup>
dim3 grid_of(std::int64_t rows) {
  constexpr std::int64_t kRows = kThreads / kGroup;
  return dim3(static_cast<unsigned>((rows + kRows - 1) / kRows));
}

}  // namespace

std::size_t scratch_bytes(const At&, const CrossEntropyForward& call) {
  return static_cast<std::size_t>(call.rows) * size_of(accumulator_of(call.dtype));
}

void run(const At& at, const CrossEntropyForward& call) {
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    if (call.rows > 0) {
      with_group(call.classes, [&]<int kGroup>() {
        launch(forward_rows<T, kGroup>, grid_of<kGroup>(call.rows), dim3(kThreads), 0, stream_of(at), call.rows,
               static_cast<int>(call.classes), static_cast<const T*>(call.x), call.targets, call.ignore,
               static_cast<A*>(call.log_sum_exp), static_cast<A*>(call.scratch));
      });
    }
    launch(mean_loss<A>, dim3(1), dim3(kSumThreads), 0, stream_of(at), call.rows, call.targets, call.ignore,
           static_cast<const A*>(call.scratch), static_cast<A*>(call.loss), static_cast<A*>(call.count));
  });
}

void run(const At& at, const CrossEntropyBackward& call) {
  if (call.dx.data == nullptr || call.rows == 0 || call.classes == 0) return;
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    with_group(call.classes, [&]<int kGroup>() {
      launch(backward_rows<T, kGroup>, grid_of<kGroup>(call.rows), dim3(kThreads), 0, stream_of(at), call.rows,
             static_cast<int>(call.classes), static_cast<const T*>(call.x), call.targets, call.ignore,
             static_cast<const A*>(call.log_sum_exp), static_cast<const A*>(call.count),
             static_cast<const A*>(call.dloss), static_cast<T*>(call.dx.data), call.dx.accumulate);
    });
  });
}

ADJOINT_GPU_SCRATCH(CrossEntropyForward)
ADJOINT_GPU_KERNEL(CrossEntropyForward)
ADJOINT_GPU_KERNEL(CrossEntropyBackward)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
