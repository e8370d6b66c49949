// The stand-in's attention: one head without projections, sums in double, scores rounded to the operands' type. What
// the real library was seen to refuse without a GPU (lengths of 0, scales below 0, beams), it refuses too. As the real
// one, it needs no workspace in training; it keeps the weights in its reserve and spoils them on the way back.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "tests/libraries/fake_cudnn_state.h"

using namespace adjoint::testing::fake;

struct cudnnSeqDataStruct {
  cudnnDataType_t type{};
  int batch = 0, time = 0, width = 0;
};
struct cudnnAttnStruct {
  cudnnDataType_t type{};
  double scale = -1;
  int width = 0, value_width = 0, queries = 0, keys = 0, batch = 0;
  cudnnMathType_t math{};
};

namespace {

std::size_t elements(int a, int b, int c) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}
std::size_t size_of(cudnnDataType_t type) { return type == CUDNN_DATA_DOUBLE ? sizeof(double) : sizeof(float); }
std::size_t reserve_bytes(const cudnnAttnStruct& a) {
  return elements(a.batch, a.queries, a.keys) * size_of(a.type) + state.reserve_beside;
}
constexpr std::size_t kInferenceWork = 320;

bool is(const cudnnSeqDataStruct* d, const cudnnAttnStruct& a, int time, int width) {
  return d != nullptr && d->type == a.type && d->batch == a.batch && d->time == time && d->width == width;
}

/// What both directions are given.
template <class T>
struct Attention {
  cudnnAttnStruct a;
  const int *first, *end;  // on the host: read when the work is done
  const int *query_counts, *key_counts;
  const T *q, *k, *v;

  Attention(const cudnnAttnStruct& a, const int* first, const int* end, const int* query_counts, const int* key_counts,
            const void* q, const void* k, const void* v)
      : a(a),
        first(first),
        end(end),
        query_counts(query_counts),
        key_counts(key_counts),
        q(static_cast<const T*>(q)),
        k(static_cast<const T*>(k)),
        v(static_cast<const T*>(v)) {}

