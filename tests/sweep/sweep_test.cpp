// The tests that every op gets from its record. They iterate the registry and never name an op.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <regex>

#include "engine/launch.h"
#include "engine/module.h"
#include "engine/ops.h"
#include "engine/step.h"
#include "tests/support/op_check.h"

namespace adjoint::testing {
namespace {

class Sweep : public ::testing::TestWithParam<const OpRecord*> {
 protected:
  const OpRecord& record() const { return *GetParam(); }
};

std::string parameter_name(const ::testing::TestParamInfo<const OpRecord*>& info) { return test_name(*info.param); }

/// Largest |a - b|, and largest |b|; infinite if one is not a number where the other is.
std::pair<double, double> error(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector(), y = b.to_vector();
  double worst = 0, size = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i]) != std::isnan(y[i])) return {INFINITY, 0};
    if (x[i] == y[i] || std::isnan(x[i])) continue;
    worst = std::max(worst, std::abs(x[i] - y[i]));
    size = std::max(size, std::isinf(y[i]) ? 0 : std::abs(y[i]));
  }
  for (const double v : y)
    if (std::isfinite(v)) size = std::max(size, std::abs(v));
  return {worst, size};
}

double epsilon(DType dtype) { return dtype == DType::f64 ? 0x1p-52 : dtype == DType::f32 ? 0x1p-23 : 0x1p-7; }

/// A sample with a reference in place of the op, for its gradients.
OpSample reference_of(OpSample sample) {
  sample.run = sample.reference;
  return sample;
}

TEST_P(Sweep, Has_samples_and_bad_inputs) {
  const std::vector<OpSample> samples = samples_of(record());
  ASSERT_FALSE(samples.empty());
  for (const OpSample& sample : samples) {
    EXPECT_TRUE(sample.run && sample.reference) << sample.label;
    EXPECT_FALSE(sample.inputs.empty()) << sample.label;
  }
  EXPECT_TRUE(record().bad_inputs);
  if (record().differentiable) {
    EXPECT_TRUE(std::any_of(samples.begin(), samples.end(), [](const OpSample& s) { return s.check_gradient; }));
  }
}

TEST_P(Sweep, Equals_its_reference_in_f64) {
  for (const OpSample& sample : samples_of(record())) {
    const Tensors y = sample.run(sample.inputs), expected = sample.reference(sample.inputs);
    ASSERT_EQ(y.size(), expected.size()) << sample.label;
    for (std::size_t i = 0; i < y.size(); ++i) {
      ASSERT_EQ(text(y[i].shape()), text(expected[i].shape())) << sample.label;
      const auto [worst, size] = error(y[i], expected[i]);
      // Both sides round about once per operation; sums of up to a few hundred terms stay below this.
      EXPECT_LE(worst, 1e-12 * size + 1e-13) << record().name << " " << sample.label << " output " << i;
    }
  }
}

TEST_P(Sweep, Gradient_equals_finite_differences) {
  if (!record().differentiable) return;
  for (const OpSample& sample : samples_of(record())) {
    if (!sample.check_gradient) continue;
    EXPECT_EQ(check_gradient(sample, tape_gradients), "") << record().name << " " << sample.label;
  }
}

TEST_P(Sweep, Planted_faults_are_caught) {
  if (!record().differentiable) return;
  std::map<std::string, int> planted;
  for (const OpSample& sample : samples_of(record())) {
    if (!sample.check_gradient) continue;
    for (const int input : differentiable_inputs(sample)) {
      for (const Fault& fault : faults()) {
        if (!fault.applies(sample, input)) continue;
        EXPECT_NE(check_gradient(sample, fault.plant(tape_gradients, input)), "")
            << record().name << " " << sample.label << ": fault '" << fault.name << "' in input " << input
            << " not caught";
        ++planted[fault.name];
      }
    }
  }
  for (const char* must : {"all zeros", "scaled by 1.00001", "wrong sign", "stale buffer", "not a number"})
    EXPECT_GE(planted[must], 1) << must << " was never planted";
  for (const auto& [name, count] : planted) RecordProperty(name, count);
}

