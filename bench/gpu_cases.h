#pragma once
// The kernels that bench_gpu times, alone, with their costs (minimum traffic; attention's backward counts 2.5 times its
// forward). Every case makes its operands in several sets, so that a repeated call does not find them in a cache.

#include <fmt/format.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/batches.h"
#include "bench/gpu_roof.h"
#include "engine/generator.h"
#include "engine/launch.h"
#include "engine/ops.h"
#include "engine/tape.h"
#include "kernels/attention.h"
#include "kernels/copy.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/layer_norm.h"
#include "kernels/lstm.h"
#include "kernels/matmul.h"
#include "kernels/optimizer.h"

namespace adjoint::bench {

/// Queues the case once, on operands of a set.
using Queue = std::function<void(int set)>;

struct KernelCase {
  std::string name;   ///< the peers' too: bench/peers/gpu_kernels.py
  std::string shape;  ///< for people
  Cost cost;
  std::function<Queue(int sets)> prepare;  ///< on the default device
};

/// Random operands, all different.
class Operands {
 public:
  explicit Operands(DType dtype) : dtype_(dtype) {}
  Tensor normal(const Shape& shape, double deviation = 1.0) {
    return keep(random_.normal(shape, 0, deviation, dtype_));
  }
  Tensor normal_in(DType dtype, const Shape& shape, double deviation = 1.0) {
    return keep(random_.normal(shape, 0, deviation, dtype));
  }
  Tensor empty(const Shape& shape) { return keep(Tensor::empty(shape, dtype_)); }
  Tensor empty_in(DType dtype, const Shape& shape) { return keep(Tensor::empty(shape, dtype)); }
  /// In 0 … below - 1.
  Tensor ids(std::int64_t count, std::int64_t below) { return ids_from(count, 0, below); }
  /// In 1 … longest, the first of them the longest.
  Tensor lengths(std::int64_t count, std::int64_t longest) {
    Tensor made = ids_from(count, 1, longest);
    std::vector<std::int32_t> values = made.to_ints();
    values[0] = static_cast<std::int32_t>(longest);
    made.write(std::span<const std::int32_t>(values));
    return made;
  }

 private:
  Tensor keep(Tensor t) {
    kept_.push_back(t);
    return t;
  }
  Tensor ids_from(std::int64_t count, std::int64_t first, std::int64_t many) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(count));
    for (std::int32_t& v : values) v = static_cast<std::int32_t>(first) + draw_.below(static_cast<std::int32_t>(many));
    return keep(Tensor::from(std::span<const std::int32_t>(values), {count}));
  }

  DType dtype_;
  Generator random_{1};
  SplitMix64 draw_{1};
  std::vector<Tensor> kept_;
};

/// A case whose sets are calls that are made once: `make` makes one, from operands that it keeps.
template <class Make>
std::function<Queue(int)> calls(DType dtype, Make make) {
  return [dtype, make](int sets) -> Queue {
    auto operands = std::make_shared<Operands>(dtype);
    using Call = decltype(make(*operands));
    auto made = std::make_shared<std::vector<Call>>();
    for (int set = 0; set < sets; ++set) made->push_back(make(*operands));
    return [operands, made](int set) { launch(default_device(), (*made)[static_cast<std::size_t>(set)]); };
  };
}

inline double real(std::int64_t n) { return static_cast<double>(n); }
inline double bytes_of(DType dtype) { return static_cast<double>(size_of(dtype)); }

// ---- LSTM ----

struct LstmCase {
  std::int64_t batch, time, input, hidden;
  bool lengths = false;

  std::string text(const char* what) const {
    return fmt::format("lstm-{}-b{}-h{}{}", what, batch, hidden, lengths ? "-lengths" : "");
  }
  std::string shape() const {
    return fmt::format("f32 B {} T {} I {} H {}{}", batch, time, input, hidden, lengths ? ", lengths 1..T" : "");
  }
  /// Half of the positions are real with lengths, on average; what is drawn may be less by a tenth.
  double share() const { return lengths ? 0.45 : 1.0; }
  Cost cost(bool backward) const {
    const double positions = real(batch * time) * share(), i = real(input), h = real(hidden);
    const double weights = 16 * h * (i + h);
    return {.bytes = backward ? positions * 4 * (8 * h + 2 * i) + 2 * weights : positions * 4 * (7 * h + i) + weights,
            .flops = (backward ? 16 : 8) * positions * h * (i + h),
            .steps = real(time)};
  }

