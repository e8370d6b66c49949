// The self-test kernels as nvcc has to see them: the compile gate (cmake/Cuda.cmake) builds this file for real GPUs.

#include "tests/simt/kernels/attention.cuh"
#include "tests/simt/kernels/cross_entropy.cuh"
#include "tests/simt/kernels/gemm.cuh"
#include "tests/simt/kernels/layer_norm.cuh"
#include "tests/simt/kernels/lstm.cuh"
#include "tests/simt/kernels/ptx_probe.cuh"
#include "tests/simt/kernels/tree_sum.cuh"

namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test {

/// Launches every kernel, so that each is compiled.
void launch_all(Stream stream, float* x, int* target, const bf16* w, const Attention& attention) {
  constexpr Bug kNone = Bug::none;
  dim3 one(1), warp(32);
  launch(layer_norm_forward<4, kNone>, one, dim3(128), 0, stream, x, x, x, x, x, x, 4, 256, 1e-5f);
  launch(layer_norm_gamma<kNone>, one, dim3(64), 0, stream, x, x, x, x, x, 4, 256, 4);
  launch(lstm_cell<kNone>, one, dim3(128), 0, stream, x, x, x, x, 7, 96);
  launch(cross_entropy<256, kNone>, one, dim3(256), 0, stream, x, target, x, x, 1000);
  launch(tree_sum<kNone>, one, dim3(64), 0, stream, x, x);
  launch_attention<kNone>(attention, stream);
  launch(gemm<true, kNone>, one, dim3(kGemmThreads), gemm_shared<true>(), stream, w, w, x, 64, 64, 64);
  launch(gemm<false, kNone>, one, dim3(kGemmThreads), gemm_shared<false>(), stream, w, w, x, 64, 64, 64);
  launch(probe_mma_bf16<false>, one, warp, 0, stream, w, w, x, x);
  launch(probe_mma_bf16<true>, one, warp, 0, stream, w, w, x, x);
  launch(probe_mma_tf32<false>, one, warp, 0, stream, x, x, x, x);
  launch(probe_mma_tf32<true>, one, warp, 0, stream, x, x, x, x);
  launch(probe_ldmatrix<4, false>, one, warp, 512, stream, w, x);
  launch(probe_ldmatrix<4, true>, one, warp, 512, stream, w, x);
  launch(probe_ldmatrix<2, false>, one, warp, 512, stream, w, x);
  launch(probe_ldmatrix<2, true>, one, warp, 512, stream, w, x);
  launch(probe_cp_async_4<20>, one, warp, 128, stream, x, x);
}

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE::self_test
