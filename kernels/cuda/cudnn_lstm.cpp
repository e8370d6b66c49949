// The LSTM by cuDNN, for every call of the contract: kernels/cuda/lstm_arrangement.h says how lengths, directions and
// strides are put before it. True f32 (no TF32); the standard algorithm, which is the deterministic one.

#include <compare>
#include <cstdint>
#include <vector>

#include "kernels/copy.h"
#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/lstm_arrangement.h"
#include "kernels/lstm.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

using dnn::Library;
using dnn::Owned;
using dnn::Pieces;
using dnn::require;

std::string text(const LstmShape& s) {
  return fmt::format("lstm of {} [{},{},{}] to {} wide", name(s.dtype), s.batch, s.time, s.input, s.hidden);
}

/// What decides the plan.
struct Key {
  void* stream;
  DType dtype;
  std::int64_t batch, time, input, hidden;  // input: with the one that holds the state
  auto operator<=>(const Key&) const = default;
};

Key key_of(const At& at, const LstmShape& s) {
  return {at.stream, s.dtype, s.batch, s.time, s.input + (s.lengths != nullptr ? 1 : 0), s.hidden};
}

/// f32 without TF32.
cudnnMathType_t math_of(DType dtype) {
  return dtype == DType::bf16 ? CUDNN_TENSOR_OP_MATH : dtype == DType::f32 ? CUDNN_FMA_MATH : CUDNN_DEFAULT_MATH;
}

/// Descriptors and sizes.
struct Plan {
  cudnnHandle_t handle = nullptr;
  Owned<cudnnRNNDescriptor_t> rnn;
  Owned<cudnnDropoutDescriptor_t> dropout;
  Owned<cudnnRNNDataDescriptor_t> x, y;
  Owned<cudnnTensorDescriptor_t> state, matrix, bias;
  std::size_t weights = 0, training_work = 0, reserve = 0, inference_work = 0;  // bytes

  Plan(const std::string& call, const Key& key) : handle(dnn::handle_of(call, key.stream)) {
    Library& lib = Library::get();
    const cudnnDataType_t type = dnn::type_of(key.dtype);
    const auto batch = static_cast<int>(key.batch), time = static_cast<int>(key.time),
               input = static_cast<int>(key.input), hidden = static_cast<int>(key.hidden);
    dropout = dnn::made(call, lib.cudnnCreateDropoutDescriptor);
    require(call, lib.cudnnSetDropoutDescriptor, dropout.get(), handle, 0.0f, nullptr, std::size_t{0}, 0ull);
    rnn = dnn::made(call, lib.cudnnCreateRNNDescriptor);
    require(call, lib.cudnnSetRNNDescriptor_v8, rnn.get(), CUDNN_RNN_ALGO_STANDARD, CUDNN_LSTM, CUDNN_RNN_DOUBLE_BIAS,
            CUDNN_UNIDIRECTIONAL, CUDNN_LINEAR_INPUT, type,
            key.dtype == DType::f64 ? CUDNN_DATA_DOUBLE : CUDNN_DATA_FLOAT, math_of(key.dtype), input, hidden, hidden,
            1, dropout.get(), std::uint32_t{CUDNN_RNN_PADDED_IO_ENABLED});
    // Every row has all T steps: what is padding is the device's to know, and may change from call to call.
    const std::vector<int> lengths(static_cast<std::size_t>(key.batch), time);
    for (auto& [data, width] : {std::pair{&x, input}, std::pair{&y, hidden}}) {
      *data = dnn::made(call, lib.cudnnCreateRNNDataDescriptor);
      double zero = 0.0;  // wide enough for any type
      require(call, lib.cudnnSetRNNDataDescriptor, data->get(), type, CUDNN_RNN_DATA_LAYOUT_BATCH_MAJOR_UNPACKED, time,
              batch, width, lengths.data(), static_cast<void*>(&zero));
    }
    state = dnn::made(call, lib.cudnnCreateTensorDescriptor);
    const int extents[] = {1, batch, hidden}, strides[] = {batch * hidden, hidden, 1};
    require(call, lib.cudnnSetTensorNdDescriptor, state.get(), type, 3, extents, strides);
    matrix = dnn::made(call, lib.cudnnCreateTensorDescriptor);
    bias = dnn::made(call, lib.cudnnCreateTensorDescriptor);
    require(call, lib.cudnnGetRNNWeightSpaceSize, handle, rnn.get(), &weights);
    std::size_t none = 0;
    require(call, lib.cudnnGetRNNTempSpaceSizes, handle, rnn.get(), CUDNN_FWD_MODE_TRAINING, x.get(), &training_work,
            &reserve);
    require(call, lib.cudnnGetRNNTempSpaceSizes, handle, rnn.get(), CUDNN_FWD_MODE_INFERENCE, x.get(), &inference_work,
            &none);
  }
};

