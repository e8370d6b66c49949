#pragma once
// The call that brings attention's operands into the order that cuDNN wants. cuDNN knows neither our strides nor
// lengths that only the device knows. So positions that take no part become zeros, and a column of its own can be put
// behind the rows: 1 at queries, 0 at keys that are seen and a huge negative number at others, whose weights it makes
// exactly 0.

#include "kernels/base/backend.h"
#include "kernels/base/dtype.h"

namespace adjoint {

/// to[b,h,t] = from[b,h,t] where position t of row b takes part, else 0: first <= t < lengths[b] (T without lengths),
/// and needed[b] > 0 (unless null). Element (b, h, t, i) of `from` lies at b*stride[0] + h*stride[1] + t*stride[2] + i;
/// `to` [B,H,T,W] is dense. marked: `to` is one wider, and to[b,h,t,W] = takes part ? within : beyond. f32 or f64.
/// `to` may be `from`, if that is dense and nothing is marked.
struct ArrangeHeads {
  DType dtype;
  std::int64_t batch, heads, positions, width;
  const std::int32_t* lengths;
  const std::int32_t* needed;
  std::int64_t first;
  const void* from;
  std::int64_t from_stride[3];
  void* to;
  bool marked = false;
  double within = 0, beyond = 0;
};

}  // namespace adjoint
