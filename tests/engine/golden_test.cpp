// Our ops against values that PyTorch computed (tests/golden/make_torch_vectors.py tells how).

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/module.h"
#include "engine/ops.h"
#include "engine/optim/optimizer.h"
#include "engine/safetensors.h"
#include "tests/support/engine.h"
#include "tests/support/paths.h"

namespace adjoint::testing {
namespace {

using Json = nlohmann::json;
using Named = std::map<std::string, Tensor>;

/// One case, with its inputs in the dtype that is being tested.
struct Case {
  const Json& index;
  DType dtype;
  Named in;
  Named cotangents;

  const Tensor& at(const char* name) const { return in.at(name); }
  Tensor or_none(const char* name) const { return in.contains(name) ? in.at(name) : Tensor(); }
  template <class T>
  T attribute(const char* name, T otherwise) const {
    return index.at("attributes").value(name, otherwise);
  }
};

/// Case results: outputs that the tape differentiates, and gradients that a case states itself.
using Run = std::function<Named(const Case&)>;

/// 0 where the mask has 1, -inf elsewhere.
Tensor bias_of_mask(const Tensor& mask, const Shape& shape, DType dtype) {
  std::vector<double> values = broadcast_to(mask, shape).to_vector();
  for (double& v : values) v = v != 0 ? 0.0 : -std::numeric_limits<double>::infinity();
  return tensor(values, shape, dtype);
}

std::vector<std::int32_t> lengths_of_mask(const Tensor& mask) {  // [B, S]
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(mask.extent(0)));
  const std::vector<double> values = mask.to_vector();
  for (std::size_t i = 0; i < values.size(); ++i)
    lengths[i / static_cast<std::size_t>(mask.extent(1))] += static_cast<std::int32_t>(values[i]);
  return lengths;
}

Tensor along(const Tensor& x, std::int64_t axis, Tensor (*f)(const Tensor&)) {
  return axis == -1 ? f(x) : transpose(f(transpose(x, axis, -1)), axis, -1);
}

/// The loss from its parts: what cross_entropy itself does not offer (sums, single rows, smoothing) is built from
/// log_softmax, and the mean is the op.
Tensor cross_entropy_case(const Case& c) {
  const Tensor& logits = c.at("logits");
  const Tensor& targets = c.at("targets");
  const auto ignore = c.attribute<std::int32_t>("ignore_id", -100);
  const auto reduction = c.attribute<std::string>("reduction", "mean");
  const auto smoothing = c.attribute<double>("label_smoothing", 0.0);
  const std::int64_t rows = logits.extent(0), classes = logits.extent(1);
  const std::vector<std::int32_t> ids = targets.to_ints();
  double counted = 0;
  for (const std::int32_t id : ids) counted += id != ignore;
  if (smoothing == 0 && reduction == "mean") return cross_entropy(logits, targets, ignore);
  if (smoothing == 0 && reduction == "sum") return counted * cross_entropy(logits, targets, ignore);
  std::vector<double> weights(static_cast<std::size_t>(rows * classes), 0.0);
  for (std::size_t r = 0; r < ids.size(); ++r) {
    if (ids[r] == ignore) continue;
    for (std::int64_t k = 0; k < classes; ++k)
      weights[r * static_cast<std::size_t>(classes) + static_cast<std::size_t>(k)] =
          smoothing / static_cast<double>(classes) + (k == ids[r] ? 1 - smoothing : 0.0);
  }
  const Tensor of_rows = -sum(log_softmax(logits) * tensor(weights, {rows, classes}, c.dtype), {1});
  return reduction == "none" ? of_rows : sum(of_rows) / (reduction == "mean" ? counted : 1.0);
}

Tensor attention_case(const Case& c) {
  const Tensor &q = c.at("q"), &k = c.at("k");
  AttentionOptions o{.scale = c.attribute<double>("scale", 0.0), .causal = c.attribute<bool>("causal", false)};
  const auto lengths = c.attribute<std::vector<std::int32_t>>("lengths", {});
  if (!lengths.empty()) {
    o.key_lengths = ints(lengths, {static_cast<std::int64_t>(lengths.size())});
  } else if (c.in.contains("mask")) {
    o.bias = bias_of_mask(c.at("mask"), {q.extent(0), q.extent(1), q.extent(2), k.extent(2)}, c.dtype);
  }
  if (c.in.contains("bias")) o.bias = c.at("bias");
  return attention(q, k, c.at("v"), o);
}

Named lstm_case(const Case& c) {
  const bool both = c.attribute<bool>("bidirectional", false);
  const int layers = c.attribute<int>("layers", 1);
  Tensor y = c.at("x");
  std::vector<Tensor> h, cell;
  for (int layer = 0; layer < layers; ++layer) {
    std::vector<Tensor> directions;
    for (int d = 0; d < (both ? 2 : 1); ++d) {
      const std::string suffix = fmt::format("_l{}{}", layer, d == 1 ? "_reverse" : "");
      const auto weight = [&](const char* name) { return c.or_none((name + suffix).c_str()); };
      const auto state = [&](const char* name) {
        const Tensor all = c.or_none(name);
        const auto at = static_cast<std::int64_t>(h.size());
        return all.defined() ? reshape(slice(all, 0, at, at + 1), {all.extent(1), all.extent(2)}) : Tensor();
      };
      const LstmResult r =
          lstm(y, {weight("weight_ih"), weight("weight_hh"), weight("bias_ih"), weight("bias_hh")},
               {.h0 = state("h0"), .c0 = state("c0"), .lengths = c.or_none("lengths"), .reverse = d == 1});
      directions.push_back(r.y);
      h.push_back(reshape(r.h_n, {1, r.h_n.extent(0), r.h_n.extent(1)}));
      cell.push_back(reshape(r.c_n, {1, r.c_n.extent(0), r.c_n.extent(1)}));
    }
    y = concat(directions, -1);
  }
  return {{"y", y}, {"hn", concat(h, 0)}, {"cn", concat(cell, 0)}};
}

Named dot_attention_head_case(const Case& c) {
  const Tensor &s = c.at("s"), &states = c.at("states"), &mask = c.at("mask");
  const Shape scores{s.extent(0), s.extent(1), states.extent(1)};
  const Tensor masked = reshape(mask, {mask.extent(0), 1, mask.extent(1)});
  // The weights have a cotangent here, so they come from the plain ops; y comes from the fused call.
  const Tensor weights = softmax(matmul(s, transpose(states, 1, 2)) + bias_of_mask(masked, scores, c.dtype));
  const auto one_head = [](const Tensor& x) { return reshape(x, {x.extent(0), 1, x.extent(1), x.extent(2)}); };
  const AttentionOptions o{.scale = 1.0, .key_lengths = ints(lengths_of_mask(mask), {mask.extent(0)})};
  const Tensor context =
      reshape(attention(one_head(s), one_head(states), one_head(states), o), {s.extent(0), s.extent(1), s.extent(2)});
  EXPECT_LT(max(abs(reshape(attention_weights(one_head(s), one_head(states), o), {s.extent(0), s.extent(1), -1}) -
                    weights.detached()))
                .item(),
            1e-6);
  return {{"y", tanh(linear(concat({context, s}, -1), c.at("weight"), c.at("bias")))}, {"weights", weights}};
}

Named encoder_layer_case(const Case& c) {
  const auto heads = c.attribute<std::int64_t>("heads", 0);
  const bool pre = c.attribute<std::string>("norm", "") == "pre";
  const double eps = c.attribute<double>("eps", 0.0);
  const Tensor& x = c.at("x");
  const std::int64_t batch = x.extent(0), time = x.extent(1), width = x.extent(2);
  const auto norm = [&](const Tensor& t, const char* name) {
    return layer_norm(t, c.in.at(fmt::format("{}.weight", name)), c.in.at(fmt::format("{}.bias", name)), eps);
  };
  const auto self_attention = [&](const Tensor& t) {
    const Tensor qkv = linear(t, c.at("self_attn.in_proj_weight"), c.at("self_attn.in_proj_bias"));
    const auto part = [&](std::int64_t i) {
      return transpose(reshape(slice(qkv, 2, i * width, (i + 1) * width), {batch, time, heads, width / heads}), 1, 2);
    };
    const Tensor y =
        attention(part(0), part(1), part(2), {.key_lengths = ints(lengths_of_mask(c.at("mask")), {batch})});
    return linear(reshape(transpose(y, 1, 2), {batch, time, width}), c.at("self_attn.out_proj.weight"),
                  c.at("self_attn.out_proj.bias"));
  };
  const auto feed_forward = [&](const Tensor& t) {
    const Tensor inner = linear(t, c.at("linear1.weight"), c.at("linear1.bias"));
    const bool is_gelu = c.attribute<std::string>("activation", "") == "gelu";
    return linear(is_gelu ? gelu(inner) : relu(inner), c.at("linear2.weight"), c.at("linear2.bias"));
  };
  if (pre) {
    const Tensor a = x + self_attention(norm(x, "norm1"));
    return {{"y", a + feed_forward(norm(a, "norm2"))}};
  }
  const SumAndNorm a = add_layer_norm(self_attention(x), x, c.at("norm1.weight"), c.at("norm1.bias"), eps);
  const SumAndNorm b = add_layer_norm(feed_forward(a.y), a.y, c.at("norm2.weight"), c.at("norm2.bias"), eps);
  return {{"y", b.y}};
}

// ---- Optimizers: gradients are given, so the loss is their product with the parameters ----

class Given final : public Module {
 public:
  explicit Given(const std::vector<Tensor>& values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      parameters_.push_back(std::make_unique<Parameter>(values[i]));
      add(fmt::format("p{}", i), *parameters_.back());
    }
  }
  void set_gradients(const std::vector<Tensor>& gradients) {
    Tape tape;
    std::vector<Tensor> y;
    {
      const auto recording = tape.record();
      for (std::size_t i = 0; i < gradients.size(); ++i)
        y.push_back(reshape(sum(parameters_[i]->value() * gradients[i]), {1}));
      y = {sum(concat(y, 0))};
    }
    tape.backward(y[0]);
  }
  Tensor value(std::size_t i) const { return contiguous(parameters_[i]->value()); }

