#pragma once
// Inputs that occur again and again, as the embeddings of a small alphabet do: what is the same for equal inputs is
// computed once.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/lstm_rows.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm {

/// The different inputs, bit by bit, among the packed rows of a call.
struct Repeats {
  /// More kinds are not looked for: too many would cost more than they save.
  static constexpr std::int64_t kMostKinds = 64;

  std::int32_t* kind;      ///< [rows] of a row
  std::int32_t* row;       ///< [kMostKinds] a row of each kind
  std::int64_t kinds = 0;  ///< 0: none, since rows do not repeat often enough

  static std::int64_t most_kinds(std::int64_t rows) { return std::min(kMostKinds, rows / 2); }

  void carve(Carver& carver, std::int64_t rows) {
    kind = carver.take<std::int32_t>(rows);
    row = carver.take<std::int32_t>(most_kinds(rows));
  }

  /// Row i is the `width` elements at x + x_at[i].
  template <class S>
  void find(const S* x, const std::int64_t* x_at, std::int64_t rows, std::int64_t width) {
    const std::size_t bytes = static_cast<std::size_t>(width) * sizeof(S);
    std::uint64_t begins[kMostKinds];  // of each kind, which tell most of them apart
    kinds = 0;
    if (bytes == 0) return;
    for (std::int64_t i = 0; i < rows; ++i) {
      std::uint64_t begin = 0;
      std::memcpy(&begin, x + x_at[i], std::min(sizeof begin, bytes));
      std::int64_t k = 0;
      while (k < kinds && (begins[k] != begin || std::memcmp(x + x_at[i], x + x_at[row[k]], bytes) != 0)) ++k;
      if (k == kinds) {
        if (kinds == most_kinds(rows)) {
          kinds = 0;
          return;
        }
        begins[kinds] = begin;
        row[kinds++] = static_cast<std::int32_t>(i);
      }
      kind[i] = static_cast<std::int32_t>(k);
    }
  }
};

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm
