#include "engine/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <vector>

#include "engine/safetensors.h"

namespace adjoint {
namespace {

std::vector<std::uint64_t> extents(const Shape& shape) {
  return std::vector<std::uint64_t>(shape.data(), shape.data() + shape.rank());
}

/// The first three of a list, and how many more there are: a message stays one short line.
std::string listed(const std::vector<std::string>& items) {
  const std::size_t shown = std::min<std::size_t>(items.size(), 3);
  std::string s = fmt::format("{}", fmt::join(items.begin(), items.begin() + static_cast<std::ptrdiff_t>(shown), ", "));
  return items.size() > shown ? s + fmt::format(" and {} more", items.size() - shown) : s;
}

}  // namespace

void save_model(const std::string& path, const Module& model, std::map<std::string, std::string> metadata) {
  metadata.try_emplace("format", "pt");
  std::vector<Tensor> values;
  std::vector<TensorToWrite> tensors;
  for (const NamedParameter& p : model.parameters()) {
    const Tensor value = p.parameter->value().detached();
    // Host memory of exactly the tensor's bytes; parameters are dense.
    Tensor host = Tensor::empty(value.shape(), value.dtype(), Device{});
    host.copy_from(value);
    values.push_back(host);
    tensors.push_back(
        {p.name, file_dtype(value.dtype()), extents(value.shape()), {host.data_as<std::byte>(), host.bytes()}});
  }
  write_safetensors(path, tensors, metadata);
}

std::map<std::string, std::string> load_model(const std::string& path, Module& model, const LoadOptions& options) {
  const SafetensorsFile file(path, options.hint);
  const std::vector<NamedParameter> parameters = model.parameters();
  std::vector<std::string> missing, mismatched, unexpected;
  std::size_t found = 0;
  for (const NamedParameter& p : parameters) {
    const TensorInfo* info = file.find(p.name);
    if (info == nullptr) {
      missing.push_back(p.name);
      continue;
    }
    ++found;
    const Shape& shape = p.parameter->shape();
    const DType dtype = p.parameter->value().dtype();
    if (info->shape != extents(shape)) {
      mismatched.push_back(fmt::format("{}: file {}, model {}", p.name, shape_text(info->shape), text(shape)));
    } else if (info->dtype != file_dtype(dtype)) {
      mismatched.push_back(fmt::format("{}: file {}, model {}", p.name, name(info->dtype), name(file_dtype(dtype))));
    }
  }
  if (found < file.header().tensors.size()) {
    for (const TensorInfo& info : file.header().tensors) {
      bool known = false;
      for (const NamedParameter& p : parameters) known |= p.name == info.name;
      if (!known) unexpected.push_back(info.name);
    }
  }
  if (!missing.empty() || !mismatched.empty() || !unexpected.empty()) {
    std::vector<std::string> parts;
    if (!mismatched.empty()) parts.push_back(listed(mismatched));
    if (!missing.empty()) parts.push_back("missing " + listed(missing));
    if (!unexpected.empty()) parts.push_back("unexpected " + listed(unexpected));
    throw Error("E-CKPT-019", Exit::data,
                fmt::format("{}: does not fit the model: {}; expected the file of a model with the same options", path,
                            fmt::join(parts, "; ")));
  }

  file.verify_checksums();
  std::vector<Tensor> values;
  for (const NamedParameter& p : parameters) {
    const TensorInfo& info = *file.find(p.name);
    Tensor host = Tensor::empty(p.parameter->shape(), p.parameter->value().dtype(), Device{});
    const std::span<std::byte> bytes(host.data_as<std::byte>(), host.bytes());
    file.read(info, bytes);
    if (!options.allow_nonfinite) require_finite(path, info, bytes);
    values.push_back(host);
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].parameter->value().detached().copy_from(values[i]);
  return file.header().metadata;
}

std::map<std::string, Tensor> read_parameters(const std::string& path, const LoadOptions& options) {
  const SafetensorsFile file(path, options.hint);
  std::map<std::string, Tensor> parameters;
  for (const TensorInfo& info : file.header().tensors) {
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      if (info.dtype != file_dtype(dtype)) continue;
      Shape shape;
      for (const std::uint64_t extent : info.shape) shape.append(static_cast<std::int64_t>(extent));
      Tensor host = Tensor::empty(shape, dtype, Device{});
      const std::span<std::byte> bytes(host.data_as<std::byte>(), host.bytes());
      file.read(info, bytes);
      if (!options.allow_nonfinite) require_finite(path, info, bytes);
      parameters.emplace(info.name, host);
    }
  }
  return parameters;
}

}  // namespace adjoint
