#pragma once
// Attention calls on the executor against sums written out in double.

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"

namespace adjoint::simt::self_test {

enum class Bias { none, full, one_row, transposed };  ///< one_row: the same for all heads and queries
enum class Layout {
  dense,       // [B, H, T, D]
  interleaved  // [B, T, H, D] with a gap after each D
};

struct AttentionCase {
  const char* label;
  int batch = 1, heads = 1, queries, keys, width, value_width;
  bool causal = false;
  std::vector<std::int32_t> key_lengths = {}, query_lengths = {};
  Bias bias = Bias::none;
  double dropout = 0;
  Layout layout = Layout::dense;
  int gap = 0;              ///< elements, of an interleaved layout
  bool accumulate = false;  ///< gradients are added to what is there
  /// A bias of -inf on every key of query 1, so that its scores are all -inf.
  bool dead_row = false;
  int zero_columns = 0;            ///< the last so many columns of all operands are 0
  std::string gradients = "qkvb";  ///< the wanted ones
  double scale = 0;                ///< 0: 1 / sqrt(width)
};

/// Runs forward, backward and weights; "" or what differs from the reference, with element and both values.
std::string attention_difference(const AttentionCase& c, DType dtype);

/// The largest error of any result, relative to the largest number of its kind (or 1).
double attention_error(const AttentionCase& c, DType dtype);

}  // namespace adjoint::simt::self_test
