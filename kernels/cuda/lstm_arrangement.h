#pragma once
// Calls that bring an LSTM's operands into the order that cuDNN wants, and its results back. cuDNN runs every sequence
// over all T steps from first to last, and knows neither our strides nor lengths that only the device knows. So the
// real steps of a row are put first, in the order in which they are run; and an input of its own, 1 at the steps after
// them, opens the forget gate and shuts the input gate there: c stays what it was, to the bit, and no gradient arises.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

/// to[b,t] = from[b,s] for t < n, and 0 for the rest, where n = lengths[b] (T without lengths) and s = reverse ? n-1-t
/// : t. The same call brings a sequence back. Element (b, t, i) lies at b*stride[0] + t*stride[1] + i. from null:
/// zeros. last [B,W] or null is added at t = n-1. held: `to` is one wider, and to[b,t,W] = t < n ? 0 : 1. accumulate:
/// added to what is there.
struct ArrangeSteps {
  DType dtype;
  std::int64_t batch, time, width;
  const std::int32_t* lengths;
  bool reverse;
  const void* from;
  std::int64_t from_stride[2];
  void* to;
  std::int64_t to_stride[2];
  const void* last = nullptr;
  bool held = false;
  bool accumulate = false;
};

/// to [B,W] (+)= always[b] + (n > 0 ? steps[b,n-1] : if_none[b]), n as above; steps [B,T,W] dense. Each of the three
/// may be null, which counts as zeros.
struct ArrangeState {
  DType dtype;
  std::int64_t batch, time, width;
  const std::int32_t* lengths;
  const void* always;
  const void* steps;
  const void* if_none;
  GradOut to;
};

/// Between the dense arrays of LstmForward and where cuDNN keeps them: 8 matrices and 8 vectors, of the gates i, f, g,
/// o for the input and again for the state.
struct LstmWeightPlaces {
  void* matrix[8];
  void* bias[8];
};

/// places = the weights. held: the input's matrices are one wider, with -1e4, 1e4, 0, 0 for the gates i, f, g, o there.
struct ArrangeWeights {
  DType dtype;
  std::int64_t input, hidden;
  bool held;
  const void* w_ih;
  const void* w_hh;
  const void* b_ih;  ///< with b_hh, or both null, which counts as zeros
  const void* b_hh;
  LstmWeightPlaces places;
};

/// gradient (+)= places, for those that are wanted.
struct CollectWeights {
  DType dtype;
  std::int64_t input, hidden;
  bool held;
  LstmWeightPlaces places;
  GradOut w_ih;
  GradOut w_hh;
  GradOut b_ih;
  GradOut b_hh;
};

}  // namespace adjoint
