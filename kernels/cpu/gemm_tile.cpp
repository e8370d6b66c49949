#include "kernels/cpu/gemm_tile.h"

#include <algorithm>
#include <array>

#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/transpose.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

template <class T>
using PackedKernel = void (*)(std::int64_t k, const acc_t<T>* a, std::int64_t a_row, std::int64_t a_column,
                              const acc_t<T>* b, T* const* c, std::int64_t column, int last, const Finish<T>& finish);

template <class T, int R, int V>
void packed_tile(std::int64_t k, const acc_t<T>* a, std::int64_t a_row, std::int64_t a_column, const acc_t<T>* b,
                 T* const* c, std::int64_t column, int last, const Finish<T>& finish) {
  // c is needed only after the whole of k, by when it shall be there.
  if (finish.accumulate)
    for (int i = 0; i < R; ++i) __builtin_prefetch(c[i] + column, 1);
  Vec<acc_t<T>> sum[R][V];
  clear_tile<R, V, acc_t<T>>(sum);
  multiply_tile(sum, k, a, a_row, a_column, b, V * kLanes<acc_t<T>>);
  finish_tile<R, V, T>(sum, c, column, last, finish);
}

template <class T, int V, int... R>
constexpr std::array<PackedKernel<T>, kTileRows + 1> packed_kernels(std::integer_sequence<int, R...>) {
  return {nullptr, packed_tile<T, R + 1, V>...};
}
template <class T, int V>
constexpr auto kPackedKernels = packed_kernels<T, V>(std::make_integer_sequence<int, kTileRows>{});

template <class T>
using DirectKernel = void (*)(std::int64_t k, const acc_t<T>* a, std::int64_t a_row, std::int64_t a_column, const T* b,
                              std::int64_t ldb, T* const* c, std::int64_t column, int last, const Finish<T>& finish);

/// A masked load costs nothing extra for f32 and f64 with AVX-512; elsewhere the last columns are packed.
template <class T>
constexpr bool kMaskedLoads = kRegistersOfVec == 1 && !std::is_same_v<T, bf16>;

template <class T, int R, int V>
void direct_tile(std::int64_t k, const acc_t<T>* a, std::int64_t a_row, std::int64_t a_column, const T* b,
                 std::int64_t ldb, T* const* c, std::int64_t column, int last, const Finish<T>& finish) {
  constexpr std::int64_t lanes = kLanes<acc_t<T>>;
  Vec<acc_t<T>> sum[R][V];
  clear_tile<R, V, acc_t<T>>(sum);
  multiply_tile<kMaskedLoads<T>>(sum, k, a, a_row, a_column, b + column, ldb, lanes, last);
  finish_tile<R, V, T>(sum, c, column, last, finish);
}

/// Vectors a row that keep the multipliers busy without running out of registers.
constexpr int widest(int rows) {
  if (rows == 1) return 8 / kRegistersOfVec;
  if (rows <= (kTileRows - 1) / 2) return 4 / kRegistersOfVec > 1 ? 4 / kRegistersOfVec : 1;
  return kTileVectors;
}
template <class T, int V, int... R>
constexpr std::array<DirectKernel<T>, kTileRows + 1> direct_kernels(std::integer_sequence<int, R...>) {
  return {nullptr, (widest(R + 1) >= V ? direct_tile<T, R + 1, (widest(R + 1) >= V ? V : 1)> : nullptr)...};
}
template <class T, int V>
constexpr auto kDirectKernels = direct_kernels<T, V>(std::make_integer_sequence<int, kTileRows>{});

/// Cuts m rows into tiles that differ by at most one row: a short last tile would leave the multipliers waiting.
struct RowTiles {
  std::int64_t count;
  std::int64_t base;   // rows of a tile
  std::int64_t extra;  // tiles with one row more

  explicit RowTiles(std::int64_t m) : count((m + kTileRows - 1) / kTileRows) {
    base = count == 1 ? m : m / std::max<std::int64_t>(count, 1);  // a division takes as long as a tiny product
    extra = m - base * count;
  }
  int rows(std::int64_t t) const { return static_cast<int>(base + (t < extra ? 1 : 0)); }
  std::int64_t first(std::int64_t t) const { return t * base + std::min(t, extra); }
};

