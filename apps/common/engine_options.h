#pragma once
// From shared options to engine objects: device, threads, optimizer, schedule.

#include <cstdint>
#include <memory>

#include "apps/common/options.h"
#include "engine/device.h"
#include "engine/optim/optimizer.h"
#include "engine/optim/schedule.h"

namespace adjoint::app {

/// Applies --threads and returns the device of --device. Throws E-GPU-001 for --device cuda without one.
Device device_of(const Settings& settings);
/// What --optimizer, --lr, --weight-decay and --clip describe.
std::unique_ptr<Optimizer> optimizer_of(const Settings& settings, ParameterSet& parameters);
/// What --schedule, --warmup and --lr describe, over so many steps.
ScheduleOptions schedule_of(const Settings& settings, std::int64_t total_steps);

}  // namespace adjoint::app
