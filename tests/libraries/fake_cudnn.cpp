// The stand-in's LSTM: one unidirectional layer over all steps, in double. As the real one, it keeps its weights in an
// order of its own, spoils its reserve on the way back, and only adds to the gradients of weights.

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/base/dtype.h"
#include "tests/libraries/fake_cudnn_state.h"

using adjoint::bf16;
using adjoint::testing::FakeCudnn;
using namespace adjoint::testing::fake;

struct cudnnContext {
  cudaStream_t stream = nullptr;
};
struct cudnnTensorStruct {
  cudnnDataType_t type{};
  std::vector<int> extents, strides;
};
struct cudnnDropoutStruct {
  float share = -1;
};
struct cudnnRNNStruct {
  cudnnDataType_t type{}, math_type{};
  cudnnMathType_t math{};
  cudnnRNNAlgo_t algorithm{};
  int input = 0, hidden = 0;
};
struct cudnnRNNDataStruct {
  cudnnDataType_t type{};
  int time = 0, batch = 0, width = 0;
};

adjoint::testing::FakeCudnn adjoint::testing::fake::state;

namespace {

std::size_t size_of(cudnnDataType_t type) {
  return type == CUDNN_DATA_DOUBLE ? 8 : type == CUDNN_DATA_FLOAT ? 4 : type == CUDNN_DATA_BFLOAT16 ? 2 : 0;
}

constexpr std::size_t kGap = 5;  // elements between the pieces of the weights

/// Element at which a gate's matrix or vector begins: vectors first, then matrices, both from the last gate down.
std::size_t bias_at(const cudnnRNNStruct& r, int gate) {
  return static_cast<std::size_t>(7 - gate) * (static_cast<std::size_t>(r.hidden) + kGap);
}
std::size_t matrix_at(const cudnnRNNStruct& r, int gate) {
  std::size_t at = 8 * (static_cast<std::size_t>(r.hidden) + kGap);
  for (int g = 7; g > gate; --g) at += static_cast<std::size_t>(r.hidden * (g < 4 ? r.input : r.hidden)) + kGap;
  return at;
}
std::size_t weight_bytes(const cudnnRNNStruct& r) { return matrix_at(r, -1) * size_of(r.type); }
std::size_t reserve_bytes(const cudnnRNNStruct& r, const cudnnRNNDataStruct& x) {
  return static_cast<std::size_t>(x.batch) * static_cast<std::size_t>(x.time) * static_cast<std::size_t>(r.hidden) * 6 *
             (r.type == CUDNN_DATA_DOUBLE ? sizeof(double) : sizeof(float)) +
         state.reserve_beside;
}
std::size_t work_bytes(cudnnForwardMode_t mode) { return mode == CUDNN_FWD_MODE_TRAINING ? 768 : 320; }

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

template <class T>
struct Layer {
  using A = adjoint::acc_t<T>;  // of what is kept
  cudnnRNNStruct r;
  int batch, time;
  const T* weights;

  double weight(int gate, int row, int column) const {
    const int width = gate < 4 ? r.input : r.hidden;
    return static_cast<double>(weights[matrix_at(r, gate) + static_cast<std::size_t>(row * width + column)]);
  }
  double bias(int gate, int row) const {
    return static_cast<double>(weights[bias_at(r, gate) + static_cast<std::size_t>(row)]);
  }
  std::size_t state_at(int b, int u) const { return static_cast<std::size_t>(b * r.hidden + u); }
  std::size_t step_at(int b, int t, int width) const { return static_cast<std::size_t>((b * time + t) * width); }
  /// i, f, g, o, c before, c after of one unit.
  A* kept(void* reserve, int b, int t, int u) const {
    return static_cast<A*>(reserve) + (step_at(b, t, r.hidden) + static_cast<std::size_t>(u)) * 6;
  }
  static double value(const T* p, std::size_t at) { return p == nullptr ? 0.0 : static_cast<double>(p[at]); }

