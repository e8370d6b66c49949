#pragma once
// What the parts of the stand-in for cuDNN share.

#include <functional>
#include <string_view>
#include <utility>

#include "tests/libraries/fake_cudnn.h"

namespace adjoint::testing::fake {

extern FakeCudnn state;

inline bool fails(std::string_view function) { return state.fails == function; }

template <class T>
cudnnStatus_t create(const char* function, T** to) {
  if (fails(function)) return state.status;
  ++state.objects;
  *to = new T;
  return CUDNN_STATUS_SUCCESS;
}
template <class T>
cudnnStatus_t destroy(T* p) {
  --state.objects;
  delete p;
  return CUDNN_STATUS_SUCCESS;
}

inline void queue(std::function<void()> work) {
  if (state.queue != nullptr) {
    state.queue(std::move(work));
  } else {
    work();
  }
}

}  // namespace adjoint::testing::fake
