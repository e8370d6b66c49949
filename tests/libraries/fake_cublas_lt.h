#pragma once
// What tests tell the stand-in for cuBLASLt, and what it tells them. The stand-in is a shared library of its own,
// opened as the real one would be; it multiplies with loops on host memory, which is where the executor's tensors lie.

#include <cublasLt.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/libraries/fake_queue.h"

namespace adjoint::testing {

struct FakeCublasLt {
  /// An answer of the heuristic.
  struct Algorithm {
    cublasStatus_t state = CUBLAS_STATUS_SUCCESS;
    std::size_t workspace = 0;
    std::uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
  };
  struct Product {
    std::uint64_t rows, columns, inner;
    bool transpose_a, transpose_b;
    cudaDataType_t type;
    cublasComputeType_t compute;
    cublasLtEpilogue_t epilogue;
    std::int32_t batches;
    double alpha, beta;
    std::size_t workspace;
    int algorithm;  ///< which of `algorithms`
  };

  std::size_t version = CUBLAS_VERSION;
  std::string fails;  ///< the function that returns `status` from now on
  cublasStatus_t status = CUBLAS_STATUS_INTERNAL_ERROR;
  std::vector<Algorithm> algorithms{{}};
  bool sums = true;  ///< whether it has algorithms for BGRADB
  bool gelu = true;  ///< and for GELU_AUX_BIAS
  FakeQueue queue = nullptr;

  int asked = 0;                                   ///< calls of the heuristic
  int objects = 0;                                 ///< descriptors and layouts alive
  std::uint32_t alignment_a = 0, alignment_b = 0;  ///< what the heuristic was told last
  std::vector<Product> products;
};

}  // namespace adjoint::testing
