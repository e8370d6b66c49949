// Runs the tests of engine and models with all their tensors on another device: --device=simt (the CUDA kernels' own
// source on the CPU), --device=cuda or --device=cuda:N. The tests are the same files as for the CPU.
// --gemm-backend=cublaslt, --lstm-backend=cudnn and --attention-backend=cudnn put the libraries in place of our
// kernels.

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "engine/gpu.h"
#include "engine/gpu_libraries.h"
#include "kernels/base/error.h"
#include "kernels/base/gpu_api.h"

int main(int argc, char** argv) {
  using namespace adjoint;
  ::testing::InitGoogleTest(&argc, argv);
  if (::testing::GTEST_FLAG(filter) == "*") ::testing::GTEST_FLAG(filter) = "-" ADJOINT_LEFT_OUT;
  std::string name = simt::api != nullptr ? "simt" : "cuda";
  GemmBackend gemm = GemmBackend::own;
  LstmBackend lstm = LstmBackend::own;
  AttentionBackend attention = AttentionBackend::own;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--gemm-backend=cublaslt") {
      gemm = GemmBackend::cublaslt;
      continue;
    }
    if (word == "--lstm-backend=cudnn") {
      lstm = LstmBackend::cudnn;
      continue;
    }
    if (word == "--attention-backend=cudnn") {
      attention = AttentionBackend::cudnn;
      continue;
    }
    if (!word.starts_with("--device=")) {
      std::fprintf(stderr,
                   "%s: unknown option; expected --device=simt, cuda or cuda:N, --gemm-backend=cublaslt, "
                   "--lstm-backend=cudnn, --attention-backend=cudnn, and GoogleTest's own\n",
                   argv[i]);
      return 2;
    }
    name = word.substr(9);
  }
  Device device{name == "simt" ? DeviceType::simt : DeviceType::cuda, 0};
  if (name.starts_with("cuda:")) device.index = static_cast<std::uint8_t>(std::atoi(name.c_str() + 5));
  if (const std::string why = Gpu::why_not(device); !why.empty()) {
    std::fprintf(stderr, "%s\n", why.c_str());
    return 7;
  }
  try {
    choose_gemm(gemm, device);
    choose_lstm(lstm, device);
    choose_attention(attention, device);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 7;
  }
  const DefaultDevice everywhere(device);
  return RUN_ALL_TESTS();
}