  void forward(const T* x, T* y, const T* hx, T* hy, const T* cx, T* cy, void* reserve) const {
    for (int b = 0; b < batch; ++b) {
      std::vector<double> h, c;
      for (int u = 0; u < r.hidden; ++u) h.push_back(value(hx, state_at(b, u))), c.push_back(value(cx, state_at(b, u)));
      for (int t = 0; t < time; ++t) {
        std::vector<double> next = h;
        for (int u = 0; u < r.hidden; ++u) {
          double z[4];
          for (int g = 0; g < 4; ++g) {
            z[g] = bias(g, u) + bias(4 + g, u);
            for (int i = 0; i < r.input; ++i)
              z[g] += weight(g, u, i) * value(x, step_at(b, t, r.input) + static_cast<std::size_t>(i));
            for (int i = 0; i < r.hidden; ++i) z[g] += weight(4 + g, u, i) * h[static_cast<std::size_t>(i)];
          }
          double& cell = c[static_cast<std::size_t>(u)];
          const double in = sigmoid(z[0]), forget = sigmoid(z[1]), gate = std::tanh(z[2]), out = sigmoid(z[3]);
          const double before = cell;
          cell = forget * before + in * gate;
          next[static_cast<std::size_t>(u)] = out * std::tanh(cell);
          if (reserve != nullptr) {
            const A keep[] = {A(in), A(forget), A(gate), A(out), A(before), A(cell)};
            std::memcpy(kept(reserve, b, t, u), keep, sizeof keep);
          }
        }
        h = next;
        for (int u = 0; u < r.hidden; ++u)
          y[step_at(b, t, r.hidden) + static_cast<std::size_t>(u)] = T(h[static_cast<std::size_t>(u)]);
      }
      for (int u = 0; u < r.hidden; ++u) {
        if (hy != nullptr) hy[state_at(b, u)] = T(h[static_cast<std::size_t>(u)]);
        if (cy != nullptr) cy[state_at(b, u)] = T(c[static_cast<std::size_t>(u)]);
      }
    }
  }

  /// Leaves the gates' gradients in the reserve.
  void backward(const T* dy, T* dx, const T* dhy, T* dhx, const T* dcy, T* dcx, void* reserve) const {
    for (int b = 0; b < batch; ++b) {
      std::vector<double> dh, dc;
      for (int u = 0; u < r.hidden; ++u)
        dh.push_back(value(dhy, state_at(b, u))), dc.push_back(value(dcy, state_at(b, u)));
      for (int t = time - 1; t >= 0; --t) {
        for (int u = 0; u < r.hidden; ++u) {
          A* const k = kept(reserve, b, t, u);
          const double dh_u =
              dh[static_cast<std::size_t>(u)] + value(dy, step_at(b, t, r.hidden) + static_cast<std::size_t>(u));
          const double th = std::tanh(k[5]);
          const double dc_u = dc[static_cast<std::size_t>(u)] + dh_u * k[3] * (1 - th * th);
          dc[static_cast<std::size_t>(u)] = dc_u * k[1];
          const A dz[] = {A(dc_u * k[2] * k[0] * (1 - k[0])), A(dc_u * k[4] * k[1] * (1 - k[1])),
                          A(dc_u * k[0] * (1 - k[2] * k[2])), A(dh_u * th * k[3] * (1 - k[3]))};
          std::memcpy(k, dz, sizeof dz);
        }
        for (int i = 0; i < r.input; ++i) {
          double sum = 0;
          for (int u = 0; u < r.hidden; ++u)
            for (int g = 0; g < 4; ++g) sum += kept(reserve, b, t, u)[g] * weight(g, u, i);
          dx[step_at(b, t, r.input) + static_cast<std::size_t>(i)] = T(sum);
        }
        for (int i = 0; i < r.hidden; ++i) {
          double sum = 0;
          for (int u = 0; u < r.hidden; ++u)
            for (int g = 0; g < 4; ++g) sum += kept(reserve, b, t, u)[g] * weight(4 + g, u, i);
          dh[static_cast<std::size_t>(i)] = sum;
        }
      }
      for (int u = 0; u < r.hidden; ++u) {
        if (dhx != nullptr) dhx[state_at(b, u)] = T(dh[static_cast<std::size_t>(u)]);
        if (dcx != nullptr) dcx[state_at(b, u)] = T(dc[static_cast<std::size_t>(u)]);
      }
    }
  }

