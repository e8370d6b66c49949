#include "engine/file_dtype.h"

#include <array>
#include <stdexcept>

namespace adjoint {
namespace {

struct Row {
  std::string_view spelling;
  std::uint64_t bits;
};

// Indexed by FileDType.
constexpr std::array<Row, 22> kRows{{
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
}};
static_assert(kRows.size() == static_cast<std::size_t>(FileDType::u64) + 1);

const Row& row(FileDType dtype) { return kRows[static_cast<std::size_t>(dtype)]; }

}  // namespace

std::string_view name(FileDType dtype) { return row(dtype).spelling; }

std::uint64_t bits_of(FileDType dtype) { return row(dtype).bits; }

std::optional<FileDType> file_dtype(std::string_view spelling) {
  for (std::size_t i = 0; i < kRows.size(); ++i) {
    if (kRows[i].spelling == spelling) return static_cast<FileDType>(i);
  }
  return std::nullopt;
}

std::string file_dtype_list() {
  std::string list;
  for (const Row& r : kRows) list.append(list.empty() ? "" : " ").append(r.spelling);
  return list;
}

FileDType file_dtype(DType dtype) {
  switch (dtype) {
    case DType::f64: return FileDType::f64;
    case DType::f32: return FileDType::f32;
    case DType::bf16: return FileDType::bf16;
    case DType::i32: return FileDType::i32;
    case DType::u8: return FileDType::u8;
  }
  throw std::logic_error("file_dtype: not a dtype");
}

std::optional<DType> engine_dtype(FileDType dtype) {
  for (const DType candidate : {DType::f64, DType::f32, DType::bf16, DType::i32, DType::u8}) {
    if (file_dtype(candidate) == dtype) return candidate;
  }
  return std::nullopt;
}

}  // namespace adjoint
