#pragma once
// The two inner loops of the LSTM: a register tile of a matrix product, and the transposition of a square of registers.

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "kernels/cpu/simd.h"

namespace adjoint::cpu::lstm {

/// A panel is this many registers wide: one register each for the gates i, f, g, o of one group of units.
constexpr int kPanelRegisters = 4;
/// Rows of a tile: with 32 registers 6 x 4 sums, 4 of B and a repeated element of A; with 16 registers 2 x 4 sums.
constexpr int kTileRows = kVectorBytes == 64 ? 6 : 2;

/// C(i, :) = from(i, :) + sum over o < outer, p < inner of A(i, o, p) * B(o*inner + p, :), each sum in this order as a
/// chain of fused multiply-adds: what an element gets does not depend on the tile or the row it falls into.
template <class T>
struct Product {
  const T* a;  ///< A(i, o, p) = a[i*a_row + o*a_outer + p*a_inner]
  std::int64_t a_row, a_outer, a_inner;
  std::int64_t outer, inner;
  const T* b;     ///< dense rows of `registers` registers, aligned to a register
  const T* from;  ///< starting value, null for zeros
  std::int64_t from_row;
  T* c;
  std::int64_t c_row;
};

template <class T, int kRows, int kRegisters>
[[gnu::noinline]] void tile(const Product<T>& product) {
  constexpr int kWidth = kLanes<T>;
  Vec<T> sum[kRows][kRegisters];
  if (product.from) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kRegisters; ++j) sum[i][j] = load(product.from + i * product.from_row + j * kWidth);
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kRegisters; ++j) sum[i][j] = Vec<T>{};
  }
  const T* b = product.b;
  const std::int64_t a_row = product.a_row, a_inner = product.a_inner, inner = product.inner;
  for (std::int64_t o = 0; o < product.outer; ++o) {
    const T* a = product.a + o * product.a_outer;
    for (std::int64_t p = 0; p < inner; ++p) {
      Vec<T> row[kRegisters];
#pragma GCC unroll 4
      for (int j = 0; j < kRegisters; ++j) row[j] = *reinterpret_cast<const Vec<T>*>(b + j * kWidth);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const Vec<T> element = broadcast(a[i * a_row]);
#pragma GCC unroll 4
        for (int j = 0; j < kRegisters; ++j) sum[i][j] += element * row[j];
      }
      a += a_inner;
      b += kRegisters * kWidth;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kRegisters; ++j) store(product.c + i * product.c_row + j * kWidth, sum[i][j]);
}

/// Runs the tile of `rows` (1..kTileRows) by `registers` (1..kPanelRegisters).
template <class T>
void multiply(int rows, int registers, const Product<T>& product) {
  using Function = void (*)(const Product<T>&);
  static constexpr auto table = []<int... k>(std::integer_sequence<int, k...>) {
    return std::array<Function, sizeof...(k)>{tile<T, k / kPanelRegisters + 1, k % kPanelRegisters + 1>...};
  }
  (std::make_integer_sequence<int, kTileRows * kPanelRegisters>{});
  table[static_cast<std::size_t>((rows - 1) * kPanelRegisters + registers - 1)](product);
}

/// Calls f(first, rows) for nearly equal tiles of at most kTileRows rows.
template <class F>
void for_tiles(std::int64_t rows, F&& f) {
  const std::int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  for (std::int64_t k = 0, first = 0; k < tiles; ++k) {
    const std::int64_t next = rows * (k + 1) / tiles;
    f(first, static_cast<int>(next - first));
    first = next;
  }
}

/// Exchanges, between rows that differ in bit `distance` of their number, the lanes that differ in it.
template <int distance, class V, std::size_t... lane>
void exchange(V& a, V& b, std::index_sequence<lane...>) {
  constexpr int kCount = sizeof...(lane), d = distance;
  const V low =
      __builtin_shufflevector(a, b, ((lane & d) ? static_cast<int>(lane) - d + kCount : static_cast<int>(lane))...);
  const V high =
      __builtin_shufflevector(a, b, ((lane & d) ? static_cast<int>(lane) + kCount : static_cast<int>(lane) + d)...);
  a = low;
  b = high;
}

template <class T, int distance = 1>
void transpose(Vec<T> (&rows)[kLanes<T>]) {
  if constexpr (distance < kLanes<T>) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i)
      if (!(i & distance)) exchange<distance>(rows[i], rows[i + distance], std::make_index_sequence<kLanes<T>>{});
    transpose<T, distance * 2>(rows);
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

}  // namespace adjoint::cpu::lstm
