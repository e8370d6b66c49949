#pragma once
// Table look-up and its gradient.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

/// y[t] = table[ids[t]]. ids i32 [tokens]; table [rows, width], y [tokens, width] dense, one float dtype.
/// An id outside 0..rows-1 throws E-OP-010 on the CPU before anything is written (positions are named with
/// `ids_per_example`: example t / ids_per_example, position t % ids_per_example); on a GPU it gives a row of NaN.
struct EmbeddingForward {
  DType dtype;
  std::int64_t tokens;
  std::int64_t rows;
  std::int64_t width;
  std::int64_t ids_per_example;
  const std::int32_t* ids;
  const void* table;
  void* y;
};

/// dtable[r] (+)= sum of dy[t] over ids[t] == r, in order of t, on a GPU by parts of fixed size. padding_row: its
/// gradient stays 0 (-1: none). Assigning also zeroes the rows that no id names. touched (optional, then dtable
/// accumulates): the rows that an id names and that are not yet listed are appended, in order of t.
struct EmbeddingBackward {
  DType dtype;
  std::int64_t tokens;
  std::int64_t rows;
  std::int64_t width;
  std::int64_t padding_row;
  const std::int32_t* ids;
  const void* dy;
  GradOut dtable;
  void* scratch = nullptr;
  RowList touched = {};
};

}  // namespace adjoint

ADJOINT_CPU_KERNEL(EmbeddingForward)
ADJOINT_CPU_KERNEL(EmbeddingBackward)
ADJOINT_CPU_SCRATCH(EmbeddingBackward)
