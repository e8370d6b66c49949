#pragma once
// The register tile under every matrix product of the CPU backend, and the packing it reads from.
//
// Order of summation, the same in every kernel here: one fused multiply-add after another over p = 0..k-1, in blocks of
// kDepth whose sums are added to c in turn. It depends on k alone: neither the row's place, nor m or n, nor the layout,
// nor the split over threads changes a bit of an element.
//
// Packed b [k, n]: for each block of kDepth rows, panels of kPanel columns (the last one is one register wide if that
// is enough), each panel row by row; columns past n are 0.

#include <type_traits>

#include "kernels/cpu/simd.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {

/// Vectors and rows of the tile: as many accumulators as leave registers for a row of b and an element of a.
constexpr int kTileVectors = kRegistersOfVec == 1 ? 2 : 1;
constexpr int kTileRows = (kRegisters - kTileVectors * kRegistersOfVec - 1) / (kTileVectors * kRegistersOfVec);
template <class A>
constexpr std::int64_t kPanel = kTileVectors* kLanes<A>;

/// Rows of b per block, so that a panel stays in the first-level cache while tiles of a pass over it, and a block of
/// tiles in the second-level cache while panels pass over that. bf16 has one block: its c cannot hold a partial sum.
constexpr std::int64_t kUsualDepth = 256;
template <class T>
constexpr std::int64_t kDepth = std::is_same_v<T, bf16> ? std::int64_t{1} << 62 : kUsualDepth;
/// Tiles of such a block.
constexpr std::int64_t kTilesOfBlock = 224 / kTileRows;

/// Slots of thread_buffer that products use: packed b, the current rows of a, the list of rows that take part.
constexpr int kPackedSlot = 7, kTileSlot = 6, kListSlot = 5;

/// How a finished sum reaches c: c = [c +] alpha * sum [+ bias].
template <class T>
struct Finish {
  acc_t<T> alpha = 1;
  const T* bias = nullptr;
  bool accumulate = false;
};

/// sum[i][v] += a(i, p) b(p, v) for p = 0..k-1, a(i, p) = a[i * a_row + p * a_col]; row p of b starts at b + p * b_row,
/// its vectors b_next apart. Masked: only the first `last` lanes of the last register of b are read. Inlined, so that
/// the sums stay in registers; g++ needs every loop over them unrolled for that.
template <bool Masked = false, int R, int V, class A, class B>
ADJOINT_INLINE void multiply_tile(Vec<A> (&sum)[R][V], std::int64_t k, const A* a, std::int64_t a_row,
                                  std::int64_t a_col, const B* b, std::int64_t b_row, std::int64_t b_next = kLanes<A>,
                                  int last = kLanes<A>) {
  for (std::int64_t p = 0; p < k; ++p) {
    Vec<A> row[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) row[v] = Masked && v == V - 1 ? load_first(b + v * b_next, last) : load(b + v * b_next);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const Vec<A> x = broadcast(a[i * a_row]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[i][v] = multiply_add(x, row[v], sum[i][v]);
    }
    a += a_col;
    b += b_row;
  }
}

template <int R, int V, class A>
ADJOINT_INLINE void clear_tile(Vec<A> (&sum)[R][V]) {
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sum[i][v] = Vec<A>{};
  }
}

/// Stores a tile to c[i] + column; only the first `last` lanes of the last register.
template <int R, int V, class T>
ADJOINT_INLINE void finish_tile(Vec<acc_t<T>> (&sum)[R][V], T* const* c, std::int64_t column, int last,
                                const Finish<T>& finish) {
  constexpr int lanes = kLanes<acc_t<T>>;
  if (finish.alpha != acc_t<T>(1)) {
    const Vec<acc_t<T>> alpha = broadcast(finish.alpha);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[i][v] *= alpha;
    }
  }
  if (finish.bias != nullptr) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      const T* at = finish.bias + column + v * lanes;
      const Vec<acc_t<T>> bias = v == V - 1 ? load_first(at, last) : load(at);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) sum[i][v] += bias;
    }
  }
  if (last == lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) put(c[i] + column + v * lanes, sum[i][v], finish.accumulate);
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < V - 1; ++v) put(c[i] + column + v * lanes, sum[i][v], finish.accumulate);
      put_first(c[i] + column + (V - 1) * lanes, sum[i][V - 1], last, finish.accumulate);
    }
  }
}

template <class A>
constexpr std::int64_t round_to_lanes(std::int64_t n) {
  return (n + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

/// Elements of packed b.
template <class T>
constexpr std::int64_t packed_elements(std::int64_t k, std::int64_t n) {
  return k * round_to_lanes<acc_t<T>>(n);
}

/// Packs columns [first, last) of b [k, n] (first a multiple of kPanel) into `out`, which holds all of packed b.
/// Element (p, j) of b lies at b[q * b_row + j * b_column] with q = pick[p], or p if pick is null; one stride is 1.
template <class T>
void pack(std::int64_t k, std::int64_t n, const T* b, std::int64_t b_row, std::int64_t b_column,
          const std::int32_t* pick, std::int64_t first, std::int64_t last, acc_t<T>* out);

/// The left operand of a product: element (i, p) lies at data[r * row + q * column] where r = rows[i], q = depth[p], or
/// i and p where the lists are null. One stride is 1. A list goes with the dimension whose stride is not 1.
template <class T>
struct Left {
  const T* data;
  std::int64_t row;
  std::int64_t column;
  const std::int32_t* rows = nullptr;
  const std::int32_t* depth = nullptr;
};

/// Rows [0, m), columns [first, last) of c = a b, on this thread; b packed, first a multiple of kPanel. Row i of c
/// is row rows[i] if a has a list of rows.
template <class T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, const Left<T>& a, const acc_t<T>* packed, std::int64_t first,
          std::int64_t last, T* c, std::int64_t ldc, const Finish<T>& finish);

/// c = a b for b as it lies (rows contiguous), meant for few rows: nothing is packed but what has no vector load.
template <class T>
void gemm_direct(std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t a_row, std::int64_t a_column,
                 const T* b, std::int64_t ldb, T* c, std::int64_t ldc, const Finish<T>& finish);

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