  struct Call {
    LstmForward forward;
    LstmBackward backward;
  };
  Call make(Operands& o) const {
    const double spread = 1 / std::sqrt(real(hidden));
    const Tensor w_ih = o.normal({4 * hidden, input}, spread), w_hh = o.normal({4 * hidden, hidden}, spread);
    const Tensor b_ih = o.normal({4 * hidden}, spread), b_hh = o.normal({4 * hidden}, spread);
    const Tensor x = o.normal({batch, time, input}), y = o.empty({batch, time, hidden});
    const Tensor n = lengths ? o.lengths(batch, time) : Tensor();
    const LstmShape shape{.dtype = DType::f32,
                          .batch = batch,
                          .time = time,
                          .input = input,
                          .hidden = hidden,
                          .x_stride = {time * input, input},
                          .y_stride = {time * hidden, hidden},
                          .lengths = static_cast<const std::int32_t*>(n.data())};
    const Tensor saved = o.empty({shape.saved_elements()});
    const LstmForward forward{.shape = shape,
                              .x = x.data(),
                              .w_ih = w_ih.data(),
                              .w_hh = w_hh.data(),
                              .b_ih = b_ih.data(),
                              .b_hh = b_hh.data(),
                              .h0 = nullptr,
                              .c0 = nullptr,
                              .y = y.data(),
                              .h_n = o.empty({batch, hidden}).data(),
                              .c_n = o.empty({batch, hidden}).data(),
                              .saved = saved.data()};
    const LstmBackward backward{.shape = shape,
                                .x = x.data(),
                                .w_ih = w_ih.data(),
                                .w_hh = w_hh.data(),
                                .h0 = nullptr,
                                .c0 = nullptr,
                                .y = y.data(),
                                .saved = saved.data(),
                                .dy = o.normal({batch, time, hidden}).data(),
                                .dh_n = nullptr,
                                .dc_n = nullptr,
                                .dx = {o.empty({batch, time, input}).data()},
                                .dw_ih = {o.empty({4 * hidden, input}).data()},
                                .dw_hh = {o.empty({4 * hidden, hidden}).data()},
                                .db_ih = {o.empty({4 * hidden}).data()},
                                .db_hh = {o.empty({4 * hidden}).data()},
                                .dh0 = {},
                                .dc0 = {}};
    return {forward, backward};
  }
  void add(std::vector<KernelCase>& cases) const {
    const LstmCase c = *this;
    cases.push_back(
        {text("forward"), shape(), cost(false), calls(DType::f32, [c](Operands& o) { return c.make(o).forward; })});
    cases.push_back({text("backward"), shape(), cost(true), calls(DType::f32, [c](Operands& o) {
                       const Call call = c.make(o);
                       launch(default_device(), call.forward);
                       return call.backward;
                     })});
  }
};

// ---- Rows ----

