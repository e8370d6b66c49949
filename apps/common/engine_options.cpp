#include "apps/common/engine_options.h"

#include <fmt/format.h>

#include <thread>

#include "engine/launch.h"
#include "kernels/base/error.h"

namespace adjoint::app {

Device device_of(const Settings& settings) {
  const std::int64_t asked = settings.integer("threads");
  set_threads(asked == 0 ? static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))
                         : static_cast<int>(asked));
  const std::string& device = settings.text("device");
  ADJOINT_CHECK(!device.starts_with("cuda"), "E-GPU-001", Exit::device,
                fmt::format("--device {}: no CUDA device (this build has no CUDA backend); try --device=cpu", device));
  return Device{};
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
