#include "kernels/embedding.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kernels/base/error.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {
namespace {

constexpr std::int64_t kTokensPerChunk = 64;
constexpr std::int64_t kRowsPerChunk = 1024;
/// Rows of the table lie anywhere, so that no cache expects them: this many tokens ahead they are asked for.
constexpr std::int64_t kAhead = 8;

/// Asks for a row of `bytes`, to be read or written.
template <int write>
void prefetch_row(const char* row, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, write);
}

void check_ids(const EmbeddingForward& call) {
  const std::int64_t per_example = std::max<std::int64_t>(call.ids_per_example, 1);
  for (std::int64_t t = 0; t < call.tokens; ++t) {
    ADJOINT_CHECK(
        call.ids[t] >= 0 && call.ids[t] < call.rows, "E-OP-010", Exit::data,
        fmt::format("embedding: example {}, position {}: index {}, table has {} rows; vocabulary of another run?",
                    t / per_example, t % per_example, call.ids[t], call.rows));
  }
}

/// For each row of the table the tokens that name it, in order: first[row], then next[token] …, -1 at the end.
struct TokenLists {
  std::int32_t* first;
  std::int32_t* next;

  explicit TokenLists(const EmbeddingBackward& call)
      : first(static_cast<std::int32_t*>(call.scratch)), next(first + call.rows) {
    std::fill_n(first, call.rows, -1);
    for (std::int64_t t = call.tokens - 1; t >= 0; --t) {
      const std::int32_t row = call.ids[t];
      if (row == call.padding_row) continue;
      next[t] = first[row];
      first[row] = static_cast<std::int32_t>(t);
    }
  }
};

/// V registers of one row of the gradient, the last one with `last` lanes.
template <int V, class T>
void sum_tokens(const TokenLists& lists, std::int64_t row, const T* dy, std::int64_t width, T* out, int last,
                bool accumulate) {
  using A = acc_t<T>;
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[V] = {};
  for (std::int32_t t = lists.first[row]; t >= 0; t = lists.next[t]) {
    const T* from = dy + t * width;
#pragma GCC unroll 8
    for (int v = 0; v < V - 1; ++v) sum[v] += load(from + v * lanes);
    sum[V - 1] += last == lanes ? load(from + (V - 1) * lanes) : load_first(from + (V - 1) * lanes, last);
  }
#pragma GCC unroll 8
  for (int v = 0; v < V - 1; ++v) put(out + v * lanes, sum[v], accumulate);
  if (last == lanes) {
    put(out + (V - 1) * lanes, sum[V - 1], accumulate);
  } else {
    put_first(out + (V - 1) * lanes, sum[V - 1], last, accumulate);
  }
}

/// The rows of the gradient that tokens [begin, end) are the first to name.
template <class T>
void sum_rows(const EmbeddingBackward& call, const TokenLists& lists, std::int64_t begin, std::int64_t end) {
  constexpr int lanes = kLanes<acc_t<T>>;
  const std::int64_t width = call.width;
  const std::size_t bytes = static_cast<std::size_t>(width) * sizeof(T);
  const T* dy = static_cast<const T*>(call.dy);
  for (std::int64_t t = begin; t < end; ++t) {
    const std::int64_t row = call.ids[t];
    if (const std::int64_t ahead = t + kAhead; ahead < end && lists.first[call.ids[ahead]] == ahead) {
      prefetch_row<1>(static_cast<const char*>(call.dtable.data) + static_cast<std::size_t>(call.ids[ahead]) * bytes,
                      bytes);
    }
    if (lists.first[row] != t) continue;  // the padding row has no list
    T* out = static_cast<T*>(call.dtable.data) + row * width;
    std::int64_t i = 0;
    for (; i + 4 * lanes <= width; i += 4 * lanes)
      sum_tokens<4>(lists, row, dy + i, width, out + i, lanes, call.dtable.accumulate);
    for (; i < width; i += lanes) {
      const int count = static_cast<int>(std::min<std::int64_t>(lanes, width - i));
      sum_tokens<1>(lists, row, dy + i, width, out + i, count, call.dtable.accumulate);
    }
  }
}

/// Appends the rows that tokens are the first to name.
void list_rows(const EmbeddingBackward& call, const TokenLists& lists) {
  for (std::int64_t t = 0; t < call.tokens; ++t) {
    const std::int32_t row = call.ids[t];
    if (lists.first[row] != t || call.touched.listed[row] != 0) continue;
    call.touched.listed[row] = 1;
    call.touched.rows[(*call.touched.count)++] = row;
  }
}

}  // namespace

std::size_t scratch_bytes(const EmbeddingBackward& call) {
  return static_cast<std::size_t>(call.rows + call.tokens) * sizeof(std::int32_t);
}

void run(const At& at, const EmbeddingForward& call) {
  check_ids(call);
  const std::size_t bytes = static_cast<std::size_t>(call.width) * size_of(call.dtype);
  const char* table = static_cast<const char*>(call.table);
  char* y = static_cast<char*>(call.y);
  if (bytes == 0) return;
  parallel_for(at, call.tokens, kTokensPerChunk, call.width / 8 + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      if (t + kAhead < call.tokens)
        prefetch_row<0>(table + static_cast<std::size_t>(call.ids[t + kAhead]) * bytes, bytes);
      std::memcpy(y + static_cast<std::size_t>(t) * bytes, table + static_cast<std::size_t>(call.ids[t]) * bytes,
                  bytes);
    }
  });
}

void run(const At& at, const EmbeddingBackward& call) {
  if (call.dtable.data == nullptr) return;
  if (!call.dtable.accumulate) {
    const std::size_t bytes = static_cast<std::size_t>(call.width) * size_of(call.dtype);
    char* table = static_cast<char*>(call.dtable.data);
    parallel_for(at, call.rows, kRowsPerChunk, call.width / 16 + 1, [&](std::int64_t begin, std::int64_t end) {
      if (bytes > 0)
        std::memset(table + static_cast<std::size_t>(begin) * bytes, 0, static_cast<std::size_t>(end - begin) * bytes);
    });
  }
  const TokenLists lists(call);
  if (call.touched.count != nullptr) list_rows(call, lists);
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    parallel_for(at, call.tokens, kTokensPerChunk, call.width / 2 + 1,
                 [&](std::int64_t begin, std::int64_t end) { sum_rows<T>(call, lists, begin, end); });
  });
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
