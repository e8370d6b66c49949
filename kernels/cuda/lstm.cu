// The LSTM: the inputs' share of all gates as one product before the loop over time, weight and input gradients as
// products after it. The loop itself is one launch, its weights on chip, for H <= 128 (f64: 64), else a product and an
// elementwise kernel a step. bf16 is widened before the products: gates are summed in f32, whatever their shares.

#include "kernels/lstm.h"

#include <algorithm>

#include "kernels/cuda/lstm_resident.cuh"
#include "kernels/cuda/lstm_steps.cuh"
#include "kernels/matmul.h"

namespace adjoint::ADJOINT_GPU_NAMESPACE {
namespace {

using namespace lstm;

/// Cuts scratch into arrays; without scratch it only counts.
class Carver {
 public:
  explicit Carver(void* scratch) : begin_(static_cast<char*>(scratch)) {}
  template <class T>
  T* take(std::int64_t count) {
    return static_cast<T*>(bytes(static_cast<std::size_t>(count) * sizeof(T)));
  }
  void* bytes(std::size_t count) {
    void* const here = begin_ == nullptr ? nullptr : begin_ + taken_;
    taken_ += (count + 255) / 256 * 256;
    return here;
  }
  std::size_t taken() const { return taken_; }

 private:
  char* begin_;
  std::size_t taken_ = 0;
};

unsigned blocks_for(std::int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }
/// For kernels whose threads take several elements.
unsigned few_blocks_for(std::int64_t elements) { return std::min(blocks_for(elements), 4096u); }

/// The width that a resident kernel is compiled for, or 0 if the weights do not fit on chip.
template <class S>
int resident_width(std::int64_t hidden) {
  if (hidden > (sizeof(acc_t<S>) == 8 ? 64 : 128)) return 0;
  const int width = static_cast<int>((hidden + 31) / 32 * 32);
  if (width == 128) {
    constexpr std::size_t kShared = std::max(forward_shared_bytes<float, 128>(), backward_shared_bytes<float, 128>());
    if (device_limits().shared_memory_per_block < kShared) return 0;
  }
  return width;
}

/// What both directions need of a call: its shape, and its operands as products want them.
template <class S>
class Layer {
 protected:
  using A = acc_t<S>;
  static constexpr bool kWidens = !std::is_same_v<S, A>;

  Layer(const At& at, const LstmShape& shape)
      : at_(at), shape_(shape), gates_(4 * shape.hidden), width_(resident_width<S>(shape.hidden)) {}

  Steps steps() const {
    return {static_cast<int>(shape_.batch), static_cast<int>(shape_.time), static_cast<int>(shape_.hidden),
            shape_.lengths, shape_.reverse};
  }
  std::int64_t rows() const { return shape_.batch * shape_.time; }
  std::int64_t states() const { return shape_.batch * shape_.hidden; }
  int time_of(std::int64_t step) const { return static_cast<int>(shape_.reverse ? shape_.time - 1 - step : step); }

  Rows rows_of_x() const { return {rows(), shape_.time, shape_.input, {shape_.x_stride[0], shape_.x_stride[1]}}; }
  static Rows flat(std::int64_t count) { return {1, 1, count, {0, 0}}; }
  /// Whether x and dx are matrices of acc_t, with one stride.
  bool x_is_matrix() const {
    return !kWidens && (shape_.batch == 1 || shape_.time == 1 || shape_.x_stride[0] == shape_.time * x_row());
  }
  std::int64_t x_row() const { return shape_.time == 1 ? shape_.x_stride[0] : shape_.x_stride[1]; }

