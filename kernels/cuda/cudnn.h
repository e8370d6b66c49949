#pragma once
// cuDNN, opened at first use: no program is linked with it. What its calls have in common.

#include <cudnn.h>
#include <fmt/format.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>

#include "kernels/base/backend.h"
#include "kernels/base/dtype.h"
#include "kernels/base/shared_library.h"

#ifndef ADJOINT_GPU_NAMESPACE  // the tests build it once more, for the executor's memory
#define ADJOINT_GPU_NAMESPACE cuda
#endif

namespace adjoint::ADJOINT_GPU_NAMESPACE::dnn {

struct Library {
  SharedLibrary file{"ADJOINT_CUDNN_LIBRARY", fmt::format("libcudnn.so.{}", CUDNN_MAJOR)};
#define ADJOINT_CUDNN_FUNCTION(f) Imported<decltype(::f)> f{file, #f};
  ADJOINT_CUDNN_FUNCTION(cudnnGetVersion)
  ADJOINT_CUDNN_FUNCTION(cudnnGetErrorString)
  ADJOINT_CUDNN_FUNCTION(cudnnCreate)
  ADJOINT_CUDNN_FUNCTION(cudnnSetStream)
  ADJOINT_CUDNN_FUNCTION(cudnnCreateTensorDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnDestroyTensorDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnSetTensorNdDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnCreateDropoutDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnDestroyDropoutDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnSetDropoutDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnCreateRNNDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnDestroyRNNDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnSetRNNDescriptor_v8)
  ADJOINT_CUDNN_FUNCTION(cudnnCreateRNNDataDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnDestroyRNNDataDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnSetRNNDataDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnGetRNNTempSpaceSizes)
  ADJOINT_CUDNN_FUNCTION(cudnnGetRNNWeightSpaceSize)
  ADJOINT_CUDNN_FUNCTION(cudnnGetRNNWeightParams)
  ADJOINT_CUDNN_FUNCTION(cudnnRNNForward)
  ADJOINT_CUDNN_FUNCTION(cudnnRNNBackwardData_v8)
  ADJOINT_CUDNN_FUNCTION(cudnnRNNBackwardWeights_v8)
  // Deprecated in cuDNN 9, and in all of its versions: their successor, the graph API's, takes no f32 and no f64.
  ADJOINT_CUDNN_FUNCTION(cudnnCreateSeqDataDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnDestroySeqDataDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnSetSeqDataDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnCreateAttnDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnDestroyAttnDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnSetAttnDescriptor)
  ADJOINT_CUDNN_FUNCTION(cudnnGetMultiHeadAttnBuffers)
  ADJOINT_CUDNN_FUNCTION(cudnnMultiHeadAttnForward)
  ADJOINT_CUDNN_FUNCTION(cudnnMultiHeadAttnBackwardData)
#undef ADJOINT_CUDNN_FUNCTION
  LibraryState state{file.file(), "", file.why_not()};

  Library() {
    if (!state.why_not.empty()) return;
    const std::size_t v = cudnnGetVersion.call();
    state.version = fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
    if (v / 10000 != CUDNN_MAJOR)
      state.why_not = fmt::format("{} is cuDNN {}; expected {}, for which this build was made", state.file,
                                  state.version, CUDNN_MAJOR);
  }

  static Library& get() {
    static auto& library = *new Library;  // never closed: tensors with static lifetime may come after any destructor
    return library;
  }
};

/// Calls a function of the library; what it refuses is a LibraryFailure that names `call`, as "lstm of f32 …".
template <class F, class... A>
void require(const std::string& call, const Imported<F>& function, A... arguments) {
  const cudnnStatus_t status = function.call(arguments...);
  if (status == CUDNN_STATUS_SUCCESS) [[likely]]
    return;
  throw LibraryFailure{fmt::format("{}: {} returned {} ({})", call, function.name,
                                   Library::get().cudnnGetErrorString.call(status), static_cast<int>(status))};
}

inline cudnnDataType_t type_of(DType dtype) {
  return dtype == DType::f64 ? CUDNN_DATA_DOUBLE : dtype == DType::f32 ? CUDNN_DATA_FLOAT : CUDNN_DATA_BFLOAT16;
}

/// A stream's handle. It lasts as long as the process, and is made before any capture, when a call asks for scratch.
inline cudnnHandle_t handle_of(const std::string& call, void* stream) {
  static auto& mutex = *new std::mutex;
  static auto& handles = *new std::map<void*, cudnnHandle_t>;
  const std::lock_guard lock(mutex);
  cudnnHandle_t& handle = handles[stream];
  if (handle == nullptr) {
    cudnnHandle_t made = nullptr;
    require(call, Library::get().cudnnCreate, &made);
    require(call, Library::get().cudnnSetStream, made, static_cast<cudaStream_t>(stream));
    handle = made;
  }
  return handle;
}

struct Destroy {
  void operator()(cudnnRNNDescriptor_t p) const { Library::get().cudnnDestroyRNNDescriptor.call(p); }
  void operator()(cudnnRNNDataDescriptor_t p) const { Library::get().cudnnDestroyRNNDataDescriptor.call(p); }
  void operator()(cudnnTensorDescriptor_t p) const { Library::get().cudnnDestroyTensorDescriptor.call(p); }
  void operator()(cudnnDropoutDescriptor_t p) const { Library::get().cudnnDestroyDropoutDescriptor.call(p); }
  void operator()(cudnnAttnDescriptor_t p) const { Library::get().cudnnDestroyAttnDescriptor.call(p); }
  void operator()(cudnnSeqDataDescriptor_t p) const { Library::get().cudnnDestroySeqDataDescriptor.call(p); }
};
template <class Pointer>
using Owned = std::unique_ptr<std::remove_pointer_t<Pointer>, Destroy>;

/// A descriptor that `create` makes.
template <class Pointer>
Owned<Pointer> made(const std::string& call, const Imported<cudnnStatus_t(Pointer*)>& create) {
  Pointer p = nullptr;
  require(call, create, &p);
  return Owned<Pointer>(p);
}

/// The plan that was made for a key, or a new one, of Plan(call, key). Plans last as long as the process: a recorded
/// step may come back to any of them.
template <class Plan, class Key>
const Plan& plan_of(const std::string& call, const Key& key) {
  static auto& mutex = *new std::mutex;
  static auto& plans = *new std::map<Key, Plan>;
  const std::lock_guard lock(mutex);
  const auto found = plans.find(key);
  if (found != plans.end()) return found->second;
  return plans.emplace(key, Plan(call, key)).first->second;
}

/// Cuts scratch into pieces; without scratch it only counts.
class Pieces {
 public:
  explicit Pieces(void* scratch) : begin_(static_cast<char*>(scratch)) {}
  void* take(std::size_t bytes) {
    void* const here = begin_ == nullptr ? nullptr : begin_ + taken_;
    taken_ += (bytes + 255) / 256 * 256;
    return here;
  }
  std::size_t taken() const { return taken_; }

 private:
  char* begin_;
  std::size_t taken_ = 0;
};

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::dnn
