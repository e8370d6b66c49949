#pragma once
// Moving elements: strided copy with conversion, and fill.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

/// to[i] = convert(from[i]), or to[i] += convert(from[i]).
/// from, to: same shape, any strides and dtypes (from may have stride 0; to may not); no overlap.
/// Conversion to a float dtype rounds once, to nearest even. Float to i32 or u8 truncates toward zero; beyond the range
/// it gives the nearest end, for NaN 0. i32 to u8 keeps the low 8 bits.
/// `accumulate` needs a float `to`; `from` is converted to to's acc_t, the sum is formed there and rounded once.
struct Copy {
  View from;
  View to;
  bool accumulate = false;
};

/// to[i] = value, converted to to's dtype. Any strides but 0.
struct Fill {
  View to;
  double value;
};

}  // namespace adjoint

ADJOINT_CPU_KERNEL(Copy)
ADJOINT_CPU_KERNEL(Fill)
