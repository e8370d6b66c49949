#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/cpu/gemm_tile.h"
#include "kernels/cpu/strided.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

/// Up to this many rows, b is read where it lies: packing it would cost as much as it saves.
constexpr std::int64_t kDirectRows = 2 * kTileRows;
/// The same for a b that fits into half of the first-level cache.
constexpr std::int64_t kDirectBytes = 1 << 14;
/// Multiplications below which a product stays on one thread (about 8 us).
constexpr std::int64_t kParallelWork = 500'000;
/// Multiplications that a chunk should have at least.
constexpr std::int64_t kChunkWork = 1'000'000;
/// The same for a product of m x n x k, which is less where that would leave it fewer than four chunks.
std::int64_t chunk_work(std::int64_t m, std::int64_t n, std::int64_t k) {
  return std::clamp(m * n * k / 4, kChunkWork / 4, kChunkWork);
}
/// A packed b up to this size stays in the caches as a whole; of a larger one, a block of rows is packed at a time.
constexpr std::int64_t kPackedBytes = 1 << 20;
/// Columns of b that are packed at a time.
constexpr std::int64_t kPackedColumns = 2048;

struct Chunks {
  std::int64_t rows, columns;  // extents of one chunk
};

/// Cuts [m, n] so that there is work for up to 16 threads, in chunks of at least chunk_work. A chunk keeps many rows,
/// which share a panel of b in the first-level cache, and several panels, which share the copies of rows of a.
template <class A>
Chunks choose_chunks(std::int64_t m, std::int64_t n, std::int64_t k) {
  Chunks c{m, std::min<std::int64_t>(n, 16 * kLanes<A>)};
  const auto half = [](std::int64_t extent, std::int64_t unit) { return (extent / unit + 2) / 2 * unit; };
  const std::int64_t least = chunk_work(m, n, k);
  const auto count = [&] { return ((m + c.rows - 1) / c.rows) * ((n + c.columns - 1) / c.columns); };
  while (count() < 16 && c.rows * c.columns * k >= 2 * least) {
    if (c.rows > 16 * kTileRows) {
      c.rows = half(c.rows, kTileRows);
    } else if (c.columns > 4 * kLanes<A>) {
      c.columns = half(c.columns, kPanel<A>);
    } else if (count() < 4 && c.rows > 2 * kTileRows) {
      c.rows = half(c.rows, kTileRows);
    } else {
      break;
    }
  }
  return c;
}

template <class T>
struct Right {
  const T* data;
  std::int64_t row, column;
  const std::int32_t* pick;

  /// Without its first rows and columns.
  Right from(std::int64_t first_row, std::int64_t first_column) const {
    const std::int64_t skipped = pick != nullptr ? 0 : first_row * row;
    return {data + skipped + first_column * column, row, column, pick != nullptr ? pick + first_row : nullptr};
  }
};
/// The left operand without its first rows and columns.
template <class T>
Left<T> from(const Left<T>& a, std::int64_t first_row, std::int64_t first_column) {
  Left<T> part = a;
  if (a.rows != nullptr) {
    part.rows += first_row;
  } else {
    part.data += first_row * a.row;
  }
  if (a.depth != nullptr) {
    part.depth += first_column;
  } else {
    part.data += first_column * a.column;
  }
  return part;
}

