#include "tests/device/faults.h"

#include <map>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "kernels/base/gpu_api.h"
#include "kernels/simt/executor.h"

namespace adjoint::testing {
namespace {

constexpr int kNoMemory = 2;  // cudaErrorMemoryAllocation

struct State {
  const GpuApi* real = nullptr;
  std::uint64_t calls = 0, fail_at = 0;
  int status = 0;
  std::string only;  // calls whose names begin with this
  std::function<void()> on_failure;
  std::string failed_call;
  std::map<std::string, std::uint64_t> by_name;
  std::size_t memory = 0, in_use = 0;
  std::map<void*, std::size_t> blocks;
  std::uint64_t graphs = 0;
};
State state;
GpuApi failing;

/// Counts a call; whether it is the one to fail.
bool fails(const char* call) {
  ++state.calls;
  ++state.by_name[call];
  const bool due = state.only.empty() ? state.calls == state.fail_at
                                      : state.failed_call.empty() && state.calls >= state.fail_at &&
                                            std::string_view(call).starts_with(state.only);
  if (!due) return false;
  state.failed_call = call;
  if (state.on_failure) state.on_failure();
  return true;
}

int allocate(void** data, std::size_t bytes, void* stream) {
  if (fails("allocate")) return state.status;
  if (state.memory != 0 && state.in_use + bytes > state.memory) return kNoMemory;
  const int status = state.real->allocate(data, bytes, stream);
  if (status == 0) {
    state.blocks[*data] = bytes;
    state.in_use += bytes;
  }
  return status;
}

int release(void* data, void* stream) {
  if (const auto block = state.blocks.find(data); block != state.blocks.end()) {
    state.in_use -= block->second;
    state.blocks.erase(block);
  }
  const int status = state.real->release(data, stream);
  return fails("release") ? state.status : status;
}

int end_capture(void* stream, void** graph) {
  const int status = state.real->end_capture(stream, graph);
  if (fails("end_capture")) {  // the capture has ended, and nothing came of it
    if (status == 0) state.real->destroy_graph(*graph);
    *graph = nullptr;
    return state.status;
  }
  state.graphs += status == 0 ? 1 : 0;
  return status;
}

int destroy_graph(void* graph) {
  --state.graphs;
  const int status = state.real->destroy_graph(graph);
  return fails("destroy_graph") ? state.status : status;
}

GpuApi*& current() { return default_device().type == DeviceType::cuda ? cuda::api : simt::api; }

}  // namespace

Faults::Faults() {
  if (state.real != nullptr) throw std::logic_error("Faults: one at a time");
  if (current() == nullptr) throw std::logic_error("Faults: the default device is no GPU");
  state = {};
  state.real = current();
  failing = *state.real;
  failing.synchronize = [](void* stream) {
    return fails("synchronize") ? state.status : state.real->synchronize(stream);
  };
  failing.allocate = allocate;
  failing.release = release;
  failing.allocate_host = [](void** data, std::size_t bytes) {
    return fails("allocate_host") ? state.status : state.real->allocate_host(data, bytes);
  };
  failing.copy = [](void* to, const void* from, std::size_t bytes, GpuCopy direction, void* stream) {
    if (direction == GpuCopy::to_host) ++state.by_name["copy to the host"];
    return fails("copy") ? state.status : state.real->copy(to, from, bytes, direction, stream);
  };
  failing.fill = [](void* to, int byte, std::size_t bytes, void* stream) {
    return fails("fill") ? state.status : state.real->fill(to, byte, bytes, stream);
  };
  failing.begin_capture = [](void* stream) {
    return fails("begin_capture") ? state.status : state.real->begin_capture(stream);
  };
  failing.end_capture = end_capture;
  failing.launch_graph = [](void* graph, void* stream) {
    return fails("launch_graph") ? state.status : state.real->launch_graph(graph, stream);
  };
  failing.destroy_graph = destroy_graph;
  current() = &failing;
  simt::options().launch_status = [] { return fails("launch") ? state.status : 0; };
}

Faults::~Faults() {
  simt::options().launch_status = nullptr;
  current() = const_cast<GpuApi*>(state.real);
  state = {};
}

void Faults::fail(std::uint64_t n, int status) {
  state.calls = 0;
  state.fail_at = n;
  state.status = status;
  state.only.clear();
  state.failed_call.clear();
  state.by_name.clear();
}
void Faults::fail_next(const std::string& name, std::uint64_t n, int status) {
  fail(n, status);
  state.only = name;
}
void Faults::on_failure(std::function<void()> action) { state.on_failure = std::move(action); }
bool Faults::failed() const { return !state.failed_call.empty(); }
std::string Faults::failed_call() const { return state.failed_call; }
std::uint64_t Faults::calls() const { return state.calls; }
std::uint64_t Faults::calls_of(const std::string& call) const {
  const auto count = state.by_name.find(call);
  return count == state.by_name.end() ? 0 : count->second;
}
void Faults::set_memory(std::size_t bytes) { state.memory = bytes; }
std::size_t Faults::memory_in_use() const { return state.in_use; }
std::uint64_t Faults::live_blocks() const { return state.blocks.size(); }
std::uint64_t Faults::live_graphs() const { return state.graphs; }

}  // namespace adjoint::testing