/// The op's own error in a dtype against f64 of the same (rounded) inputs, within twice (backward: three times) that of
/// the composite in that dtype, plus a few roundings for references that are exact up to their last one.
TEST_P(Sweep, Precision_is_that_of_its_reference) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const OpSample& sample : samples_of(record())) {
      const Tensors rounded = convert(sample.inputs, dtype), exact_inputs = convert(rounded, DType::f64);
      const Tensors exact = sample.reference(exact_inputs);
      const Tensors y = sample.run(rounded), composite = sample.reference(rounded);
      for (std::size_t i = 0; i < y.size(); ++i) {
        const auto [worst, size] = error(y[i], exact[i]);
        const double allowed = 2 * error(composite[i], exact[i]).first + 8 * epsilon(dtype) * size;
        EXPECT_LE(worst, allowed) << record().name << " " << sample.label << " output " << i << " in " << name(dtype);
      }
      if (!record().differentiable || !sample.check_gradient) continue;
      const Tensors v = random_cotangents(y, 11);
      Tensors v64;
      for (const Tensor& c : v) v64.push_back(c.defined() ? cast(c, DType::f64) : c);
      const Tensors g = tape_gradients(sample, rounded, v);
      const Tensors g_exact = tape_gradients(sample, exact_inputs, v64);
      const Tensors g_composite = tape_gradients(reference_of(sample), rounded, v);
      for (const int input : differentiable_inputs(sample)) {
        const std::size_t k = static_cast<std::size_t>(input);
        const auto [worst, size] = error(g[k], g_exact[k]);
        // A gradient that cancels is as exact as its terms, which are of the size of the incoming gradient.
        double incoming = 0;
        for (const Tensor& c : v64)
          if (c.defined())
            for (const double x : c.to_vector()) incoming = std::max(incoming, std::abs(x));
        const double allowed =
            3 * error(g_composite[k], g_exact[k]).first + 32 * epsilon(dtype) * std::max(size, incoming);
        EXPECT_LE(worst, allowed) << record().name << " " << sample.label << " gradient " << input << " in "
                                  << name(dtype);
      }
    }
  }
}

/// x with the same values in memory that is transposed, offset and has gaps.
Tensor scattered(const Tensor& x) {
  Tensor t = x;
  if (t.rank() == 0) {
    const Tensor pair = concat({reshape(t, {1}), reshape(t, {1})}, 0);
    return reshape(slice(pair, 0, 1, 2), {});
  }
  // Put the last axis first, with a margin on both sides of each axis, and look at it through the transposed view.
  t = contiguous(transpose(t, 0, -1));
  for (int axis = 0; axis < t.rank(); ++axis) {
    Shape margin = t.shape();
    margin[axis] = 1;
    const Tensor edge = Tensor::full(margin, 1e30, t.dtype());
    const std::int64_t n = t.extent(axis);
    t = slice(concat({edge, t, edge}, axis), axis, 1, n + 1);
  }
  return transpose(t, 0, -1);
}

TEST_P(Sweep, Layout_does_not_change_a_bit) {
  for (const OpSample& sample : samples_of(record())) {
    Tensors inputs = sample.inputs;
    for (Tensor& x : inputs)
      if (is_float(x.dtype())) x = scattered(x);
    const Tensors dense = sample.run(sample.inputs), strided = sample.run(inputs);
    for (std::size_t i = 0; i < dense.size(); ++i)
      EXPECT_EQ(difference_in_bits(dense[i], strided[i]), "") << record().name << " " << sample.label;
    if (!record().differentiable || !sample.check_gradient) continue;
    const Tensors v = random_cotangents(dense, 13);
    const Tensors g = tape_gradients(sample, sample.inputs, v), gs = tape_gradients(sample, inputs, v);
    for (const int input : differentiable_inputs(sample)) {
      const std::size_t k = static_cast<std::size_t>(input);
      EXPECT_EQ(difference_in_bits(g[k], gs[k]), "") << record().name << " " << sample.label << " gradient " << input;
    }
  }
}

