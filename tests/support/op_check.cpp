#include "tests/support/op_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "engine/ops.h"
#include "engine/tape.h"

namespace adjoint::testing {
namespace {

/// Where a build only watches memory, numbers change nothing in what it sees: each kernel once is enough.
bool is_watched() { return std::getenv("ADJOINT_TESTS_WATCH_MEMORY") != nullptr; }

/// Elements of a Jacobian that is checked one by one. The executor runs a kernel's threads one after another, so there
/// only small ones are; the directions are checked everywhere.
std::int64_t full_jacobian() { return default_device() == Device{} ? 200'000 : is_watched() ? 0 : 150; }
int directions() { return is_watched() ? 1 : 8; }
constexpr std::uint64_t kSeed = 20'240'601;

Tensor tensor_of(const std::vector<double>& values, const Tensor& like) {
  return Tensor::from(std::span<const double>(values), like.shape(), like.dtype());
}

/// All float outputs one after another, in f64.
std::vector<double> flat_outputs(const OpSample& sample, const Tensors& inputs) {
  std::vector<double> all;
  for (const Tensor& y : sample.run(inputs)) {
    if (!is_float(y.dtype())) continue;
    const std::vector<double> v = y.to_vector();
    all.insert(all.end(), v.begin(), v.end());
  }
  return all;
}

/// f at x + k h e, for the stencil.
class Perturbed {
 public:
  Perturbed(const OpSample& sample, int input)
      : sample_(sample),
        input_(static_cast<std::size_t>(input)),
        inputs_(sample.inputs),
        base_(sample.inputs[input_].to_vector()) {}

  const std::vector<double>& base() const { return base_; }

  /// (-f(x+2s) + 8 f(x+s) - 8 f(x-s) + f(x-2s)) / 12, for a displacement s of the whole input.
  std::vector<double> difference(const std::vector<double>& s) {
    std::vector<double> sum;
    for (const auto& [k, weight] : {std::pair{2.0, -1.0}, {1.0, 8.0}, {-1.0, -8.0}, {-2.0, 1.0}}) {
      std::vector<double> x = base_;
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += k * s[i];
      inputs_[input_] = tensor_of(x, sample_.inputs[input_]);
      const std::vector<double> y = flat_outputs(sample_, inputs_);
      sum.resize(y.size(), 0.0);
      for (std::size_t i = 0; i < y.size(); ++i) sum[i] += weight * y[i] / 12.0;
    }
    return sum;
  }

 private:
  const OpSample& sample_;
  std::size_t input_;
  Tensors inputs_;
  std::vector<double> base_;
};

/// Cotangents that are `value(i)` at position i of all outputs laid end to end.
template <class Value>
Tensors cotangents_of(const Tensors& outputs, Value value) {
  Tensors result;
  std::size_t at = 0;
  for (const Tensor& y : outputs) {
    if (!is_float(y.dtype())) {
      result.emplace_back();
      continue;
    }
    std::vector<double> v(static_cast<std::size_t>(y.count()));
    for (double& c : v) c = value(at++);
    result.push_back(tensor_of(v, y));
  }
  return result;
}

std::string check_full(const OpSample& sample, const GradientFunction& gradients, int input, const Tensors& outputs,
                       std::int64_t rows) {
  Perturbed f(sample, input);
  const std::size_t n = f.base().size(), m = static_cast<std::size_t>(rows);
  std::vector<double> numeric(n * m), analytic(n * m);
  for (std::size_t i = 0; i < n; ++i) {
    const double h = 1e-3 * std::max(1.0, std::abs(f.base()[i]));
    std::vector<double> s(n, 0.0);
    s[i] = h;
    const std::vector<double> d = f.difference(s);
    for (std::size_t o = 0; o < m; ++o) numeric[o * n + i] = d[o] / h;
  }
  for (std::size_t o = 0; o < m; ++o) {
    const Tensors g =
        gradients(sample, sample.inputs, cotangents_of(outputs, [&](std::size_t k) { return k == o ? 1.0 : 0.0; }));
    const std::vector<double> row = g[static_cast<std::size_t>(input)].to_vector();
    std::copy(row.begin(), row.end(), analytic.begin() + static_cast<std::ptrdiff_t>(o * n));
  }
  double largest = 0;
  for (const double v : numeric) largest = std::max(largest, std::abs(v));
  const double tolerance = 1e-8 * largest + 1e-10;
  for (std::size_t i = 0; i < n * m; ++i) {
    if (!(std::abs(numeric[i] - analytic[i]) <= tolerance)) {
      return fmt::format(
          "input {}, element {} of the gradient of output element {}: numeric {:.12g}, analytic {:.12g}, "
          "difference {:.3g} over tolerance {:.3g}",
          input, i % n, i / n, numeric[i], analytic[i], std::abs(numeric[i] - analytic[i]), tolerance);
    }
  }
  return "";
}

std::string check_directions(const OpSample& sample, const GradientFunction& gradients, int input,
                             const Tensors& outputs) {
  Perturbed f(sample, input);
  const std::size_t n = f.base().size();
  double scale = 1.0;
  for (const double x : f.base()) scale = std::max(scale, std::abs(x));
  Generator random(kSeed + 1);
  const std::vector<double> values = flat_outputs(sample, sample.inputs);
  for (int direction = 0; direction < directions(); ++direction) {
    const Tensors v = random_cotangents(outputs, kSeed + static_cast<std::uint64_t>(direction));
    std::vector<double> u = random.normal({static_cast<std::int64_t>(n)}, 0, 1, DType::f64).to_vector();
    const double h = 1e-3 / std::sqrt(static_cast<double>(std::max<std::size_t>(n, 1)));
    std::vector<double> s = u;
    for (double& x : s) x *= h;
    const std::vector<double> d = f.difference(s);
    double numeric = 0, analytic = 0, magnitude = 0, rounding = 0;
    std::size_t at = 0;
    for (const Tensor& c : v) {
      if (!c.defined()) continue;
      for (const double weight : c.to_vector()) {
        const double term = weight * d[at] / h;
        numeric += term;
        magnitude += std::abs(term);
        rounding += std::abs(weight * values[at++]) * 0x1p-52 / h;
      }
    }
    const std::vector<double> g = gradients(sample, sample.inputs, v)[static_cast<std::size_t>(input)].to_vector();
    for (std::size_t i = 0; i < n; ++i) analytic += g[i] * u[i];
    // Relative to the size of the terms: a sum that cancels has no small relative error.
    const double tolerance =
        1e-7 * std::max(magnitude / std::sqrt(static_cast<double>(std::max<std::size_t>(at, 1))), std::abs(numeric)) +
        rounding + 1e-10;
    if (!(std::abs(numeric - analytic) <= tolerance)) {
      return fmt::format(
          "input {}, direction {}: numeric {:.12g}, analytic {:.12g}, difference {:.3g} over tolerance {:.3g} "
          "(seed {})",
          input, direction, numeric, analytic, std::abs(numeric - analytic), tolerance, kSeed);
    }
  }
  return "";
}

GradientFunction changed(GradientFunction right, int input, std::function<void(std::vector<double>&)> change) {
  return [=](const OpSample& sample, const Tensors& inputs, const Tensors& cotangents) {
    Tensors g = right(sample, inputs, cotangents);
    Tensor& mine = g[static_cast<std::size_t>(input)];
    std::vector<double> v = mine.to_vector();
    change(v);
    mine = tensor_of(v, mine);
    return g;
  };
}

/// Largest absolute gradient of an input under random cotangents: where it is 0, several faults change nothing.
std::vector<double> some_gradient(const OpSample& sample, int input) {
  const Tensors outputs = sample.run(sample.inputs);
  return tape_gradients(sample, sample.inputs, random_cotangents(outputs, 5))[static_cast<std::size_t>(input)]
      .to_vector();
}

}  // namespace

std::string test_name(const OpRecord& record) { return record.name; }

std::vector<OpSample> samples_of(const OpRecord& record) {
  Generator random(kSeed);
  return record.samples(random);
}

std::vector<int> differentiable_inputs(const OpSample& sample) {
  if (!sample.differentiable.empty()) return sample.differentiable;
  std::vector<int> inputs;
  for (std::size_t i = 0; i < sample.inputs.size(); ++i)
    if (is_float(sample.inputs[i].dtype())) inputs.push_back(static_cast<int>(i));
  return inputs;
}

Tensors convert(const Tensors& inputs, DType dtype) {
  Tensors result;
  for (const Tensor& x : inputs) result.push_back(is_float(x.dtype()) ? cast(x, dtype) : x);
  return result;
}

Tensors tape_gradients(const OpSample& sample, const Tensors& inputs, const Tensors& cotangents) {
  Tape tape;
  Tensors leaves = inputs;
  Tensor total;
  {
    const auto recording = tape.record();
    for (const int i : differentiable_inputs(sample)) {
      Tensor& leaf = leaves[static_cast<std::size_t>(i)];
      leaf = tape.watch(leaf);
    }
    const Tensors outputs = sample.run(leaves);
    // <y, cotangent> summed over the outputs: its gradient with respect to each y is that y's cotangent.
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!cotangents[i].defined() || outputs[i].slot().epoch != tape.epoch()) continue;
      const Tensor term = sum(mul(outputs[i], cotangents[i]));
      total = total.defined() ? total + term : term;
    }
  }
  Tensors result(inputs.size());
  if (total.defined()) tape.backward(total);
  for (const int i : differentiable_inputs(sample)) {
    const std::size_t k = static_cast<std::size_t>(i);
    result[k] = total.defined() ? tape.gradient(leaves[k]) : Tensor::zeros(inputs[k].shape(), inputs[k].dtype());
  }
  return result;
}

