#include "engine/parameter.h"

#include <fmt/format.h>

#include "engine/launch.h"
#include "engine/module.h"
#include "engine/scope.h"
#include "kernels/copy.h"
#include "kernels/optimizer.h"

namespace adjoint {
namespace {

constexpr std::int64_t kSliceBytes = 64;

Tensor slice_of(const Tensor& flat, std::int64_t begin, const Shape& shape) {
  std::int64_t strides[kMaxRank];
  dense_strides(shape, strides);
  char* data = static_cast<char*>(flat.data()) + begin * static_cast<std::int64_t>(size_of(flat.dtype()));
  return Tensor::view_of(flat.storage(), data, shape, strides, flat.dtype());
}

}  // namespace

void Parameter::set(Tensor initial) {
  ADJOINT_OP_CHECK(
      is_float(initial.dtype()) && initial.dense(), "E-OP-006",
      fmt::format("parameter: {} {}; expected a dense float tensor", name(initial.dtype()), text(initial.shape())));
  value_ = initial.detached();
  gradient_ = Tensor();
  cleared_ = true;
}

Tensor Parameter::value() const {
  Tape* tape = Tape::active();
  if (tape == nullptr || !trainable_) return value_;
  if (slot_.epoch != tape->epoch()) slot_ = tape->parameter_slot(const_cast<Parameter&>(*this), value_);
  Tensor value = value_;
  value.set_slot(slot_);
  return value;
}

void Parameter::set_row_sparse(bool row_sparse) {
  ADJOINT_OP_CHECK(!row_sparse || value_.rank() == 2, "E-OP-008",
                   fmt::format("parameter: shape {} has no rows of one width; expected [rows,width] for row-sparse "
                               "gradients",
                               text(value_.shape())));
  row_sparse_ = row_sparse;
}

RowList Parameter::rows() const {
  const std::int64_t rows = value_.extent(0);
  char* data = row_list_.data_as<char>();
  auto* first = reinterpret_cast<std::int32_t*>(data + sizeof(std::int64_t));
  return {reinterpret_cast<std::int64_t*>(data), first, reinterpret_cast<std::uint8_t*>(first + rows)};
}

void Parameter::make_row_gradient() const {
  if (!gradient_.defined()) gradient_ = Tensor::zeros(value_.shape(), value_.dtype(), value_.device());
  if (row_list_.defined()) return;
  const std::int64_t bytes = static_cast<std::int64_t>(sizeof(std::int64_t)) +
                             value_.extent(0) * static_cast<std::int64_t>(sizeof(std::int32_t) + sizeof(std::uint8_t));
  row_list_ = Tensor::zeros({bytes}, DType::u8, value_.device());
}

void Parameter::clear_gradient() {
  cleared_ = true;
  if (row_sparse_ && row_list_.defined())
    launch(gradient_.device(),
           RowsClear{.dtype = value_.dtype(), .width = value_.extent(1), .g = gradient_.data(), .rows = rows()});
}

Tensor Parameter::gradient() const {
  finish_gradient();
  return gradient_;
}

void Parameter::finish_gradient() const {
  if (row_sparse_) {
    make_row_gradient();
    return;
  }
  if (!gradient_.defined()) gradient_ = Tensor::empty_like(value_);
  if (!cleared_) return;
  launch(gradient_.device(), Fill{.to = gradient_.view(), .value = 0.0});
  cleared_ = false;
}

RowGradOut Parameter::row_gradient_destination() {
  make_row_gradient();
  return {{gradient_.data(), true}, rows()};
}

GradOut Parameter::gradient_destination() {
  ADJOINT_OP_CHECK(!row_sparse_, "E-GRAD-006",
                   fmt::format("backward: a parameter of shape {} has row-sparse gradients but is used as a whole; "
                               "expected embedding() alone to read it; try dense gradients",
                               text(value_.shape())));
  if (!gradient_.defined()) gradient_ = Tensor::empty_like(value_);
  const bool accumulate = !cleared_;
  cleared_ = false;
  return {gradient_.data(), accumulate};
}

ParameterSet::ParameterSet(Module& model) {
  std::int64_t size = 0;
  for (const NamedParameter& p : model.parameters())
    if (p.parameter->trainable()) parameters_.push_back(p);
  ADJOINT_CHECK(!parameters_.empty(), "E-CONF-006", Exit::usage, "parameters: the model has no trainable parameter");
  const Tensor& first = parameters_[0].parameter->value_;
  const std::int64_t align = kSliceBytes / static_cast<std::int64_t>(size_of(first.dtype()));
  for (const NamedParameter& p : parameters_) {
    const Tensor& value = p.parameter->value_;
    ADJOINT_OP_CHECK(value.dtype() == first.dtype() && value.device() == first.device(), "E-OP-006",
                     fmt::format("parameters: '{}' is {} on {} but '{}' is {} on {}; expected one dtype and device",
                                 p.name, name(value.dtype()), text(value.device()), parameters_[0].name,
                                 name(first.dtype()), text(first.device())));
    count_ += value.count();
    size += (value.count() + align - 1) / align * align;
  }
  values_ = Tensor::zeros({size}, first.dtype(), first.device());
  gradients_ = Tensor::zeros({size}, first.dtype(), first.device());
  std::int64_t at = 0;
  const auto place = [&](Parameter& parameter) {
    Tensor value = slice_of(values_, at, parameter.shape());
    value.copy_from(parameter.value_);
    parameter.value_ = value;
    parameter.gradient_ = slice_of(gradients_, at, parameter.shape());
    parameter.cleared_ = true;
    at += (parameter.shape().count() + align - 1) / align * align;
  };
  for (const NamedParameter& p : parameters_)
    if (!p.parameter->row_sparse()) place(*p.parameter);
  dense_extent_ = at;
  for (const NamedParameter& p : parameters_) {
    if (!p.parameter->row_sparse()) continue;
    p.parameter->row_list_ = Tensor();
    const std::int64_t begin = at;
    place(*p.parameter);
    p.parameter->make_row_gradient();
    tables_.push_back({begin, p.parameter->shape().back(), p.parameter->rows()});
  }
}

void ParameterSet::clear_gradients() {
  for (const NamedParameter& p : parameters_) p.parameter->clear_gradient();
}

void ParameterSet::finish_gradients() const {
  for (const NamedParameter& p : parameters_) p.parameter->finish_gradient();
}

}  // namespace adjoint
