// What warp collectives compute once their lanes have arrived.

#include "kernels/simt/collectives.h"

#include <cstring>

#include "kernels/simt/machine.h"

namespace adjoint::simt::detail {
namespace {

/// A value from a lane that takes no part is undefined in CUDA: here it is poison.
template <class Source>
void complete_shuffle(Lanes& lanes, unsigned arrived, Source source) {
  for (int i = 0; i < 32; ++i) {
    if ((arrived >> i & 1) == 0) continue;
    int width = lanes[i].width, first = i & ~(width - 1), last = first + width - 1;
    int from = source(i, lanes[i].argument, first, last);
    if (from >= 0 && from < 32 && (arrived >> from & 1) != 0) {
      std::memcpy(lanes[i].out, lanes[from].in, lanes[i].bytes);
    } else {
      fill(lanes[i].out, lanes[i].bytes, machine.options.poison);
    }
  }
}

}  // namespace

// Out of its segment, a lane keeps its own value, except that __shfl_sync wraps around and __shfl_xor_sync may read a
// lower segment (CUDA C++ programming guide, warp shuffle functions).
void complete_index(Lanes& lanes, unsigned arrived) {
  complete_shuffle(lanes, arrived,
                   [](int, int source, int first, int last) { return first | (source & (last - first)); });
}
void complete_up(Lanes& lanes, unsigned arrived) {
  complete_shuffle(lanes, arrived, [](int i, int delta, int first, int) { return i - delta < first ? i : i - delta; });
}
void complete_down(Lanes& lanes, unsigned arrived) {
  complete_shuffle(lanes, arrived, [](int i, int delta, int, int last) { return i + delta > last ? i : i + delta; });
}
void complete_xor(Lanes& lanes, unsigned arrived) {
  complete_shuffle(lanes, arrived, [](int i, int mask, int, int last) { return (i ^ mask) > last ? i : i ^ mask; });
}

void complete_vote(Lanes& lanes, unsigned arrived) {
  Vote result{0, arrived};
  for (unsigned i = 0; i < 32; ++i) {
    if ((arrived >> i & 1) != 0 && *static_cast<const int*>(lanes[i].in) != 0) result.yes |= 1u << i;
  }
  for (unsigned i = 0; i < 32; ++i) {
    if ((arrived >> i & 1) != 0) *static_cast<Vote*>(lanes[i].out) = result;
  }
}

void complete_meet(Lanes&, unsigned arrived) {
  Warp& warp = machine.warps[machine.current->index / 32];
  ++machine.clock;
  for (unsigned a = 0; a < 32; ++a) {
    for (unsigned b = 0; b < 32; ++b) {
      if ((arrived >> a & 1) != 0 && (arrived >> b & 1) != 0) warp.met[a][b] = machine.clock;
    }
  }
}

Vote vote(const char* what, unsigned mask, int predicate, Location at) {
  Vote result{};
  collective(what, mask, at, false, {&predicate, &result, 0, 32, sizeof result}, complete_vote);
  return result;
}

}  // namespace adjoint::simt::detail