/// c = a b through packed panels of b; m and k count what the lists of `a` pick. What is packed at a time, and by whom,
/// changes no result: an element's sum is the same in whatever chunk it lies.
template <class T>
void packed_product(const At& at, std::int64_t m, std::int64_t n, std::int64_t k, const Left<T>& a, const Right<T>& b,
                    T* c, std::int64_t ldc, const Finish<T>& finish, bool inline_only) {
  using A = acc_t<T>;
  inline_only = inline_only || at.pool->threads() == 1 || m * n * k < kParallelWork;
  const Chunks chunk = inline_only ? Chunks{m, kPackedColumns} : choose_chunks<A>(m, n, k);
  const std::int64_t down = (m + chunk.rows - 1) / chunk.rows;
  const auto for_all = [&](std::int64_t count, const auto& f) {
    if (!inline_only) return at.pool->run(count, f);
    for (std::int64_t i = 0; i < count; ++i) f(i);
  };
  const auto multiply = [&](std::int64_t i, std::int64_t first_column, std::int64_t columns, std::int64_t begin,
                            std::int64_t depth, const A* packed, std::int64_t first, std::int64_t last) {
    const std::int64_t row = i * chunk.rows;
    Finish<T> block = finish;
    if (begin > 0) block = {finish.alpha, nullptr, true};
    if (block.bias != nullptr) block.bias += first_column;
    T* const to = c + first_column + (a.rows != nullptr ? 0 : row * ldc);
    gemm(std::min(chunk.rows, m - row), columns, depth, from(a, row, begin), packed, first, last, to, ldc, block);
  };
  if (down == 1) {  // each chunk packs its own columns
    for_all((n + chunk.columns - 1) / chunk.columns, [&](std::int64_t i) {
      const std::int64_t first = i * chunk.columns, columns = std::min(chunk.columns, n - first);
      const auto elements = static_cast<std::size_t>(packed_elements<T>(std::min(k, kDepth<T>), columns));
      A* const packed = static_cast<A*>(thread_buffer(kPackedSlot, elements * sizeof(A)));
      for (std::int64_t begin = 0; begin < k || begin == 0; begin += kDepth<T>) {
        const std::int64_t depth = std::min(kDepth<T>, k - begin);
        const Right<T> part = b.from(begin, first);
        pack(depth, columns, part.data, b.row, b.column, part.pick, 0, columns, packed);
        multiply(0, first, columns, begin, depth, packed, 0, columns);
      }
    });
    return;
  }
  const bool whole = packed_elements<T>(k, n) * static_cast<std::int64_t>(sizeof(A)) <= kPackedBytes;
  const std::int64_t columns_at_once = whole ? n : kPackedColumns, depth_at_once = whole ? k : std::min(k, kDepth<T>);
  const auto elements = static_cast<std::size_t>(packed_elements<T>(depth_at_once, std::min(n, columns_at_once)));
  A* const packed = static_cast<A*>(thread_buffer(kPackedSlot, elements * sizeof(A)));
  for (std::int64_t first = 0; first < n; first += columns_at_once) {
    const std::int64_t columns = std::min(columns_at_once, n - first),
                       across = (columns + chunk.columns - 1) / chunk.columns;
    for (std::int64_t begin = 0; begin < k || begin == 0; begin += kDepth<T>) {
      const std::int64_t depth = std::min(depth_at_once, k - begin);
      const Right<T> part = b.from(begin, first);
      constexpr std::int64_t kPackTogether = 4 * kLanes<A>;
      for_all((columns + kPackTogether - 1) / kPackTogether, [&](std::int64_t i) {
        const std::int64_t from = i * kPackTogether;
        pack(depth, columns, part.data, b.row, b.column, part.pick, from, std::min(from + kPackTogether, columns),
             packed);
      });
      for_all(across * down, [&](std::int64_t i) {
        const std::int64_t from = i % across * chunk.columns;
        multiply(i / across, first, columns, begin, depth, packed, from, std::min(from + chunk.columns, columns));
      });
      if (whole) break;
    }
  }
}

/// Lists what takes part: r with r % rows_per_length < row_lengths[r / rows_per_length].
std::int64_t list_rows(const Matmul& call, std::int64_t rows, std::int32_t* list) {
  std::int64_t count = 0;
  for_lengths(call, 0, rows, [&](std::int64_t first, std::int64_t taking, std::int64_t) {
    for (std::int64_t row = first; row < taking; ++row) list[count++] = static_cast<std::int32_t>(row);
  });
  return count;
}

template <class T>
void clear_other_rows(const Matmul& call, T* c) {
  for_lengths(call, 0, call.m, [&](std::int64_t, std::int64_t taking, std::int64_t last) {
    clear_rows(c + taking * call.ldc, last - taking, call.n, call.ldc);
  });
}