/// Columns of b contiguous in p: `width` registers of columns, of which `columns` exist.
template <class T>
void pack_transposed(std::int64_t k, const T* b, std::int64_t b_column, std::int64_t columns, int width,
                     acc_t<T>* out) {
  using A = acc_t<T>;
  constexpr int lanes = kLanes<A>;
  for (int v = 0; v < width; ++v) {
    const std::int64_t rows = std::min<std::int64_t>(lanes, columns - v * lanes);
    const T* from = b + v * lanes * b_column;
    for (std::int64_t p = 0; p < k; p += lanes) {
      const int depth = static_cast<int>(std::min<std::int64_t>(lanes, k - p));
      A* to = out + p * width * lanes + v * lanes;
      Vec<A> r[lanes];
      if (rows == lanes && depth == lanes) {
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) r[i] = load(from + i * b_column + p);
        transpose<A>(r);
#pragma GCC unroll 16
        for (int q = 0; q < lanes; ++q) store(to + q * width * lanes, r[q]);
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i)
          r[i] = load_first(from + std::min<std::int64_t>(i, rows - 1) * b_column + p, i < rows ? depth : 0);
        transpose<A>(r);
#pragma GCC unroll 16
        for (int q = 0; q < lanes; ++q)
          if (q < depth) store(to + q * width * lanes, r[q]);
      }
    }
  }
}

/// One block of columns [first, last), rows of b contiguous: row by row, which is how memory delivers them best.
template <class T>
void pack_rows(std::int64_t k, std::int64_t n, const T* b, std::int64_t b_row, const std::int32_t* pick,
               std::int64_t first, std::int64_t last, acc_t<T>* block) {
  using A = acc_t<T>;
  constexpr int lanes = kLanes<A>;
  const std::int64_t whole = std::min(last, n / kPanel<A> * kPanel<A>);
  for (std::int64_t p = 0; p < k; ++p) {
    const T* from = b + (pick == nullptr ? p : pick[p]) * b_row;
    A* to = block + first * k + p * kPanel<A>;
    for (std::int64_t j = first; j < whole; j += kPanel<A>) {
#pragma GCC unroll 2
      for (int v = 0; v < kTileVectors; ++v) store(to + v * lanes, load(from + j + v * lanes));
      to += k * kPanel<A>;
    }
  }
  if (whole == last) return;
  const int width = n - whole > lanes ? kTileVectors : 1;
  const int tail = static_cast<int>(n - whole - (width - 1) * lanes);
  A* to = block + whole * k;
  for (std::int64_t p = 0; p < k; ++p) {
    const T* from = b + (pick == nullptr ? p : pick[p]) * b_row + whole;
    if (width > 1) store(to, load(from));
    store(to + (width - 1) * lanes, load_first(from + (width - 1) * lanes, tail));
    to += width * lanes;
  }
}

/// One block of columns [first, last), columns of b contiguous (or neither, where rows are picked).
template <class T>
void pack_columns(std::int64_t k, std::int64_t n, const T* b, std::int64_t b_row, std::int64_t b_column,
                  const std::int32_t* pick, std::int64_t first, std::int64_t last, acc_t<T>* block) {
  using A = acc_t<T>;
  for (std::int64_t j = first; j < last; j += kPanel<A>) {
    const std::int64_t columns = std::min(kPanel<A>, n - j);
    const int width = columns > kLanes<A> ? kTileVectors : 1;
    A* to = block + j * k;
    if (pick == nullptr) {
      pack_transposed(k, b + j * b_column, b_column, columns, width, to);
      continue;
    }
    for (std::int64_t p = 0; p < k; ++p)
      for (std::int64_t q = 0; q < width * kLanes<A>; ++q)
        *to++ = q < columns ? static_cast<A>(b[pick[p] * b_row + (j + q) * b_column]) : 0;
  }
}

/// `rows` rows of a from `from` on, over depth [begin, begin + k): rows one after another (row stride `row`, column
/// stride 1) if a's rows are contiguous, else interleaved (row stride 1).
template <class T>
void pack_left(int rows, std::int64_t from, std::int64_t begin, std::int64_t k, const Left<T>& a, acc_t<T>* out,
               std::int64_t row) {
  using A = acc_t<T>;
  constexpr int lanes = kLanes<A>;
  if (a.column == 1) {
    for (int i = 0; i < rows; ++i) {
      const T* in = a.data + (a.rows == nullptr ? from + i : a.rows[from + i]) * a.row + begin;
      A* to = out + i * row;
      std::int64_t p = 0;
      for (; p + lanes <= k; p += lanes) store(to + p, load(in + p));
      if (p < k) store_first(to + p, load_first(in + p, static_cast<int>(k - p)), static_cast<int>(k - p));
    }
  } else {
    for (std::int64_t p = 0; p < k; ++p) {
      const T* in = a.data + (a.depth == nullptr ? begin + p : a.depth[begin + p]) * a.column + from;
      for (int i = 0; i < rows; i += lanes) {
        const int count = std::min(lanes, rows - i);
        store(out + i, load_first(in + i, count));
      }
      out += kTileRows;
    }
  }
}

}  // namespace