 private:
  std::vector<std::unique_ptr<Parameter>> parameters_;
};

Named optimizer_case(const Case& c) {
  const auto op = c.index.at("op").get<std::string>();
  const auto copy = [](const Tensor& x) { return x + 0.0; };
  Given model({copy(c.at("p"))});
  ParameterSet parameters(model);
  std::unique_ptr<Optimizer> optimizer;
  const auto rate = c.attribute<double>("lr", 0), decay = c.attribute<double>("weight_decay", 0);
  if (op == "sgd") {
    optimizer = std::make_unique<Sgd>(parameters, SgdOptions{.learning_rate = rate,
                                                             .momentum = c.attribute<double>("momentum", 0),
                                                             .weight_decay = decay,
                                                             .nesterov = c.attribute<bool>("nesterov", false)});
  } else {
    const auto betas = c.attribute<std::vector<double>>("betas", {});
    optimizer = std::make_unique<Adam>(parameters, AdamOptions{.learning_rate = rate,
                                                               .beta1 = betas.at(0),
                                                               .beta2 = betas.at(1),
                                                               .eps = c.attribute<double>("eps", 0),
                                                               .weight_decay = decay,
                                                               .decoupled = op == "adamw"});
  }
  Named out;
  for (int step = 1; step <= c.attribute<int>("steps", 0); ++step) {
    model.set_gradients({c.in.at(fmt::format("g{}", step))});
    optimizer->step();
    out[fmt::format("p{}", step)] = copy(model.value(0));
  }
  const std::map<std::string, std::string> names = {
      {"velocity", "momentum_buffer"}, {"first_moment", "exp_avg"}, {"second_moment", "exp_avg_sq"}};
  for (const auto& [name, tensor] : optimizer->state())
    if (names.contains(name)) out[names.at(name)] = reshape(slice(tensor, 0, 0, 6), {3, 2});
  return out;
}

