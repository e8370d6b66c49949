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

namespace detail {
inline thread_local Device default_device;
}

/// Where this thread's tensors are made if nothing is said: the CPU, unless a DefaultDevice lives.
inline Device default_device() { return detail::default_device; }

/// Makes a device the default of this thread while it lives.
class DefaultDevice {
 public:
  explicit DefaultDevice(Device device) : outer_(detail::default_device) { detail::default_device = device; }
  ~DefaultDevice() { detail::default_device = outer_; }
  DefaultDevice(const DefaultDevice&) = delete;
  DefaultDevice& operator=(const DefaultDevice&) = delete;

 private:
  Device outer_;
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
