#pragma once
// Element types that a safetensors file can have.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/base/dtype.h"

namespace adjoint {

/// Every element type of the format, in its order of alignment; the engine computes in five of them.
enum class FileDType : std::uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64,
};

/// As the file spells it: "F32".
std::string_view name(FileDType dtype);
/// None for a spelling that is not one of them.
std::optional<FileDType> file_dtype(std::string_view spelling);
/// All spellings, for messages.
std::string file_dtype_list();
std::uint64_t bits_of(FileDType dtype);
FileDType file_dtype(DType dtype);
/// None for a type that the engine has no tensors of.
std::optional<DType> engine_dtype(FileDType dtype);

}  // namespace adjoint