/// A step of rate 1 from 0 goes to minus the clipped gradient.
Named clip_case(const Case& c) {
  const std::vector<Tensor> g = {c.at("g0"), c.at("g1")};
  Given model({Tensor::zeros(g[0].shape(), c.dtype), Tensor::zeros(g[1].shape(), c.dtype)});
  ParameterSet parameters(model);
  Sgd sgd(parameters, {.learning_rate = 1.0, .max_norm = c.attribute<double>("max_norm", 0)});
  model.set_gradients(g);
  sgd.step();
  return {{"norm", sgd.gradient_norm()}, {"g0", -model.value(0)}, {"g1", -model.value(1)}};
}

/// How each op of the index is run with ours.
const std::map<std::string, Run>& mappings() {
  const auto one = [](Tensor (*f)(const Case&)) { return [f](const Case& c) { return Named{{"y", f(c)}}; }; };
  static const std::map<std::string, Run> map = {
      {"gelu", one([](const Case& c) {
         return c.attribute<std::string>("form", "") == "tanh" ? gelu_tanh(c.at("x")) : gelu(c.at("x"));
       })},
      {"tanh", one([](const Case& c) { return tanh(c.at("x")); })},
      {"sigmoid", one([](const Case& c) { return sigmoid(c.at("x")); })},
      {"relu", one([](const Case& c) { return relu(c.at("x")); })},
      {"add", one([](const Case& c) { return c.at("a") + c.at("b"); })},
      {"mul", one([](const Case& c) { return c.at("a") * c.at("b"); })},
      {"matmul", one([](const Case& c) {
         const bool left = c.attribute<bool>("transpose_a", false), right = c.attribute<bool>("transpose_b", false);
         return matmul(left ? transpose(c.at("a"), -1, -2) : c.at("a"),
                       right ? transpose(c.at("b"), -1, -2) : c.at("b"));
       })},
      {"linear", one([](const Case& c) { return linear(c.at("x"), c.at("weight"), c.or_none("bias")); })},
      {"softmax", one([](const Case& c) { return along(c.at("x"), c.attribute<int>("axis", 9), softmax); })},
      {"log_softmax", one([](const Case& c) { return along(c.at("x"), c.attribute<int>("axis", 9), log_softmax); })},
      {"layer_norm", one([](const Case& c) {
         return layer_norm(c.at("x"), c.or_none("gamma"), c.or_none("beta"), c.attribute<double>("eps", 0));
       })},
      {"embedding", one([](const Case& c) {
         return embedding(c.at("ids"), c.at("table"), c.attribute<std::int64_t>("padding_id", -1));
       })},
      {"cross_entropy",
       [](const Case& c) {
         return Named{{"loss", cross_entropy_case(c)}};
       }},
      {"attention", one(attention_case)},
      {"dot_attention_head", dot_attention_head_case},
      {"lstm", lstm_case},
      {"encoder_layer", encoder_layer_case},
      {"sgd", optimizer_case},
      {"adam", optimizer_case},
      {"adamw", optimizer_case},
      {"clip_grad_norm", clip_case}};
  return map;
}

