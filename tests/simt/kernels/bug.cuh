#pragma once
// Bugs that can be planted into the self-test kernels, each a mistake people make in CUDA. A kernel takes one as a
// template argument; Bug::none is the correct kernel.

#include "kernels/cuda/compat.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test {

enum class Bug {
  none,
  // layer_norm.cuh
  half_warp_mask,            // a collective's mask names 16 of the 32 lanes that call it
  collective_under_lane_if,  // lane 31 never reaches the collective
  reduction_one_step_short,  // two half sums remain
  shuffle_down_broadcast,    // the result of shfl_down is used by all lanes; only lane 0 has it
  one_vector_too_many,       // i <= n / 4
  plain_add_across_blocks,   // several blocks add to one element without an atomic
  misaligned_vector,         // float4 loads from x + 1
  accumulator_not_cleared,   // atomics into memory nobody zeroed
  // attention.cuh
  no_barrier_before_refill,  // a tile is overwritten while slow warps still read it
  no_barrier_after_fill,     // a tile is read before it is filled
  tile_tail_not_filled,      // rows beyond the sequence keep what was there
  bound_from_tile,           // k0 + r < k0 + tile, so rows beyond the sequence are read
  shared_tile_overrun,       // row + 1
  barrier_under_warp_if,     // half of the warps
  warp_skips_barriers,       // a warp without rows leaves the loop body early
  // lstm.cuh
  wrong_gate_stride,  // the output gate at 4 H
  // cross_entropy.cuh
  return_before_barrier,     // threads beyond the row return early
  no_barrier_before_maxima,  // partial maxima are read too early; a stale one gives the right answer too
  reads_unwritten_slots,     // 32 slots of an array of 8
  no_barrier_before_total,   // the sum is read by threads that did not wait for it
  lost_update,               // every warp adds to one shared word without an atomic
  shared_total_not_cleared,  // atomics into shared memory nobody zeroed
  // tree_sum.cuh
  no_syncwarp_after_store,  // relies on lanes moving in step
  no_syncwarp_in_tree,      // the same, between the steps of the tree
  // gemm.cuh
  waits_for_one_group_less,  // cp.async: the stage just asked for may still be on its way
  no_barrier_after_wait,     // each thread has its own copies, but not the others'
  no_barrier_before_reload,  // the next copy lands in a stage that slower warps still read
  ldmatrix_halves_swapped,   // the two 8-row halves of the lane addresses
};

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
  return v;
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test