inline void add_layer_norm(std::vector<KernelCase>& cases, DType dtype, std::int64_t rows, std::int64_t width) {
  const double plane = real(rows * width) * bytes_of(dtype);
  const std::string tail = fmt::format("-{}x{}", rows, width);
  const std::string shape = fmt::format("{} {} x {}", name(dtype), rows, width);
  struct Both {
    LayerNormForward forward;
    LayerNormBackward backward;
  };
  const auto make = [=](Operands& o, bool residual) {
    const Tensor x = o.normal({rows, width}), gamma = o.normal({width}), beta = o.normal({width});
    const Tensor mean = o.empty_in(DType::f32, {rows}), rstd = o.empty_in(DType::f32, {rows});
    Both both;
    both.forward = {.dtype = dtype,
                    .rows = rows,
                    .width = width,
                    .x = x.data(),
                    .residual = residual ? o.normal({rows, width}).data() : nullptr,
                    .gamma = gamma.data(),
                    .beta = beta.data(),
                    .eps = 1e-5,
                    .sum = residual ? o.empty({rows, width}).data() : nullptr,
                    .y = o.empty({rows, width}).data(),
                    .mean = mean.data(),
                    .rstd = rstd.data()};
    return both;
  };
  const auto make_backward = [=](Operands& o) {
    const LayerNormForward forward = make(o, false).forward;
    launch(default_device(), forward);
    return LayerNormBackward{.dtype = dtype,
                             .rows = rows,
                             .width = width,
                             .s = forward.x,
                             .gamma = forward.gamma,
                             .mean = forward.mean,
                             .rstd = forward.rstd,
                             .dy = o.normal({rows, width}).data(),
                             .dx = {o.empty({rows, width}).data()},
                             .dresidual = {},
                             .dgamma = {o.empty({width}).data()},
                             .dbeta = {o.empty({width}).data()}};
  };
  cases.push_back({"layer-norm-forward" + tail,
                   shape,
                   {.bytes = 2 * plane + 8 * real(rows), .flops = 8 * real(rows * width)},
                   calls(dtype, [=](Operands& o) { return make(o, false).forward; })});
  cases.push_back({"add-layer-norm-forward" + tail,
                   shape,
                   {.bytes = 4 * plane + 8 * real(rows), .flops = 9 * real(rows * width)},
                   calls(dtype, [=](Operands& o) { return make(o, true).forward; })});
  cases.push_back({"layer-norm-backward" + tail,
                   shape,
                   {.bytes = 3 * plane + 8 * real(rows), .flops = 14 * real(rows * width)},
                   calls(dtype, make_backward)});
}

/// Forward and backward; the gradient has memory of its own, so that the logits stay random.
inline void add_cross_entropy(std::vector<KernelCase>& cases, DType dtype, std::int64_t rows, std::int64_t classes) {
  const auto prepare = [=](int sets) -> Queue {
    auto operands = std::make_shared<Operands>(dtype);
    auto forward = std::make_shared<std::vector<CrossEntropyForward>>();
    auto backward = std::make_shared<std::vector<CrossEntropyBackward>>();
    for (int set = 0; set < sets; ++set) {
      Operands& o = *operands;
      const Tensor x = o.normal({rows, classes}, 2.0), targets = o.ids(rows, classes);
      const Tensor sums = o.empty_in(DType::f32, {rows}), count = o.empty_in(DType::f32, {1});
      const Tensor one = o.normal_in(DType::f32, {1});
      forward->push_back({.dtype = dtype,
                          .rows = rows,
                          .classes = classes,
                          .x = x.data(),
                          .targets = targets.data_as<std::int32_t>(),
                          .ignore = -100,
                          .loss = o.empty_in(DType::f32, {1}).data(),
                          .log_sum_exp = sums.data(),
                          .count = count.data()});
      backward->push_back({.dtype = dtype,
                           .rows = rows,
                           .classes = classes,
                           .x = x.data(),
                           .targets = targets.data_as<std::int32_t>(),
                           .ignore = -100,
                           .log_sum_exp = sums.data(),
                           .count = count.data(),
                           .dloss = one.data(),
                           .dx = {o.empty({rows, classes}).data()}});
    }
    return [operands, forward, backward](int set) {
      launch(default_device(), (*forward)[static_cast<std::size_t>(set)]);
      launch(default_device(), (*backward)[static_cast<std::size_t>(set)]);
    };
  };
  const double plane = real(rows * classes);
  cases.push_back({fmt::format("cross-entropy-{}x{}", rows, classes),
                   fmt::format("{} {} x {}, forward and backward", name(dtype), rows, classes),
                   {.bytes = 2 * plane * bytes_of(dtype), .exponentials = plane},
                   prepare});
}

// ---- Flat buffers ----

