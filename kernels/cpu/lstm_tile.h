#pragma once
// The inner loops of the LSTM: a register tile of a matrix product, and loads and stores at the edges of a matrix.

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "kernels/cpu/gemm_tile.h"
#include "kernels/cpu/transpose.h"

namespace adjoint::cpu::lstm {

/// A panel is this many registers wide: one register each for the gates i, f, g, o of one group of units.
constexpr int kPanelRegisters = 4;
/// Rows of a tile: with 32 registers 6 x 4 sums, 4 of B and a repeated element of A; with 16 registers 2 x 4 sums.
constexpr int kRowsOfTile = kVectorBytes == 64 ? 6 : 2;

/// C(i, :) = from(i, :) + sum over o < outer, q < middle, p < inner of A(i, o, q, p) * B(o, q, p, :), each sum in this
/// order as a chain of fused multiply-adds: what an element gets does not depend on the tile or the row it falls into,
/// nor on where B lies.
template <class T>
struct Product {
  const T* a;  ///< A(i, o, q, p) = a[i*a_row + o*a_outer + q*a_middle + p*a_inner]
  std::int64_t a_row, a_outer, a_inner, a_middle = 0;
  std::int64_t outer, inner, middle = 1;
  const T* b;  ///< row (o, q, p) starts at b[o*b_outer + q*b_middle + p*b_inner] and is as wide as the tile
  std::int64_t b_outer, b_inner, b_middle = 0;
  const T* from;  ///< starting value, null for zeros
  std::int64_t from_row;
  const std::int32_t* from_at = nullptr;  ///< row i starts from the row from_at[i] of `from`; null: from row i
  T* c;
  std::int64_t c_row;
};

template <class T, int kRows, int kRegisters>
[[gnu::noinline]] void tile(const Product<T>& product) {
  constexpr int kWidth = kLanes<T>;
  Vec<T> sum[kRows][kRegisters];
  if (product.from) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const T* from = product.from + (product.from_at ? product.from_at[i] : i) * product.from_row;
#pragma GCC unroll 4
      for (int j = 0; j < kRegisters; ++j) sum[i][j] = load(from + j * kWidth);
    }
  } else {
    clear_tile<kRows, kRegisters, T>(sum);
  }
  for (std::int64_t o = 0; o < product.outer; ++o)
    for (std::int64_t q = 0; q < product.middle; ++q)
      multiply_tile(sum, product.inner, product.a + o * product.a_outer + q * product.a_middle, product.a_row,
                    product.a_inner, product.b + o * product.b_outer + q * product.b_middle, product.b_inner);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kRegisters; ++j) store(product.c + i * product.c_row + j * kWidth, sum[i][j]);
  }
}

/// Runs the tile of `rows` (1..kRowsOfTile) by `registers` (1..kPanelRegisters).
template <class T>
void multiply(int rows, int registers, const Product<T>& product) {
  using Function = void (*)(const Product<T>&);
  static constexpr auto table = []<int... k>(std::integer_sequence<int, k...>) {
    return std::array<Function, sizeof...(k)>{tile<T, k / kPanelRegisters + 1, k % kPanelRegisters + 1>...};
  }
  (std::make_integer_sequence<int, kRowsOfTile * kPanelRegisters>{});
  table[static_cast<std::size_t>((rows - 1) * kPanelRegisters + registers - 1)](product);
}

/// Calls f(first, rows) for nearly equal tiles of at most kRowsOfTile rows.
template <class F>
void for_tiles(std::int64_t rows, F&& f) {
  const std::int64_t tiles = (rows + kRowsOfTile - 1) / kRowsOfTile;
  for (std::int64_t k = 0, first = 0; k < tiles; ++k) {
    const std::int64_t next = rows * (k + 1) / tiles;
    f(first, static_cast<int>(next - first));
    first = next;
  }
}

/// The first n (0..lanes and above) elements, with or without a mask.
template <class S>
Vec<acc_t<S>> load_up_to(const S* p, std::int64_t n) {
  if (n >= kLanes<acc_t<S>>) return load(p);
  return n > 0 ? load_first(p, static_cast<int>(n)) : Vec<acc_t<S>>{};
}
template <class S>
void store_up_to(S* p, Vec<acc_t<S>> v, std::int64_t n) {
  if (n >= kLanes<acc_t<S>>) {
    store(p, v);
  } else if (n > 0) {
    store_first(p, v, static_cast<int>(n));
  }
}
template <class S>
void put_up_to(S* p, Vec<acc_t<S>> v, std::int64_t n, bool accumulate) {
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
[[gnu::always_inline]] inline void load_square(const S* p, std::int64_t stride, std::int64_t rows, std::int64_t columns,
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
}  // namespace adjoint::cpu::lstm