class Golden : public ::testing::Test {
 protected:
  Golden() : file_(testing_support::source_dir() + "/tests/golden/torch_ops.safetensors") {
    std::ifstream stream(testing_support::source_dir() + "/tests/golden/torch_ops.json");
    index_ = Json::parse(stream);
  }

  /// A recorded tensor; floats in `dtype`, masks as they are.
  Tensor read(const std::string& name, DType dtype) const {
    const TensorInfo* info = file_.find(name);
    if (info == nullptr) throw std::runtime_error("golden file has no tensor " + name);
    std::vector<std::byte> bytes(info->bytes());
    file_.read(*info, bytes);
    Shape shape;
    for (const std::uint64_t extent : info->shape) shape.append(static_cast<std::int64_t>(extent));
    const DType stored = info->dtype == FileDType::f64   ? DType::f64
                         : info->dtype == FileDType::i32 ? DType::i32
                                                         : DType::u8;
    Tensor x = Tensor::empty(shape, stored);
    x.write(std::span<const std::byte>(bytes));
    return stored == DType::f64 ? cast(x, dtype) : x;
  }

  Named read_all(const Json& c, const char* role, DType dtype) const {
    Named all;
    for (const std::string name : c.at(role))
      all[name] = read(fmt::format("{}/{}/{}", c.at("name").get<std::string>(), role, name), dtype);
    return all;
  }

