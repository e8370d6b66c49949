#pragma once
// Operands of 16-wide matrix products in registers, for bf16 and for f32, held alike: an f32 fragment has the elements
// of the bf16 one, each pair of halves being two floats. So one kernel serves both.
//
// bf16 is mma.m16n8k16. f32 is six mma.m16n8k8 in tf32: x = high + low with 11 bits each, and of the four products
// all but low * low (2^-22 of the whole, as little as f32's own roundings), small ones first. A product's 16 columns
// may be summed in any order, so the first of the two k8 steps takes the even columns of each pair, the second half …
// columns 2t and 2t + 1 stand for the instruction's t and t + 4. Scores then are the left operand of the next product
// without a shuffle, in both dtypes.
//
// Tiles in shared memory have rows of kWidth + 8 elements. For ldmatrix that puts eight rows into eight different
// groups of four banks, as an XOR swizzle would, at 6 to 25 % more memory and without its index arithmetic. For f32
// the 8-byte loads of load_left and load_right_rows are free of conflicts, load_right_columns has two-way ones.

#include "kernels/cuda/attention_head.cuh"
#include "kernels/cuda/ptx.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE::attention {

template <int kWidth>
constexpr int kTileStride = kWidth + 8;

/// 16 x 16, the left operand. Pair i: rows g, g + 8, g, g + 8, columns 2t and 2t + 1 (+ 8 for the last two).
template <class T>
struct Left;
template <>
struct Left<bf16> {
  std::uint32_t pair[4];
};
template <>
struct Left<float> {
  std::uint32_t high[8], low[8];
};

/// 16 x 8, the right operand. Pair i: column g, rows 2t and 2t + 1 (+ 8 for the second).
template <class T>
struct Right;
template <>
struct Right<bf16> {
  std::uint32_t pair[2];
};
template <>
struct Right<float> {
  std::uint32_t high[4], low[4];
};

__device__ __forceinline__ void split(float x, std::uint32_t& high, std::uint32_t& low) {
  high = to_tf32(x);
  low = to_tf32(x - __uint_as_float(high));
}

/// d [16, 8] += a [16, 16] b [16, 8].
__device__ __forceinline__ void multiply_fragments(float (&d)[4], const Left<bf16>& a, const Right<bf16>& b) {
  mma_bf16(d, a.pair, b.pair);
}
__device__ __forceinline__ void multiply_fragments(float (&d)[4], const Left<float>& a, const Right<float>& b) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const std::uint32_t a_high[4] = {a.high[4 * h], a.high[4 * h + 2], a.high[4 * h + 1], a.high[4 * h + 3]};
    const std::uint32_t a_low[4] = {a.low[4 * h], a.low[4 * h + 2], a.low[4 * h + 1], a.low[4 * h + 3]};
    const std::uint32_t b_high[2] = {b.high[2 * h], b.high[2 * h + 1]}, b_low[2] = {b.low[2 * h], b.low[2 * h + 1]};
    mma_tf32(d, a_low, b_high);
    mma_tf32(d, a_high, b_low);
    mma_tf32(d, a_high, b_high);
  }
}

/// Rows 0 … 15 and columns 0 … 15 of a tile.
template <int kStride>
__device__ __forceinline__ void load_left(Left<bf16>& a, const bf16* tile) {
  const int lane = threadIdx.x % 32;
  ldmatrix_x4<false>(a.pair, tile + lane % 16 * kStride + lane / 16 * 8);
}
template <int kStride>
__device__ __forceinline__ void load_left(Left<float>& a, const float* tile) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 x = *reinterpret_cast<const float2*>(tile + (g + i % 2 * 8) * kStride + 2 * t + i / 2 * 8);
    split(x.x, a.high[2 * i], a.low[2 * i]);
    split(x.y, a.high[2 * i + 1], a.low[2 * i + 1]);
  }
}

/// Two right operands side by side, whose columns are rows 0 … 15 of a tile: for products with its transpose.
template <int kStride>
__device__ __forceinline__ void load_right_rows(Right<bf16> (&b)[2], const bf16* tile) {
  const int lane = threadIdx.x % 32;
  std::uint32_t r[4];
  ldmatrix_x4<false>(r, tile + (lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8);
  b[0] = {{r[0], r[1]}};
  b[1] = {{r[2], r[3]}};
}
template <int kStride>
__device__ __forceinline__ void load_right_rows(Right<float> (&b)[2], const float* tile) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 x = *reinterpret_cast<const float2*>(tile + (8 * n + g) * kStride + 2 * t + 8 * i);
      split(x.x, b[n].high[2 * i], b[n].low[2 * i]);
      split(x.y, b[n].high[2 * i + 1], b[n].low[2 * i + 1]);
    }
  }
}

/// Two right operands side by side, rows 0 … 15 and columns 0 … 15 of a tile as they lie.
template <int kStride>
__device__ __forceinline__ void load_right_columns(Right<bf16> (&b)[2], const bf16* tile) {
  const int lane = threadIdx.x % 32;
  std::uint32_t r[4];
  ldmatrix_x4<true>(r, tile + lane % 16 * kStride + lane / 16 * 8);
  b[0] = {{r[0], r[1]}};
  b[1] = {{r[2], r[3]}};
}
template <int kStride>
__device__ __forceinline__ void load_right_columns(Right<float> (&b)[2], const float* tile) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      split(tile[(2 * t + i % 2 + i / 2 * 8) * kStride + 8 * n + g], b[n].high[i], b[n].low[i]);
    }
  }
}

