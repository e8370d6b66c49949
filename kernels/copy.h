#pragma once
// Moving elements: strided copy with conversion, and fill.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

/// to[i] = convert(from[i]), or to[i] += convert(from[i]).
/// from, to: same shape, any strides and dtypes (from may have stride 0; to may not); no overlap.
/// Conversion to a float dtype rounds once, to nearest even; f32/f64 to i32/u8 truncates toward zero.
/// `accumulate` needs a float `to`; the sum is formed in acc_t and rounded once.
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