inline void add_flat(std::vector<KernelCase>& cases, std::int64_t n) {
  cases.push_back({fmt::format("adamw-{}", n),
                   fmt::format("f32, {} parameters", n),
                   {.bytes = 28 * real(n), .flops = 15 * real(n)},
                   calls(DType::f32, [n](Operands& o) {
                     Tensor step = o.empty_in(DType::i32, {2}), rate = o.empty_in(DType::f64, {1});  // an i64
                     step.write(std::span<const std::int32_t>(std::vector<std::int32_t>{7, 0}));
                     rate.write(std::span<const double>(std::vector<double>{1e-3}));
                     const Tensor v = o.empty({n});
                     launch(default_device(), Fill{v.view(), 0.5});
                     return AdamUpdate{.dtype = DType::f32,
                                       .n = n,
                                       .p = o.normal({n}).data(),
                                       .g = o.normal({n}).data(),
                                       .m = o.normal({n}).data(),
                                       .v = v.data(),
                                       .lr = rate.data_as<double>(),
                                       .step = static_cast<const std::int64_t*>(step.data()),
                                       .factor = nullptr,
                                       .beta1 = 0.9,
                                       .beta2 = 0.999,
                                       .eps = 1e-8,
                                       .weight_decay = 0.01,
                                       .decoupled = true};
                   })});
  cases.push_back({fmt::format("global-norm-{}", n),
                   fmt::format("f32, {} gradients", n),
                   {.bytes = 4 * real(n), .flops = 2 * real(n)},
                   calls(DType::f32, [n](Operands& o) {
                     return GlobalNorm{.dtype = DType::f32,
                                       .n = n,
                                       .g = o.normal({n}).data(),
                                       .max_norm = 1.0,
                                       .norm = o.empty({1}).data(),
                                       .factor = o.empty({1}).data()};
                   })});
}

inline KernelCase copy_case(std::int64_t n) {
  return {
      fmt::format("copy-{}", n),
      fmt::format("f32, {} elements", n),
      {.bytes = 8 * real(n)},
      calls(DType::f32, [n](Operands& o) { return Copy{.from = o.normal({n}).view(), .to = o.empty({n}).view()}; })};
}

// ---- Attention ----

struct AttentionCase {
  std::string label;
  DType dtype;
  std::int64_t batch, heads, length, width;
  bool causal = false, lengths = false;

  std::string shape() const {
    return fmt::format("{} B {} H {} S {} D {}{}{}", adjoint::name(dtype), batch, heads, length, width,
                       causal ? ", causal" : "", lengths ? ", lengths 1..S" : "");
  }
  Cost cost(bool backward) const {
    // Pairs of a query and a key that it sees. With lengths a sixth less than the expected third, for what is drawn.
    const double share = causal ? 0.5 : lengths ? 0.28 : 1.0, used = lengths ? 0.45 : 1.0;
    const double rows = real(batch * heads * length), pairs = rows * real(length) * share;
    return {
        .bytes = (backward ? 8 : 4) * rows * used * real(width) * bytes_of(dtype) + (backward ? 12 : 4) * rows * used,
        .flops = (backward ? 10 : 4) * pairs * real(width),
        .unit = dtype == DType::f32 ? Unit::tf32 : Unit::bf16,
        .exponentials = pairs};
  }
  AttentionForward forward(Operands& o) const {
    const Shape plane{batch, heads, length, width};
    const Tensor n = lengths ? o.lengths(batch, length) : Tensor();
    const std::int64_t s[3] = {heads * length * width, length * width, width};
    return {.shape = {.dtype = dtype,
                      .batch = batch,
                      .heads = heads,
                      .queries = length,
                      .keys = length,
                      .width = width,
                      .value_width = width,
                      .q_stride = {s[0], s[1], s[2]},
                      .k_stride = {s[0], s[1], s[2]},
                      .v_stride = {s[0], s[1], s[2]},
                      .scale = 1 / std::sqrt(real(width)),
                      .causal = causal,
                      .key_lengths = static_cast<const std::int32_t*>(n.data()),
                      .query_lengths = static_cast<const std::int32_t*>(n.data())},
            .q = o.normal(plane).data(),
            .k = o.normal(plane).data(),
            .v = o.normal(plane).data(),
            .y = o.empty(plane).data(),
            .log_sum_exp = o.empty_in(DType::f32, {batch, heads, length}).data()};
  }
  AttentionBackward backward(Operands& o) const {
    const AttentionForward f = forward(o);
    launch(default_device(), f);
    const Shape plane{batch, heads, length, width};
    return {.shape = f.shape,
            .q = f.q,
            .k = f.k,
            .v = f.v,
            .y = f.y,
            .log_sum_exp = f.log_sum_exp,
            .dy = o.normal(plane).data(),
            .dq = {o.empty(plane).data()},
            .dk = {o.empty(plane).data()},
            .dv = {o.empty(plane).data()},
            .dbias = {}};
  }
  void add(std::vector<KernelCase>& cases) const {
    const AttentionCase c = *this;
    cases.push_back(
        {"attention-forward-" + label, shape(), cost(false), calls(dtype, [c](Operands& o) { return c.forward(o); })});
    cases.push_back(
        {"attention-backward-" + label, shape(), cost(true), calls(dtype, [c](Operands& o) { return c.backward(o); })});
  }
};

