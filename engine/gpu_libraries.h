#pragma once
// NVIDIA's libraries, which may do some of a GPU's work: which there are, and who does what. They are opened while the
// program runs, and only when they are asked for; nothing needs them. docs/gpu_libraries.md.

#include <cstdint>
#include <string>
#include <vector>

#include "engine/device.h"

namespace adjoint {

struct GpuLibrary {
  std::string name;     ///< "cuBLASLt"
  std::string file;     ///< what was opened; empty if nothing was
  std::string version;  ///< "13.1.0"; empty if nothing was opened
  std::string why_not;  ///< why it is not used; empty if it can be
};
/// What there is for a kind of device, opening each of them.
std::vector<GpuLibrary> gpu_libraries(DeviceType type = DeviceType::cuda);

/// Who multiplies matrices on a GPU. automatic: cuBLASLt on a CUDA device where it is found, else our own kernel.
enum class GemmBackend : std::uint8_t { automatic, own, cublaslt };

/// For this process; before the first call on the device. Throws E-GPU-009 if a library is asked for that the device or
/// the machine has not.
void choose_gemm(GemmBackend backend, Device device);
/// Whether a product that is made now is for cuBLASLt.
bool gemm_by_library(Device device);

/// Who runs LSTMs on a GPU: our own kernels, or cuDNN.
enum class LstmBackend : std::uint8_t { own, cudnn };
/// As choose_gemm. What was recorded for backward stays with whom it was recorded by.
void choose_lstm(LstmBackend backend, Device device);
bool lstm_by_library(Device device);

/// Who computes attention on a GPU: our own kernels, or cuDNN what it can.
enum class AttentionBackend : std::uint8_t { own, cudnn };
/// As choose_lstm.
void choose_attention(AttentionBackend backend, Device device);
bool attention_by_library(Device device);

/// Who does what on a GPU, for people: "matrix products by cuBLASLt 13.1.0, LSTMs by cuDNN 9.19.0", or by our own
/// kernels, and why; LSTMs and attention are left out where they are our own.
std::string gpu_backends_text(Device device);

}  // namespace adjoint