  void widen_rows(const Rows& rows, const void* from, A* to) const {
    if (rows.count * rows.width == 0) return;
    launch(widen<S>, dim3(few_blocks_for(rows.count * rows.width)), dim3(kThreads), 0, stream_of(at_), rows,
           static_cast<const S*>(from), to);
  }
  void narrow_rows(const Rows& rows, const A* from, const GradOut& to) const {
    if (to.data == nullptr || rows.count * rows.width == 0) return;
    launch(narrow<S>, dim3(few_blocks_for(rows.count * rows.width)), dim3(kThreads), 0, stream_of(at_), rows, from, to);
  }
  /// The array as acc_t: itself, or a copy in `wide`.
  const A* widened(const void* from, std::int64_t count, A* wide) const {
    if constexpr (kWidens) {
      widen_rows(flat(count), from, wide);
      return wide;
    } else {
      return static_cast<const A*>(from);
    }
  }
  /// x as a matrix: itself, or a copy in `wide`.
  const A* matrix_of_x(const void* x, A* wide) const {
    if (x_is_matrix()) return static_cast<const A*>(x);
    widen_rows(rows_of_x(), x, wide);
    return wide;
  }
  std::int64_t row_of_matrix() const { return x_is_matrix() ? x_row() : shape_.input; }

  /// A product of which the rows (b, t) are the rows of a, or with transpose_a the index that is summed over.
  Matmul over_rows(Matmul call) const {
    call.row_lengths = shape_.lengths;
    call.rows_per_length = shape_.lengths == nullptr ? 0 : shape_.time;
    return call;
  }
  std::size_t product_bytes(const Matmul& call) const { return entry<At, Matmul>.scratch_bytes(at_, call); }
  void multiply(Matmul call, void* scratch) const {
    call.scratch = scratch;
    entry<At, Matmul>.run(at_, call);
  }

  const At& at_;
  const LstmShape& shape_;
  std::int64_t gates_;
  int width_;
};

template <class S>
class ForwardLayer : Layer<S> {
  using Base = Layer<S>;
  using Base::at_, Base::shape_, Base::gates_, Base::width_;
  using typename Base::A;

 public:
  ForwardLayer(const At& at, const LstmForward& call) : Base(at, call.shape), call_(call) {
    Carver carver(call.scratch);
    z_ = carver.take<A>(this->rows() * gates_);
    if (!this->x_is_matrix()) x_ = carver.take<A>(this->rows() * shape_.input);
    if (Base::kWidens) w_ih_ = carver.take<A>(gates_ * shape_.input);
    std::size_t products = this->product_bytes(projection(nullptr, nullptr));
    if (width_ == 0) {
      if (Base::kWidens) w_hh_ = carver.take<A>(gates_ * shape_.hidden);
      h_ = carver.take<A>(this->states());
      c_ = carver.take<A>(this->states());
      products = std::max(products, this->product_bytes(recurrence(0, nullptr)));
    }
    products_ = carver.bytes(products);
    bytes_ = carver.taken();
  }
  std::size_t bytes() const { return bytes_; }

  void run() const {
    if (this->states() == 0) return;
    if (this->rows() > 0) {
      const A* const x = this->matrix_of_x(call_.x, x_);
      this->multiply(projection(x, this->widened(call_.w_ih, gates_ * shape_.input, w_ih_)), products_);
    }
    const Forward<S> all{.steps = this->steps(),
                         .y_stride = {shape_.y_stride[0], shape_.y_stride[1]},
                         .z = z_,
                         .w_hh = static_cast<const S*>(call_.w_hh),
                         .b_ih = static_cast<const S*>(call_.b_ih),
                         .b_hh = static_cast<const S*>(call_.b_hh),
                         .h0 = static_cast<const S*>(call_.h0),
                         .c0 = static_cast<const S*>(call_.c0),
                         .packs = shape_.hidden % 4 == 0 && is_aligned(call_.w_hh, 4 * sizeof(S)),
                         .y = static_cast<S*>(call_.y),
                         .h_n = static_cast<S*>(call_.h_n),
                         .c_n = static_cast<S*>(call_.c_n),
                         .saved = static_cast<A*>(call_.saved)};
    switch (width_) {
      case 32: return run_resident<32>(all);
      case 64: return run_resident<64>(all);
      case 96: return run_resident<96>(all);
      case 128: return run_resident<128>(all);
      default: return run_steps(all);
    }
  }