/// Two 16 x 8 results side by side as a left operand.
__device__ __forceinline__ void as_left(Left<bf16>& a, const float (&c0)[4], const float (&c1)[4]) {
  a = {{pack_bf16(c0[0], c0[1]), pack_bf16(c0[2], c0[3]), pack_bf16(c1[0], c1[1]), pack_bf16(c1[2], c1[3])}};
}
__device__ __forceinline__ void as_left(Left<float>& a, const float (&c0)[4], const float (&c1)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    split(c0[i], a.high[i], a.low[i]);
    split(c1[i], a.high[4 + i], a.low[4 + i]);
  }
}

/// sum[m] = rows 16 m … of `own` times rows 0 … kTile - 1 of `other`, both [., kWidth].
template <class T, int kWidth, int kM, int kTile>
__device__ __forceinline__ void multiply_rows(float (&sum)[kM][kTile / 8][4], const T* own, const T* other) {
  constexpr int kStride = kTileStride<kWidth>;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) sum[m][n][0] = sum[m][n][1] = sum[m][n][2] = sum[m][n][3] = 0.0f;
  }
#pragma unroll
  for (int k = 0; k < kWidth; k += 16) {
    Left<T> a[kM];
#pragma unroll
    for (int m = 0; m < kM; ++m) load_left<kStride>(a[m], own + 16 * m * kStride + k);
#pragma unroll
    for (int n = 0; n < kTile / 16; ++n) {
      Right<T> b[2];
      load_right_rows<kStride>(b, other + 16 * n * kStride + k);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply_fragments(sum[m][2 * n], a[m], b[0]);
        multiply_fragments(sum[m][2 * n + 1], a[m], b[1]);
      }
    }
  }
}

/// sum[m] [16, kWidth] += weights[m] [16, kTile] times rows 0 … kTile - 1 of `other`.
template <class T, int kWidth, int kM, int kTile>
__device__ __forceinline__ void add_product(float (&sum)[kM][kWidth / 8][4], const float (&weights)[kM][kTile / 8][4],
                                            const T* other) {
  constexpr int kStride = kTileStride<kWidth>;
#pragma unroll
  for (int k = 0; k < kTile / 16; ++k) {
    Left<T> a[kM];
#pragma unroll
    for (int m = 0; m < kM; ++m) as_left(a[m], weights[m][2 * k], weights[m][2 * k + 1]);
#pragma unroll
    for (int n = 0; n < kWidth / 16; ++n) {
      Right<T> b[2];
      load_right_columns<kStride>(b, other + 16 * k * kStride + 16 * n);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply_fragments(sum[m][2 * n], a[m], b[0]);
        multiply_fragments(sum[m][2 * n + 1], a[m], b[1]);
      }
    }
  }
}

/// Rows of T with a stride. `vectors`: 16 bytes may be moved at once.
template <class T>
struct Rows {
  const T* data;
  std::int64_t stride;
  int count, width;
  bool vectors;
};

/// Copies rows first … first + rows - 1 into a tile, zeros past the last row and the last column; in the background
/// where `vectors`. `thread` of `threads` work together.
template <int kWidth, class T>
__device__ __forceinline__ void load_tile(T* tile, const Rows<T>& x, int first, int rows, int thread, int threads) {
  constexpr int kVec = 16 / sizeof(T), kPerRow = kWidth / kVec;
  for (int i = thread; i < rows * kPerRow; i += threads) {
    const int r = i / kPerRow, c = i % kPerRow * kVec;
    T* to = tile + r * kTileStride<kWidth> + c;
    const bool inside = first + r < x.count;
    const T* from = x.data + (first + r) * x.stride + c;
    if (x.vectors) {
      const bool valid = inside && c < x.width;
      cp_async_16(to, valid ? from : x.data, valid);
    } else {
#pragma unroll
      for (int e = 0; e < kVec; ++e) to[e] = inside && c + e < x.width ? from[e] : T(0.0f);
    }
  }
}

/// acc [16, kWidth] times factor[r] for rows g and g + 8 to rows first … of a dense [rows, width] output.
template <int kWidth, class T>
__device__ __forceinline__ void store_rows(T* out, const float (&acc)[kWidth / 8][4], float factor0, float factor1,
                                           int first, int rows, int width, bool vectors, bool accumulate) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = first + g + 8 * r;
    const float factor = r == 0 ? factor0 : factor1;
    T* to = out + static_cast<std::int64_t>(row) * width;
    if (!vectors || accumulate) {
      if (row >= rows) continue;
#pragma unroll
      for (int j = 0; j < kWidth / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int c = 8 * j + 2 * t + e;
          if (c < width) put(to[c], acc[j][2 * r + e] * factor, accumulate);
        }
      }
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int j = 0; j < kWidth / 8; ++j) {
        const int c = 8 * j + 2 * t;
        if (row < rows && c < width) {
          *reinterpret_cast<float2*>(to + c) = make_float2(acc[j][2 * r] * factor, acc[j][2 * r + 1] * factor);
        }
      }
    } else {
      // Neighbouring lanes swap, so that the four lanes of a row write 32 bytes in one piece: even lanes take four
      // columns of the first eight, odd lanes four of the second.
#pragma unroll
      for (int j = 0; j < kWidth / 8; j += 2) {
        const std::uint32_t left = pack_bf16(acc[j][2 * r] * factor, acc[j][2 * r + 1] * factor);
        const std::uint32_t right = pack_bf16(acc[j + 1][2 * r] * factor, acc[j + 1][2 * r + 1] * factor);
        const bool odd = t % 2 != 0;
        const std::uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? left : right, 1);
        const int c = 8 * (j + t % 2) + 4 * (t / 2);
        if (row < rows && c < width) {
          *reinterpret_cast<uint2*>(to + c) = odd ? make_uint2(other, right) : make_uint2(left, other);
        }
      }
    }
  }
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::attention