  void backward_weights(const T* x, const T* hx, const T* y, T* to, void* reserve) const {
    const auto add = [&](std::size_t at, double v) { to[at] = T(static_cast<double>(to[at]) + v); };
    for (int g = 0; g < 4; ++g)
      for (int u = 0; u < r.hidden; ++u) {
        std::vector<double> input(static_cast<std::size_t>(r.input)), hidden(static_cast<std::size_t>(r.hidden));
        double bias = 0;
        for (int b = 0; b < batch; ++b)
          for (int t = 0; t < time; ++t) {
            const double dz = kept(reserve, b, t, u)[g];
            bias += dz;
            for (std::size_t i = 0; i < input.size(); ++i) input[i] += dz * value(x, step_at(b, t, r.input) + i);
            for (std::size_t i = 0; i < hidden.size(); ++i)
              hidden[i] += dz * (t == 0 ? value(hx, state_at(b, static_cast<int>(i)))
                                        : value(y, step_at(b, t - 1, r.hidden) + i));
          }
        add(bias_at(r, g) + static_cast<std::size_t>(u), bias);
        add(bias_at(r, 4 + g) + static_cast<std::size_t>(u), bias);
        for (std::size_t i = 0; i < input.size(); ++i)
          add(matrix_at(r, g) + static_cast<std::size_t>(u) * input.size() + i, input[i]);
        for (std::size_t i = 0; i < hidden.size(); ++i)
          add(matrix_at(r, 4 + g) + static_cast<std::size_t>(u) * hidden.size() + i, hidden[i]);
      }
  }
};

void note(const char* function, const cudnnRNNStruct& r, const cudnnRNNDataStruct& x) {
  state.lstms.push_back({function, x.batch, x.time, r.input, r.hidden, r.type, r.math_type, r.math, r.algorithm});
}

/// f(T(), a pointer to const void as one to const T, …)
template <class F>
cudnnStatus_t typed(cudnnDataType_t type, const F& f) {
  if (type == CUDNN_DATA_DOUBLE) return f(double());
  if (type == CUDNN_DATA_FLOAT) return f(float());
  return f(bf16());
}

bool is_state(const cudnnTensorStruct* d, const cudnnRNNStruct& r, const cudnnRNNDataStruct& x) {
  return d->type == r.type && d->extents == std::vector<int>{1, x.batch, r.hidden} &&
         d->strides == std::vector<int>{x.batch * r.hidden, r.hidden, 1};
}

}  // namespace

