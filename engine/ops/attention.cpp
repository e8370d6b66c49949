#include "kernels/attention.h"

#include <cmath>
#include <limits>

#include <algorithm>

#include "engine/gpu_libraries.h"
#include "engine/op_support.h"
#include "kernels/base/philox.h"

namespace adjoint {
namespace {

void set_strides(const Tensor& x, std::int64_t* strides) { std::copy(x.strides(), x.strides() + 3, strides); }

/// x [B, H, T, D] with contiguous rows.
Tensor with_dense_rows(const Tensor& x) { return x.extent(3) <= 1 || x.stride(3) == 1 ? x : contiguous(x); }

struct Prepared {
  AttentionShape shape;
  Tensor q, k, v, bias, random;
};

/// Checks and describes a call. v undefined: weights only.
Prepared prepare(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  check_operand(op, "q", q);
  check_operand(op, "k", k, &q);
  const bool with_v = v.defined();
  if (with_v) check_operand(op, "v", v, &q);
  const auto shapes = [&] {
    return fmt::format("{}: q {}, k {}{}", op, text(q.shape()), text(k.shape()),
                       with_v ? ", v " + text(v.shape()) : "");
  };
  ADJOINT_OP_CHECK(q.rank() == 4 && k.rank() == 4 && (!with_v || v.rank() == 4), "E-OP-012",
                   shapes() + ": expected [B,H,T,D], [B,H,S,D] and [B,H,S,V]");
  ADJOINT_OP_CHECK(k.extent(0) == q.extent(0) && k.extent(1) == q.extent(1), "E-OP-012",
                   shapes() + ": batch and heads of q and k differ");
  ADJOINT_OP_CHECK(k.extent(3) == q.extent(3), "E-OP-012",
                   shapes() + fmt::format(": widths {} and {} differ", q.extent(3), k.extent(3)));
  ADJOINT_OP_CHECK(!with_v || (v.extent(0) == k.extent(0) && v.extent(1) == k.extent(1) && v.extent(2) == k.extent(2)),
                   "E-OP-012", shapes() + ": batch, heads and length of k and v differ");
  ADJOINT_OP_CHECK(options.dropout >= 0 && options.dropout < 1, "E-OP-009",
                   fmt::format("{}: dropout is {}; expected a number in [0, 1)", op, options.dropout));
  ADJOINT_OP_CHECK(options.dropout == 0 || options.generator != nullptr, "E-OP-009",
                   fmt::format("{}: dropout {} needs a generator", op, options.dropout));
  for (const auto& [name, lengths] :
       {std::pair{"key_lengths", &options.key_lengths}, std::pair{"query_lengths", &options.query_lengths}}) {
    if (!lengths->defined()) continue;
    check_ints(op, name, *lengths, q);
    check_shape(op, name, *lengths, {q.extent(0)});
  }

  Prepared p{{}, with_dense_rows(q), with_dense_rows(k), with_v ? with_dense_rows(v) : Tensor(), {}, {}};
  AttentionShape& s = p.shape;
  s = {.dtype = q.dtype(),
       .batch = q.extent(0),
       .heads = q.extent(1),
       .queries = q.extent(2),
       .keys = k.extent(2),
       .width = q.extent(3),
       .value_width = with_v ? v.extent(3) : 0,
       .q_stride = {},
       .k_stride = {},
       .v_stride = {},
       .scale = options.scale != 0 ? options.scale
                                   : 1.0 / std::sqrt(static_cast<double>(std::max<std::int64_t>(q.extent(3), 1))),
       .causal = options.causal,
       .key_lengths = static_cast<const std::int32_t*>(options.key_lengths.data()),
       .query_lengths = static_cast<const std::int32_t*>(options.query_lengths.data()),
       .dropout = options.dropout};
  set_strides(p.q, s.q_stride);
  set_strides(p.k, s.k_stride);
  if (with_v) set_strides(p.v, s.v_stride);
  if (options.bias.defined()) {
    check_operand(op, "bias", options.bias, &q);
    const Shape full{s.batch, s.heads, s.queries, s.keys};
    Shape joint;
    ADJOINT_OP_CHECK(broadcast(options.bias.shape(), full, joint) && joint == full, "E-OP-012",
                     fmt::format("{}: bias {} does not broadcast to {}", op, text(options.bias.shape()), text(full)));
    p.bias = broadcast_to(options.bias, full);
    s.bias = p.bias.data();
    std::copy(p.bias.strides(), p.bias.strides() + 4, s.bias_stride);
  }
  return p;
}

struct AttentionGradient {
  AttentionShape shape;
  Saved q, k, v, y, log_sum_exp, saved, bias, random, key_lengths, query_lengths;

