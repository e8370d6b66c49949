#pragma once
// Every inline-PTX wrapper of the project, device and CPU side together; no other file uses asm. The CPU side is an
// emulation from the PTX ISA's documented fragment layouts (kernels/simt/tensor_core.cpp).
//
// Fragments, with g = lane / 4 and t = lane % 4:
//   mma_bf16  a[0..3]: rows g, g+8, g, g+8, columns 2t, 2t, 2t+8, 2t+8 (two each)   b[0..1]: rows 2t, 2t+8, column g
//   mma_tf32  a[0..3]: rows g, g+8, g, g+8, columns t, t, t+4, t+4                  b[0..1]: rows t, t+4, column g
//   d[0..3]: rows g, g, g+8, g+8, columns 2t, 2t+1, 2t, 2t+1

#include <cstdint>

#include "kernels/cuda/compat.h"

#ifndef __CUDACC__
#include <bit>

#include "kernels/simt/tensor_core.h"
#endif

namespace adjoint::ADJOINT_GPU_NAMESPACE {

// Lanes and conversions.

#ifdef __CUDACC__
/// This thread's place in its warp, whatever the shape of the block.
__device__ __forceinline__ int lane_id() {
  int lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}
/// Two floats rounded to bf16, `low` in the low half.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<std::uint32_t*>(&pair);
}
#else
inline int lane_id() { return detail::lane_id(); }
inline std::uint32_t pack_bf16(float low, float high) {
  return static_cast<std::uint32_t>(bf16(low).bits) | static_cast<std::uint32_t>(bf16(high).bits) << 16;
}
#endif

/// The two halves of a pack_bf16, as floats: a shift, so no conversion instruction is needed.
__device__ __forceinline__ float low_bf16(std::uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(std::uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

/// A float rounded to tf32, ties away from zero; tf32 is an f32 whose low 13 bits are ignored.
__device__ __forceinline__ std::uint32_t to_tf32(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#else
  std::uint32_t bits = __float_as_uint(x);
  bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return (finite ? bits + 0x1000u : bits) & 0xffffe000u;
#endif
}

// Matrix multiply.

/// Whether the GPU that is compiled for multiplies bf16 and tf32 in hardware (sm_80 and later). Elsewhere mma_bf16 and
/// mma_tf32 work but are slow: a kernel built on them is better left empty, and not launched (device_limits).
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
inline constexpr bool kTensorCores = false;
#else
inline constexpr bool kTensorCores = true;
#endif

namespace detail {

struct DotBf16 {
  __device__ float operator()(std::uint32_t a, std::uint32_t b) const {
    return low_bf16(a) * low_bf16(b) + high_bf16(a) * high_bf16(b);
  }
};
struct DotTf32 {
  __device__ float operator()(std::uint32_t a, std::uint32_t b) const {
    return __uint_as_float(a & 0xffffe000u) * __uint_as_float(b & 0xffffe000u);
  }
};

/// The multiply for GPUs before sm_80, each operand fetched from the lane that holds it. Also an independent statement
/// of the fragment layouts, which a test holds against the emulation.
template <class Dot>
__device__ __forceinline__ void mma_by_shuffles(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                                Dot dot) {
  int lane = lane_id();
  int row = lane & ~3;        // lanes row … row + 3 hold rows g and g + 8 of a
  int column = lane % 4 * 8;  // lanes column … column + 3 hold column 2t of b, the next four column 2t + 1
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      std::uint32_t top = __shfl_sync(0xffffffffu, a[2 * i], row + q);
      std::uint32_t bottom = __shfl_sync(0xffffffffu, a[2 * i + 1], row + q);
      std::uint32_t left = __shfl_sync(0xffffffffu, b[i], column + q);
      std::uint32_t right = __shfl_sync(0xffffffffu, b[i], column + 4 + q);
      d[0] += dot(top, left);
      d[1] += dot(top, right);
      d[2] += dot(bottom, left);
      d[3] += dot(bottom, right);
    }
  }
}

}  // namespace detail

#ifdef __CUDACC__
/// d [16, 8] += a [16, 16] b [16, 8]: bf16 operands, f32 sums.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  detail::mma_by_shuffles(d, a, b, detail::DotBf16{});
#endif
}
/// d [16, 8] += a [16, 8] b [8, 8]: tf32 operands, f32 sums.
__device__ __forceinline__ void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  detail::mma_by_shuffles(d, a, b, detail::DotTf32{});
#endif
}
#else
inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     detail::Location at = detail::Location::here()) {
  detail::mma_m16n8k16_bf16(d, a, b, at);
}
inline void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     detail::Location at = detail::Location::here()) {
  detail::mma_m16n8k8_tf32(d, a, b, at);
}
#endif

// Loads from shared memory, and copies into it.

#ifdef __CUDACC__
namespace detail {
__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
}  // namespace detail

/// Four 8x8 matrices of 16-bit elements from shared memory; lanes 8 m … 8 m + 7 name the rows of matrix m, 16-byte
/// aligned. r[m]: two neighbours of row lane / 4 (transposed: of column lane / 4).
template <bool kTransposed>
__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) {
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(detail::shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(detail::shared_address(row))
                 : "memory");
  }
}
/// The same for two matrices; the addresses of lanes 16 … 31 are not used, but must be valid.
template <bool kTransposed>
__device__ __forceinline__ void ldmatrix_x2(std::uint32_t (&r)[2], const void* row) {
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(detail::shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(detail::shared_address(row))
                 : "memory");
  }
}

// Before sm_80 the copies are plain ones, complete when they return.

/// Copies 16 bytes to shared memory in the background, or zeros where !valid (`from` must still be a legal address).
__device__ __forceinline__ void cp_async_16(void* to, const void* from, bool valid = true) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(detail::shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(to) = valid ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
#endif
}
/// The same for 4 bytes (any alignment of a float).
__device__ __forceinline__ void cp_async_4(void* to, const void* from, bool valid = true) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(detail::shared_address(to)), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
#else
  *static_cast<std::uint32_t*>(to) = valid ? *static_cast<const std::uint32_t*>(from) : 0u;
#endif
}
/// Closes a group of copies.
__device__ __forceinline__ void cp_async_commit() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Waits until at most kPending of this thread's groups are still on their way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}
#else

// Not inlined, so that the checker's report names the kernel's line.
template <bool kTransposed>
__attribute__((noinline)) void ldmatrix_x4(std::uint32_t (&r)[4], const void* row,
                                           detail::Location at = detail::Location::here()) {
  detail::ldmatrix(r, row, 4, kTransposed, at, __builtin_return_address(0));
}
template <bool kTransposed>
__attribute__((noinline)) void ldmatrix_x2(std::uint32_t (&r)[2], const void* row,
                                           detail::Location at = detail::Location::here()) {
  detail::ldmatrix(r, row, 2, kTransposed, at, __builtin_return_address(0));
}
__attribute__((noinline)) inline void cp_async_16(void* to, const void* from, bool valid = true,
                                                  detail::Location at = detail::Location::here()) {
  detail::cp_async(to, valid ? from : nullptr, 16, at, __builtin_return_address(0));
}
__attribute__((noinline)) inline void cp_async_4(void* to, const void* from, bool valid = true,
                                                 detail::Location at = detail::Location::here()) {
  detail::cp_async(to, valid ? from : nullptr, 4, at, __builtin_return_address(0));
}
inline void cp_async_commit() { detail::commit_copies(); }
template <int kPending>
void cp_async_wait() {
  detail::wait_for_copies(kPending);
}

#endif

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