/// The gradient of one tensor, of its own or a parameter's, that is both inputs, `a` and `b`.
Tensor gradient_of_both(const OpSample& sample, Tensors in, std::size_t a, std::size_t b, const Tensors& v,
                        bool is_parameter) {
  Parameter parameter(contiguous(in[a]));
  Tape tape;
  Tensor total, both;
  {
    const auto recording = tape.record();
    both = is_parameter ? parameter.value() : tape.watch(in[a]);
    in[a] = in[b] = both;
    const Tensors outputs = sample.run(in);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!v[i].defined() || outputs[i].slot().epoch != tape.epoch()) continue;
      const Tensor term = sum(mul(outputs[i], v[i]));
      total = total.defined() ? total + term : term;
    }
  }
  tape.backward(total);
  return is_parameter ? parameter.gradient() : tape.gradient(both);
}

TEST_P(Sweep, One_tensor_in_two_places_gets_the_sum) {
  if (!record().differentiable) return;
  for (const OpSample& sample : samples_of(record())) {
    if (!sample.check_gradient) continue;
    const std::vector<int> differentiable = differentiable_inputs(sample);
    for (const DType dtype : {DType::f64, DType::f32}) {  // which may be other kernels
      for (const int a : differentiable) {
        for (const int b : differentiable) {
          const std::size_t i = static_cast<std::size_t>(a), k = static_cast<std::size_t>(b);
          if (i >= k || sample.inputs[i].shape() != sample.inputs[k].shape()) continue;
          Tensors inputs = convert(sample.inputs, dtype);
          inputs[k] = inputs[i];
          const Tensors v = random_cotangents(sample.run(inputs), 19);
          const Tensors apart = tape_gradients(sample, inputs, v);
          // Of the terms: they may cancel. Only the last sum is another.
          const double size = std::max(error(apart[i], apart[i]).second, error(apart[k], apart[k]).second);
          for (const bool is_parameter : {false, true}) {
            const Tensor both = gradient_of_both(sample, inputs, i, k, v, is_parameter);
            EXPECT_LE(error(both, apart[i] + apart[k]).first, 8 * epsilon(dtype) * size)
                << record().name << " " << sample.label << " in " << name(dtype) << ", inputs " << a << " and " << b
                << (is_parameter ? ", a parameter" : "");
          }
        }
      }
    }
  }
}

/// A function of the sample's inputs that runs op and backward; inputs' gradients follow the outputs.
Tensors forward_and_backward(const OpSample& sample, std::span<const Tensor> inputs) {
  const Tensors in(inputs.begin(), inputs.end());
  Tensors results = sample.run(in);
  if (sample.check_gradient) {
    Tensors v;
    for (const Tensor& y : results) {
      v.push_back(is_float(y.dtype()) ? Tensor::full(y.shape(), 0.75, y.dtype()) : Tensor());
    }
    for (const Tensor& g : tape_gradients(sample, in, v))
      if (g.defined()) results.push_back(g);
  }
  return results;
}

TEST_P(Sweep, Replay_equals_the_plain_run) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    for (OpSample sample : samples_of(record())) {
      sample.check_gradient = sample.check_gradient && record().differentiable;
      const Tensors inputs = convert(sample.inputs, dtype);
      Step step([&](std::span<const Tensor> in) { return forward_and_backward(sample, in); });
      const Tensors plain = forward_and_backward(sample, inputs);
      step.verify(inputs);
      const Tensors replayed = step(inputs);
      ASSERT_EQ(plain.size(), replayed.size());
      for (std::size_t i = 0; i < plain.size(); ++i)
        EXPECT_EQ(difference_in_bits(plain[i], replayed[i]), "")
            << record().name << " " << sample.label << " result " << i;
      EXPECT_EQ(step.recordings(), 1u);
    }
  }
}

TEST_P(Sweep, Runs_and_threads_give_equal_bits) {
  const int before = threads();
  for (OpSample sample : samples_of(record())) {
    sample.check_gradient = sample.check_gradient && record().differentiable;
    const Tensors inputs = convert(sample.inputs, DType::f32);
    set_threads(1);
    const Tensors one = forward_and_backward(sample, inputs), again = forward_and_backward(sample, inputs);
    for (const int n : {2, 4}) {
      set_threads(n);
      const Tensors many = forward_and_backward(sample, inputs);
      for (std::size_t i = 0; i < one.size(); ++i) {
        EXPECT_EQ(difference_in_bits(one[i], again[i]), "") << record().name << " " << sample.label << " run twice";
        EXPECT_EQ(difference_in_bits(one[i], many[i]), "")
            << record().name << " " << sample.label << " " << n << " threads";
      }
    }
  }
  set_threads(before);
}

