#include "engine/tape.h"

#include <fmt/format.h>

#include <atomic>

#include "engine/launch.h"
#include "engine/parameter.h"
#include "engine/scope.h"
#include "kernels/copy.h"

namespace adjoint {
namespace {

constexpr std::size_t kChunkBytes = 256 * 1024;

std::uint64_t next_epoch() {
  static std::atomic<std::uint64_t> epoch{0};
  return epoch.fetch_add(1, std::memory_order_relaxed) + 1;
}

Error modified(const char* op, const Shape& shape, std::uint32_t now, std::uint32_t expected) {
  return op_error("E-GRAD-003",
                  fmt::format("{}: a tensor saved for backward, of shape {}, was modified since: version {} now, "
                              "expected {}; run backward before changing it",
                              op, text(shape), now, expected));
}

}  // namespace

void Saved::fail(const char* op) const { throw modified(op, tensor_.shape(), tensor_.storage()->version, version_); }
void SavedData::fail(const char* op, const Shape& shape) const {
  throw modified(op, shape, storage_->version, version_);
}

const void* Gradients::incoming(int output) const {
  const Tape::Slot& slot = tape_.slots_[static_cast<std::size_t>(node_.slots[node_.inputs + output])];
  return slot.written ? slot.gradient->data : nullptr;
}

GradOut Gradients::into(int input) const {
  const std::int32_t index = node_.slots[input];
  if (index < 0) return {};
  if (node_.device.type != DeviceType::cpu)
    for (int before = 0; before < input; ++before)
      if (node_.slots[before] == index) return tape_.apart(index);
  return tape_.into(tape_.slots_[static_cast<std::size_t>(index)]);
}

RowGradOut Gradients::into_rows(int input) const {
  const std::int32_t index = node_.slots[input];
  if (index < 0) return {};
  Tape::Slot& slot = tape_.slots_[static_cast<std::size_t>(index)];
  if (slot.parameter != nullptr && slot.parameter->row_sparse()) return slot.parameter->row_gradient_destination();
  return {tape_.into(slot), {}};
}

GradOut Gradients::pass_on(int input) const {
  const std::int32_t index = node_.slots[input];
  if (index < 0) return {};
  Tape::Slot& to = tape_.slots_[static_cast<std::size_t>(index)];
  Tape::Slot& from = tape_.slots_[static_cast<std::size_t>(node_.slots[node_.inputs])];
  if (to.written || to.parameter != nullptr || to.count != from.count || to.dtype != from.dtype) return into(input);
  to.gradient = std::move(from.gradient);
  to.written = true;
  return {to.gradient->data, false};
}

bool Gradients::wanted(int input) const { return node_.slots[input] >= 0; }

Device Gradients::device() const { return node_.device; }

Tape::Tape() = default;
Tape::~Tape() { forget(); }

Tape::Guard::Guard(Tape& tape) : tape_(tape) {
  ADJOINT_CHECK(active_ == nullptr, "E-GRAD-005", Exit::data,
                "record: a tape records on this thread already; end its recording first");
  tape_.forget();
  tape_.epoch_ = next_epoch();
  active_ = &tape_;
}

Tape::Guard::~Guard() { active_ = nullptr; }

Tape::Guard Tape::record() { return Guard(*this); }

void Tape::forget() {
  for (Node*& node : nodes_) destroy_node(node);
  nodes_.clear();
  slots_.clear();
  apart_.clear();  // of a backward that failed half way
  chunk_ = 0;
  used_ = 0;
  freed_ = false;
  epoch_ = 0;
}

void Tape::destroy_node(Node*& node) {
  if (node != nullptr) node->~Node();
  node = nullptr;
}

void* Tape::allocate(std::size_t bytes, std::size_t alignment) {
  std::size_t at = (used_ + alignment - 1) / alignment * alignment;
  if (chunks_.empty() || at + bytes > kChunkBytes) {
    if (!chunks_.empty()) ++chunk_;
    if (chunk_ == chunks_.size()) chunks_.push_back(std::make_unique_for_overwrite<std::byte[]>(kChunkBytes));
    at = 0;
  }
  used_ = at + bytes;
  return chunks_[chunk_].get() + at;
}

void Tape::link(Node& node, std::int32_t* slots, std::span<const Tensor* const> inputs,
                std::span<Tensor* const> outputs) {
  node.slots = slots;
  node.inputs = static_cast<std::uint16_t>(inputs.size());
  node.outputs = static_cast<std::uint16_t>(outputs.size());
  node.device = outputs[0]->device();
  for (const Tensor* x : inputs) *slots++ = x->slot().epoch == epoch_ ? x->slot().index : -1;
  for (Tensor* y : outputs) {
    const auto index = static_cast<std::int32_t>(slots_.size());
    Slot& slot = slots_.emplace_back();
    slot.count = y->count();
    slot.dtype = y->dtype();
    slot.device = y->device();
    y->set_slot({epoch_, index});
    *slots++ = index;
  }
  nodes_.push_back(&node);
}

Tensor Tape::watch(const Tensor& x) {
  ADJOINT_CHECK(active_ == this, "E-GRAD-005", Exit::data, "watch: the tape does not record; call record() first");
  ADJOINT_OP_CHECK(is_float(x.dtype()), "E-OP-006",
                   fmt::format("watch: dtype {} has no gradient; expected f64, f32 or bf16", name(x.dtype())));
  Slot& slot = slots_.emplace_back();
  slot.count = x.count();
  slot.dtype = x.dtype();
  slot.device = x.device();
  slot.leaf = true;
  Tensor leaf = x;
  leaf.set_slot({epoch_, static_cast<std::int32_t>(slots_.size() - 1)});
  return leaf;
}

Tensor::TapeSlot Tape::parameter_slot(Parameter& parameter, const Tensor& value) {
  Slot& slot = slots_.emplace_back();
  slot.count = value.count();
  slot.dtype = value.dtype();
  slot.device = value.device();
  slot.leaf = true;
  slot.parameter = &parameter;
  return {epoch_, static_cast<std::int32_t>(slots_.size() - 1)};
}

GradOut Tape::into(Slot& slot) {
  if (slot.parameter != nullptr) return slot.parameter->gradient_destination();
  if (!slot.gradient) {
    slot.gradient = StorageRef(
        Allocator::current(slot.device).allocate(static_cast<std::size_t>(slot.count) * size_of(slot.dtype)));
  }
  const bool accumulate = slot.written;
  slot.written = true;
  return {slot.gradient->data, accumulate};
}

GradOut Tape::apart(std::int32_t index) {
  const Slot& slot = slots_[static_cast<std::size_t>(index)];
  apart_.emplace_back(
      index,
      StorageRef(Allocator::current(slot.device).allocate(static_cast<std::size_t>(slot.count) * size_of(slot.dtype))));
  return {apart_.back().second->data, false};
}

void Tape::add_apart() {
  for (const auto& [index, gradient] : apart_) {
    Slot& slot = slots_[static_cast<std::size_t>(index)];
    const GradOut out = into(slot);
    launch(slot.device, Copy{.from = View::flat(gradient->data, slot.dtype, slot.count),
                             .to = View::flat(out.data, slot.dtype, slot.count),
                             .accumulate = out.accumulate});
  }
  apart_.clear();
}

void Tape::backward(const Tensor& y, bool retain) {
  ADJOINT_OP_CHECK(y.count() == 1, "E-GRAD-004",
                   fmt::format("backward: shape {} has {} elements; expected one, or give the gradient of each",
                               text(y.shape()), y.count()));
  backward(y, Tensor::full(y.shape(), 1.0, y.dtype(), y.device()), retain);
}

void Tape::backward(const Tensor& y, const Tensor& dy, bool retain) {
  ADJOINT_OP_CHECK(active_ == nullptr, "E-GRAD-002",
                   "backward: a tape is recording and backward has no second derivative; end the recording first");
  ADJOINT_OP_CHECK(epoch_ != 0 && y.slot().epoch == epoch_, "E-GRAD-004",
                   "backward: the tensor was not recorded on this tape; it depends on no watched tensor or parameter");
  ADJOINT_OP_CHECK(!freed_, "E-GRAD-001",
                   "backward: the graph was already freed by an earlier backward; pass retain = true to that one");
  ADJOINT_OP_CHECK(dy.shape() == y.shape() && dy.dtype() == y.dtype() && dy.device() == y.device(), "E-GRAD-004",
                   fmt::format("backward: gradient {} {} for a tensor {} {}", name(dy.dtype()), text(dy.shape()),
                               name(y.dtype()), text(y.shape())));

  freed_ = !retain;            // also if a node throws, for those before it are gone by then
  for (Slot& slot : slots_) {  // what an earlier, retained backward left; its gradients may still be held
    slot.written = false;
    slot.gradient = StorageRef();
  }
  Slot& seed = slots_[static_cast<std::size_t>(y.slot().index)];
  const GradOut out = into(seed);
  std::int64_t strides[kMaxRank];
  dense_strides(y.shape(), strides);
  View to = dy.strided_view();
  to.data = out.data;
  for (int i = 0; i < to.rank; ++i) to.stride[i] = strides[i];
  launch(dy.device(), Copy{.from = dy.strided_view(), .to = to, .accumulate = out.accumulate});

  for (std::size_t i = nodes_.size(); i-- > 0;) {
    Node& node = *nodes_[i];
    bool reached = false;
    for (int o = 0; o < node.outputs; ++o)
      reached |= slots_[static_cast<std::size_t>(node.slots[node.inputs + o])].written;
    if (reached) node.backward(Gradients(*this, node));
    if (!apart_.empty()) [[unlikely]]
      add_apart();
    for (int o = 0; o < node.outputs; ++o) {
      Slot& slot = slots_[static_cast<std::size_t>(node.slots[node.inputs + o])];
      slot.gradient = StorageRef();  // nothing earlier reads it, and the next node may reuse its memory
    }
    if (!retain) destroy_node(nodes_[i]);
  }
}

Tensor Tape::gradient(const Tensor& x) const {
  ADJOINT_OP_CHECK(epoch_ != 0 && x.slot().epoch == epoch_ && slots_[static_cast<std::size_t>(x.slot().index)].leaf,
                   "E-GRAD-004", "gradient: the tensor is not watched by this tape; expected the result of watch()");
  const Slot& slot = slots_[static_cast<std::size_t>(x.slot().index)];
  if (slot.parameter != nullptr) return slot.parameter->gradient();
  if (!slot.written) return Tensor::zeros(x.shape(), x.dtype(), x.device());
  std::int64_t strides[kMaxRank];
  dense_strides(x.shape(), strides);
  return Tensor::view_of(slot.gradient, slot.gradient->data, x.shape(), strides, x.dtype());
}

}  // namespace adjoint
