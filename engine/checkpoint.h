#pragma once
// A model's parameters to and from a safetensors file, all or nothing.

#include <map>
#include <string>

#include "engine/module.h"

namespace adjoint {

/// Writes every parameter under its path, crash-safe, with checksums. Metadata always has format "pt".
/// Throws E-IO-002, E-IO-005; the previous file of that name is then untouched.
void save_model(const std::string& path, const Module& model, std::map<std::string, std::string> metadata = {});

struct LoadOptions {
  bool allow_nonfinite = false;
  std::string hint = {};  ///< ends messages about a damaged file: where an intact one is
};
/// Reads every parameter. Names and shapes are compared with the model, checksums verified and values checked before
/// the first parameter changes. Throws the E-CKPT-… errors of engine/safetensors.h, E-CKPT-019 (names or shapes do not
/// fit: all of them listed) and E-CKPT-022 (not finite). Returns the file's metadata.
std::map<std::string, std::string> load_model(const std::string& path, Module& model, const LoadOptions& options = {});

/// The float tensors of a model file by name, on the host, for those who take parts of one. Throws what load_model
/// throws but E-CKPT-019.
std::map<std::string, Tensor> read_parameters(const std::string& path, const LoadOptions& options = {});

}  // namespace adjoint
