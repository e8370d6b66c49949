#pragma once
// Views that are not dense: walking one in the row-major order of its shape, a tile of contiguous elements at a time.
// Every kernel computes on contiguous tiles by one function, so that layout cannot change a bit of the result.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/base/view.h"

namespace adjoint::cpu::ADJOINT_CPU_LEVEL {

/// Elements of a gathered tile: small enough for a few of them on the stack and in L1.
constexpr std::int64_t kTile = 512;
/// Elements one chunk of a pointwise kernel covers.
constexpr std::int64_t kGrain = 16384;

/// Zeros in `rows` rows of `width` elements, `stride` apart. Rows that follow one another are cleared as one: the C
/// library does not read a long run into the cache before it writes it.
template <class T>
void clear_rows(T* to, std::int64_t rows, std::int64_t width, std::int64_t stride) {
  if (stride == width) {
    width *= rows;
    rows = std::min<std::int64_t>(rows, 1);
  }
  for (std::int64_t r = 0; r < rows; ++r, to += stride)
    std::memset(static_cast<void*>(to), 0, static_cast<std::size_t>(width) * sizeof(T));
}

/// Calls f(first, taking, last) for each of call.row_lengths that rows [begin, end) have a part of, with that part:
/// rows [first, taking) take part, [taking, last) do not. Without lengths all do.
template <class Call, class F>
void for_lengths(const Call& call, std::int64_t begin, std::int64_t end, F&& f) {
  if (call.row_lengths == nullptr) {
    f(begin, end, end);
    return;
  }
  for (std::int64_t first = begin; first < end;) {
    const std::int64_t index = first / call.rows_per_length, start = index * call.rows_per_length;
    const std::int64_t last = std::min(start + call.rows_per_length, end);
    f(first, std::clamp<std::int64_t>(start + call.row_lengths[index], first, last), last);
    first = last;
  }
}

/// A tile of any dtype.
struct TileBuffer {
  alignas(64) unsigned char bytes[kTile * 8];

  template <class T>
  T* as() {
    return reinterpret_cast<T*>(bytes);
  }
};

struct Extent {
  std::int64_t n;
  bool dense;
};

/// The number of elements, and whether they follow one another in memory.
inline Extent extent(const View& v) {
  std::int64_t n = 1;
  bool dense = true;
  for (int i = v.rank - 1; i >= 0; --i) {
    dense &= (v.stride[i] == n) | (v.shape[i] == 1);
    n *= v.shape[i];
  }
  return {n, dense};
}

/// Whether one element is repeated over the whole shape.
inline bool is_repeated(const View& v) {
  for (int i = 0; i < v.rank; ++i)
    if (v.stride[i] != 0 && v.shape[i] != 1) return false;
  return true;
}

/// A position in a view, moved forward tile by tile. Dimensions that can be are merged, so a dense view is one run.
class Walk {
 public:
  explicit Walk(const View& v) : size_(static_cast<std::int64_t>(size_of(v.dtype))), base_(static_cast<char*>(v.data)) {
    for (int i = 0; i < v.rank; ++i) {
      if (v.shape[i] == 1) continue;
      const std::int64_t stride = v.stride[i] * size_;
      if (rank_ > 0 && stride_[rank_ - 1] == stride * v.shape[i]) {
        shape_[rank_ - 1] *= v.shape[i];
        stride_[rank_ - 1] = stride;
      } else {
        shape_[rank_] = v.shape[i];
        stride_[rank_++] = stride;
      }
    }
    if (rank_ == 0) {
      shape_[0] = 1;
      stride_[0] = size_;
      rank_ = 1;
    }
    seek(0);
  }

  /// Moves to the element of that number in row-major order.
  void seek(std::int64_t position) {
    if (position == position_) return;
    position_ = position;
    at_ = base_;
    for (int i = rank_ - 1; i > 0; --i) {
      const std::int64_t above = position / shape_[i];
      index_[i] = position - above * shape_[i];
      at_ += index_[i] * stride_[i];
      position = above;
    }
    index_[0] = position;
    at_ += position * stride_[0];
  }

  /// The length of the row that is repeated over all else (a bias), if that is the layout; else 0.
  std::int64_t period() const { return rank_ == 2 && stride_[0] == 0 && stride_[1] == size_ ? shape_[1] : 0; }