bool expressible(const LstmShape& s) {
  const auto fits = [](std::int64_t extent) { return extent > 0 && extent < INT32_MAX; };
  return fits(s.batch) && fits(s.time) && fits(s.input) && fits(s.hidden) && fits(s.batch * s.hidden);
}

/// What both directions need: where operands lie for cuDNN, and how they get there.
class Layer {
 protected:
  Layer(const At& at, const LstmShape& shape)
      : at_(at),
        s_(shape),
        text_(text(shape)),
        held_(shape.lengths != nullptr),
        width_(shape.input + (held_ ? 1 : 0)),
        plan_(dnn::plan_of<Plan>(text_, key_of(at, shape))) {}

  std::size_t bytes(std::int64_t elements) const { return static_cast<std::size_t>(elements) * size_of(s_.dtype); }
  std::int64_t states() const { return s_.batch * s_.hidden; }
  /// Whether a sequence lies as cuDNN wants it.
  bool as_it_is(const std::int64_t stride[2], std::int64_t width) const {
    return !held_ && !s_.reverse && stride[0] == s_.time * width && stride[1] == width;
  }
  bool x_as_it_is() const { return as_it_is(s_.x_stride, s_.input); }
  bool y_as_it_is() const { return as_it_is(s_.y_stride, s_.hidden); }

  void arrange(const void* from, const std::int64_t stride[2], std::int64_t width, void* to, bool held,
               const void* last = nullptr) const {
    const std::int64_t wide = width + (held ? 1 : 0);
    call(ArrangeSteps{.dtype = s_.dtype,
                      .batch = s_.batch,
                      .time = s_.time,
                      .width = width,
                      .lengths = s_.lengths,
                      .reverse = s_.reverse,
                      .from = from,
                      .from_stride = {stride[0], stride[1]},
                      .to = to,
                      .to_stride = {s_.time * wide, wide},
                      .last = last,
                      .held = held});
  }
  void bring_back(const void* from, std::int64_t from_width, void* to, const std::int64_t stride[2], std::int64_t width,
                  bool accumulate = false) const {
    call(ArrangeSteps{.dtype = s_.dtype,
                      .batch = s_.batch,
                      .time = s_.time,
                      .width = width,
                      .lengths = s_.lengths,
                      .reverse = s_.reverse,
                      .from = from,
                      .from_stride = {s_.time * from_width, from_width},
                      .to = to,
                      .to_stride = {stride[0], stride[1]},
                      .accumulate = accumulate});
  }
  void state(const void* always, const void* steps, const void* if_none, const GradOut& to) const {
    call(ArrangeState{.dtype = s_.dtype,
                      .batch = s_.batch,
                      .time = s_.time,
                      .width = s_.hidden,
                      .lengths = s_.lengths,
                      .always = always,
                      .steps = steps,
                      .if_none = if_none,
                      .to = to});
  }
  void arrange_weights(const void* w_ih, const void* w_hh, const void* b_ih, const void* b_hh, void* space) const {
    call(ArrangeWeights{.dtype = s_.dtype,
                        .input = s_.input,
                        .hidden = s_.hidden,
                        .held = held_,
                        .w_ih = w_ih,
                        .w_hh = w_hh,
                        .b_ih = b_ih,
                        .b_hh = b_hh,
                        .places = places(space)});
  }
  LstmWeightPlaces places(void* space) const {
    LstmWeightPlaces places{};
    for (int i = 0; i < 8; ++i)  // 0 … 3: the input's gates i, f, g, o; 4 … 7: the state's
      require(text_, Library::get().cudnnGetRNNWeightParams, plan_.handle, plan_.rnn.get(), 0, plan_.weights, space, i,
              plan_.matrix.get(), &places.matrix[i], plan_.bias.get(), &places.bias[i]);
    return places;
  }
  template <class Call>
  void call(const Call& it) const {
    entry<At, Call>.run(at_, it);
  }

