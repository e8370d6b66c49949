#pragma once
// The inner loops of the LSTM: a register tile of a matrix product, and loads and stores at the edges of a matrix.

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "kernels/cpu/gemm_tile.h"
#include "kernels/cpu/transpose.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm {

/// A panel is this many vectors wide: one each for the gates i, f, g, o of one group of units. Where a tile takes the
/// whole width, the vectors of a row lie side by side; elsewhere each has a run of its own, which a tile reads in
/// order.
constexpr int kPanelVectors = 4;
constexpr bool kSideBySide = kRegistersOfVec == 1;
/// From one row of a panel of `vectors` to the next, and from one vector of a row to the next in a panel of `rows`.
template <class A>
constexpr std::int64_t row_step(int vectors) {
  return kSideBySide ? vectors * kLanes<A> : kLanes<A>;
}
template <class A>
constexpr std::int64_t vector_step(std::int64_t rows) {
  return kSideBySide ? kLanes<A> : rows * kLanes<A>;
}

/// Rows of a tile, and its vectors: with 32 registers of a vector each 6 x 4 sums, 4 of B and a repeated element of A.
/// With fewer only a tile of one or two rows is wider than one vector: to have sums enough to wait for.
constexpr int kRowsOfTile = kSideBySide ? 6 : kTileRows;
constexpr int tile_vectors(int rows) {
  if (kSideBySide || rows == 1) return kPanelVectors;
  return rows == 2 ? 2 : 1;
}

/// C(i, :) = from(i, :) + sum over o < outer, q < middle, p < inner of A(i, o, q, p) * B(o, q, p, :), each sum in this
/// order as a chain of fused multiply-adds: what an element gets does not depend on the tile or the row it falls into,
/// nor on where B lies.
template <class T>
struct Product {
  const T* a;  ///< A(i, o, q, p) = a[i*a_row + o*a_outer + q*a_middle + p*a_inner]
  std::int64_t a_row, a_outer, a_inner, a_middle = 0;
  std::int64_t outer, inner, middle = 1;
  const T* b;  ///< row (o, q, p) starts at b[o*b_outer + q*b_middle + p*b_inner]
  std::int64_t b_outer, b_inner, b_middle = 0;
  std::int64_t b_next;  ///< from one vector of a row to the next
  const T* from;        ///< starting value, null for zeros
  std::int64_t from_row;
  const std::int32_t* from_at = nullptr;  ///< row i starts from the row from_at[i] of `from`; null: from row i
  T* c;
  std::int64_t c_row;
};

template <class T, int rows, int vectors>
[[gnu::noinline]] void tile(const Product<T>& product) {
  constexpr int kWidth = kLanes<T>;
  Vec<T> sum[rows][vectors];
  if (product.from) {
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const T* from = product.from + (product.from_at ? product.from_at[i] : i) * product.from_row;
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) sum[i][j] = load(from + j * kWidth);
    }
  } else {
    clear_tile<rows, vectors, T>(sum);
  }
  for (std::int64_t o = 0; o < product.outer; ++o)
    for (std::int64_t q = 0; q < product.middle; ++q)
      multiply_tile(sum, product.inner, product.a + o * product.a_outer + q * product.a_middle, product.a_row,
                    product.a_inner, product.b + o * product.b_outer + q * product.b_middle, product.b_inner,
                    kSideBySide ? kLanes<T> : product.b_next);
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) store(product.c + i * product.c_row + j * kWidth, sum[i][j]);
  }
}

/// C of a single tile.
template <class T>
void run_tile(int rows, int vectors, const Product<T>& product) {
  using Function = void (*)(const Product<T>&);
  static constexpr auto table = []<int... k>(std::integer_sequence<int, k...>) {
    return std::array<Function, sizeof...(k)>{
        tile<T, k / kPanelVectors + 1, std::min(k % kPanelVectors + 1, tile_vectors(k / kPanelVectors + 1))>...};
  }
  (std::make_integer_sequence<int, kRowsOfTile * kPanelVectors>{});
  table[static_cast<std::size_t>((rows - 1) * kPanelVectors + vectors - 1)](product);
}

/// Calls f(first, rows) for nearly equal tiles of at most kRowsOfTile rows.
template <class F>
void for_tiles(std::int64_t rows, F&& f) {
  if (rows <= kRowsOfTile) {  // a division takes as long as a tile of one row
    if (rows > 0) f(std::int64_t{0}, static_cast<int>(rows));
    return;
  }
  const std::int64_t tiles = (rows + kRowsOfTile - 1) / kRowsOfTile;
  for (std::int64_t k = 0, first = 0; k < tiles; ++k) {
    const std::int64_t next = rows * (k + 1) / tiles;
    f(first, static_cast<int>(next - first));
    first = next;
  }
}

/// C of any number of rows by `vectors` (1..kPanelVectors). All rows meet a vector of B while it is in the first-level
/// cache, or a panel while it is in the second.
template <class T>
void multiply_rows(std::int64_t rows, int vectors, const Product<T>& product) {
  const int together = tile_vectors(static_cast<int>(std::min<std::int64_t>(rows, kRowsOfTile)));
  if (rows <= kRowsOfTile && vectors <= together) {
    if (rows > 0) run_tile(static_cast<int>(rows), vectors, product);
    return;
  }
  for (int first = 0; first < vectors; first += together)
    for_tiles(rows, [&](std::int64_t i, int tile_rows) {
      Product<T> part = product;
      part.a += i * product.a_row;
      part.b += first * product.b_next;
      part.c += i * product.c_row + first * kLanes<T>;
      if (part.from) part.from += (part.from_at ? 0 : i * product.from_row) + first * kLanes<T>;
      if (part.from_at) part.from_at += i;
      run_tile(tile_rows, std::min(together, vectors - first), part);
    });
}

/// The first n (0..lanes and above) elements, with or without a mask.
template <class S>
ADJOINT_INLINE Vec<acc_t<S>> load_up_to(const S* p, std::int64_t n) {
  if (n >= kLanes<acc_t<S>>) return load(p);
  return n > 0 ? load_first(p, static_cast<int>(n)) : Vec<acc_t<S>>{};
}
template <class S>
ADJOINT_INLINE void store_up_to(S* p, Vec<acc_t<S>> v, std::int64_t n) {
  if (n >= kLanes<acc_t<S>>) {
    store(p, v);
  } else if (n > 0) {
    store_first(p, v, static_cast<int>(n));
  }
}
template <class S>
ADJOINT_INLINE void put_up_to(S* p, Vec<acc_t<S>> v, std::int64_t n, bool accumulate) {
  if (n >= kLanes<acc_t<S>>) {
    put(p, v, accumulate);
  } else if (n > 0) {
    put_first(p, v, static_cast<int>(n), accumulate);
  }
}

/// As many registers as one has lanes.
template <class T>
using Square = Vec<T>[kLanes<T>];

/// The upper left of a matrix, as far as it has `rows` and `columns`; zeros elsewhere.
template <class S>
ADJOINT_INLINE void load_square(const S* p, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                                Square<acc_t<S>>& square) {
  constexpr int kWidth = kLanes<acc_t<S>>;
  if (rows >= kWidth && columns >= kWidth) {
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) square[i] = load(p + i * stride);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) square[i] = i < rows ? load_up_to(p + i * stride, columns) : Vec<acc_t<S>>{};
  }
}
}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL::lstm
