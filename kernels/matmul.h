#pragma once
// Matrix products.

#include "kernels/base/backend.h"
#include "kernels/base/view.h"

namespace adjoint {

/// For each of `batches` matrices: c = alpha * op(a) op(b) + bias, or c += that without bias.
/// op(a) is [m, k]: element (i, p) lies at a[i * lda + p], or a[p * lda + i] when transpose_a. op(b) is [k, n]
/// likewise. c: row-major, leading dimension ldc >= n. *_batch: elements between matrices; 0 reuses one matrix (not for
/// c). bias [n] or null. One float dtype; accumulation in acc_t over k in an order that depends on the shape alone;
/// error |c - exact| <= k * eps * |a||b|. Any extent may be 0: k = 0 gives bias (or leaves c when accumulating).
/// c overlaps nothing.
/// row_lengths: null, or i32 [rows / rows_per_length]: row r takes part only if r % rows_per_length <
/// row_lengths[r / rows_per_length] (rows of a padded batch [B, T, …]). With transpose_a the same holds for the k
/// index. A row that takes no part gives 0 in c (nothing is added when accumulating), and no work is done for it. Needs
/// batches == 1.
struct Matmul {
  DType dtype;
  std::int64_t batches = 1;
  std::int64_t m, n, k;
  const void* a;
  std::int64_t lda;
  std::int64_t a_batch = 0;
  bool transpose_a = false;
  const void* b;
  std::int64_t ldb;
  std::int64_t b_batch = 0;
  bool transpose_b = false;
  void* c;
  std::int64_t ldc;
  std::int64_t c_batch = 0;
  const void* bias = nullptr;
  double alpha = 1.0;
  bool accumulate = false;
  const std::int32_t* row_lengths = nullptr;
  std::int64_t rows_per_length = 0;
  /// On a GPU: by cuBLASLt, in f32 (not TF32), f64, and bf16 summed in f32. Without row_lengths, with no extent 0, and
  /// where it has an algorithm; our own kernels do the rest. The order of summation then depends on the shape, the
  /// layout, the alignment, the card and the library's version; it is the same at every call.
  bool by_library = false;
  /// [m] or null: gets the sums over k of op(a), as a bias's gradient is beside its weight's. Only by_library, with
  /// transpose_a, batches == 1 and no bias or row_lengths.
  void* a_sums = nullptr;
  /// [m, n] dense or null: gets gelu_tanh of what c is before it is rounded (bias_gelu.h has that function). Only
  /// by_library, with a bias, batches == 1, ldc == n and no accumulate or row_lengths.
  void* gelu = nullptr;
  void* scratch = nullptr;  ///< the CPU needs none
};

}  // namespace adjoint

ADJOINT_CPU_KERNEL(Matmul)
namespace adjoint::cpu {
inline std::size_t scratch_bytes(const At&, const Matmul&) { return 0; }
}  // namespace adjoint::cpu