  /// At most `limit` elements for the next tile, fewer if that spares a gather.
  std::int64_t tile(std::int64_t limit) const {
    constexpr std::int64_t kShortRun = 64;
    const int i = rank_ - 1;
    const std::int64_t run = shape_[i] - index_[i];
    return stride_[i] == size_ && shape_[i] >= kShortRun && run < limit ? run : limit;
  }

  /// The next n elements in place, if they follow one another in memory; else null and no move.
  void* in_place(std::int64_t n) {
    const int i = rank_ - 1;
    if (stride_[i] != size_ || shape_[i] - index_[i] < n) return nullptr;
    void* const p = at_;
    move(n);
    return p;
  }

  /// The next n elements, in place or gathered into the buffer.
  const void* read(std::int64_t n, void* buffer) {
    if (const void* p = in_place(n)) return p;
    transfer<false>(n, static_cast<char*>(buffer));
    return buffer;
  }

  /// Stores the next n elements from the buffer.
  void write(std::int64_t n, const void* buffer) { transfer<true>(n, static_cast<char*>(const_cast<void*>(buffer))); }

 private:
  void move(std::int64_t n) {  // within the innermost dimension
    int i = rank_ - 1;
    position_ += n;
    at_ += n * stride_[i];
    index_[i] += n;
    while (i > 0 && index_[i] == shape_[i]) {
      at_ += stride_[i - 1] - shape_[i] * stride_[i];
      index_[i--] = 0;
      ++index_[i];
    }
  }

  template <bool kStore>
  void transfer(std::int64_t n, char* buffer) {
    switch (size_) {
      case 1: return transfer_as<kStore, std::uint8_t>(n, buffer);
      case 2: return transfer_as<kStore, std::uint16_t>(n, buffer);
      case 4: return transfer_as<kStore, std::uint32_t>(n, buffer);
      default: return transfer_as<kStore, std::uint64_t>(n, buffer);
    }
  }
  template <bool kStore, class Word>
  void transfer_as(std::int64_t n, char* buffer) {
    const int inner = rank_ - 1;
    const std::int64_t stride = stride_[inner];
    while (n > 0) {
      const std::int64_t rest = shape_[inner] - index_[inner];
      const std::int64_t m = rest < n ? rest : n;
      char* p = at_;
      if (stride == size_) {
        std::memcpy(kStore ? p : buffer, kStore ? buffer : p, static_cast<std::size_t>(m) * sizeof(Word));
      } else if (!kStore && stride == 0) {
        Word word;
        std::memcpy(&word, p, sizeof word);
        for (std::int64_t i = 0; i < m; ++i) std::memcpy(buffer + i * sizeof(Word), &word, sizeof word);
      } else {
        for (std::int64_t i = 0; i < m; ++i, p += stride)
          std::memcpy(kStore ? p : buffer + i * sizeof(Word), kStore ? buffer + i * sizeof(Word) : p, sizeof(Word));
      }
      buffer += m * static_cast<std::int64_t>(sizeof(Word));
      n -= m;
      move(m);
    }
  }

  std::int64_t size_;  // bytes of an element; strides are in bytes too
  char* base_;
  char* at_ = nullptr;
  std::int64_t position_ = -1;
  int rank_ = 0;
  std::int64_t shape_[kMaxRank];
  std::int64_t stride_[kMaxRank];
  std::int64_t index_[kMaxRank];
};

/// Puts the dimensions of some views of one shape into the order of falling strides of the first, so that a transposed
/// result is walked as it lies in memory. Only for kernels in which the order of the elements does not matter.
template <class... Views>
inline void order_by(View& first, Views&... others) {
  const auto magnitude = [&](int i) { return first.stride[i] < 0 ? -first.stride[i] : first.stride[i]; };
  const auto swap = [](View& v, int i) {
    const std::int64_t shape = v.shape[i], stride = v.stride[i];
    v.shape[i] = v.shape[i + 1];
    v.stride[i] = v.stride[i + 1];
    v.shape[i + 1] = shape;
    v.stride[i + 1] = stride;
  };
  for (int end = first.rank - 1; end > 0; --end) {
    for (int i = 0; i < end; ++i) {
      if (magnitude(i) >= magnitude(i + 1)) continue;
      swap(first, i);
      (swap(others, i), ...);
    }
  }
}

}  // namespace adjoint::cpu::ADJOINT_CPU_LEVEL