template <class T>
void product(const At& at, const Matmul& call, const T* a, const T* b, T* c, bool inline_only) {
  using A = acc_t<T>;
  const std::int64_t m = call.m, n = call.n, k = call.k;
  const std::int64_t a_row = call.transpose_a ? 1 : call.lda, a_column = call.transpose_a ? call.lda : 1;
  const Finish<T> finish{static_cast<A>(call.alpha), static_cast<const T*>(call.bias), call.accumulate};
  const bool ragged = call.row_lengths != nullptr;
  if (!call.transpose_b && !ragged &&
      (m <= kDirectRows || k * n * static_cast<std::int64_t>(sizeof(T)) <= kDirectBytes)) {
    if (inline_only || m * n * k < kParallelWork) {
      gemm_direct(m, n, k, a, a_row, a_column, b, call.ldb, c, call.ldc, finish);
      return;
    }
    const std::int64_t grain = std::max<std::int64_t>(chunk_work(m, n, k) / (m * k) / kPanel<A>, 4) * kPanel<A>;
    parallel_for(at, n, grain, m * k, [&](std::int64_t begin, std::int64_t end) {
      Finish<T> part = finish;
      if (part.bias != nullptr) part.bias += begin;
      gemm_direct(m, end - begin, k, a, a_row, a_column, b + begin, call.ldb, c + begin, call.ldc, part);
    });
    return;
  }
  Left<T> left{a, a_row, a_column};
  Right<T> right{b, call.transpose_b ? 1 : call.ldb, call.transpose_b ? call.ldb : 1, nullptr};
  std::int64_t rows = m, depth = k;
  if (ragged) {
    const std::int64_t listed = call.transpose_a ? k : m;
    auto* list =
        static_cast<std::int32_t*>(thread_buffer(kListSlot, static_cast<std::size_t>(listed) * sizeof(std::int32_t)));
    const std::int64_t count = list_rows(call, listed, list);
    if (call.transpose_a) {
      left.depth = right.pick = list;
      depth = count;
    } else {
      left.rows = list;
      rows = count;
      if (!call.accumulate) clear_other_rows(call, c);
    }
  }
  if (rows > 0) packed_product(at, rows, n, depth, left, right, c, call.ldc, finish, inline_only);
}

template <class T>
void all_products(const At& at, const Matmul& call) {
  if (call.m == 0 || call.n == 0 || call.batches == 0) return;
  const T* a = static_cast<const T*>(call.a);
  const T* b = static_cast<const T*>(call.b);
  T* c = static_cast<T*>(call.c);
  if (call.batches == 1) {
    product(at, call, a, b, c, false);
    return;
  }
  if (call.b_batch == 0 && !call.transpose_a && call.a_batch == call.m * call.lda &&
      call.c_batch == call.m * call.ldc) {
    Matmul one = call;  // one b for all, and the rows follow each other
    one.m *= call.batches;
    product(at, one, a, b, c, false);
    return;
  }
  const std::int64_t work = call.m * call.n * call.k;
  const bool split_products = work > 16 * kChunkWork;
  const auto one = [&](std::int64_t i) {
    product(at, call, a + i * call.a_batch, b + i * call.b_batch, c + i * call.c_batch, !split_products);
  };
  if (split_products) {
    for (std::int64_t i = 0; i < call.batches; ++i) one(i);
    return;
  }
  const std::int64_t grain = std::max<std::int64_t>(kChunkWork / 4 / std::max<std::int64_t>(work, 1), 1);
  const std::int64_t per_item = std::max<std::int64_t>(work * kInlineWork / kParallelWork, 1);
  parallel_for(at, call.batches, std::min(grain, call.batches), per_item, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) one(i);
  });
}

}  // namespace

void run(const At& at, const Matmul& call) {
  switch (call.dtype) {
    case DType::f32: return all_products<float>(at, call);
    case DType::f64: return all_products<double>(at, call);
    default: return all_products<bf16>(at, call);
  }
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
