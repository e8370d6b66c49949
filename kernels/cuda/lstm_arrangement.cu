// An LSTM's operands in cuDNN's order. One element a thread.

#include "kernels/cuda/lstm_arrangement.h"

#include <algorithm>

#include "kernels/cuda/compat.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

constexpr int kThreads = 256;

template <class T>
__device__ __forceinline__ acc_t<T> value_or_zero(const void* p, std::int64_t at) {
  return p == nullptr ? acc_t<T>(0) : static_cast<acc_t<T>>(static_cast<const T*>(p)[at]);
}
template <class T>
__device__ __forceinline__ void put(void* p, std::int64_t at, acc_t<T> value, bool accumulate) {
  T* const to = static_cast<T*>(p) + at;
  if (accumulate) value += static_cast<acc_t<T>>(*to);
  *to = static_cast<T>(value);
}

template <class T>
__global__ void __launch_bounds__(kThreads) arrange_steps(ArrangeSteps x, std::int64_t count) {
  const std::int64_t width = x.width + (x.held ? 1 : 0);
  for (std::int64_t e = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; e < count;
       e += static_cast<std::int64_t>(gridDim.x) * kThreads) {
    const std::int64_t i = e % width, t = e / width % x.time, b = e / width / x.time;
    const std::int64_t n = x.lengths == nullptr ? x.time : x.lengths[b];
    const std::int64_t to = b * x.to_stride[0] + t * x.to_stride[1] + i;
    acc_t<T> value(0);
    if (i == x.width) {
      value = acc_t<T>(t < n ? 0 : 1);
    } else if (t < n) {
      value = value_or_zero<T>(x.from, b * x.from_stride[0] + (x.reverse ? n - 1 - t : t) * x.from_stride[1] + i);
      if (t == n - 1) value += value_or_zero<T>(x.last, b * x.width + i);
    }
    put<T>(x.to, to, value, x.accumulate);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) arrange_state(ArrangeState x, std::int64_t count) {
  for (std::int64_t e = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; e < count;
       e += static_cast<std::int64_t>(gridDim.x) * kThreads) {
    const std::int64_t b = e / x.width, n = x.lengths == nullptr ? x.time : x.lengths[b];
    acc_t<T> value = value_or_zero<T>(x.always, e);
    value += n > 0 ? value_or_zero<T>(x.steps, (b * x.time + n - 1) * x.width + e % x.width)
                   : value_or_zero<T>(x.if_none, e);
    put<T>(x.to.data, e, value, x.to.accumulate);
  }
}

/// Element e of a gate's rows: of the input's matrix, then of the state's, then of both vectors.
struct Element {
  int gate;
  int part;  // 0 w_ih, 1 w_hh, 2 b_ih, 3 b_hh
  std::int64_t row, column;
};
__device__ __forceinline__ Element element_of(std::int64_t e, std::int64_t input, std::int64_t hidden) {
  const std::int64_t row = e / (input + hidden + 2), column = e % (input + hidden + 2);
  const int gate = static_cast<int>(row / hidden);
  const std::int64_t unit = row % hidden;
  if (column < input) return {gate, 0, unit, column};
  if (column < input + hidden) return {gate, 1, unit, column - input};
  return {gate, column == input + hidden ? 2 : 3, unit, 0};
}

template <class T>
__global__ void __launch_bounds__(kThreads) arrange_weights(ArrangeWeights x, std::int64_t count) {
  const std::int64_t input = x.input + (x.held ? 1 : 0);
  for (std::int64_t e = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; e < count;
       e += static_cast<std::int64_t>(gridDim.x) * kThreads) {
    const Element it = element_of(e, input, x.hidden);
    const std::int64_t row = it.gate * x.hidden + it.row;
    if (it.part == 0) {
      const float hold = it.gate == 0 ? -1e4f : it.gate == 1 ? 1e4f : 0.0f;
      static_cast<T*>(x.places.matrix[it.gate])[it.row * input + it.column] =
          it.column == x.input ? static_cast<T>(hold) : static_cast<const T*>(x.w_ih)[row * x.input + it.column];
    } else if (it.part == 1) {
      static_cast<T*>(x.places.matrix[4 + it.gate])[it.row * x.hidden + it.column] =
          static_cast<const T*>(x.w_hh)[row * x.hidden + it.column];
    } else {
      static_cast<T*>(x.places.bias[(it.part - 2) * 4 + it.gate])[it.row] =
          static_cast<T>(value_or_zero<T>(it.part == 2 ? x.b_ih : x.b_hh, row));
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) collect_weights(CollectWeights x, std::int64_t count) {
  const std::int64_t input = x.input + (x.held ? 1 : 0);
  for (std::int64_t e = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; e < count;
       e += static_cast<std::int64_t>(gridDim.x) * kThreads) {
    const Element it = element_of(e, input, x.hidden);
    const std::int64_t row = it.gate * x.hidden + it.row;
    if (it.part == 0) {
      if (x.w_ih.data != nullptr && it.column < x.input)
        put<T>(x.w_ih.data, row * x.input + it.column,
               value_or_zero<T>(x.places.matrix[it.gate], it.row * input + it.column), x.w_ih.accumulate);
    } else if (it.part == 1) {
      if (x.w_hh.data != nullptr)
        put<T>(x.w_hh.data, row * x.hidden + it.column,
               value_or_zero<T>(x.places.matrix[4 + it.gate], it.row * x.hidden + it.column), x.w_hh.accumulate);
    } else {
      const GradOut& to = it.part == 2 ? x.b_ih : x.b_hh;
      if (to.data != nullptr)
        put<T>(to.data, row, value_or_zero<T>(x.places.bias[(it.part - 2) * 4 + it.gate], it.row), to.accumulate);
    }
  }
}

template <class Call>
void launch_over(const At& at, const Call& call, void (*f64)(Call, std::int64_t), void (*f32)(Call, std::int64_t),
                 void (*half)(Call, std::int64_t), std::int64_t count) {
  if (count == 0) return;
  const auto kernel = call.dtype == DType::f64 ? f64 : call.dtype == DType::f32 ? f32 : half;
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((count + kThreads - 1) / kThreads, 4096));
  launch(kernel, dim3(blocks), dim3(kThreads), 0, stream_of(at), call, count);
}

}  // namespace

void run(const At& at, const ArrangeSteps& call) {
  launch_over(at, call, arrange_steps<double>, arrange_steps<float>, arrange_steps<bf16>,
              call.batch * call.time * (call.width + (call.held ? 1 : 0)));
}
void run(const At& at, const ArrangeState& call) {
  launch_over(at, call, arrange_state<double>, arrange_state<float>, arrange_state<bf16>, call.batch * call.width);
}
void run(const At& at, const ArrangeWeights& call) {
  launch_over(at, call, arrange_weights<double>, arrange_weights<float>, arrange_weights<bf16>,
              4 * call.hidden * (call.input + (call.held ? 1 : 0) + call.hidden + 2));
}
void run(const At& at, const CollectWeights& call) {
  launch_over(at, call, collect_weights<double>, collect_weights<float>, collect_weights<bf16>,
              4 * call.hidden * (call.input + (call.held ? 1 : 0) + call.hidden + 2));
}

ADJOINT_GPU_KERNEL(ArrangeSteps)
ADJOINT_GPU_KERNEL(ArrangeState)
ADJOINT_GPU_KERNEL(ArrangeWeights)
ADJOINT_GPU_KERNEL(CollectWeights)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