template <class T>
void pack(std::int64_t k, std::int64_t n, const T* b, std::int64_t b_row, std::int64_t b_column,
          const std::int32_t* pick, std::int64_t first, std::int64_t last, acc_t<T>* out) {
  using A = acc_t<T>;
  const std::int64_t columns = round_to_lanes<A>(n);
  for (std::int64_t begin = 0; begin < k; begin += kDepth<T>) {
    const std::int64_t depth = std::min(kDepth<T>, k - begin);
    const T* rows = pick == nullptr ? b + begin * b_row : b;
    const std::int32_t* picked = pick == nullptr ? nullptr : pick + begin;
    if (b_column == 1) {
      pack_rows(depth, n, rows, b_row, picked, first, last, out + begin * columns);
    } else {
      pack_columns(depth, n, rows, b_row, b_column, picked, first, last, out + begin * columns);
    }
  }
}

template <class T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, const Left<T>& a, const acc_t<T>* packed, std::int64_t first,
          std::int64_t last, T* c, std::int64_t ldc, const Finish<T>& finish) {
  using A = acc_t<T>;
  const std::int64_t columns = round_to_lanes<A>(n);
  const RowTiles tiles(m);
  // Rows that lie a multiple of 1024 bytes apart compete for the same cache sets; of columns that lie far apart each
  // element of a tile is on a page of its own. Both are copied, one line apart.
  const std::size_t row_bytes = static_cast<std::size_t>(a.row) * sizeof(T),
                    column_bytes = static_cast<std::size_t>(a.column) * sizeof(T);
  const bool copy = !std::is_same_v<T, A> || a.rows != nullptr || a.depth != nullptr ||
                    (a.column == 1 ? row_bytes % 1024 == 0 : column_bytes >= 2048);
  Finish<T> block = finish;
  for (std::int64_t begin = 0; begin < k || begin == 0; begin += kDepth<T>) {
    const std::int64_t depth = std::min(kDepth<T>, k - begin);
    const A* panels = packed + begin * columns;
    const std::int64_t copied_row = round_to_lanes<A>(depth) + kLanes<A>, copied_tile = kTileRows * copied_row;
    // Of deeper tiles than usual (bf16) fewer; without a division, which takes as long as a tiny product.
    const std::int64_t together =
        depth <= kUsualDepth ? kTilesOfBlock : std::max<std::int64_t>(kTilesOfBlock * kUsualDepth / depth, 1);
    A* copied = nullptr;
    if (copy) {
      const auto elements = static_cast<std::size_t>(std::min(together, tiles.count) * copied_tile + kLanes<A>);
      copied = static_cast<A*>(thread_buffer(kTileSlot, elements * sizeof(A)));
    }
    for (std::int64_t t0 = 0; t0 < tiles.count; t0 += together) {
      const std::int64_t t1 = std::min(t0 + together, tiles.count);
      if (copy)
        for (std::int64_t t = t0; t < t1; ++t)
          pack_left(tiles.rows(t), tiles.first(t), begin, depth, a, copied + (t - t0) * copied_tile, copied_row);
      const std::int64_t row0 = tiles.first(t0), row1 = tiles.first(t1);
      T* c_row[kTilesOfBlock * kTileRows];
      for (std::int64_t row = row0; row < row1; ++row)
        c_row[row - row0] = c + (a.rows == nullptr ? row : a.rows[row]) * ldc;
      for (std::int64_t j = first; j < last; j += kPanel<A>) {
        const std::int64_t wanted = std::min(kPanel<A>, n - j);
        const bool wide = wanted > kLanes<A>;
        const auto& kernels = wide ? kPackedKernels<T, kTileVectors> : kPackedKernels<T, 1>;
        for (std::int64_t t = t0; t < t1; ++t) {
          const std::int64_t row = tiles.first(t);
          const A* left = copied + (t - t0) * copied_tile;
          std::int64_t left_row = a.column == 1 ? copied_row : 1, left_column = a.column == 1 ? 1 : kTileRows;
          if constexpr (std::is_same_v<T, A>) {
            if (!copy) {
              left = a.data + row * a.row + begin * a.column;
              left_row = a.row;
              left_column = a.column;
            }
          }
          kernels[tiles.rows(t)](depth, left, left_row, left_column, panels + j * depth, c_row + (row - row0), j,
                                 static_cast<int>(wide ? wanted - kLanes<A> : wanted), block);
        }
      }
    }
    block.bias = nullptr;
    block.accumulate = true;
  }
}