  void backward(const Gradients& g) const {
    const char* op = "attention";
    for (const Saved* s : {&bias, &random, &key_lengths, &query_lengths}) s->get(op);  // unchanged since
    launch(g.device(), AttentionBackward{.shape = shape,
                                         .q = q.data(op),
                                         .k = k.data(op),
                                         .v = v.data(op),
                                         .y = y.data(op),
                                         .log_sum_exp = log_sum_exp.data(op),
                                         .saved = saved.data(op),
                                         .dy = g.incoming(),
                                         .dq = g.into(0),
                                         .dk = g.into(1),
                                         .dv = g.into(2),
                                         .dbias = g.into(3)});
  }
};

// ---- Records ----

/// The mask a call implies, added to the scores: 0 where a key is seen, -1e300 where not; and which queries count.
Tensor composite(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o,
                 bool weights_only = false) {
  const std::int64_t batch = q.extent(0), heads = q.extent(1), queries = q.extent(2), keys = k.extent(2);
  const double scale = o.scale != 0 ? o.scale : 1.0 / std::sqrt(static_cast<double>(q.extent(3)));
  std::vector<double> seen, masked;
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t t = 0; t < queries; ++t)
        for (std::int64_t s = 0; s < keys; ++s) {
          bool ok = !o.causal || s <= t + keys - queries;
          if (o.key_lengths.defined()) ok &= s < o.key_lengths.to_ints()[static_cast<std::size_t>(b)];
          if (o.query_lengths.defined()) ok &= t < o.query_lengths.to_ints()[static_cast<std::size_t>(b)];
          seen.push_back(ok ? 1.0 : 0.0);
          masked.push_back(ok ? 0.0 : -1e4);
        }
  const Shape full{batch, heads, queries, keys};
  Tensor scores = matmul(q, transpose(k, -1, -2)) * scale;
  if (o.bias.defined()) scores = scores + o.bias;
  // Multiplying by the 0/1 mask afterwards turns fully masked rows (uniform after the softmax) into zeros.
  Tensor p = softmax(scores + Tensor::from(std::span<const double>(masked), full, q.dtype())) *
             Tensor::from(std::span<const double>(seen), full, q.dtype());
  if (o.dropout > 0) {
    std::vector<double> kept;
    for (std::int64_t i = 0; i < full.count(); ++i)
      kept.push_back(philox_uniform(philox_word(7, 0, static_cast<std::uint64_t>(i))) >= o.dropout
                         ? 1.0 / (1.0 - o.dropout)
                         : 0.0);
    p = p * Tensor::from(std::span<const double>(kept), full, q.dtype());
  }
  return weights_only ? p : matmul(p, v);
}

struct Case {
  const char* label;
  Shape q, k, v;
  bool causal = false;
  std::vector<std::int32_t> key_lengths = {}, query_lengths = {};
  Shape bias = {};
  bool with_bias = false;
  double dropout = 0;
  double scale = 0;
};

std::vector<Case> cases() {
  return {{.label = "one head", .q = {2, 1, 3, 4}, .k = {2, 1, 5, 4}, .v = {2, 1, 5, 4}},
          {.label = "unscaled, wide values", .q = {1, 2, 3, 5}, .k = {1, 2, 4, 5}, .v = {1, 2, 4, 7}, .scale = 1.0},
          {.label = "causal", .q = {2, 2, 6, 3}, .k = {2, 2, 6, 3}, .v = {2, 2, 6, 3}, .causal = true},
          {.label = "causal with more keys", .q = {1, 1, 2, 3}, .k = {1, 1, 5, 3}, .v = {1, 1, 5, 3}, .causal = true},
          {.label = "causal with fewer keys: masked rows",
           .q = {1, 1, 4, 3},
           .k = {1, 1, 2, 3},
           .v = {1, 1, 2, 3},
           .causal = true},
          {.label = "lengths, one empty",
           .q = {3, 2, 3, 4},
           .k = {3, 2, 5, 4},
           .v = {3, 2, 5, 4},
           .key_lengths = {5, 0, 2}},
          {.label = "both lengths",
           .q = {2, 1, 4, 4},
           .k = {2, 1, 4, 4},
           .v = {2, 1, 4, 4},
           .key_lengths = {4, 2},
           .query_lengths = {1, 4}},
          {.label = "full bias",
           .q = {2, 2, 3, 4},
           .k = {2, 2, 3, 4},
           .v = {2, 2, 3, 4},
           .bias = {2, 2, 3, 3},
           .with_bias = true},
          {.label = "bias of one row",
           .q = {2, 2, 3, 4},
           .k = {2, 2, 3, 4},
           .v = {2, 2, 3, 4},
           .bias = {2, 1, 1, 3},
           .with_bias = true},
          {.label = "dropout", .q = {1, 2, 4, 3}, .k = {1, 2, 5, 3}, .v = {1, 2, 5, 3}, .dropout = 0.4},
          {.label = "many keys", .q = {1, 1, 2, 8}, .k = {1, 1, 129, 8}, .v = {1, 1, 129, 3}},
          {.label = "many queries, causal", .q = {1, 1, 67, 2}, .k = {1, 1, 67, 2}, .v = {1, 1, 67, 2}, .causal = true},
          {.label = "no queries", .q = {1, 1, 0, 3}, .k = {1, 1, 2, 3}, .v = {1, 1, 2, 3}},
          {.label = "no keys", .q = {1, 1, 2, 3}, .k = {1, 1, 0, 3}, .v = {1, 1, 0, 3}}};
}

/// Options of a case, from the sample's inputs in order: q k v [bias] [key_lengths] [query_lengths].
AttentionOptions options_of(const Case& c, std::span<const Tensor> in, std::size_t at, Generator* generator) {
  AttentionOptions o{.scale = c.scale, .causal = c.causal, .dropout = c.dropout, .generator = generator};
  if (c.with_bias) o.bias = in[at++];
  if (!c.key_lengths.empty()) o.key_lengths = in[at++];
  if (!c.query_lengths.empty()) o.query_lengths = in[at++];
  return o;
}

Tensors inputs_of(const Case& c, Generator& random, bool with_v) {
  const auto normal = [&](const Shape& s) { return random.normal(s, 0, 1, DType::f64); };
  Tensors in{normal(c.q), normal(c.k)};
  if (with_v) in.push_back(normal(c.v));
  if (c.with_bias) in.push_back(normal(c.bias));
  for (const auto* lengths : {&c.key_lengths, &c.query_lengths})
    if (!lengths->empty())
      in.push_back(Tensor::from(std::span<const std::int32_t>(*lengths), {static_cast<std::int64_t>(lengths->size())}));
  if (with_v) in.push_back(Generator(7).state());
  return in;
}

std::vector<OpSample> samples(Generator& random) {
  std::vector<OpSample> samples;
  for (const Case& c : cases()) {
    const double scores = static_cast<double>(c.q.count() * c.k[2]);
    samples.push_back(
        {.label = c.label,
         .inputs = inputs_of(c, random, true),
         .run =
             [c](auto in) {
               Generator generator(in.back());
               return Tensors{attention(in[0], in[1], in[2], options_of(c, in, 3, &generator))};
             },
         .reference = [c](auto in) { return Tensors{composite(in[0], in[1], in[2], options_of(c, in, 3, nullptr))}; },
         .flops = 4.0 * scores,
         .bytes = 4.0 * static_cast<double>(2 * c.q.count() + c.k.count() + c.v.count())});
  }
  return samples;
}

std::vector<OpSample> weights_samples(Generator& random) {
  std::vector<OpSample> samples;
  for (const Case& c : cases()) {
    if (c.dropout > 0) continue;
    samples.push_back(
        {.label = c.label,
         .inputs = inputs_of(c, random, false),
         .run = [c](auto in) { return Tensors{attention_weights(in[0], in[1], options_of(c, in, 2, nullptr))}; },
         .reference =
             [c](auto in) { return Tensors{composite(in[0], in[1], {}, options_of(c, in, 2, nullptr), true)}; },
         .check_gradient = false});
  }
  return samples;
}

const OpRegistration registration{
    {.name = "attention", .samples = samples, .bad_inputs = [] {
       const auto z = [](const Shape& s) { return Tensor::zeros(s); };
       return std::vector<BadInput>{
           {"rank",
            [=] {
              attention(z({2, 3, 4}), z({2, 3, 4}), z({2, 3, 4}));
            },
            "E-OP-012.*q \\[2,3,4\\].*\\[B,H,T,D\\]"},
           {"width",
            [=] {
              attention(z({1, 1, 2, 4}), z({1, 1, 2, 3}), z({1, 1, 2, 3}));
            },
            "E-OP-012.*widths 4 and 3"},
           {"values",
            [=] {
              attention(z({1, 1, 2, 4}), z({1, 1, 3, 4}), z({1, 1, 2, 4}));
            },
            "E-OP-012.*k and v"},
           {"bias",
            [=] {
              attention(z({1, 1, 2, 4}), z({1, 1, 3, 4}), z({1, 1, 3, 4}), {.bias = z({2, 2})});
            },
            "E-OP-012.*bias \\[2,2\\].*\\[1,1,2,3\\]"},
           {"dropout without generator",
            [=] {
              attention(z({1, 1, 2, 4}), z({1, 1, 3, 4}), z({1, 1, 3, 4}), {.dropout = 0.5});
            },
            "E-OP-009.*needs a generator"},
           {"lengths",
            [=] {
              attention(z({2, 1, 2, 4}), z({2, 1, 3, 4}), z({2, 1, 3, 4}),
                        {.key_lengths = Tensor::zeros({3}, DType::i32)});
            },
            "E-OP-002.*key_lengths.*\\[3\\].*\\[2\\]"}};
     }}};
const OpRegistration weights_registration{
    {.name = "attention_weights",
     .samples = weights_samples,
     .bad_inputs =
         [] {
           const auto z = [](const Shape& s) { return Tensor::zeros(s); };
           return std::vector<BadInput>{{"rank",
                                         [=] {
                                           attention_weights(z({2, 3}), z({2, 3}));
                                         },
                                         "E-OP-012.*\\[2,3\\]"},
                                        {"heads",
                                         [=] {
                                           attention_weights(z({1, 2, 2, 4}), z({1, 1, 2, 4}));
                                         },
                                         "E-OP-012.*heads"},
                                        {"dtype",
                                         [=] {
                                           attention_weights(z({1, 1, 2, 4}), Tensor::zeros({1, 1, 2, 4}, DType::f64));
                                         },
                                         "E-OP-006.*k is f64"}};
         },
     .differentiable = false}};

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  ADJOINT_OP_CHECK(v.defined(), "E-OP-006", "attention: v is undefined; expected a tensor");
  Prepared p = prepare("attention", q, k, v, options);
  AttentionShape& s = p.shape;
  if (s.dropout > 0) {
    p.random = options.generator->draw(s.batch * s.heads * s.queries * s.keys);
    s.random = philox_state(p.random);
  }
  Tensor y = Tensor::empty({s.batch, s.heads, s.queries, s.value_width}, q.dtype(), q.device());
  const Tensor log_sum_exp = Tensor::empty({s.batch, s.heads, s.queries}, accumulator_of(q.dtype()), q.device());
  s.by_library = attention_by_library(q.device());
  AttentionForward call{
      .shape = s, .q = p.q.data(), .k = p.k.data(), .v = p.v.data(), .y = y.data(), .log_sum_exp = log_sum_exp.data()};
  Tape* tape = Tape::recording({&p.q, &p.k, &p.v, &p.bias});
  Tensor saved;
  if (tape != nullptr && s.by_library) {
    saved = Tensor::empty({static_cast<std::int64_t>(saved_bytes_on(q.device(), call))}, DType::u8, q.device());
    call.saved = saved.data();
  }
  launch(q.device(), call);
  if (tape != nullptr) {
    tape->add(
        {&p.q, &p.k, &p.v, &p.bias}, {&y},
        AttentionGradient{s, Saved(p.q), Saved(p.k), Saved(p.v), Saved(y), Saved(log_sum_exp), Saved(saved),
                          Saved(p.bias), Saved(p.random), Saved(options.key_lengths), Saved(options.query_lengths)});
  }
  return y;
}

Tensor attention_weights(const Tensor& q, const Tensor& k, const AttentionOptions& options) {
  const Prepared p = prepare("attention_weights", q, k, {}, options);
  Tensor weights = Tensor::empty({p.shape.batch, p.shape.heads, p.shape.queries, p.shape.keys}, q.dtype(), q.device());
  launch(q.device(), AttentionWeights{.shape = p.shape, .q = p.q.data(), .k = p.k.data(), .weights = weights.data()});
  return weights;
}

}  // namespace adjoint