Tensors random_cotangents(const Tensors& outputs, std::uint64_t seed) {
  Generator random(seed);
  Tensors result;
  for (const Tensor& y : outputs)
    result.push_back(is_float(y.dtype()) ? cast(random.normal(y.shape(), 0, 1, DType::f64), y.dtype()) : Tensor());
  return result;
}

std::string check_gradient(const OpSample& sample, const GradientFunction& gradients) {
  const Tensors outputs = sample.run(sample.inputs);
  std::int64_t rows = 0;
  for (const Tensor& y : outputs) rows += is_float(y.dtype()) ? y.count() : 0;
  for (const int input : differentiable_inputs(sample)) {
    const std::int64_t columns = sample.inputs[static_cast<std::size_t>(input)].count();
    std::string wrong = check_directions(sample, gradients, input, outputs);
    if (wrong.empty() && rows * columns <= full_jacobian()) wrong = check_full(sample, gradients, input, outputs, rows);
    if (!wrong.empty()) return wrong;
  }
  return "";
}

std::vector<Fault> faults() {
  // Gradients that cancel leave rounding errors, and changing those is no fault.
  const auto matters = [](double v) { return std::abs(v) > 1e-9; };
  const auto not_zero = [=](const OpSample& sample, int input) {
    const std::vector<double> g = some_gradient(sample, input);
    return std::any_of(g.begin(), g.end(), matters);
  };
  const auto last_not_zero = [=](const OpSample& sample, int input) {
    const std::vector<double> g = some_gradient(sample, input);
    return !g.empty() && matters(g.back());
  };
  const auto reversible = [=](const OpSample& sample, int input) {
    const std::vector<double> g = some_gradient(sample, input);
    for (std::size_t i = 0; i < g.size(); ++i)
      if (matters(g[i] - g[g.size() - 1 - i])) return true;
    return false;
  };
  const auto in_place = [](auto change) {
    return [change](GradientFunction right, int input) { return changed(std::move(right), input, change); };
  };
  // A backward that loses part of its incoming gradient: it sees only the first half of each output's.
  const auto half_cotangent = [](GradientFunction right, int) -> GradientFunction {
    return [right](const OpSample& sample, const Tensors& inputs, const Tensors& cotangents) {
      Tensors half;
      for (const Tensor& c : cotangents) {
        if (!c.defined()) {
          half.emplace_back();
          continue;
        }
        std::vector<double> v = c.to_vector();
        std::fill(v.begin() + static_cast<std::ptrdiff_t>((v.size() + 1) / 2), v.end(), 0.0);
        half.push_back(tensor_of(v, c));
      }
      return right(sample, inputs, half);
    };
  };
  const auto half_matters = [=](const OpSample& sample, int input) {
    const Tensors outputs = sample.run(sample.inputs);
    std::int64_t n = 0;
    for (const Tensor& y : outputs) n = std::max(n, y.count());
    Tensors c = random_cotangents(outputs, 5);
    for (Tensor& t : c) {
      if (!t.defined()) continue;
      std::vector<double> v = t.to_vector();
      std::fill(v.begin(), v.begin() + static_cast<std::ptrdiff_t>((v.size() + 1) / 2), 0.0);
      t = tensor_of(v, t);
    }
    const std::vector<double> g = tape_gradients(sample, sample.inputs, c)[static_cast<std::size_t>(input)].to_vector();
    return n > 1 && std::any_of(g.begin(), g.end(), matters);
  };
  return {
      {"all zeros", not_zero, in_place([](std::vector<double>& g) { std::fill(g.begin(), g.end(), 0.0); })},
      {"scaled by 1.00001", not_zero, in_place([](std::vector<double>& g) {
         for (double& v : g) v *= 1.00001;
       })},
      {"wrong sign", not_zero, in_place([](std::vector<double>& g) {
         for (double& v : g) v = -v;
       })},
      {"transposed index", reversible, in_place([](std::vector<double>& g) { std::reverse(g.begin(), g.end()); })},
      {"last element skipped", last_not_zero, in_place([](std::vector<double>& g) { g.back() = 0; })},
      {"stale buffer", [](const OpSample& s, int i) { return s.inputs[static_cast<std::size_t>(i)].count() > 0; },
       in_place([](std::vector<double>& g) {
         for (double& v : g) v += 0.125;
       })},
      {"not a number", [](const OpSample& s, int i) { return s.inputs[static_cast<std::size_t>(i)].count() > 0; },
       in_place([](std::vector<double>& g) { g[g.size() / 2] = std::nan(""); })},
      {"part of the incoming gradient dropped", half_matters, half_cotangent},
  };
}

std::string difference_in_bits(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape()) || a.dtype() != b.dtype()) {
    return fmt::format("{} {} and {} {}", name(a.dtype()), text(a.shape()), name(b.dtype()), text(b.shape()));
  }
  const std::vector<std::byte> p = a.to_bytes(), q = b.to_bytes();
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (p[i] != q[i]) {
      const std::size_t element = i / size_of(a.dtype());
      return fmt::format("element {}: {:.17g} and {:.17g}", element, a.to_vector()[element], b.to_vector()[element]);
    }
  }
  return "";
}

}  // namespace adjoint::testing
