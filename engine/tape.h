#pragma once
// Reverse-mode differentiation. While a tape records on a thread, every op whose input lies on the tape appends a node;
// the list is in execution order, so walking it backwards is a topological order: no sort, no recursion.

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "engine/tensor.h"
#include "kernels/base/view.h"

namespace adjoint {

class Parameter;
class Tape;
struct Node;

/// A tensor kept for backward. get() throws E-GRAD-003, naming the op, if it was written to since.
class Saved {
 public:
  Saved() = default;
  explicit Saved(const Tensor& tensor) : tensor_(tensor), version_(tensor.defined() ? tensor.storage()->version : 0) {}
  const Tensor& get(const char* op) const {
    if (tensor_.defined() && tensor_.storage()->version != version_) [[unlikely]]
      fail(op);
    return tensor_;
  }
  /// Null for an undefined tensor.
  const void* data(const char* op) const { return get(op).data(); }

 private:
  [[noreturn]] void fail(const char* op) const;
  Tensor tensor_;
  std::uint32_t version_ = 0;
};

/// Where the gradient of a table's rows goes. Where rows has a count, it accumulates, and what it reaches is listed.
struct RowGradOut {
  GradOut gradient;
  RowList rows;
};

/// The same of a dense tensor, for ops that know its shape: nodes of small ops are mostly what they saved.
class SavedData {
 public:
  SavedData() = default;
  explicit SavedData(const Tensor& tensor)
      : storage_(tensor.storage()), data_(tensor.data()), version_(tensor.defined() ? tensor.storage()->version : 0) {}
  explicit operator bool() const { return static_cast<bool>(storage_); }
  /// Null for an undefined tensor. The shape is for the message.
  void* get(const char* op, const Shape& shape) const {
    if (storage_ && storage_->version != version_) [[unlikely]]
      fail(op, shape);
    return data_;
  }

 private:
  [[noreturn]] void fail(const char* op, const Shape& shape) const;
  StorageRef storage_;
  void* data_ = nullptr;
  std::uint32_t version_ = 0;
};

/// What a node's backward works with: the gradients of its outputs, and where those of its inputs go.
class Gradients {
 public:
  /// Gradient of output i: dense, of its shape and dtype. Null if nothing depends on that output (a gradient of zero);
  /// of a node with one output it is never null.
  const void* incoming(int output = 0) const;
  /// Destination for input i's gradient: dense, of the input's shape and dtype; null data if it is not wanted. No two
  /// of a node overlap on a GPU, also where one tensor is several of its inputs: a kernel's threads write in any order.
  GradOut into(int input) const;
  /// The same for an op that reaches single rows of its input and can say which: the only ones that a parameter with
  /// row-sparse gradients may be given to. into() of such a parameter throws E-GRAD-006.
  RowGradOut into_rows(int input) const;
  /// into(input), or output 0's incoming gradient itself, if input's is to be assigned and has as many elements of the
  /// same dtype. Where it is dx already, nothing is left to do; else it may be overwritten in place. The last call of a
  /// backward, which must have asked for incoming() before: that memory is the input's from now on.
  GradOut pass_on(int input) const;
  bool wanted(int input) const;
  Device device() const;

 private:
  friend class Tape;
  Gradients(Tape& tape, Node& node) : tape_(tape), node_(node) {}
  Tape& tape_;
  Node& node_;
};

/// One recorded op. The tape destroys its nodes one after another, so long chains need no stack.
struct Node {
  virtual ~Node() = default;
  virtual void backward(const Gradients& gradients) = 0;

  std::int32_t* slots = nullptr;  ///< inputs first, then outputs; -1: an input that needs no gradient
  std::uint16_t inputs = 0;
  std::uint16_t outputs = 0;
  Device device;
};

/// A node made of an op's own aggregate: what it saved, and `void backward(const Gradients&) const`, which launches the
/// gradient calls.
template <class Op>
struct NodeOf final : Node {
  explicit NodeOf(Op&& saved) : op(std::move(saved)) {}
  void backward(const Gradients& gradients) override { op.backward(gradients); }
  Op op;
};

class Tape {
 public:
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// Stops the recording when it ends.
  class [[nodiscard]] Guard {
   public:
    explicit Guard(Tape& tape);
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    Tape& tape_;
  };
  /// Forgets what was recorded before and records this thread's ops until the guard ends.
  /// Throws E-GRAD-005 if a tape records on this thread already.
  Guard record();