  /// Compares every output and gradient of every case, at `tolerance` of its largest value.
  int check(DType dtype, const std::function<double(const std::string&)>& tolerance) const {
    int cases = 0;
    for (const Json& c : index_.at("cases")) {
      const auto name = c.at("name").get<std::string>();
      SCOPED_TRACE(name);
      const auto found = mappings().find(c.at("op").get<std::string>());
      if (found == mappings().end()) {
        ADD_FAILURE() << "no op of ours is mapped to '" << c.at("op") << "'";
        continue;
      }
      Case run{c, dtype, read_all(c, "in", dtype), read_all(c, "cotangent", dtype)};
      Tape tape;
      Named out;
      Named inputs = run.in;
      if (run.cotangents.empty()) {
        out = found->second(run);
      } else {
        Tensor total;
        {
          const auto recording = tape.record();
          for (const std::string grad : c.at("grad")) run.in[grad] = inputs[grad] = tape.watch(run.in.at(grad));
          out = found->second(run);
          for (const auto& [key, cotangent] : run.cotangents) {
            const Tensor part = sum(out.at(key) * cotangent);
            total = total.defined() ? total + part : part;
          }
        }
        tape.backward(total);
      }
      for (const auto& [key, expected] : read_all(c, "out", DType::f64)) {
        if (!out.contains(key)) {
          ADD_FAILURE() << "no output " << key;
          continue;
        }
        expect_near("output " + key, out.at(key), expected, tolerance(name));
      }
      for (const auto& [key, expected] : read_all(c, "grad", DType::f64))
        expect_near("gradient of " + key, tape.gradient(inputs.at(key)), expected, tolerance(name));
      ++cases;
    }
    return cases;
  }

  static void expect_near(const std::string& what, const Tensor& actual, const Tensor& expected, double tolerance) {
    ASSERT_EQ(actual.shape(), expected.shape()) << what;
    const std::vector<double> a = actual.to_vector(), e = expected.to_vector();
    double largest = 0;
    for (const double v : e) largest = std::max(largest, std::abs(v));
    // A tensor of zeros (or of rounding residues of zero) is compared absolutely.
    const double bound = tolerance * std::max(largest, 1e-3);
    for (std::size_t i = 0; i < a.size(); ++i)
      ASSERT_LE(std::abs(a[i] - e[i]), bound) << what << ", element " << i << ": " << a[i] << ", recorded " << e[i];
  }

  SafetensorsFile file_;
  Json index_;
};

constexpr int kCases = 80;

TEST_F(Golden, Agrees_with_recorded_values_in_f64) {
  EXPECT_EQ(check(DType::f64,
                  [](const std::string& name) {
                    // x - mean loses 1e4 / 1 of the digits; both sides round the mean in their own order.
                    return name == "layer_norm_offset" ? 1e-9 : 1e-10;
                  }),
            kCases);
}

TEST_F(Golden, Agrees_with_recorded_values_in_f32) {
  EXPECT_EQ(check(DType::f32,
                  [](const std::string& name) {
                    // Inputs around 1e4 are rounded to 5e-4, against a spread of 1.
                    if (name == "layer_norm_offset") return 5e-3;
                    // Logits around 300 are rounded to 1.5e-5, and exp() turns that into a relative error.
                    return name.ends_with("_large") ? 1e-4 : 1e-5;
                  }),
            kCases);
}

TEST_F(Golden, Has_every_case_once) {
  std::map<std::string, int> names;
  for (const Json& c : index_.at("cases")) EXPECT_EQ(++names[c.at("name").get<std::string>()], 1);
  EXPECT_EQ(names.size(), static_cast<std::size_t>(kCases));
}

}  // namespace
}  // namespace adjoint::testing
