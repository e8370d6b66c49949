#pragma once
// Emulation of the warp-wide matrix instructions and of cp.async, for kernels/cuda/ptx.h.

#include <cstdint>

#include "kernels/simt/collectives.h"

namespace adjoint::simt::detail {

int lane_id();

/// mma.sync.m16n8k16 with bf16 operands and f32 accumulators: d += a b.
void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Location at);
/// mma.sync.m16n8k8 with tf32 operands (the low 13 bits of each register are ignored).
void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Location at);

/// ldmatrix of `count` (1, 2 or 4) 8x8 matrices of 16-bit elements. `row`: this lane's row address.
void ldmatrix(std::uint32_t* r, const void* row, int count, bool transposed, Location at, void* pc);

/// cp.async of 4, 8 or 16 bytes; from == nullptr writes zeros.
void cp_async(void* to, const void* from, unsigned bytes, Location at, void* pc);
void issue_copy(void* to, const void* from, unsigned bytes, void* pc);
void commit_copies();
void wait_for_copies(int pending);  // all groups but the last `pending` are complete afterwards

}  // namespace adjoint::simt::detail
