#pragma once
// One direction of one LSTM layer over a whole sequence of a padded batch (a single step is T = 1).
// Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000; gate order and names as in
// torch.nn.LSTM.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

/// Extents and layouts shared by forward and backward. B batch, T time, I input width, H hidden width.
struct LstmShape {
  DType dtype;
  std::int64_t batch, time, input, hidden;
  /// Element (b, t, i) of x lies at b*x_stride[0] + t*x_stride[1] + i; of y at b*y_stride[0] + t*y_stride[1] + u.
  std::int64_t x_stride[2], y_stride[2];
  const std::int32_t* lengths = nullptr;  ///< i32 [B] in 0..T, or null for T each. Read at run time.
  bool reverse = false;                   ///< run from the last real step to the first
  /// On a GPU: by cuDNN, every case of the contract; extents of 0 stay with our own kernels. Forward and backward
  /// alike.
  bool by_library = false;

  /// Elements (in the accumulator dtype) that forward saves for backward; their layout is the backend's own matter. A
  /// library has its own number: saved_bytes of its entry.
  std::int64_t saved_elements() const { return batch * time * 6 * hidden; }
};

/// z = x_t W_ih' + b_ih + h W_hh' + b_hh, split in i, f, g, o;
/// c = sigmoid(f) c + sigmoid(i) tanh(g); h = sigmoid(o) tanh(c), for t < lengths[b] (in falling order if reverse).
/// w_ih [4H, I], w_hh [4H, H], b_ih, b_hh [4H] dense (biases both null or both present). h0, c0 [B,H] dense or null
/// (zeros). y: h of each step; 0 at padded steps. h_n, c_n [B,H]: state after the last real step (h0, c0 if the length
/// is 0). saved: see saved_elements(), or null when no backward will follow. One float dtype; state is kept in acc_t.
struct LstmForward {
  LstmShape shape;
  const void* x;
  const void* w_ih;
  const void* w_hh;
  const void* b_ih;
  const void* b_hh;
  const void* h0;
  const void* c0;
  void* y;
  void* h_n;
  void* c_n;
  void* saved;
  void* scratch = nullptr;
};

/// dy (strides of y), dh_n, dc_n [B,H]: incoming gradients, each may be null (zeros). dy at padded steps is ignored.
/// dx is written with the strides of x over [B,T,I] (0 at padded steps); the others are dense. db_ih and db_hh get
/// equal values.
struct LstmBackward {
  LstmShape shape;
  const void* x;
  const void* w_ih;
  const void* w_hh;
  const void* h0;
  const void* c0;
  const void* y;
  const void* saved;
  const void* dy;
  const void* dh_n;
  const void* dc_n;
  GradOut dx;
  GradOut dw_ih;
  GradOut dw_hh;
  GradOut db_ih;
  GradOut db_hh;
  GradOut dh0;
  GradOut dc0;
  void* scratch = nullptr;
};

}  // namespace adjoint

ADJOINT_CPU_KERNEL(LstmForward)
ADJOINT_CPU_KERNEL(LstmBackward)
ADJOINT_CPU_SCRATCH(LstmForward)
ADJOINT_CPU_SCRATCH(LstmBackward)
