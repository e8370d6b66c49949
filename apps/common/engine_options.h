#pragma once
// From shared options to engine objects: device, threads, optimizer, schedule.

#include <cstdint>
#include <memory>
#include <string>

#include "apps/common/options.h"
#include "engine/device.h"
#include "engine/optim/optimizer.h"
#include "engine/optim/schedule.h"

namespace adjoint::app {

/// Applies --threads, --cpu-level, --gemm-backend, --lstm-backend and --attention-backend and returns the device of --device; auto
/// is the first GPU that works, else the CPU. Throws E-GPU-001 for --device cuda without one, E-GPU-009 for a library
/// that is not there.
Device device_of(const Settings& settings);
/// "on cuda:0 (NVIDIA H200), matrix products by cuBLASLt 13.1.0", "on cpu", or why auto came to be the CPU in a program
/// that could use a GPU.
std::string place_text(const Settings& settings, Device device);
/// What --optimizer, --lr, --weight-decay and --clip describe.
std::unique_ptr<Optimizer> optimizer_of(const Settings& settings, ParameterSet& parameters);
/// What --schedule, --warmup and --lr describe, over so many steps.
ScheduleOptions schedule_of(const Settings& settings, std::int64_t total_steps);

}  // namespace adjoint::app
