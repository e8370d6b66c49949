#pragma once
// Device memory for a test: exact size, poisoned or filled, registered with the checker for its lifetime.

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/simt/memory.h"

namespace adjoint::simt {

template <class T>
class Buffer {
 public:
  /// Poisoned contents.
  explicit Buffer(std::size_t size, const char* name = "buffer")
      : size_(size), data_(static_cast<T*>(allocate(size * sizeof(T)))) {
    register_buffer(data_, size * sizeof(T), name, false, sizeof(T));
    poison(data_, size * sizeof(T));
  }
  /// The contents of `values`.
  explicit Buffer(const std::vector<T>& values, const char* name = "buffer")
      : size_(values.size()), data_(static_cast<T*>(allocate(size_ * sizeof(T)))) {
    std::copy(values.begin(), values.end(), data_);
    register_buffer(data_, size_ * sizeof(T), name, true, sizeof(T));
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    unregister_buffer(data_);
    deallocate(data_);
  }

  operator T*() const { return data_; }
  T* get() const { return data_; }
  std::size_t size() const { return size_; }
  std::vector<T> host() const { return {data_, data_ + size_}; }

 private:
  std::size_t size_;
  T* data_;
};

}  // namespace adjoint::simt
