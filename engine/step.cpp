#include "engine/step.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/gpu.h"
#include "engine/scope.h"

namespace adjoint {

struct Step::Recorded {
  struct Input {
    Shape shape;
    DType dtype;
    Device device;
  };
  std::vector<Input> signature;
  Allocator* arena = nullptr;  // owns all memory of the recording; outlives it while a tensor refers to it
  std::vector<Tensor> inputs;
  std::vector<Tensor> outputs;
  Recording recording;
  Device device;
  void* graph = nullptr;  // of the recording, on a GPU, from the first replay on
  bool ready = false;

  explicit Recorded(std::span<const Tensor> given) {
    for (const Tensor& x : given) signature.push_back({x.shape(), x.dtype(), x.device()});
  }
  ~Recorded() { clear(); }
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;

  bool fits(std::span<const Tensor> given) const {
    return std::equal(signature.begin(), signature.end(), given.begin(), given.end(),
                      [](const Input& s, const Tensor& x) {
                        return s.shape == x.shape() && s.dtype == x.dtype() && s.device == x.device();
                      });
  }
  /// Forgets a recording, also one that failed half way.
  void clear() {
    ready = false;
    inputs.clear();
    outputs.clear();
    recording = Recording();
    if (graph != nullptr) Gpu::of(device).destroy_graph(graph);
    graph = nullptr;
    if (arena != nullptr) arena->orphan();
    arena = nullptr;
  }
};

namespace {

/// While it lives, this thread's launches are recorded and its memory comes from the arena.
struct RecordingScope {
  RecordingScope(Recording& recording, Allocator& arena) : scope(arena) { launch_hooks.recording = &recording; }
  ~RecordingScope() { launch_hooks.recording = nullptr; }
  AllocatorScope scope;
};

void require_equal(const Tensor& t, const std::vector<std::byte>& expected, const char* kind, std::size_t index) {
  const std::vector<std::byte> actual = t.to_bytes();
  for (std::size_t i = 0; i < expected.size(); ++i) {
    ADJOINT_CHECK(actual[i] == expected[i], "E-STEP-003", Exit::bug,
                  fmt::format("step: {} {} of shape {} differs between the plain run and the replay at element {}; "
                              "expected equal bits: the function depends on something that is neither input nor state",
                              kind, index, text(t.shape()), i / size_of(t.dtype())));
  }
}

}  // namespace

Step::Step(Function function, std::vector<Tensor> state) : function_(std::move(function)), state_(std::move(state)) {}
Step::~Step() = default;

Step::Recorded* Step::find(std::span<const Tensor> inputs) const {
  for (const std::unique_ptr<Recorded>& recorded : recorded_)
    if (recorded->fits(inputs)) return recorded.get();
  return nullptr;
}

Step::Recorded& Step::find_or_add(std::span<const Tensor> inputs) {
  Recorded* const found = find(inputs);
  return found != nullptr ? *found : *recorded_.emplace_back(std::make_unique<Recorded>(inputs));
}

std::size_t Step::recordings() const {
  std::size_t n = 0;
  for (const std::unique_ptr<Recorded>& recorded : recorded_) n += recorded->ready ? 1 : 0;
  return n;
}

std::size_t Step::recorded_calls(std::span<const Tensor> inputs) const {
  const Recorded* const found = find(inputs);
  return found == nullptr || !found->ready ? 0 : found->recording.calls();
}

const std::vector<Tensor>& Step::operator()(std::span<const Tensor> inputs) {
  ADJOINT_OP_CHECK(!recording_a_step(), "E-STEP-002", "step: called while another step is being recorded");
  for (const Tensor& x : inputs) ADJOINT_OP_CHECK(x.defined(), "E-STEP-002", "step: an input is undefined");
  Recorded* const found = find(inputs);
  if (found == nullptr) {
    std::vector<Tensor> outputs = function_(inputs);
    return find_or_add(inputs).outputs = std::move(outputs);
  }
  if (found->ready) return replay(*found, inputs);
  record(*found, inputs);  // recording also runs the calls
  return found->outputs;
}

void Step::record(Recorded& recorded, std::span<const Tensor> inputs) {
  const Device device = !inputs.empty() ? inputs[0].device() : !state_.empty() ? state_[0].device() : default_device();
  recorded.clear();
  recorded.device = device;
  recorded.arena = new Allocator(device, false, true);
  {
    const AllocatorScope scope(*recorded.arena);
    for (const Tensor& x : inputs) {
      Tensor held = Tensor::empty(x.shape(), x.dtype(), x.device());
      held.copy_from(x);
      recorded.inputs.push_back(held);
    }
  }
  {
    const RecordingScope scope(recorded.recording, *recorded.arena);
    recorded.outputs = function_(recorded.inputs);
  }
  recorded.ready = true;
}

const std::vector<Tensor>& Step::replay(Recorded& recorded, std::span<const Tensor> inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].data() != recorded.inputs[i].data()) recorded.inputs[i].copy_from(inputs[i]);
  if (recorded.device.type == DeviceType::cpu) {
    recorded.recording.replay();
  } else {
    Gpu& gpu = Gpu::of(recorded.device);
    if (recorded.graph == nullptr) recorded.graph = gpu.capture([&] { recorded.recording.replay(); });
    gpu.launch_graph(recorded.graph);
  }
  return recorded.outputs;
}

std::vector<Tensor> Step::verify(std::span<const Tensor> inputs) {
  std::vector<std::vector<std::byte>> before;
  for (const Tensor& t : state_) before.push_back(t.to_bytes());
  const auto restore = [&] {
    for (std::size_t i = 0; i < state_.size(); ++i) state_[i].write(std::span<const std::byte>(before[i]));
  };

  for (const Tensor& x : inputs) ADJOINT_OP_CHECK(x.defined(), "E-STEP-002", "step: an input is undefined");
  Recorded& recorded = find_or_add(inputs);
  if (!recorded.ready) {
    function_(inputs);  // as the first call would: it may create what lives on, such as gradients
    restore();
    record(recorded, inputs);
    restore();
  }
  const std::vector<Tensor> plain = function_(inputs);
  std::vector<std::vector<std::byte>> outputs, after;
  for (const Tensor& t : plain) outputs.push_back(t.to_bytes());
  for (const Tensor& t : state_) after.push_back(t.to_bytes());
  restore();

  std::vector<const Storage*> kept;
  for (const Tensor& x : recorded.inputs) kept.push_back(x.storage().get());
  recorded.arena->fill_blocks(0xff, kept);
  const std::vector<Tensor>& replayed = replay(recorded, inputs);
  for (std::size_t i = 0; i < replayed.size(); ++i) require_equal(replayed[i], outputs[i], "output", i);
  for (std::size_t i = 0; i < state_.size(); ++i) require_equal(state_[i], after[i], "state", i);
  return replayed;
}

}  // namespace adjoint