extern "C" {

FakeCudnn* adjoint_fake_cudnn() { return &state; }

std::size_t cudnnGetVersion() { return state.version; }
const char* cudnnGetErrorString(cudnnStatus_t status) {
  return status == CUDNN_STATUS_NOT_SUPPORTED     ? "CUDNN_STATUS_NOT_SUPPORTED"
         : status == CUDNN_STATUS_BAD_PARAM       ? "CUDNN_STATUS_BAD_PARAM"
         : status == CUDNN_STATUS_NOT_INITIALIZED ? "CUDNN_STATUS_NOT_INITIALIZED"
                                                  : "CUDNN_STATUS_EXECUTION_FAILED";
}
cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  if (fails("cudnnCreate")) return state.status;
  *handle = new cudnnContext;  // as long as the process
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  if (fails("cudnnSetStream")) return state.status;
  handle->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* d) {
  return create("cudnnCreateTensorDescriptor", d);
}
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t d) { return destroy(d); }
cudnnStatus_t cudnnSetTensorNdDescriptor(cudnnTensorDescriptor_t d, cudnnDataType_t type, int rank, const int extents[],
                                         const int strides[]) {
  if (fails("cudnnSetTensorNdDescriptor")) return state.status;
  *d = {type, {extents, extents + rank}, {strides, strides + rank}};
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnCreateDropoutDescriptor(cudnnDropoutDescriptor_t* d) {
  return create("cudnnCreateDropoutDescriptor", d);
}
cudnnStatus_t cudnnDestroyDropoutDescriptor(cudnnDropoutDescriptor_t d) { return destroy(d); }
cudnnStatus_t cudnnSetDropoutDescriptor(cudnnDropoutDescriptor_t d, cudnnHandle_t, float share, void* states,
                                        std::size_t bytes, unsigned long long) {
  if (fails("cudnnSetDropoutDescriptor")) return state.status;
  if (share != 0 || states != nullptr || bytes != 0) return CUDNN_STATUS_BAD_PARAM;
  d->share = share;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnCreateRNNDescriptor(cudnnRNNDescriptor_t* d) { return create("cudnnCreateRNNDescriptor", d); }
cudnnStatus_t cudnnDestroyRNNDescriptor(cudnnRNNDescriptor_t d) { return destroy(d); }
cudnnStatus_t cudnnSetRNNDescriptor_v8(cudnnRNNDescriptor_t d, cudnnRNNAlgo_t algorithm, cudnnRNNMode_t cell,
                                       cudnnRNNBiasMode_t bias, cudnnDirectionMode_t direction,
                                       cudnnRNNInputMode_t input_mode, cudnnDataType_t type, cudnnDataType_t math_type,
                                       cudnnMathType_t math, std::int32_t input, std::int32_t hidden,
                                       std::int32_t projection, std::int32_t layers, cudnnDropoutDescriptor_t dropout,
                                       std::uint32_t flags) {
  if (fails("cudnnSetRNNDescriptor_v8")) return state.status;
  if (cell != CUDNN_LSTM || bias != CUDNN_RNN_DOUBLE_BIAS || direction != CUDNN_UNIDIRECTIONAL ||
      input_mode != CUDNN_LINEAR_INPUT || projection != hidden || layers != 1 || dropout->share != 0 ||
      flags != CUDNN_RNN_PADDED_IO_ENABLED)
    return CUDNN_STATUS_NOT_SUPPORTED;
  *d = {type, math_type, math, algorithm, input, hidden};
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnCreateRNNDataDescriptor(cudnnRNNDataDescriptor_t* d) {
  return create("cudnnCreateRNNDataDescriptor", d);
}
cudnnStatus_t cudnnDestroyRNNDataDescriptor(cudnnRNNDataDescriptor_t d) { return destroy(d); }
cudnnStatus_t cudnnSetRNNDataDescriptor(cudnnRNNDataDescriptor_t d, cudnnDataType_t type, cudnnRNNDataLayout_t layout,
                                        int time, int batch, int width, const int lengths[], void*) {
  if (fails("cudnnSetRNNDataDescriptor")) return state.status;
  for (int b = 0; b < batch; ++b)
    if (lengths[b] != time) return CUDNN_STATUS_NOT_SUPPORTED;
  if (layout != CUDNN_RNN_DATA_LAYOUT_BATCH_MAJOR_UNPACKED) return CUDNN_STATUS_NOT_SUPPORTED;
  *d = {type, time, batch, width};
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetRNNTempSpaceSizes(cudnnHandle_t, cudnnRNNDescriptor_t r, cudnnForwardMode_t mode,
                                        cudnnRNNDataDescriptor_t x, std::size_t* work, std::size_t* reserve) {
  if (fails("cudnnGetRNNTempSpaceSizes")) return state.status;
  *work = work_bytes(mode);
  *reserve = mode == CUDNN_FWD_MODE_TRAINING ? reserve_bytes(*r, *x) : 0;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetRNNWeightSpaceSize(cudnnHandle_t, cudnnRNNDescriptor_t r, std::size_t* bytes) {
  if (fails("cudnnGetRNNWeightSpaceSize")) return state.status;
  *bytes = weight_bytes(*r);
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetRNNWeightParams(cudnnHandle_t, cudnnRNNDescriptor_t r, std::int32_t layer, std::size_t bytes,
                                      const void* space, std::int32_t gate, cudnnTensorDescriptor_t, void** matrix,
                                      cudnnTensorDescriptor_t, void** bias) {
  if (fails("cudnnGetRNNWeightParams")) return state.status;
  if (layer != 0 || gate < 0 || gate > 7 || bytes != weight_bytes(*r)) return CUDNN_STATUS_BAD_PARAM;
  char* const begin = static_cast<char*>(const_cast<void*>(space));
  *matrix = begin + matrix_at(*r, gate) * size_of(r->type);
  *bias = begin + bias_at(*r, gate) * size_of(r->type);
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnRNNForward(cudnnHandle_t, cudnnRNNDescriptor_t r, cudnnForwardMode_t mode,
                              const std::int32_t lengths[], cudnnRNNDataDescriptor_t xd, const void* x,
                              cudnnRNNDataDescriptor_t yd, void* y, cudnnTensorDescriptor_t hd, const void* hx,
                              void* hy, cudnnTensorDescriptor_t cd, const void* cx, void* cy, std::size_t weight_size,
                              const void* weights, std::size_t work_size, void* work, std::size_t reserve_size,
                              void* reserve) {
  if (fails("cudnnRNNForward")) return state.status;
  const bool training = mode == CUDNN_FWD_MODE_TRAINING;
  if (lengths != nullptr || x == nullptr || y == nullptr || weights == nullptr || xd->width != r->input ||
      yd->width != r->hidden || xd->time != yd->time || xd->batch != yd->batch || !is_state(hd, *r, *xd) ||
      !is_state(cd, *r, *xd) || weight_size != weight_bytes(*r) || work_size < work_bytes(mode) || work == nullptr ||
      (training && (reserve == nullptr || reserve_size < reserve_bytes(*r, *xd))))
    return CUDNN_STATUS_BAD_PARAM;
  note(training ? "forward" : "inference", *r, *xd);
  return typed(r->type, [&](auto zero) {
    using T = decltype(zero);
    const Layer<T> layer{*r, xd->batch, xd->time, static_cast<const T*>(weights)};
    queue([=] {
      std::memset(work, 0xff, work_size);
      if (training) std::memset(reserve, 0xff, reserve_size);
      layer.forward(static_cast<const T*>(x), static_cast<T*>(y), static_cast<const T*>(hx), static_cast<T*>(hy),
                    static_cast<const T*>(cx), static_cast<T*>(cy), training ? reserve : nullptr);
    });
    return CUDNN_STATUS_SUCCESS;
  });
}
cudnnStatus_t cudnnRNNBackwardData_v8(cudnnHandle_t, cudnnRNNDescriptor_t r, const std::int32_t lengths[],
                                      cudnnRNNDataDescriptor_t yd, const void* y, const void* dy,
                                      cudnnRNNDataDescriptor_t xd, void* dx, cudnnTensorDescriptor_t hd, const void*,
                                      const void* dhy, void* dhx, cudnnTensorDescriptor_t cd, const void*,
                                      const void* dcy, void* dcx, std::size_t weight_size, const void* weights,
                                      std::size_t work_size, void* work, std::size_t reserve_size, void* reserve) {
  if (fails("cudnnRNNBackwardData_v8")) return state.status;
  if (lengths != nullptr || y == nullptr || dy == nullptr || dx == nullptr || weights == nullptr ||
      xd->width != r->input || yd->width != r->hidden || !is_state(hd, *r, *xd) || !is_state(cd, *r, *xd) ||
      weight_size != weight_bytes(*r) || work_size < work_bytes(CUDNN_FWD_MODE_TRAINING) || work == nullptr ||
      reserve == nullptr || reserve_size < reserve_bytes(*r, *xd))
    return CUDNN_STATUS_BAD_PARAM;
  note("backward data", *r, *xd);
  return typed(r->type, [&](auto zero) {
    using T = decltype(zero);
    const Layer<T> layer{*r, xd->batch, xd->time, static_cast<const T*>(weights)};
    queue([=] {
      std::memset(work, 0xff, work_size);
      layer.backward(static_cast<const T*>(dy), static_cast<T*>(dx), static_cast<const T*>(dhy), static_cast<T*>(dhx),
                     static_cast<const T*>(dcy), static_cast<T*>(dcx), reserve);
    });
    return CUDNN_STATUS_SUCCESS;
  });
}
#ifndef ADJOINT_FAKE_LACKS_BACKWARD
cudnnStatus_t cudnnRNNBackwardWeights_v8(cudnnHandle_t, cudnnRNNDescriptor_t r, cudnnWgradMode_t mode,
                                         const std::int32_t lengths[], cudnnRNNDataDescriptor_t xd, const void* x,
                                         cudnnTensorDescriptor_t hd, const void* hx, cudnnRNNDataDescriptor_t yd,
                                         const void* y, std::size_t weight_size, void* dweights, std::size_t work_size,
                                         void* work, std::size_t reserve_size, void* reserve) {
  if (fails("cudnnRNNBackwardWeights_v8")) return state.status;
  if (mode != CUDNN_WGRAD_MODE_ADD || lengths != nullptr || x == nullptr || y == nullptr || dweights == nullptr ||
      xd->width != r->input || yd->width != r->hidden || !is_state(hd, *r, *xd) || weight_size != weight_bytes(*r) ||
      work_size < work_bytes(CUDNN_FWD_MODE_TRAINING) || work == nullptr || reserve == nullptr ||
      reserve_size < reserve_bytes(*r, *xd))
    return CUDNN_STATUS_BAD_PARAM;
  note("backward weights", *r, *xd);
  return typed(r->type, [&](auto zero) {
    using T = decltype(zero);
    const Layer<T> layer{*r, xd->batch, xd->time, nullptr};
    queue([=] {
      layer.backward_weights(static_cast<const T*>(x), static_cast<const T*>(hx), static_cast<const T*>(y),
                             static_cast<T*>(dweights), reserve);
    });
    return CUDNN_STATUS_SUCCESS;
  });
}
#endif

}  // extern "C"