  bool well_told() const {
    for (int t = 0; t < a.queries; ++t)
      if (first[t] < 0 || first[t] >= end[t] || end[t] > a.keys) return false;
    for (int n = 0; n < a.batch; ++n)
      if (query_counts[n] != a.queries || key_counts[n] != a.keys) return false;
    return true;
  }
  const T* row(const T* p, int n, int t, int positions, int width) const {
    return p + elements(1, n * positions + t, width);
  }
  T* weights(void* p, int n, int t) const { return static_cast<T*>(p) + elements(1, n * a.queries + t, a.keys); }
  static double product(const T* x, const T* y, int width) {
    double sum = 0;
    for (int i = 0; i < width; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
    return sum;
  }

  void forward(T* out, T* keep) const {
    const std::size_t size = elements(a.batch, a.queries, a.value_width);
    std::fill_n(out, size, std::numeric_limits<T>::quiet_NaN());
    if (!well_told()) return;
    std::vector<T> p(static_cast<std::size_t>(a.keys));
    for (int n = 0; n < a.batch; ++n)
      for (int t = 0; t < a.queries; ++t) {
        std::fill(p.begin(), p.end(), T(0));
        T highest = -std::numeric_limits<T>::infinity();
        for (int s = first[t]; s < end[t]; ++s) {
          const double sum = product(row(q, n, t, a.queries, a.width), row(k, n, s, a.keys, a.width), a.width);
          highest = std::max(highest, p[static_cast<std::size_t>(s)] = T(a.scale * sum));
        }
        double total = 0;
        for (int s = first[t]; s < end[t]; ++s) {
          T& weight = p[static_cast<std::size_t>(s)];
          total += weight = std::exp(weight - highest);
        }
        for (T& weight : p) weight = T(static_cast<double>(weight) / total);
        for (int i = 0; i < a.value_width; ++i) {
          double sum = 0;
          for (int s = first[t]; s < end[t]; ++s)
            sum += static_cast<double>(p[static_cast<std::size_t>(s)]) *
                   static_cast<double>(row(v, n, s, a.keys, a.value_width)[i]);
          out[elements(1, n * a.queries + t, a.value_width) + static_cast<std::size_t>(i)] = T(sum);
        }
        if (keep != nullptr) std::copy(p.begin(), p.end(), weights(keep, n, t));
      }
  }

  void backward(const T* dout, T* dq, T* dk, T* dv, void* reserve) const {
    const std::size_t of_q = elements(a.batch, a.queries, a.width), of_k = elements(a.batch, a.keys, a.width),
                      of_v = elements(a.batch, a.keys, a.value_width);
    std::fill_n(dq, of_q, std::numeric_limits<T>::quiet_NaN());
    std::fill_n(dk, of_k, std::numeric_limits<T>::quiet_NaN());
    std::fill_n(dv, of_v, std::numeric_limits<T>::quiet_NaN());
    if (!well_told()) return;
    std::vector<double> to_q(of_q), to_k(of_k), to_v(of_v), dp(static_cast<std::size_t>(a.keys));
    for (int n = 0; n < a.batch; ++n)
      for (int t = 0; t < a.queries; ++t) {
        const T* const p = weights(reserve, n, t);
        const T* const dy = row(dout, n, t, a.queries, a.value_width);
        double delta = 0;
        for (int s = first[t]; s < end[t]; ++s) {
          dp[static_cast<std::size_t>(s)] = product(dy, row(v, n, s, a.keys, a.value_width), a.value_width);
          delta += static_cast<double>(p[s]) * dp[static_cast<std::size_t>(s)];
        }
        for (int s = first[t]; s < end[t]; ++s) {
          const double ds = a.scale * static_cast<double>(p[s]) * (dp[static_cast<std::size_t>(s)] - delta);
          const std::size_t q_at = elements(1, n * a.queries + t, a.width), k_at = elements(1, n * a.keys + s, a.width),
                            v_at = elements(1, n * a.keys + s, a.value_width);
          for (std::size_t i = 0; i < static_cast<std::size_t>(a.width); ++i) {
            to_q[q_at + i] += ds * static_cast<double>(k[k_at + i]);
            to_k[k_at + i] += ds * static_cast<double>(q[q_at + i]);
          }
          for (std::size_t i = 0; i < static_cast<std::size_t>(a.value_width); ++i)
            to_v[v_at + i] += static_cast<double>(p[s]) * static_cast<double>(dy[i]);
        }
      }
    std::copy(to_q.begin(), to_q.end(), dq);
    std::copy(to_k.begin(), to_k.end(), dk);
    std::copy(to_v.begin(), to_v.end(), dv);
    std::memset(reserve, 0xff, reserve_bytes(a));
  }
};

void note(const char* function, const cudnnAttnStruct& a) {
  state.attentions.push_back({function, a.batch, a.queries, a.keys, a.width, a.value_width, a.type, a.math, a.scale});
}

template <class F>
cudnnStatus_t typed(cudnnDataType_t type, const F& f) {
  return type == CUDNN_DATA_DOUBLE ? f(double()) : f(float());
}

}  // namespace