/// One parameter for each differentiable input.
struct Inputs : Module {
  explicit Inputs(const OpSample& sample, const Tensors& inputs) {
    for (const int i : differentiable_inputs(sample)) {
      parameters_.push_back(std::make_unique<Parameter>(contiguous(inputs[static_cast<std::size_t>(i)])));
      add("input" + std::to_string(i), *parameters_.back());
    }
  }
  std::vector<std::unique_ptr<Parameter>> parameters_;
};

TEST_P(Sweep, Accumulating_twice_is_exactly_double) {
  if (!record().differentiable) return;
  for (const OpSample& sample : samples_of(record())) {
    if (!sample.check_gradient || differentiable_inputs(sample).empty()) continue;
    Inputs model(sample, sample.inputs);
    Tape tape;
    const auto backward = [&] {
      Tensor total;
      {
        const auto recording = tape.record();
        Tensors in = sample.inputs;
        std::size_t k = 0;
        for (const int i : differentiable_inputs(sample))
          in[static_cast<std::size_t>(i)] = model.parameters_[k++]->value();
        const Tensors outputs = sample.run(in);
        const Tensors v = random_cotangents(outputs, 17);
        for (std::size_t i = 0; i < outputs.size(); ++i) {
          if (!v[i].defined() || outputs[i].slot().epoch != tape.epoch()) continue;
          const Tensor term = sum(mul(outputs[i], v[i]));
          total = total.defined() ? total + term : term;
        }
      }
      if (total.defined()) tape.backward(total);
    };
    backward();
    std::vector<std::vector<double>> once;
    for (const auto& p : model.parameters_) once.push_back(p->gradient().to_vector());
    backward();
    for (std::size_t k = 0; k < once.size(); ++k) {
      const std::vector<double> twice = model.parameters_[k]->gradient().to_vector();
      for (std::size_t i = 0; i < twice.size(); ++i)
        ASSERT_NEAR(twice[i], 2 * once[k][i], sample.doubles_exactly ? 0 : 1e-13)
            << record().name << " " << sample.label << " parameter " << k << " element " << i;
    }
  }
}

TEST_P(Sweep, Bad_inputs_throw_their_message) {
  const std::vector<BadInput> bad = record().bad_inputs();
  EXPECT_GE(bad.size(), record().name == "contiguous" || record().name == "cast" ? 1u : 3u);
  for (const BadInput& input : bad) {
    try {
      input.run();
      ADD_FAILURE() << record().name << ": '" << input.label << "' did not throw";
    } catch (const Error& e) {
      const std::string said = e.code() + ": " + e.what();
      EXPECT_TRUE(std::regex_search(said, std::regex(input.message)))
          << record().name << ": '" << input.label << "' said: " << said << "\nexpected: " << input.message;
      EXPECT_EQ(e.exit(), Exit::data);
      EXPECT_LE(said.size(), 400u);
      EXPECT_EQ(said.find('\n'), std::string::npos);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, Sweep, ::testing::ValuesIn(op_records()), parameter_name);

TEST(Registry, Lists_every_declared_pointwise_function_once) {
  std::map<std::string, int> seen;
  for (const OpRecord* record : op_records()) ++seen[record->name];
  for (const auto& [name, count] : seen) EXPECT_EQ(count, 1) << name;
#define ADJOINT_EXPECT(name, ...) EXPECT_EQ(seen.count(#name), 1u) << #name;
  ADJOINT_UNARY_FUNCTIONS(ADJOINT_EXPECT)
  ADJOINT_BINARY_FUNCTIONS(ADJOINT_EXPECT)
#undef ADJOINT_EXPECT
}

}  // namespace
}  // namespace adjoint::testing
