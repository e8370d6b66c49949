#include "engine/gpu.h"

#include <fmt/format.h>

#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "engine/scope.h"

namespace adjoint {
namespace {

// Enough for a batch of token ids many times over; larger uploads wait for their copy.
constexpr std::size_t kStagingBytes = std::size_t{4} << 20;

GpuApi*& api_of(DeviceType type) { return type == DeviceType::cuda ? cuda::api : simt::api; }

struct Trouble {
  const char* code = nullptr;
  std::string text;
};

Trouble trouble_with(Device device) {
  GpuApi* const api = api_of(device.type);
  const auto no_device = [&](const std::string& why) {
    return Trouble{"E-GPU-001", fmt::format("{}: no CUDA device ({}); try --device=cpu", text(device), why)};
  };
  if (api == nullptr) return no_device("this build has no CUDA backend");
  int count = 0;
  if (const int status = api->device_count(&count); status != 0)
    return no_device(fmt::format("{}: {}", api->error_name(status), api->error_text(status)));
  if (count == 0) return no_device("the driver found none");
  if (device.index >= count) return no_device(fmt::format("the machine has {}, numbered from 0", count));
  GpuProperties properties{};
  if (const int status = api->properties(device.index, &properties); status != 0)
    return no_device(fmt::format("{}: {}", api->error_name(status), api->error_text(status)));
  if (!api->runs_on(properties.compute_capability)) {
    return {"E-GPU-004",
            fmt::format("{} is sm_{}; this build has {}; rebuild with -DADJOINT_CUDA_ARCHITECTURES={}", text(device),
                        properties.compute_capability, api->architectures(), properties.compute_capability)};
  }
  return {};
}

}  // namespace

Gpu& Gpu::of(Device device) {
  // Never destroyed, like the allocators: tensors with static lifetime may be released later than any destructor.
  static auto& devices = *new std::map<std::pair<DeviceType, int>, Gpu*>;
  static auto& mutex = *new std::mutex;
  const std::lock_guard lock(mutex);
  Gpu*& gpu = devices[{device.type, device.index}];
  if (gpu == nullptr) {
    if (const Trouble trouble = trouble_with(device); trouble.code != nullptr)
      throw Error(trouble.code, Exit::device, trouble.text);
    gpu = new Gpu(device, api_of(device.type));
  }
  return *gpu;
}

std::string Gpu::why_not(Device device) { return trouble_with(device).text; }

thread_local constinit Gpu* Gpu::current = nullptr;

Gpu::Gpu(Device device, GpuApi*& api) : device_(device), api_(api) {
  check(api_->set_device(device.index), "set the device");
  current = nullptr;  // whatever it was, it is another now
  check(api_->properties(device.index, &properties_), "read the device's properties");
  check(api_->create_stream(&stream_), "create a stream");
}

void Gpu::check(int status, const char* what) {
  if (status == 0) [[likely]]
    return;
  const std::string path = ScopeName::path();
  const std::string place = path.empty() ? "" : fmt::format(" in layer '{}'", path);
  const std::string why = fmt::format("{} ({})", api_->error_text(status), api_->error_name(status));
  if (api_->is_sticky(status)) {
    lost_ = status;
    throw Error(
        "E-GPU-003", Exit::device,
        fmt::format("{}: {} at '{}', after op '{}'{}; the device's memory is lost and no file was touched; go on "
                    "from the last checkpoint",
                    text(device_), why, what, last_call_, place));
  }
  throw Error(
      "E-GPU-005", Exit::device,
      fmt::format("{}: {} at '{}', after op '{}'{}; expected success", text(device_), why, what, last_call_, place));
}

void Gpu::begin_slowly(const char* what) {
  if (lost_ != 0) check(lost_, what);
  check(api_->set_device(device_.index), "set the device");
  current = this;
}

void* Gpu::allocate(std::size_t bytes) {
  begin("allocate");
  void* data = nullptr;
  const int status = api_->allocate(&data, bytes, stream_);
  if (status != 0 && api_->is_out_of_memory(status)) return nullptr;
  check(status, "allocate");
  return data;
}

void Gpu::release(void* data) noexcept {
  if (lost_ == 0) api_->release(data, stream_);
}

void Gpu::wait_for_staging(const char* what) {
  check(api_->synchronize(stream_), what);
  staged_ = 0;
}

void Gpu::upload(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  begin("copy to the device");
  if (bytes > kStagingBytes / 4) {
    check(api_->copy(to, from, bytes, GpuCopy::to_device, stream_), "copy to the device");
    check(api_->synchronize(stream_), "copy to the device");
    return;
  }
  if (staging_ == nullptr) {
    void* memory = nullptr;
    check(api_->allocate_host(&memory, kStagingBytes), "allocate staging memory");
    staging_ = static_cast<char*>(memory);
  }
  if (staged_ + bytes > kStagingBytes) wait_for_staging("wait for copies to the device");
  std::memcpy(staging_ + staged_, from, bytes);
  check(api_->copy(to, staging_ + staged_, bytes, GpuCopy::to_device, stream_), "copy to the device");
  staged_ += (bytes + 63) / 64 * 64;
}

void Gpu::download(void* to, const void* from, std::size_t bytes) {
  begin("copy to the host");
  if (bytes != 0) check(api_->copy(to, from, bytes, GpuCopy::to_host, stream_), "copy to the host");
  wait_for_staging("copy to the host");
}

void Gpu::fill(void* to, int byte, std::size_t bytes) {
  begin("fill");
  if (bytes != 0) check(api_->fill(to, byte, bytes, stream_), "fill");
}

void Gpu::synchronize() {
  begin("synchronize");
  wait_for_staging("synchronize");
}

void* Gpu::capture(const std::function<void()>& queue) {
  begin("begin the capture of a step");
  check(api_->begin_capture(stream_), "begin the capture of a step");
  void* graph = nullptr;
  try {
    queue();
  } catch (...) {
    if (api_->end_capture(stream_, &graph) == 0) api_->destroy_graph(graph);
    throw;
  }
  check(api_->end_capture(stream_, &graph), "end the capture of a step");
  return graph;
}

void Gpu::launch_graph(void* graph) {
  about_to_launch("recorded step");
  check(api_->launch_graph(graph, stream_), "launch a recorded step");
}

void Gpu::destroy_graph(void* graph) noexcept {
  if (lost_ == 0) api_->destroy_graph(graph);
}

}  // namespace adjoint
