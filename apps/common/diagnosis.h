#pragma once
// What this program is and what this machine lets it do: adjoint doctor.

#include <functional>
#include <string>
#include <vector>

#include "apps/common/self_test.h"
#include "engine/device.h"

namespace adjoint::app {

/// good: there and usable. absent: not there, and nothing is wrong with that. wrong: there and not usable.
enum class State { good, absent, wrong };
const char* name(State state);

struct Finding {
  std::string item;  ///< "driver"
  State state = State::good;
  std::string text;
  std::string advice;  ///< what to do about it; may be empty
};

/// Compiler, processor, CUDA backend, driver, devices, a self-test of each device that can be used, and NVIDIA's
/// libraries. pci: where the system lists its cards, to tell a machine without a GPU from one without its driver.
std::vector<Finding> diagnose(const std::function<SelfTest(Device)>& test = self_test,
                              const std::string& pci = "/sys/bus/pci/devices");

/// Whether something is wrong.
bool ill(const std::vector<Finding>& findings);

/// A line a finding, advice below.
std::string text(const std::vector<Finding>& findings);
/// {"schema": 1, "well": …, "findings": [{"item", "state", "text", "advice"}]}.
std::string json(const std::vector<Finding>& findings);

}  // namespace adjoint::app