 private:
  /// z = x W_ih' at every step.
  Matmul projection(const A* x, const A* w_ih) const {
    return this->over_rows({.dtype = dtype_of<A>,
                            .m = this->rows(),
                            .n = gates_,
                            .k = shape_.input,
                            .a = x,
                            .lda = this->row_of_matrix(),
                            .b = w_ih,
                            .ldb = shape_.input,
                            .transpose_b = true,
                            .c = z_,
                            .ldc = gates_});
  }
  /// z += h W_hh' at one.
  Matmul recurrence(int t, const A* w_hh) const {
    return {.dtype = dtype_of<A>,
            .m = shape_.batch,
            .n = gates_,
            .k = shape_.hidden,
            .a = h_,
            .lda = shape_.hidden,
            .b = w_hh,
            .ldb = shape_.hidden,
            .transpose_b = true,
            .c = z_ == nullptr ? nullptr : z_ + t * gates_,
            .ldc = shape_.time * gates_,
            .accumulate = true};
  }

  template <int kH>
  void run_resident(const Forward<S>& all) const {
    if constexpr (kH <= 64 || sizeof(A) == 4) {
      constexpr int kRows = lstm::rows_of(kH);
      launch(run_forward<S, kH>, dim3(static_cast<unsigned>((shape_.batch + kRows - 1) / kRows)), dim3(4 * kH),
             forward_shared_bytes<A, kH>(), stream_of(at_), all);
    }
  }
  void run_steps(const Forward<S>& all) const {
    this->widen_rows(this->flat(this->states()), call_.h0, h_);
    this->widen_rows(this->flat(this->states()), call_.c0, c_);
    const A* const w_hh = shape_.time == 0 ? nullptr : this->widened(call_.w_hh, gates_ * shape_.hidden, w_hh_);
    for (std::int64_t s = 0; s < shape_.time; ++s) {
      const int t = this->time_of(s);
      this->multiply(recurrence(t, w_hh), products_);
      launch(step_forward<S>, dim3(blocks_for(this->states())), dim3(kThreads), 0, stream_of(at_), all, t, h_, c_);
    }
    this->narrow_rows(this->flat(this->states()), h_, {call_.h_n});
    this->narrow_rows(this->flat(this->states()), c_, {call_.c_n});
  }

  const LstmForward& call_;
  A* z_;
  A *x_ = nullptr, *w_ih_ = nullptr, *w_hh_ = nullptr;  // widened
  A *h_ = nullptr, *c_ = nullptr;
  void* products_;
  std::size_t bytes_;
};

template <class S>
class BackwardLayer : Layer<S> {
  using Base = Layer<S>;
  using Base::at_, Base::shape_, Base::gates_, Base::width_;
  using typename Base::A;

 public:
  BackwardLayer(const At& at, const LstmBackward& call) : Base(at, call.shape), call_(call) {
    Carver carver(call.scratch);
    dz_ = carver.take<A>(this->rows() * gates_);
    if (wants_bias()) sum_ = carver.take<A>(shape_.batch * gates_);
    std::size_t products = 0;
    const auto needs = [&](const Matmul& product) { products = std::max(products, this->product_bytes(product)); };
    if (call.dx.data != nullptr) {
      if (!this->x_is_matrix()) dx_ = carver.take<A>(this->rows() * shape_.input);
      if (Base::kWidens) w_ih_ = carver.take<A>(gates_ * shape_.input);
      needs(input_gradient(nullptr));
    }
    if (call.dw_ih.data != nullptr) {
      if (!this->x_is_matrix()) x_ = carver.take<A>(this->rows() * shape_.input);
      if (Base::kWidens) dw_ih_ = carver.take<A>(gates_ * shape_.input);
      needs(weight_gradient(nullptr, this->row_of_matrix(), shape_.input, call.dw_ih, dw_ih_));
    }
    if (call.dw_hh.data != nullptr) {
      if (Base::kWidens) dw_hh_ = carver.take<A>(gates_ * shape_.hidden);
      needs(weight_gradient(nullptr, 6 * shape_.hidden, shape_.hidden, call.dw_hh, dw_hh_));
    }
    if (width_ == 0) {
      if (Base::kWidens) w_hh_ = carver.take<A>(gates_ * shape_.hidden);
      dh_ = carver.take<A>(this->states());
      dc_ = carver.take<A>(this->states());
      needs(recurrence(0, nullptr));
    }
    products_ = carver.bytes(products);
    bytes_ = carver.taken();
  }
  std::size_t bytes() const { return bytes_; }