  const At& at_;
  const LstmShape& s_;
  const std::string text_;
  const bool held_;
  const std::int64_t width_;  // of x for cuDNN
  const Plan& plan_;
};

class Forward : Layer {
 public:
  Forward(const At& at, const LstmForward& call)
      : Layer(at, call.shape),
        call_(call),
        pieces_(call.scratch),
        work_bytes_(call.saved != nullptr ? plan_.training_work : plan_.inference_work),
        weights_(pieces_.take(plan_.weights)),
        work_(pieces_.take(work_bytes_)),
        x_(x_as_it_is() ? nullptr : pieces_.take(bytes(s_.batch * s_.time * width_))),
        y_(y_as_it_is() ? call.y : pieces_.take(bytes(s_.batch * s_.time * s_.hidden))) {}

  std::size_t scratch_bytes() const { return pieces_.taken(); }

  void run() const {
    arrange_weights(call_.w_ih, call_.w_hh, call_.b_ih, call_.b_hh, weights_);
    if (!x_as_it_is()) arrange(call_.x, s_.x_stride, s_.input, x_, held_);
    const bool training = call_.saved != nullptr;
    require(text_, Library::get().cudnnRNNForward, plan_.handle, plan_.rnn.get(),
            training ? CUDNN_FWD_MODE_TRAINING : CUDNN_FWD_MODE_INFERENCE, nullptr, plan_.x.get(),
            x_as_it_is() ? call_.x : x_, plan_.y.get(), y_, plan_.state.get(), call_.h0, held_ ? nullptr : call_.h_n,
            plan_.state.get(), call_.c0, call_.c_n, plan_.weights, weights_, work_bytes_, work_,
            training ? plan_.reserve : std::size_t{0}, call_.saved);
    if (held_) state(nullptr, y_, call_.h0, {call_.h_n, false});
    if (!y_as_it_is()) bring_back(y_, s_.hidden, call_.y, s_.y_stride, s_.hidden);
  }

 private:
  const LstmForward& call_;
  Pieces pieces_;
  const std::size_t work_bytes_;
  void *const weights_, *const work_, *const x_, *const y_;
};

class Backward : Layer {
 public:
  Backward(const At& at, const LstmBackward& call)
      : Layer(at, call.shape),
        call_(call),
        dy_as_it_is_(y_as_it_is() && call.dy != nullptr),
        dx_as_it_is_(x_as_it_is() && call.dx.data != nullptr && !call.dx.accumulate),
        wants_weights_(call.dw_ih.data != nullptr || call.dw_hh.data != nullptr || call.db_ih.data != nullptr ||
                       call.db_hh.data != nullptr),
        pieces_(call.scratch),
        weights_(pieces_.take(plan_.weights)),
        work_(pieces_.take(plan_.training_work)),
        reserve_(pieces_.take(plan_.reserve)),
        x_(x_as_it_is() ? nullptr : pieces_.take(bytes(s_.batch * s_.time * width_))),
        dx_(dx_as_it_is_ ? call.dx.data : pieces_.take(bytes(s_.batch * s_.time * width_))),
        y_(y_as_it_is() ? nullptr : pieces_.take(bytes(s_.batch * s_.time * s_.hidden))),
        dy_(dy_as_it_is_ ? nullptr : pieces_.take(bytes(s_.batch * s_.time * s_.hidden))),
        dh0_(pieces_.take(bytes(states()))),
        dc0_(pieces_.take(bytes(states()))),
        dweights_(wants_weights_ ? pieces_.take(plan_.weights) : nullptr) {}

  std::size_t scratch_bytes() const { return pieces_.taken(); }

