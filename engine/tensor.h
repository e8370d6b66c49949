#pragma once
// The tensor: a value that refers to shared memory. Copies and views share storage; ops give new tensors.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/shape.h"
#include "engine/storage.h"
#include "kernels/base/view.h"

namespace adjoint {

class Tape;

/// Shape, strides, dtype and a share of memory. A default-constructed tensor is empty ("undefined") and only tells so.
class Tensor {
 public:
  Tensor() = default;

  /// Uninitialised memory. Throws E-MEM-001.
  static Tensor empty(const Shape& shape, DType dtype = DType::f32, Device device = default_device());
  static Tensor empty_like(const Tensor& other) { return empty(other.shape(), other.dtype(), other.device()); }
  static Tensor full(const Shape& shape, double value, DType dtype = DType::f32, Device device = default_device());
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32, Device device = default_device());
  /// A copy of host values, converted to dtype. Throws E-OP-002 if values.size() is not shape.count().
  static Tensor from(std::span<const double> values, const Shape& shape, DType dtype = DType::f32,
                     Device device = default_device());
  static Tensor from(std::span<const float> values, const Shape& shape, DType dtype = DType::f32,
                     Device device = default_device());
  static Tensor from(std::span<const std::int32_t> values, const Shape& shape, Device device = default_device());
  static Tensor scalar(double value, DType dtype = DType::f32, Device device = default_device()) {
    return full({}, value, dtype, device);
  }
  /// A view of existing memory; for the engine and tests.
  static Tensor view_of(StorageRef storage, void* data, const Shape& shape, const std::int64_t* strides, DType dtype);

  bool defined() const { return static_cast<bool>(storage_); }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  std::int64_t extent(int axis) const { return shape_[axis < 0 ? axis + rank() : axis]; }
  std::int64_t count() const { return shape_.count(); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device : Device{}; }
  std::size_t bytes() const { return static_cast<std::size_t>(count()) * size_of(dtype_); }
  void* data() const { return data_; }
  template <class T>
  T* data_as() const {
    return static_cast<T*>(data_);
  }
  std::int64_t stride(int axis) const { return stride_[axis]; }
  const std::int64_t* strides() const { return stride_; }
  /// Row-major without gaps.
  bool dense() const { return dense_; }
  const StorageRef& storage() const { return storage_; }
  /// All dimensions with their strides.
  View strided_view() const;
  /// The same elements as one dimension if dense, else strided_view(). For calls on one tensor, or on all-dense ones.
  View view() const;

  /// Values in row-major order, converted. Waits for the device. Throws E-STEP-001 while a step is being recorded.
  std::vector<double> to_vector() const;
  std::vector<std::int32_t> to_ints() const;
  /// The values' own bytes, row-major without gaps.
  std::vector<std::byte> to_bytes() const;
  /// The same values on another device; this tensor if it lies there. Not differentiable.
  Tensor to(Device device) const;
  /// The only element. Throws E-OP-002 if there is not exactly one.
  double item() const;
  /// Overwrites the values from host memory (row-major, this dtype), e.g. a batch's ids. Throws E-STEP-001 while
  /// recording.
  void write(std::span<const std::byte> values);
  void write(std::span<const double> values);
  void write(std::span<const std::int32_t> values);
  /// Overwrites the values from another tensor of the same shape, on this device or another.
  void copy_from(const Tensor& other);

  /// Where the active tape keeps this tensor's gradient; meaningful only to the tape that recorded it.
  struct TapeSlot {
    std::uint64_t epoch = 0;
    std::int32_t index = -1;
  };
  const TapeSlot& slot() const { return slot_; }
  void set_slot(TapeSlot slot) { slot_ = slot; }
  /// The same memory without a place on any tape: a constant.
  Tensor detached() const;

 private:
  StorageRef storage_;
  void* data_ = nullptr;
  Shape shape_;
  std::int64_t stride_[kMaxRank];
  DType dtype_ = DType::f32;
  bool dense_ = true;
  TapeSlot slot_;
};

}  // namespace adjoint
