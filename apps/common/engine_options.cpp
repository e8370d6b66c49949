#include "apps/common/engine_options.h"

#include <fmt/format.h>

#include <charconv>

#include "engine/gpu.h"
#include "engine/gpu_libraries.h"
#include "engine/launch.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

Device asked_device(const Settings& settings) {
  const std::int64_t asked = settings.integer("threads");
  set_threads(asked == 0 ? threads_of_machine() : static_cast<int>(asked));
  if (settings.has("cpu-level") && settings.text("cpu-level") != "auto")
    set_cpu_level(settings.text("cpu-level"), "--cpu-level");
  const std::string& name = settings.text("device");
  if (name == "cpu") return Device{};
  if (name == "auto") {
    if (cuda::api == nullptr) return Device{};
    const Device first{DeviceType::cuda, 0};
    return Gpu::why_not(first).empty() ? first : Device{};
  }
  Device device{name == "simt" ? DeviceType::simt : DeviceType::cuda, 0};
  if (name.starts_with("cuda:"))
    std::from_chars(name.data() + 5, name.data() + name.size(), device.index);  // the option's check has seen a number
  try {
    return Gpu::of(device).device();
  } catch (const Error& error) {
    throw Error(error.code(), error.exit(), fmt::format("--device {}", error.what()));
  }
}

}  // namespace

Device device_of(const Settings& settings) {
  const Device device = asked_device(settings);
  if (settings.has("gemm-backend")) {
    const std::string& gemm = settings.text("gemm-backend");
    choose_gemm(gemm == "own"        ? GemmBackend::own
                : gemm == "cublaslt" ? GemmBackend::cublaslt
                                     : GemmBackend::automatic,
                device);
  }
  if (settings.has("lstm-backend"))
    choose_lstm(settings.text("lstm-backend") == "cudnn" ? LstmBackend::cudnn : LstmBackend::own, device);
  if (settings.has("attention-backend"))
    choose_attention(settings.text("attention-backend") == "cudnn" ? AttentionBackend::cudnn : AttentionBackend::own,
                     device);
  return device;
}

std::string place_text(const Settings& settings, Device device) {
  if (device.type != DeviceType::cpu)
    return fmt::format("on {} ({}), {}", text(device), Gpu::of(device).properties().name, gpu_backends_text(device));
  if (settings.text("device") != "auto" || cuda::api == nullptr) return "on cpu";
  return "on cpu, because " + Gpu::why_not({DeviceType::cuda, 0});
}

std::unique_ptr<Optimizer> optimizer_of(const Settings& settings, ParameterSet& parameters) {
  const double rate = settings.real("lr"), decay = settings.real("weight-decay"), clip = settings.real("clip");
  const std::string& kind = settings.text("optimizer");
  if (kind == "sgd") {
    return std::make_unique<Sgd>(parameters,
                                 SgdOptions{.learning_rate = rate, .weight_decay = decay, .max_norm = clip});
  }
  return std::make_unique<Adam>(
      parameters,
      AdamOptions{.learning_rate = rate, .weight_decay = decay, .decoupled = kind == "adamw", .max_norm = clip});
}

ScheduleOptions schedule_of(const Settings& settings, std::int64_t total_steps) {
  const std::string& kind = settings.text("schedule");
  return {.kind = kind == "linear"   ? Schedule::linear
                  : kind == "cosine" ? Schedule::cosine
                                     : Schedule::constant,
          .rate = settings.real("lr"),
          .warmup = settings.integer("warmup"),
          .total_steps = total_steps};
}

}  // namespace adjoint::app
