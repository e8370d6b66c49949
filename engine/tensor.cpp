#include "engine/tensor.h"

#include <fmt/format.h>

#include <cstring>

#include "engine/gpu.h"
#include "engine/launch.h"
#include "engine/scope.h"
#include "kernels/copy.h"

namespace adjoint {
namespace {

void require_no_recording(const char* what) {
  ADJOINT_CHECK(
      !recording_a_step(), "E-STEP-001", Exit::data,
      fmt::format("{}: host access while a step is being recorded; a replay would not repeat it; read or write "
                  "tensors outside the step's function",
                  what));
}

/// A dense copy on the CPU, in dtype; converted on x's device.
Tensor on_host(const Tensor& x, DType dtype) {
  Tensor dense = Tensor::empty(x.shape(), dtype, x.device());
  launch(x.device(), Copy{.from = x.strided_view(), .to = dense.strided_view()});
  if (x.device() == Device{}) return dense;
  Tensor host = Tensor::empty(x.shape(), dtype, Device{});
  Gpu::of(x.device()).download(host.data(), dense.data(), dense.bytes());
  return host;
}

/// Overwrites a dense tensor with host bytes.
void put(const Tensor& to, const void* bytes) {
  if (to.device() == Device{}) {
    if (to.bytes() != 0) std::memcpy(to.data(), bytes, to.bytes());
  } else {
    Gpu::of(to.device()).upload(to.data(), bytes, to.bytes());
  }
}

template <class T>
Tensor from_host(std::span<const T> values, const Shape& shape, DType dtype, Device device) {
  ADJOINT_OP_CHECK(
      static_cast<std::int64_t>(values.size()) == shape.count(), "E-OP-002",
      fmt::format("tensor: {} values do not fill shape {}, which has {}", values.size(), text(shape), shape.count()));
  require_no_recording("tensor");
  Tensor source = Tensor::empty(shape, dtype_of<T>, device);
  put(source, values.data());
  if (dtype == dtype_of<T>) return source;
  Tensor result = Tensor::empty(shape, dtype, device);
  launch(device, Copy{.from = source.view(), .to = result.view()});
  return result;
}

}  // namespace

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  dense_strides(shape, t.stride_);
  t.storage_ =
      StorageRef(Allocator::current(device).allocate(static_cast<std::size_t>(shape.count()) * size_of(dtype)));
  t.data_ = t.storage_->data;
  return t;
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  launch(device, Fill{.to = t.view(), .value = value});
  return t;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) { return full(shape, 0.0, dtype, device); }

Tensor Tensor::from(std::span<const double> values, const Shape& shape, DType dtype, Device device) {
  return from_host(values, shape, dtype, device);
}
Tensor Tensor::from(std::span<const float> values, const Shape& shape, DType dtype, Device device) {
  return from_host(values, shape, dtype, device);
}
Tensor Tensor::from(std::span<const std::int32_t> values, const Shape& shape, Device device) {
  return from_host(values, shape, DType::i32, device);
}

Tensor Tensor::view_of(StorageRef storage, void* data, const Shape& shape, const std::int64_t* strides, DType dtype) {
  Tensor t;
  t.storage_ = std::move(storage);
  t.data_ = data;
  t.shape_ = shape;
  t.dtype_ = dtype;
  std::int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    t.stride_[i] = strides[i];
    if (shape[i] != 1 && strides[i] != step) t.dense_ = false;
    step *= shape[i];
  }
  if (shape.count() == 0) t.dense_ = true;
  return t;
}

View Tensor::view() const { return dense_ ? View::flat(data_, dtype_, count()) : strided_view(); }

View Tensor::strided_view() const {
  View v;
  v.data = data_;
  v.dtype = dtype_;
  v.rank = rank();
  for (int i = 0; i < v.rank; ++i) {
    v.shape[i] = shape_[i];
    v.stride[i] = stride_[i];
  }
  return v;
}

std::vector<double> Tensor::to_vector() const {
  require_no_recording("to_vector");
  const Tensor host = on_host(*this, DType::f64);
  const double* p = host.data_as<double>();
  return std::vector<double>(p, p + host.count());
}

std::vector<std::int32_t> Tensor::to_ints() const {
  require_no_recording("to_ints");
  const Tensor host = on_host(*this, DType::i32);
  const std::int32_t* p = host.data_as<std::int32_t>();
  return std::vector<std::int32_t>(p, p + host.count());
}

std::vector<std::byte> Tensor::to_bytes() const {
  require_no_recording("to_bytes");
  const Tensor host = on_host(*this, dtype_);
  const auto* p = host.data_as<std::byte>();
  return std::vector<std::byte>(p, p + host.bytes());
}

Tensor Tensor::to(Device device) const {
  if (device == this->device()) return *this;
  Tensor there = empty(shape_, dtype_, device);
  there.copy_from(*this);
  return there;
}

double Tensor::item() const {
  ADJOINT_OP_CHECK(defined() && count() == 1, "E-OP-002",
                   fmt::format("item: shape {} has {} elements; expected one", text(shape_), defined() ? count() : 0));
  return to_vector()[0];
}

void Tensor::write(std::span<const std::byte> values) {
  require_no_recording("write");
  ADJOINT_OP_CHECK(values.size() == bytes() && dense_, "E-OP-002",
                   fmt::format("write: {} bytes for a tensor of {} bytes", values.size(), bytes()));
  put(*this, values.data());
  ++storage_->version;
}

void Tensor::write(std::span<const double> values) { copy_from(from_host(values, shape_, dtype_, device())); }
void Tensor::write(std::span<const std::int32_t> values) { copy_from(from_host(values, shape_, dtype_, device())); }

void Tensor::copy_from(const Tensor& other) {
  ADJOINT_OP_CHECK(other.shape() == shape_, "E-OP-002",
                   fmt::format("copy_from: shape {} into {}", text(other.shape()), text(shape_)));
  if (other.device() == device()) {
    launch(device(), Copy{.from = other.strided_view(), .to = strided_view()});
  } else {
    require_no_recording("copy_from");
    const Tensor host = on_host(other, other.dtype());
    Tensor here = Tensor::empty(shape_, host.dtype(), device());
    put(here, host.data());
    launch(device(), Copy{.from = here.strided_view(), .to = strided_view()});
  }
  ++storage_->version;
}

Tensor Tensor::detached() const {
  Tensor t = *this;
  t.slot_ = {};
  return t;
}

}  // namespace adjoint