  void run() const {
    Library& lib = Library::get();
    arrange_weights(call_.w_ih, call_.w_hh, nullptr, nullptr, weights_);  // no gradient depends on the biases
    if (!x_as_it_is()) arrange(call_.x, s_.x_stride, s_.input, x_, held_);
    if (!y_as_it_is()) arrange(call_.y, s_.y_stride, s_.hidden, y_, false);
    if (!dy_as_it_is_) arrange(call_.dy, s_.y_stride, s_.hidden, dy_, false, held_ ? call_.dh_n : nullptr);
    // cuDNN leaves gradients of its own in it, and a second backward starts from the same.
    call(Copy{.from = flat(const_cast<void*>(call_.saved), plan_.reserve), .to = flat(reserve_, plan_.reserve)});
    const void* const x = x_as_it_is() ? call_.x : x_;
    const void* const y = y_as_it_is() ? call_.y : y_;
    require(text_, lib.cudnnRNNBackwardData_v8, plan_.handle, plan_.rnn.get(), nullptr, plan_.y.get(), y,
            dy_as_it_is_ ? call_.dy : dy_, plan_.x.get(), dx_, plan_.state.get(), call_.h0,
            held_ ? nullptr : call_.dh_n, dh0_, plan_.state.get(), call_.c0, call_.dc_n, dc0_, plan_.weights, weights_,
            plan_.training_work, work_, plan_.reserve, reserve_);
    if (call_.dx.data != nullptr && !dx_as_it_is_)
      bring_back(dx_, width_, call_.dx.data, s_.x_stride, s_.input, call_.dx.accumulate);
    if (call_.dh0.data != nullptr) state(dh0_, nullptr, held_ ? call_.dh_n : nullptr, call_.dh0);
    if (call_.dc0.data != nullptr) state(dc0_, nullptr, nullptr, call_.dc0);
    if (!wants_weights_) return;
    call(Fill{.to = flat(dweights_, plan_.weights), .value = 0.0});  // it can only add
    require(text_, lib.cudnnRNNBackwardWeights_v8, plan_.handle, plan_.rnn.get(), CUDNN_WGRAD_MODE_ADD, nullptr,
            plan_.x.get(), x, plan_.state.get(), call_.h0, plan_.y.get(), y, plan_.weights, dweights_,
            plan_.training_work, work_, plan_.reserve, reserve_);
    call(CollectWeights{.dtype = s_.dtype,
                        .input = s_.input,
                        .hidden = s_.hidden,
                        .held = held_,
                        .places = places(dweights_),
                        .w_ih = call_.dw_ih,
                        .w_hh = call_.dw_hh,
                        .b_ih = call_.db_ih,
                        .b_hh = call_.db_hh});
  }

 private:
  static View flat(void* data, std::size_t bytes) {
    return View::flat(data, DType::u8, static_cast<std::int64_t>(bytes));
  }

  const LstmBackward& call_;
  const bool dy_as_it_is_, dx_as_it_is_, wants_weights_;
  Pieces pieces_;
  void *const weights_,
      *const work_, *const reserve_, *const x_, *const dx_, *const y_, *const dy_, *const dh0_, *const dc0_,
                                                                                                    *const dweights_;
};

std::size_t scratch_bytes(const At& at, const LstmForward& call) {
  return expressible(call.shape) ? Forward(at, call).scratch_bytes() : entry<At, LstmForward>.scratch_bytes(at, call);
}
std::size_t scratch_bytes(const At& at, const LstmBackward& call) {
  return expressible(call.shape) ? Backward(at, call).scratch_bytes() : entry<At, LstmBackward>.scratch_bytes(at, call);
}
std::size_t saved_bytes(const At& at, const LstmForward& call) {
  const LstmShape& s = call.shape;
  if (!expressible(s)) return static_cast<std::size_t>(s.saved_elements()) * (s.dtype == DType::f64 ? 8 : 4);
  return dnn::plan_of<Plan>(text(s), key_of(at, s)).reserve;
}
void run(const At& at, const LstmForward& call) {
  expressible(call.shape) ? Forward(at, call).run() : entry<At, LstmForward>.run(at, call);
}
void run(const At& at, const LstmBackward& call) {
  expressible(call.shape) ? Backward(at, call).run() : entry<At, LstmBackward>.run(at, call);
}

[[maybe_unused]] const bool entered = (
    library_entry<At, LstmForward> = {run, scratch_bytes, saved_bytes},
    library_entry<At, LstmBackward> = {run, scratch_bytes, nullptr},
    cudnn = []() -> const LibraryState& { return Library::get().state; }, true);

}  // namespace
}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