// ---- Tables and products ----

inline void add_embedding(std::vector<KernelCase>& cases, DType dtype, std::int64_t tokens, std::int64_t rows,
                          std::int64_t width) {
  cases.push_back({fmt::format("embedding-gradient-{}x{}-v{}", tokens, width, rows),
                   fmt::format("{} {} tokens, table {} x {}", name(dtype), tokens, rows, width),
                   {.bytes = (real(tokens) + real(rows)) * real(width) * bytes_of(dtype) + 4 * real(tokens)},
                   calls(dtype, [=](Operands& o) {
                     return EmbeddingBackward{.dtype = dtype,
                                              .tokens = tokens,
                                              .rows = rows,
                                              .width = width,
                                              .padding_row = -1,
                                              .ids = o.ids(tokens, rows).data_as<std::int32_t>(),
                                              .dy = o.normal({tokens, width}).data(),
                                              .dtable = {o.empty({rows, width}).data()}};
                   })});
}

inline void add_matmul(std::vector<KernelCase>& cases, DType dtype, std::int64_t m, std::int64_t n, std::int64_t k) {
  cases.push_back({fmt::format("matmul-{}-{}x{}x{}", name(dtype), m, n, k),
                   fmt::format("{} {} x {} x {}", name(dtype), m, n, k),
                   {.bytes = real(m * k + k * n + m * n) * bytes_of(dtype),
                    .flops = 2 * real(m) * real(n) * real(k),
                    .unit = dtype == DType::f32 ? Unit::fma : Unit::bf16},
                   calls(dtype, [=](Operands& o) {
                     return Matmul{.dtype = dtype,
                                   .m = m,
                                   .n = n,
                                   .k = k,
                                   .a = o.normal({m, k}).data(),
                                   .lda = k,
                                   .b = o.normal({n, k}).data(),
                                   .ldb = k,
                                   .transpose_b = true,
                                   .c = o.empty({m, n}).data(),
                                   .ldc = n};
                   })});
}

/// Linear, GELU, linear, forward and backward, as the encoder's block has it.
inline void add_feed_forward(std::vector<KernelCase>& cases, DType dtype, std::int64_t rows, std::int64_t width,
                             std::int64_t inner) {
  const auto prepare = [=](int sets) -> Queue {
    auto o = std::make_shared<Operands>(dtype);
    auto tape = std::make_shared<Tape>();
    const Tensor w1 = o->normal({inner, width}, 1 / std::sqrt(real(width))), b1 = o->normal({inner});
    const Tensor w2 = o->normal({width, inner}, 1 / std::sqrt(real(inner))), b2 = o->normal({width});
    std::vector<Tensor> x, dy;
    for (int set = 0; set < sets; ++set) {
      x.push_back(o->normal({rows, width}));
      dy.push_back(o->normal({rows, width}));
    }
    return [=](int set) {
      Tensor y;
      {
        const auto recording = tape->record();
        const Tensor in = tape->watch(x[static_cast<std::size_t>(set)]);
        const Tensor hidden = bias_gelu(linear(in, tape->watch(w1)), tape->watch(b1));
        y = linear(hidden, tape->watch(w2), tape->watch(b2));
      }
      tape->backward(y, dy[static_cast<std::size_t>(set)]);
    };
  };
  const double e = bytes_of(dtype), m = real(rows), d = real(width), f = real(inner);
  cases.push_back({fmt::format("ffn-{}-{}x{}x{}", name(dtype), rows, width, inner),
                   fmt::format("{} {} rows, {} to {} and back, forward and backward", name(dtype), rows, width, inner),
                   {.bytes = e * (4 * m * d + 4 * m * f + 6 * d * f),
                    .flops = 12 * m * d * f,
                    .unit = dtype == DType::f32 ? Unit::fma : Unit::bf16},
                   prepare});
}