extern "C" {

cudnnStatus_t cudnnCreateSeqDataDescriptor(cudnnSeqDataDescriptor_t* d) {
  return create("cudnnCreateSeqDataDescriptor", d);
}
cudnnStatus_t cudnnDestroySeqDataDescriptor(cudnnSeqDataDescriptor_t d) { return destroy(d); }
cudnnStatus_t cudnnSetSeqDataDescriptor(cudnnSeqDataDescriptor_t d, cudnnDataType_t type, int rank, const int extents[],
                                        const cudnnSeqDataAxis_t axes[], std::size_t length_count, const int lengths[],
                                        void* padding) {
  if (fails("cudnnSetSeqDataDescriptor")) return state.status;
  const cudnnSeqDataAxis_t order[] = {CUDNN_SEQDATA_BATCH_DIM, CUDNN_SEQDATA_BEAM_DIM, CUDNN_SEQDATA_TIME_DIM,
                                      CUDNN_SEQDATA_VECT_DIM};
  const int batch = extents[CUDNN_SEQDATA_BATCH_DIM], time = extents[CUDNN_SEQDATA_TIME_DIM];
  if (rank != CUDNN_SEQDATA_DIM_COUNT || !std::equal(axes, axes + rank, order) || padding != nullptr ||
      extents[CUDNN_SEQDATA_BEAM_DIM] != 1 || (type != CUDNN_DATA_FLOAT && type != CUDNN_DATA_DOUBLE))
    return CUDNN_STATUS_NOT_SUPPORTED;
  if (std::any_of(extents, extents + rank, [](int n) { return n < 1; }) ||
      length_count != static_cast<std::size_t>(batch))
    return CUDNN_STATUS_BAD_PARAM;
  for (int n = 0; n < batch; ++n) {
    if (lengths[n] < 1 || lengths[n] > time) return CUDNN_STATUS_BAD_PARAM;
    if (lengths[n] != time) return CUDNN_STATUS_NOT_SUPPORTED;  // the stand-in has full rows only
  }
  *d = {type, batch, time, extents[CUDNN_SEQDATA_VECT_DIM]};
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnCreateAttnDescriptor(cudnnAttnDescriptor_t* d) { return create("cudnnCreateAttnDescriptor", d); }
cudnnStatus_t cudnnDestroyAttnDescriptor(cudnnAttnDescriptor_t d) { return destroy(d); }
cudnnStatus_t cudnnSetAttnDescriptor(cudnnAttnDescriptor_t d, unsigned mode, int heads, double scale,
                                     cudnnDataType_t type, cudnnDataType_t math_type, cudnnMathType_t math,
                                     cudnnDropoutDescriptor_t dropout, cudnnDropoutDescriptor_t late_dropout,
                                     int q_width, int k_width, int v_width, int q_projected, int k_projected,
                                     int v_projected, int o_projected, int queries, int keys, int batch, int beams) {
  if (fails("cudnnSetAttnDescriptor")) return state.status;
  if (!(scale >= 0) || q_width != k_width) return CUDNN_STATUS_BAD_PARAM;
  for (const int n : {heads, q_width, v_width, queries, keys, batch, beams})
    if (n < 1) return CUDNN_STATUS_BAD_PARAM;
  if (mode != 0 || heads != 1 || beams != 1 || dropout != nullptr || late_dropout != nullptr || q_projected != 0 ||
      k_projected != 0 || v_projected != 0 || o_projected != 0 || math_type != type ||
      (type != CUDNN_DATA_FLOAT && type != CUDNN_DATA_DOUBLE))
    return CUDNN_STATUS_NOT_SUPPORTED;
  *d = {type, scale, q_width, v_width, queries, keys, batch, math};
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetMultiHeadAttnBuffers(cudnnHandle_t handle, const cudnnAttnDescriptor_t a, std::size_t* weights,
                                           std::size_t* work, std::size_t* reserve) {
  if (fails("cudnnGetMultiHeadAttnBuffers")) return state.status;
  if (handle == nullptr || a->batch == 0) return CUDNN_STATUS_BAD_PARAM;
  *weights = 0;
  *work = reserve == nullptr ? kInferenceWork : state.training_work;
  if (reserve != nullptr) *reserve = reserve_bytes(*a);
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnMultiHeadAttnForward(cudnnHandle_t handle, const cudnnAttnDescriptor_t a, int step,
                                        const int first[], const int end[], const int query_counts[],
                                        const int key_counts[], const cudnnSeqDataDescriptor_t qd, const void* q,
                                        const void* residuals, const cudnnSeqDataDescriptor_t kd, const void* k,
                                        const cudnnSeqDataDescriptor_t vd, const void* v,
                                        const cudnnSeqDataDescriptor_t od, void* out, std::size_t weight_size,
                                        const void* weights, std::size_t work_size, void* work,
                                        std::size_t reserve_size, void* reserve) {
  if (fails("cudnnMultiHeadAttnForward")) return state.status;
  const bool training = reserve_size != 0;
  const std::size_t work_bytes = training ? state.training_work : kInferenceWork;
  if (handle == nullptr || step >= 0 || first == nullptr || end == nullptr || query_counts == nullptr ||
      key_counts == nullptr || q == nullptr || residuals != nullptr || k == nullptr || v == nullptr || out == nullptr ||
      weight_size != 0 || weights != nullptr || !is(qd, *a, a->queries, a->width) || !is(kd, *a, a->keys, a->width) ||
      !is(vd, *a, a->keys, a->value_width) || !is(od, *a, a->queries, a->value_width) || work_size != work_bytes ||
      (work == nullptr) != (work_size == 0) || (reserve == nullptr) == training ||
      (training && reserve_size != reserve_bytes(*a)))
    return CUDNN_STATUS_BAD_PARAM;
  note(training ? "forward" : "inference", *a);
  return typed(a->type, [&](auto zero) {
    using T = decltype(zero);
    const Attention<T> it(*a, first, end, query_counts, key_counts, q, k, v);
    queue([=] {
      if (work != nullptr) std::memset(work, 0xff, work_size);
      if (training) std::memset(reserve, 0xff, reserve_size);
      it.forward(static_cast<T*>(out), static_cast<T*>(reserve));
    });
    return CUDNN_STATUS_SUCCESS;
  });
}
cudnnStatus_t cudnnMultiHeadAttnBackwardData(cudnnHandle_t handle, const cudnnAttnDescriptor_t a, const int first[],
                                             const int end[], const int query_counts[], const int key_counts[],
                                             const cudnnSeqDataDescriptor_t od, const void* dout,
                                             const cudnnSeqDataDescriptor_t qd, void* dq, const void* q,
                                             const cudnnSeqDataDescriptor_t kd, void* dk, const void* k,
                                             const cudnnSeqDataDescriptor_t vd, void* dv, const void* v,
                                             std::size_t weight_size, const void* weights, std::size_t work_size,
                                             void* work, std::size_t reserve_size, void* reserve) {
  if (fails("cudnnMultiHeadAttnBackwardData")) return state.status;
  if (handle == nullptr || first == nullptr || end == nullptr || query_counts == nullptr || key_counts == nullptr ||
      dout == nullptr || dq == nullptr || q == nullptr || dk == nullptr || k == nullptr || dv == nullptr ||
      v == nullptr || weight_size != 0 || weights != nullptr || !is(qd, *a, a->queries, a->width) ||
      !is(kd, *a, a->keys, a->width) || !is(vd, *a, a->keys, a->value_width) ||
      !is(od, *a, a->queries, a->value_width) || work_size != state.training_work ||
      (work == nullptr) != (work_size == 0) || reserve == nullptr || reserve_size != reserve_bytes(*a))
    return CUDNN_STATUS_BAD_PARAM;
  note("backward", *a);
  return typed(a->type, [&](auto zero) {
    using T = decltype(zero);
    const Attention<T> it(*a, first, end, query_counts, key_counts, q, k, v);
    queue([=] {
      if (work != nullptr) std::memset(work, 0xff, work_size);
      it.backward(static_cast<const T*>(dout), static_cast<T*>(dq), static_cast<T*>(dk), static_cast<T*>(dv), reserve);
    });
    return CUDNN_STATUS_SUCCESS;
  });
}

}  // extern "C"
