#pragma once
// Where a tensor lives.

#include <cstdint>
#include <string>

namespace adjoint {

/// simt: the CUDA kernels' own source, run thread by thread on the CPU; for tests.
enum class DeviceType : std::uint8_t { cpu, cuda, simt };

struct Device {
  DeviceType type = DeviceType::cpu;
  std::uint8_t index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

inline std::string text(Device device) {
  switch (device.type) {
    case DeviceType::cpu: return "cpu";
    case DeviceType::cuda: return "cuda:" + std::to_string(device.index);
    case DeviceType::simt: return "simt";
  }
  return "?";
}

}  // namespace adjoint
