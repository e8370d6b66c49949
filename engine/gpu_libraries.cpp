#include "engine/gpu_libraries.h"

#include <fmt/format.h>

#include <atomic>

#include "kernels/base/error.h"
#include "kernels/base/shared_library.h"

namespace adjoint {
namespace {

std::atomic<GemmBackend> gemm{GemmBackend::automatic};
std::atomic<LstmBackend> lstm{LstmBackend::own};
std::atomic<AttentionBackend> attention{AttentionBackend::own};

GpuLibrary described(const char* name, LibraryStateOf state_of) {
  if (state_of == nullptr) return {name, "", "", "this build was made without its header"};
  const LibraryState& state = state_of();
  return {name, state.file, state.version, state.why_not};
}
GpuLibrary cublaslt_of(DeviceType type) {
  return described("cuBLASLt", type == DeviceType::cuda ? cuda::cublaslt : simt::cublaslt);
}
GpuLibrary cudnn_of(DeviceType type) {
  return described("cuDNN", type == DeviceType::cuda ? cuda::cudnn : simt::cudnn);
}

void require(const char* name, GpuLibrary (*library_of)(DeviceType), Device device, const char* instead) {
  ADJOINT_CHECK(
      device.type != DeviceType::cpu, "E-GPU-009", Exit::device,
      fmt::format("{} works on GPUs, and this runs on {}; try --device=cuda, or {}", name, text(device), instead));
  const GpuLibrary library = library_of(device.type);
  ADJOINT_CHECK(library.why_not.empty(), "E-GPU-009", Exit::device,
                fmt::format("{}: no {} ({}); or try {}", text(device), name, library.why_not, instead));
}

}  // namespace

std::vector<GpuLibrary> gpu_libraries(DeviceType type) {
  if (type == DeviceType::cpu) return {};
  return {cublaslt_of(type), cudnn_of(type)};
}

void choose_gemm(GemmBackend backend, Device device) {
  if (backend == GemmBackend::cublaslt) require("cuBLASLt", cublaslt_of, device, "--gemm-backend=own");
  gemm = backend;
}

bool gemm_by_library(Device device) {
  if (device.type == DeviceType::cpu) [[likely]]
    return false;
  switch (gemm.load(std::memory_order_relaxed)) {
    case GemmBackend::own: return false;
    case GemmBackend::cublaslt: return true;
    case GemmBackend::automatic: break;
  }
  if (device.type != DeviceType::cuda) return false;  // the executor's are asked for by name
  static const bool found = cublaslt_of(DeviceType::cuda).why_not.empty();
  return found;
}

void choose_lstm(LstmBackend backend, Device device) {
  if (backend == LstmBackend::cudnn) require("cuDNN", cudnn_of, device, "--lstm-backend=own");
  lstm = backend;
}

bool lstm_by_library(Device device) {
  return device.type != DeviceType::cpu && lstm.load(std::memory_order_relaxed) == LstmBackend::cudnn;
}

void choose_attention(AttentionBackend backend, Device device) {
  if (backend == AttentionBackend::cudnn) require("cuDNN", cudnn_of, device, "--attention-backend=own");
  attention = backend;
}

bool attention_by_library(Device device) {
  return device.type != DeviceType::cpu && attention.load(std::memory_order_relaxed) == AttentionBackend::cudnn;
}

std::string gpu_backends_text(Device device) {
  if (device.type == DeviceType::cpu) return "";
  std::string others;
  for (const auto& [what, by_library] :
       {std::pair{"LSTMs", lstm_by_library(device)}, std::pair{"attention", attention_by_library(device)}})
    if (by_library) others += fmt::format(", {} by cuDNN {}", what, cudnn_of(device.type).version);
  const bool by_library = gemm_by_library(device);
  if (!by_library && (gemm == GemmBackend::own || device.type != DeviceType::cuda))
    return "matrix products by own kernels" + others;
  const GpuLibrary library = cublaslt_of(device.type);
  return (by_library
              ? fmt::format("matrix products by {} {}", library.name, library.version)
              : fmt::format("matrix products by own kernels, because of {}: {}", library.name, library.why_not)) +
         others;
}

}  // namespace adjoint