  void run() const {
    if (this->states() > 0) {
      const Backward<S> all{.steps = this->steps(),
                            .y_stride = {shape_.y_stride[0], shape_.y_stride[1]},
                            .w_hh = static_cast<const S*>(call_.w_hh),
                            .saved = static_cast<const A*>(call_.saved),
                            .dy = static_cast<const S*>(call_.dy),
                            .dh_n = static_cast<const S*>(call_.dh_n),
                            .dc_n = static_cast<const S*>(call_.dc_n),
                            .dz = dz_,
                            .sum = sum_,
                            .dh0 = call_.dh0,
                            .dc0 = call_.dc0};
      switch (width_) {
        case 32: run_resident<32>(all); break;
        case 64: run_resident<64>(all); break;
        case 96: run_resident<96>(all); break;
        case 128: run_resident<128>(all); break;
        default: run_steps(all);
      }
    }
    if (wants_bias() && gates_ > 0)
      launch(sum_rows<S>, dim3(static_cast<unsigned>((gates_ + 15) / 16)), dim3(kThreads), 0, stream_of(at_),
             shape_.batch, gates_, sum_, call_.db_ih, call_.db_hh);
    if (call_.dw_ih.data != nullptr) {
      const A* const x = this->matrix_of_x(call_.x, x_);
      run_weights(x, this->row_of_matrix(), shape_.input, call_.dw_ih, dw_ih_);
    }
    if (call_.dw_hh.data != nullptr) {
      const A* const saved = static_cast<const A*>(call_.saved);
      run_weights(this->rows() == 0 ? nullptr : saved + 5 * shape_.hidden, 6 * shape_.hidden, shape_.hidden,
                  call_.dw_hh, dw_hh_);
    }
    if (call_.dx.data != nullptr && this->rows() > 0) {
      this->multiply(input_gradient(this->widened(call_.w_ih, gates_ * shape_.input, w_ih_)), products_);
      if (!this->x_is_matrix()) this->narrow_rows(this->rows_of_x(), dx_, call_.dx);
    }
  }

 private:
  bool wants_bias() const { return call_.db_ih.data != nullptr || call_.db_hh.data != nullptr; }

  /// dx = dz W_ih.
  Matmul input_gradient(const A* w_ih) const {
    const bool direct = this->x_is_matrix();
    return this->over_rows({.dtype = dtype_of<A>,
                            .m = this->rows(),
                            .n = shape_.input,
                            .k = gates_,
                            .a = dz_,
                            .lda = gates_,
                            .b = w_ih,
                            .ldb = shape_.input,
                            .c = direct ? call_.dx.data : dx_,
                            .ldc = this->row_of_matrix(),
                            .accumulate = direct && call_.dx.accumulate});
  }
  /// dW = dz' inputs, where row r of the inputs begins at r * row.
  Matmul weight_gradient(const A* inputs, std::int64_t row, std::int64_t width, const GradOut& out, A* wide) const {
    return this->over_rows({.dtype = dtype_of<A>,
                            .m = gates_,
                            .n = width,
                            .k = this->rows(),
                            .a = dz_,
                            .lda = gates_,
                            .transpose_a = true,
                            .b = inputs,
                            .ldb = row,
                            .c = Base::kWidens ? wide : out.data,
                            .ldc = width,
                            .accumulate = !Base::kWidens && out.accumulate});
  }
  void run_weights(const A* inputs, std::int64_t row, std::int64_t width, const GradOut& out, A* wide) const {
    this->multiply(weight_gradient(inputs, row, width, out, wide), products_);
    if (Base::kWidens) this->narrow_rows(this->flat(gates_ * width), wide, out);
  }
  /// dh += dz W_hh at one step.
  Matmul recurrence(int t, const A* w_hh) const {
    return {.dtype = dtype_of<A>,
            .m = shape_.batch,
            .n = shape_.hidden,
            .k = gates_,
            .a = dz_ == nullptr ? nullptr : dz_ + t * gates_,
            .lda = shape_.time * gates_,
            .b = w_hh,
            .ldb = shape_.hidden,
            .c = dh_,
            .ldc = shape_.hidden,
            .accumulate = true};
  }