template <class T>
void gemm_direct(std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t a_row, std::int64_t a_column,
                 const T* b, std::int64_t ldb, T* c, std::int64_t ldc, const Finish<T>& finish) {
  using A = acc_t<T>;
  constexpr int lanes = kLanes<A>;
  if constexpr (kMaskedLoads<T>) {
    if (m <= kTileRows && n <= lanes && k <= kDepth<T>) {  // a single tile: what follows would take longer than it
      T* c_row[kTileRows];
      for (std::int64_t i = 0; i < m; ++i, c += ldc) c_row[i] = c;
      kDirectKernels<T, 1>[static_cast<std::size_t>(m)](k, a, a_row, a_column, b, ldb, c_row, 0, static_cast<int>(n),
                                                        finish);
      return;
    }
  }
  const std::int64_t whole = kMaskedLoads<T> ? n : n / lanes * lanes;
  const std::int64_t deepest = std::min(k, kDepth<T>);
  // The columns that no vector load reaches are packed, and a's elements widened where they are stored narrow.
  const bool widen = !std::is_same_v<T, A>;
  A* tail = nullptr;
  A* widened = nullptr;
  if (widen || whole < n) {
    tail =
        static_cast<A*>(thread_buffer(kTileSlot, sizeof(A) * static_cast<std::size_t>(deepest * (lanes + kTileRows))));
    widened = tail + deepest * lanes;
  }
  Finish<T> block = finish;
  const RowTiles tiles(m);
  for (std::int64_t begin = 0; begin < k || begin == 0; begin += kDepth<T>) {
    const std::int64_t depth = std::min(kDepth<T>, k - begin);
    const T* rows_of_b = b + begin * ldb;
    if (whole < n) pack_rows<T>(depth, n - whole, rows_of_b + whole, ldb, nullptr, 0, n - whole, tail);
    std::int64_t row = 0;
    for (std::int64_t t = 0; t < tiles.count; ++t) {
      const int rows = tiles.rows(t);
      T* c_row[kTileRows];
      for (int i = 0; i < rows; ++i) c_row[i] = c + (row + i) * ldc;
      const A* left = widened;
      std::int64_t left_row = depth, left_column = 1;
      if constexpr (std::is_same_v<T, A>) {
        left = a + row * a_row + begin * a_column;
        left_row = a_row;
        left_column = a_column;
      } else {
        for (int i = 0; i < rows; ++i)
          for (std::int64_t p = 0; p < depth; ++p)
            widened[i * depth + p] = a[(row + i) * a_row + (begin + p) * a_column];
      }
      const int most = widest(rows);
      for (std::int64_t j = 0; j < whole;) {
        const std::int64_t vectors = (whole - j + lanes - 1) / lanes;
        const int take = vectors >= 8 && most >= 8   ? 8
                         : vectors >= 4 && most >= 4 ? 4
                         : vectors >= 2 && most >= 2 ? 2
                                                     : 1;
        const auto& kernels = take == 8   ? kDirectKernels<T, 8>
                              : take == 4 ? kDirectKernels<T, 4>
                              : take == 2 ? kDirectKernels<T, 2>
                                          : kDirectKernels<T, 1>;
        const int last = static_cast<int>(std::min<std::int64_t>(lanes, whole - j - (take - 1) * lanes));
        kernels[rows](depth, left, left_row, left_column, rows_of_b, ldb, c_row, j, last, block);
        j += take * lanes;
      }
      if (whole < n) {
        kPackedKernels<T, 1>[rows](depth, left, left_row, left_column, tail, c_row, whole, static_cast<int>(n - whole),
                                   block);
      }
      row += rows;
    }
    block.bias = nullptr;
    block.accumulate = true;
  }
}

#define ADJOINT_INSTANTIATE_GEMM(T)                                                                              \
  template void pack<T>(std::int64_t, std::int64_t, const T*, std::int64_t, std::int64_t, const std::int32_t*,   \
                        std::int64_t, std::int64_t, acc_t<T>*);                                                  \
  template void gemm<T>(std::int64_t, std::int64_t, std::int64_t, const Left<T>&, const acc_t<T>*, std::int64_t, \
                        std::int64_t, T*, std::int64_t, const Finish<T>&);                                       \
  template void gemm_direct<T>(std::int64_t, std::int64_t, std::int64_t, const T*, std::int64_t, std::int64_t,   \
                               const T*, std::int64_t, T*, std::int64_t, const Finish<T>&);
ADJOINT_INSTANTIATE_GEMM(double)
ADJOINT_INSTANTIATE_GEMM(float)
ADJOINT_INSTANTIATE_GEMM(bf16)
#undef ADJOINT_INSTANTIATE_GEMM

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
