#pragma once
// What tests tell the stand-in for cuDNN, and what it tells them; as fake_cublas_lt.h.

#include <cudnn.h>

#include <string>
#include <vector>

#include "tests/libraries/fake_queue.h"

namespace adjoint::testing {

struct FakeCudnn {
  struct Lstm {
    std::string function;
    int batch, time, input, hidden;
    cudnnDataType_t type, math_type;
    cudnnMathType_t math;
    cudnnRNNAlgo_t algorithm;
  };
  struct Attention {
    std::string function;
    int batch, queries, keys, width, value_width;
    cudnnDataType_t type;
    cudnnMathType_t math;
    double scale;
  };

  std::size_t version = CUDNN_VERSION;
  std::string fails;  ///< the function that returns `status` from now on
  cudnnStatus_t status = CUDNN_STATUS_EXECUTION_FAILED;
  std::size_t reserve_beside = 0;  ///< bytes that it wants kept beside what it uses
  std::size_t training_work = 0;   ///< bytes of workspace that its attention wants in training
  FakeQueue queue = nullptr;

  int objects = 0;  ///< descriptors alive
  std::vector<Lstm> lstms;
  std::vector<Attention> attentions;
};

}  // namespace adjoint::testing
