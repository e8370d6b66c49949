#pragma once
// Recorded steps: a function of tensors is run once plainly, recorded once, and from then on replayed as a flat list of
// kernel calls, without shape checks, tape or allocation.

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/launch.h"
#include "engine/tensor.h"

namespace adjoint {

/// Wraps a function that reads its inputs, may change `state` (parameters, moments, generators), and returns outputs.
/// The function must do the same launches for the same input shapes: what varies from call to call comes in through
/// inputs or lies in state. Every combination of input shapes and dtypes has its own recording.
class Step {
 public:
  using Function = std::function<std::vector<Tensor>(std::span<const Tensor>)>;

  /// state: every tensor the function changes and that outlives a call; verify() needs it to start twice from one
  /// point.
  explicit Step(Function function, std::vector<Tensor> state = {});
  ~Step();
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

  /// Runs the step: the first call with given shapes plainly, the second while recording, later ones by replay; on a
  /// GPU the first replay captures the recording into one graph, and each replay is the launch of that graph.
  /// The outputs live until the next call with the same shapes, which overwrites them. A replay takes no memory.
  const std::vector<Tensor>& operator()(std::span<const Tensor> inputs);
  const std::vector<Tensor>& operator()(std::initializer_list<Tensor> inputs) {
    return (*this)(std::span(inputs.begin(), inputs.size()));
  }

  /// Runs the function plainly and as a replay whose memory was filled with NaN first, from the same state, and
  /// compares outputs and state bit for bit. The state is as after one call. Throws E-STEP-003 naming the first tensor
  /// that differs.
  std::vector<Tensor> verify(std::span<const Tensor> inputs);
  std::vector<Tensor> verify(std::initializer_list<Tensor> inputs) {
    return verify(std::span(inputs.begin(), inputs.size()));
  }

  /// Calls in the recording for these inputs; 0 if there is none yet.
  std::size_t recorded_calls(std::span<const Tensor> inputs) const;
  std::size_t recordings() const;

 private:
  struct Recorded;
  Recorded* find(std::span<const Tensor> inputs) const;
  Recorded& find_or_add(std::span<const Tensor> inputs);
  void record(Recorded& recorded, std::span<const Tensor> inputs);
  const std::vector<Tensor>& replay(Recorded& recorded, std::span<const Tensor> inputs);

  Function function_;
  std::vector<Tensor> state_;
  std::vector<std::unique_ptr<Recorded>> recorded_;  // one for each combination of shapes: few
};

}  // namespace adjoint
