#include "kernels/embedding.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kernels/base/error.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint::cpu {
namespace {

constexpr std::int64_t kTokensPerChunk = 256;
constexpr std::int64_t kColumnsPerChunk =
    64;  // of the gradient: each worker owns columns, so no two add to one element

void check_ids(const EmbeddingForward& call) {
  for (std::int64_t t = 0; t < call.tokens; ++t) {
    ADJOINT_CHECK(
        call.ids[t] >= 0 && call.ids[t] < call.rows, "E-OP-010", Exit::data,
        fmt::format("embedding: example {}, position {}: index {}, table has {} rows; vocabulary of another run?",
                    t / call.ids_per_example, t % call.ids_per_example, call.ids[t], call.rows));
  }
}

/// Columns [begin, end) of the gradient, token by token in order.
template <class T>
void scatter(const EmbeddingBackward& call, std::int64_t begin, std::int64_t end, acc_t<T>* sums) {
  using A = acc_t<T>;
  const T* dy = static_cast<const T*>(call.dy);
  T* table = static_cast<T*>(call.dtable.data);
  const std::int64_t width = end - begin;
  if constexpr (std::is_same_v<T, A>) {  // the gradient itself holds the sums
    if (!call.dtable.accumulate)
      for (std::int64_t r = 0; r < call.rows; ++r) std::fill_n(table + r * call.width + begin, width, T(0));
    for (std::int64_t t = 0; t < call.tokens; ++t) {
      if (call.ids[t] == call.padding_row) continue;
      T* row = table + call.ids[t] * call.width + begin;
      const T* from = dy + t * call.width + begin;
      for (std::int64_t i = 0; i < width; ++i) row[i] += from[i];
    }
  } else {  // one rounding at the end
    std::fill_n(sums, call.rows * width, A(0));
    for (std::int64_t t = 0; t < call.tokens; ++t) {
      if (call.ids[t] == call.padding_row) continue;
      for (std::int64_t i = 0; i < width; ++i)
        sums[call.ids[t] * width + i] += static_cast<A>(dy[t * call.width + begin + i]);
    }
    for (std::int64_t r = 0; r < call.rows; ++r)
      for (std::int64_t i = 0; i < width; ++i) {
        T& o = table[r * call.width + begin + i];
        o = static_cast<T>(call.dtable.accumulate ? static_cast<A>(o) + sums[r * width + i] : sums[r * width + i]);
      }
  }
}

}  // namespace

std::size_t scratch_bytes(const EmbeddingBackward& call) {
  return call.dtype == DType::bf16 ? static_cast<std::size_t>(call.rows * call.width) * sizeof(float) : 0;
}

void run(const At& at, const EmbeddingForward& call) {
  check_ids(call);
  const std::size_t bytes = static_cast<std::size_t>(call.width) * size_of(call.dtype);
  const char* table = static_cast<const char*>(call.table);
  char* y = static_cast<char*>(call.y);
  if (bytes == 0) return;
  parallel_for(at, call.tokens, kTokensPerChunk, call.width / 8 + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      std::memcpy(y + static_cast<std::size_t>(t) * bytes, table + static_cast<std::size_t>(call.ids[t]) * bytes,
                  bytes);
  });
}

void run(const At& at, const EmbeddingBackward& call) {
  if (call.dtable.data == nullptr) return;
  visit_float(call.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    parallel_for(at, call.width, kColumnsPerChunk, (call.tokens + call.rows) / 8 + 1,
                 [&](std::int64_t begin, std::int64_t end) {
                   scatter<T>(call, begin, end, static_cast<acc_t<T>*>(call.scratch) + call.rows * begin);
                 });
  });
}

}  // namespace adjoint::cpu