  template <int kH>
  void run_resident(const Backward<S>& all) const {
    if constexpr (kH <= 64 || sizeof(A) == 4) {
      constexpr int kRows = lstm::rows_of(kH);
      launch(run_backward<S, kH>, dim3(static_cast<unsigned>((shape_.batch + kRows - 1) / kRows)), dim3(4 * kH),
             backward_shared_bytes<A, kH>(), stream_of(at_), all);
    }
  }
  void run_steps(const Backward<S>& all) const {
    this->widen_rows(this->flat(this->states()), call_.dh_n, dh_);
    this->widen_rows(this->flat(this->states()), call_.dc_n, dc_);
    if (sum_ != nullptr) zero(sum_, static_cast<std::size_t>(shape_.batch * gates_) * sizeof(A), stream_of(at_));
    const A* const w_hh = shape_.time == 0 ? nullptr : this->widened(call_.w_hh, gates_ * shape_.hidden, w_hh_);
    for (std::int64_t s = shape_.time - 1; s >= 0; --s) {
      const int t = this->time_of(s);
      launch(step_backward<S>, dim3(blocks_for(this->states())), dim3(kThreads), 0, stream_of(at_), all, t, dh_, dc_);
      this->multiply(recurrence(t, w_hh), products_);
    }
    this->narrow_rows(this->flat(this->states()), dh_, call_.dh0);
    this->narrow_rows(this->flat(this->states()), dc_, call_.dc0);
  }

  const LstmBackward& call_;
  A* dz_;
  A* sum_ = nullptr;
  A *x_ = nullptr, *w_ih_ = nullptr, *w_hh_ = nullptr;     // widened
  A *dx_ = nullptr, *dw_ih_ = nullptr, *dw_hh_ = nullptr;  // to be narrowed
  A *dh_ = nullptr, *dc_ = nullptr;
  void* products_;
  std::size_t bytes_;
};

}  // namespace

std::size_t scratch_bytes(const At& at, const LstmForward& call) {
  return visit_float(call.shape.dtype,
                     [&](auto type) { return ForwardLayer<typename decltype(type)::type>(at, call).bytes(); });
}
void run(const At& at, const LstmForward& call) {
  visit_float(call.shape.dtype, [&](auto type) { ForwardLayer<typename decltype(type)::type>(at, call).run(); });
}
std::size_t scratch_bytes(const At& at, const LstmBackward& call) {
  return visit_float(call.shape.dtype,
                     [&](auto type) { return BackwardLayer<typename decltype(type)::type>(at, call).bytes(); });
}
void run(const At& at, const LstmBackward& call) {
  visit_float(call.shape.dtype, [&](auto type) { BackwardLayer<typename decltype(type)::type>(at, call).run(); });
}

ADJOINT_GPU_SCRATCH(LstmForward)
ADJOINT_GPU_KERNEL(LstmForward)
ADJOINT_GPU_SCRATCH(LstmBackward)
ADJOINT_GPU_KERNEL(LstmBackward)

}  // namespace adjoint::ADJOINT_GPU_NAMESPACE
