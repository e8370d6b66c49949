// The stand-in itself. Column-major as the real one, and as strict about what it needs to be told.

#include "tests/libraries/fake_cublas_lt.h"

#include <cmath>
#include <cstring>
#include <string_view>

#include "kernels/base/dtype.h"

using adjoint::bf16;
using adjoint::testing::FakeCublasLt;

namespace {

FakeCublasLt state;

struct Desc {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void *bias = nullptr, *aux = nullptr;
  std::int64_t aux_ld = 0;
};
struct Layout {
  cudaDataType_t type;
  std::uint64_t rows, columns;
  std::int64_t ld, stride = 0;
  std::int32_t batches = 1;
};
struct Preference {
  std::uint64_t workspace = 0;
  std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK, alignment[4] = {256, 256, 256, 256};
};

bool fails(std::string_view function) { return state.fails == function; }

template <class T>
cublasStatus_t assign(T& to, const void* from, std::size_t bytes) {
  if (bytes != sizeof to) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
struct Product {
  Desc desc;
  Layout a, b, d;
  const T *pa, *pb;
  T* pd;
  double alpha, beta;
  void* workspace;
  std::size_t workspace_bytes;

  static T at(const T* p, const Layout& l, cublasOperation_t op, std::uint64_t i, std::uint64_t j, std::int32_t batch) {
    if (op == CUBLAS_OP_T) std::swap(i, j);
    return p[batch * l.stride + static_cast<std::int64_t>(j) * l.ld + static_cast<std::int64_t>(i)];
  }
  void run() const {
    std::memset(workspace, 0xff, workspace_bytes);
    const std::uint64_t inner = desc.a == CUBLAS_OP_N ? a.columns : a.rows;
    for (std::int32_t q = 0; q < d.batches; ++q)
      for (std::uint64_t j = 0; j < d.columns; ++j)
        for (std::uint64_t i = 0; i < d.rows; ++i) {
          double sum = 0;
          for (std::uint64_t p = 0; p < inner; ++p)
            sum += static_cast<double>(at(pa, a, desc.a, i, p, q)) * static_cast<double>(at(pb, b, desc.b, p, j, q));
          T& to = pd[q * d.stride + static_cast<std::int64_t>(j) * d.ld + static_cast<std::int64_t>(i)];
          double value = alpha * sum;
          if (beta != 0) value += beta * static_cast<double>(to);
          const bool gelu = desc.epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
          if (desc.epilogue == CUBLASLT_EPILOGUE_BIAS || gelu)
            value += static_cast<double>(static_cast<const T*>(desc.bias)[i]);
          if (gelu) {
            static_cast<T*>(desc.aux)[static_cast<std::int64_t>(j) * desc.aux_ld + static_cast<std::int64_t>(i)] =
                T(value);
            value *= 0.5 * (1 + std::tanh(std::sqrt(2 / M_PI) * (value + 0.044715 * value * value * value)));
          }
          to = T(value);
        }
    if (desc.epilogue != CUBLASLT_EPILOGUE_BGRADB) return;
    for (std::uint64_t j = 0; j < d.columns; ++j) {
      double sum = 0;
      for (std::uint64_t p = 0; p < inner; ++p) sum += static_cast<double>(at(pb, b, desc.b, p, j, 0));
      static_cast<T*>(desc.bias)[j] = T(sum);
    }
  }
};

template <class T>
void queue(const Product<T>& product) {
  if (state.queue != nullptr) {
    state.queue([product] { product.run(); });
  } else {
    product.run();
  }
}

/// What GELU_AUX_BIAS asks for.
bool has_aux(const Desc& desc, const Layout& d) {
  return desc.aux != nullptr && reinterpret_cast<std::uintptr_t>(desc.aux) % 16 == 0 && desc.aux_ld % 8 == 0 &&
         desc.aux_ld >= static_cast<std::int64_t>(d.rows) && d.batches == 1;
}

/// What the real one answers INVALID_VALUE to.
bool fits(const Desc& desc, const Layout& a, const Layout& b, const Layout& d) {
  const bool ta = desc.a == CUBLAS_OP_T, tb = desc.b == CUBLAS_OP_T;
  const auto leading = [](const Layout& l) { return l.ld >= static_cast<std::int64_t>(l.rows); };
  return (ta ? a.columns : a.rows) == d.rows && (tb ? b.rows : b.columns) == d.columns &&
         (ta ? a.rows : a.columns) == (tb ? b.columns : b.rows) && leading(a) && leading(b) && leading(d) &&
         a.batches == d.batches && b.batches == d.batches && a.type == d.type && b.type == d.type &&
         (desc.epilogue != CUBLASLT_EPILOGUE_GELU_AUX_BIAS || has_aux(desc, d));
}

Desc* as_desc(cublasLtMatmulDesc_t p) { return reinterpret_cast<Desc*>(p); }
Layout* as_layout(cublasLtMatrixLayout_t p) { return reinterpret_cast<Layout*>(p); }
Preference* as_preference(cublasLtMatmulPreference_t p) { return reinterpret_cast<Preference*>(p); }

template <class T>
cublasStatus_t destroy(T* p) {
  --state.objects;
  delete p;
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

extern "C" {

FakeCublasLt* adjoint_fake_cublas_lt() { return &state; }

std::size_t cublasLtGetVersion() { return state.version; }
const char* cublasLtGetStatusName(cublasStatus_t status) {
  return status == CUBLAS_STATUS_NOT_INITIALIZED ? "CUBLAS_STATUS_NOT_INITIALIZED"
         : status == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE"
         : status == CUBLAS_STATUS_ALLOC_FAILED  ? "CUBLAS_STATUS_ALLOC_FAILED"
                                                 : "CUBLAS_STATUS_INTERNAL_ERROR";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (fails("cublasLtCreate")) return state.status;
  *handle = reinterpret_cast<cublasLtHandle_t>(&state);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale) {
  if (fails("cublasLtMatmulDescCreate")) return state.status;
  ++state.objects;
  *desc = reinterpret_cast<cublasLtMatmulDesc_t>(new Desc{.compute = compute, .scale = scale});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) { return destroy(as_desc(desc)); }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* data, std::size_t bytes) {
  if (fails("cublasLtMatmulDescSetAttribute")) return state.status;
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return assign(as_desc(desc)->a, data, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return assign(as_desc(desc)->b, data, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return assign(as_desc(desc)->epilogue, data, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return assign(as_desc(desc)->bias, data, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return assign(as_desc(desc)->aux, data, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return assign(as_desc(desc)->aux_ld, data, bytes);
    default: return CUBLAS_STATUS_INVALID_VALUE;
  }
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, std::uint64_t rows,
                                          std::uint64_t columns, std::int64_t ld) {
  if (fails("cublasLtMatrixLayoutCreate")) return state.status;
  ++state.objects;
  *layout =
      reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{.type = type, .rows = rows, .columns = columns, .ld = ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return destroy(as_layout(layout)); }
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* data,
                                                std::size_t bytes) {
  if (fails("cublasLtMatrixLayoutSetAttribute")) return state.status;
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return assign(as_layout(layout)->batches, data, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return assign(as_layout(layout)->stride, data, bytes);
    default: return CUBLAS_STATUS_INVALID_VALUE;
  }
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  if (fails("cublasLtMatmulPreferenceCreate")) return state.status;
  ++state.objects;
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return destroy(as_preference(preference));
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* data,
                                                    std::size_t bytes) {
  if (fails("cublasLtMatmulPreferenceSetAttribute")) return state.status;
  Preference& p = *as_preference(preference);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return assign(p.workspace, data, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return assign(p.reductions, data, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return assign(p.alignment[0], data, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return assign(p.alignment[1], data, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return assign(p.alignment[2], data, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return assign(p.alignment[3], data, bytes);
    default: return CUBLAS_STATUS_INVALID_VALUE;
  }
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference,
                                              int wanted, cublasLtMatmulHeuristicResult_t results[], int* count) {
  ++state.asked;
  *count = 0;
  if (fails("cublasLtMatmulAlgoGetHeuristic")) return state.status;
  const Desc& it = *as_desc(desc);
  state.alignment_a = as_preference(preference)->alignment[0];
  state.alignment_b = as_preference(preference)->alignment[1];
  if (!fits(it, *as_layout(a), *as_layout(b), *as_layout(d))) return CUBLAS_STATUS_INVALID_VALUE;
  if (it.scale == CUDA_R_64F && it.epilogue != CUBLASLT_EPILOGUE_DEFAULT) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (it.epilogue == CUBLASLT_EPILOGUE_BGRADB && !state.sums) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (it.epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS && !state.gelu) return CUBLAS_STATUS_NOT_SUPPORTED;
  for (std::size_t i = 0; i < state.algorithms.size() && *count < wanted; ++i) {
    cublasLtMatmulHeuristicResult_t& result = results[(*count)++];
    result = {};
    result.algo.data[0] = i;
    result.state = state.algorithms[i].state;
    result.workspaceSize = state.algorithms[i].workspace;
  }
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute, void* data,
                                                    std::size_t bytes, std::size_t* written) {
  if (fails("cublasLtMatmulAlgoConfigGetAttribute")) return state.status;
  const FakeCublasLt::Algorithm& it = state.algorithms.at(algorithm->data[0]);
  if (attribute != CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME || bytes != sizeof it.reduction)
    return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(data, &it.reduction, bytes);
  *written = bytes;
  return CUBLAS_STATUS_SUCCESS;
}
#ifndef ADJOINT_FAKE_LACKS_MATMUL
cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t la, const void* b, cublasLtMatrixLayout_t lb, const void* beta,
                              const void* c, cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, std::size_t workspace_bytes,
                              cudaStream_t) {
  if (fails("cublasLtMatmul")) return state.status;
  const Desc& it = *as_desc(desc);
  const Layout &a_layout = *as_layout(la), &b_layout = *as_layout(lb), &d_layout = *as_layout(ld);
  const std::size_t needed = state.algorithms.at(algorithm->data[0]).workspace;
  if (handle != reinterpret_cast<cublasLtHandle_t>(&state) || c != d || workspace_bytes < needed ||
      (needed != 0 && workspace == nullptr) || (it.epilogue != CUBLASLT_EPILOGUE_DEFAULT && it.bias == nullptr) ||
      !fits(it, a_layout, b_layout, d_layout))
    return CUBLAS_STATUS_INVALID_VALUE;
  const bool wide = it.scale == CUDA_R_64F;
  const double s = wide ? *static_cast<const double*>(alpha) : *static_cast<const float*>(alpha);
  const double t = wide ? *static_cast<const double*>(beta) : *static_cast<const float*>(beta);
  state.products.push_back({d_layout.rows, d_layout.columns, it.a == CUBLAS_OP_N ? a_layout.columns : a_layout.rows,
                            it.a == CUBLAS_OP_T, it.b == CUBLAS_OP_T, d_layout.type, it.compute, it.epilogue,
                            d_layout.batches, s, t, workspace_bytes, static_cast<int>(algorithm->data[0])});
  const auto product = [&](auto zero) {
    using T = decltype(zero);
    queue(Product<T>{it, a_layout, b_layout, d_layout, static_cast<const T*>(a), static_cast<const T*>(b),
                     static_cast<T*>(d), s, t, workspace, workspace_bytes});
    return CUBLAS_STATUS_SUCCESS;
  };
  if (d_layout.type == CUDA_R_64F) return product(0.0);
  if (d_layout.type == CUDA_R_32F) return product(0.0f);
  return d_layout.type == CUDA_R_16BF ? product(bf16()) : CUBLAS_STATUS_NOT_SUPPORTED;
}
#endif

}  // extern "C"