/// All cases; tiny: shapes that the executor runs in a second or two, of the same kernels.
inline std::vector<KernelCase> kernel_cases(bool tiny) {
  std::vector<KernelCase> cases;
  const auto f32 = DType::f32, bf16 = DType::bf16;
  cases.push_back(copy_case(tiny ? 5000 : 1 << 28));
  if (tiny) {
    LstmCase{4, 3, 8, 64}.add(cases);
    LstmCase{4, 3, 8, 64, true}.add(cases);
    LstmCase{2, 2, 8, 128}.add(cases);
    add_layer_norm(cases, bf16, 8, 64);
    add_cross_entropy(cases, bf16, 8, 100);
    add_flat(cases, 2000);
    AttentionCase{"s20-f32", f32, 2, 2, 20, 32, false, true}.add(cases);
    AttentionCase{"s20-bf16", bf16, 2, 2, 20, 32, false, true}.add(cases);
    AttentionCase{"s128", bf16, 1, 1, 128, 64}.add(cases);
    add_embedding(cases, f32, 40, 7, 16);
    add_embedding(cases, f32, 40, 300, 16);
    add_matmul(cases, f32, 64, 64, 32);
    add_matmul(cases, bf16, 64, 64, 32);
    add_feed_forward(cases, bf16, 16, 32, 64);
    return cases;
  }
  for (const std::int64_t hidden : {64, 128}) {
    for (const std::int64_t batch : {64, 512}) {
      LstmCase{batch, 20, hidden, hidden}.add(cases);
      LstmCase{batch, 20, hidden, hidden, true}.add(cases);
    }
  }
  add_layer_norm(cases, f32, 10240, 128);
  add_layer_norm(cases, bf16, 65536, 768);
  add_cross_entropy(cases, f32, 1280, 7);
  add_cross_entropy(cases, bf16, 16384, 30522);
  add_flat(cases, 200'000);
  add_flat(cases, 110'000'000);
  AttentionCase{"s20-f32", f32, 512, 4, 20, 32, false, true}.add(cases);
  AttentionCase{"s20-bf16", bf16, 512, 4, 20, 32, false, true}.add(cases);
  AttentionCase{"s128", bf16, 64, 12, 128, 64}.add(cases);
  AttentionCase{"s512", bf16, 32, 12, 512, 64}.add(cases);
  AttentionCase{"s512-f32", f32, 32, 12, 512, 64}.add(cases);
  AttentionCase{"s4096", bf16, 4, 12, 4096, 64}.add(cases);
  AttentionCase{"s4096-causal", bf16, 4, 12, 4096, 64, true}.add(cases);
  AttentionCase{"s8192-d128", bf16, 2, 16, 8192, 128}.add(cases);
  add_embedding(cases, f32, 1280, 7, 64);
  add_embedding(cases, f32, 1280, 20000, 100);
  add_embedding(cases, bf16, 16384, 30522, 768);
  add_matmul(cases, f32, 1280, 256, 64);
  add_matmul(cases, f32, 10240, 512, 128);
  add_matmul(cases, bf16, 16384, 3072, 768);
  add_feed_forward(cases, f32, 1280, 128, 512);
  add_feed_forward(cases, bf16, 16384, 768, 3072);
  return cases;
}

}  // namespace adjoint::bench