  /// x as a tensor whose gradient is wanted. Throws E-GRAD-005 when the tape does not record, E-OP-006 for i32 and u8.
  Tensor watch(const Tensor& x);

  /// Adds the gradients of a one-element y to those of every parameter it depends on, and makes gradient() of watched
  /// tensors available. Throws E-GRAD-001 (graph already freed), E-GRAD-002 (a tape records: no second derivatives),
  /// E-GRAD-004 (y has not one element, or is not on the tape), E-GRAD-003 (a saved tensor was overwritten).
  void backward(const Tensor& y, bool retain = false);
  /// The same with y's gradient given; of y's shape and dtype.
  void backward(const Tensor& y, const Tensor& dy, bool retain = false);

  /// The gradient of a watched tensor after backward; zeros if the result did not depend on it.
  Tensor gradient(const Tensor& x) const;

  std::size_t nodes() const { return nodes_.size(); }
  std::uint64_t epoch() const { return epoch_; }

  /// The tape to record on, if one records on this thread and any of these tensors lies on it; else null.
  static Tape* recording(std::initializer_list<const Tensor*> inputs) {
    Tape* tape = active_;
    if (tape == nullptr) return nullptr;
    for (const Tensor* x : inputs)
      if (x->slot().epoch == tape->epoch_) return tape;
    return nullptr;
  }
  static Tape* active() { return active_; }

  /// Appends a node: inputs in the order in which op's backward knows them; outputs get their slots here.
  template <class Op>
  void add(std::span<const Tensor* const> inputs, std::span<Tensor* const> outputs, Op op) {
    using N = NodeOf<Op>;
    auto* slots = static_cast<std::int32_t*>(
        allocate((inputs.size() + outputs.size()) * sizeof(std::int32_t), alignof(std::int32_t)));
    link(*new (allocate(sizeof(N), alignof(N))) N(std::move(op)), slots, inputs, outputs);
  }
  template <class Op>
  void add(std::initializer_list<const Tensor*> inputs, std::initializer_list<Tensor*> outputs, Op op) {
    add(std::span(inputs.begin(), inputs.size()), std::span(outputs.begin(), outputs.size()), std::move(op));
  }

 private:
  friend class Gradients;
  friend class Parameter;

  /// Where one tensor's gradient is gathered during backward.
  struct Slot {
    StorageRef gradient;
    std::int64_t count = 0;
    Parameter* parameter = nullptr;
    DType dtype = DType::f32;
    Device device;
    bool leaf = false;
    bool written = false;
  };

  void* allocate(std::size_t bytes, std::size_t alignment);
  void link(Node& node, std::int32_t* slots, std::span<const Tensor* const> inputs, std::span<Tensor* const> outputs);
  Tensor::TapeSlot parameter_slot(Parameter& parameter, const Tensor& value);
  GradOut into(Slot& slot);
  GradOut apart(std::int32_t index);
  void add_apart();
  void forget();
  void destroy_node(Node*& node);

  static inline thread_local Tape* active_ = nullptr;

  std::uint64_t epoch_ = 0;
  std::vector<Slot> slots_;
  std::vector<Node*> nodes_;
  bool freed_ = false;
  // Gradients that a node writes beside the slot they belong to; added to it when the node is done.
  std::vector<std::pair<std::int32_t, StorageRef>> apart_;
  // Nodes lie in chunks that are kept for the next recording.
  std::vector<std::unique_ptr<std::byte[]>> chunks_;
  std::size_t chunk_ = 0;
  std::size_t used_ = 0;
};

}  // namespace adjoint
