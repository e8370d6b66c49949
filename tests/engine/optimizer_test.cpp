// Optimizers against plain formulas in double, the flat buffers they work on, and learning-rate schedules.

#include "engine/optim/optimizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "engine/module.h"
#include "engine/ops.h"
#include "engine/optim/schedule.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

using ::testing::ElementsAre;
using Vector = std::vector<double>;

/// Two parameters whose gradients the test sets.
class Model final : public Module {
 public:
  explicit Model(DType dtype = DType::f64) {
    a.set(vector_of({0.5, -1.25, 2.0}, dtype));
    b.set(vector_of({3.0, -0.75}, dtype));
    add("a", a);
    add("b", b);
  }
  Vector values() const {
    Vector all = a.value().to_vector();
    for (const double v : b.value().to_vector()) all.push_back(v);
    return all;
  }
  Parameter a, b;
};

/// Makes `g` the gradient: backward of its product with the parameters.
void set_gradient(Model& model, const Vector& g, DType dtype = DType::f64) {
  Tape tape;
  Tensor y;
  {
    const auto recording = tape.record();
    y = sum(model.a.value() * vector_of(Vector(g.begin(), g.begin() + 3), dtype)) +
        sum(model.b.value() * vector_of(Vector(g.begin() + 3, g.end()), dtype));
  }
  tape.backward(y);
}

/// Gradient number `step`, and one that depends on nothing else.
Vector gradient_of_step(int step) {
  Vector g(5);
  for (int i = 0; i < 5; ++i) g[static_cast<std::size_t>(i)] = std::sin(1.0 + 3.0 * step + 0.7 * i) * (i + 1);
  return g;
}

constexpr int kSteps = 5;
constexpr double kTolerance = 1e-14;  // a few roundings of double on values around 1

void expect_near(const Vector& actual, const Vector& expected, const char* what, int step) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i)
    EXPECT_NEAR(actual[i], expected[i], kTolerance * std::max(1.0, std::abs(expected[i])))
        << what << ", step " << step << ", element " << i;
}

TEST(Sgd, Follows_its_formula) {
  for (const SgdOptions& o : {SgdOptions{.learning_rate = 0.1}, SgdOptions{.learning_rate = 0.1, .weight_decay = 0.05},
                              SgdOptions{.learning_rate = 0.1, .momentum = 0.9},
                              SgdOptions{.learning_rate = 0.1, .momentum = 0.9, .weight_decay = 0.05},
                              SgdOptions{.learning_rate = 0.1, .momentum = 0.9, .weight_decay = 0.05, .nesterov = true},
                              SgdOptions{.learning_rate = 0.1, .momentum = 0.8, .nesterov = true}}) {
    Model model;
    ParameterSet parameters(model);
    Sgd sgd(parameters, o);
    Vector p = model.values(), v(5, 0.0);
    for (int step = 1; step <= kSteps; ++step) {
      const Vector g = gradient_of_step(step);
      set_gradient(model, g);
      sgd.step();
      for (std::size_t i = 0; i < 5; ++i) {
        const double decayed = g[i] + o.weight_decay * p[i];
        v[i] = o.momentum * v[i] + decayed;
        p[i] -= o.learning_rate * (o.nesterov ? decayed + o.momentum * v[i] : v[i]);
      }
      expect_near(model.values(), p, "sgd", step);
    }
  }
}

TEST(Adam, Follows_its_formula) {
  for (const bool decoupled : {true, false}) {
    for (const double decay : {0.0, 0.1}) {
      const AdamOptions o{.learning_rate = 0.05,
                          .beta1 = 0.8,
                          .beta2 = 0.95,
                          .eps = 1e-3,
                          .weight_decay = decay,
                          .decoupled = decoupled};
      Model model;
      ParameterSet parameters(model);
      Adam adam(parameters, o);
      Vector p = model.values(), m(5, 0.0), v(5, 0.0);
      for (int step = 1; step <= kSteps; ++step) {
        Vector g = gradient_of_step(step);
        set_gradient(model, g);
        adam.step();
        for (std::size_t i = 0; i < 5; ++i) {
          if (!decoupled) g[i] += decay * p[i];
          if (decoupled) p[i] -= o.learning_rate * decay * p[i];
          m[i] = o.beta1 * m[i] + (1 - o.beta1) * g[i];
          v[i] = o.beta2 * v[i] + (1 - o.beta2) * g[i] * g[i];
          const double m_hat = m[i] / (1 - std::pow(o.beta1, step)), v_hat = v[i] / (1 - std::pow(o.beta2, step));
          p[i] -= o.learning_rate * m_hat / (std::sqrt(v_hat) + o.eps);
        }
        expect_near(model.values(), p, decoupled ? "AdamW" : "Adam", step);
      }
    }
  }
}

TEST(Adam, Keeps_f32_parameters_within_f32_of_the_formula) {
  Model exact, rounded(DType::f32);
  ParameterSet exact_parameters(exact), rounded_parameters(rounded);
  Adam a(exact_parameters, {}), b(rounded_parameters, {});
  for (int step = 1; step <= kSteps; ++step) {
    set_gradient(exact, gradient_of_step(step));
    set_gradient(rounded, gradient_of_step(step), DType::f32);
    a.step();
    b.step();
  }
  const Vector x = exact.values(), y = rounded.values();
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i], x[i], 5 * kSteps * 0x1p-24 * std::abs(x[i]));
}

TEST(Optimizer, Takes_a_changed_learning_rate_at_the_next_step) {
  Model model;
  ParameterSet parameters(model);
  Sgd sgd(parameters, {.learning_rate = 1.0});
  set_gradient(model, {1, 1, 1, 1, 1});
  sgd.step();
  sgd.set_learning_rate(0.25);
  EXPECT_EQ(sgd.learning_rate(), 0.25);
  set_gradient(model, {1, 1, 1, 1, 1});
  sgd.step();
  EXPECT_THAT(model.values(), ElementsAre(-0.75, -2.5, 0.75, 1.75, -2.0));
}

TEST(Optimizer, Clips_by_the_norm_of_all_gradients) {
  const Vector g = {3, 0, 4, 0, 12};  // norm 13
  for (const double limit : {6.5, 100.0}) {
    Model model;
    ParameterSet parameters(model);
    Sgd sgd(parameters, {.learning_rate = 1.0, .max_norm = limit});
    Vector p = model.values();
    set_gradient(model, g);
    sgd.step();
    EXPECT_NEAR(sgd.gradient_norm().item(), 13.0, 1e-14);
    const double factor = std::min(1.0, limit / (13.0 + 1e-6));
    for (std::size_t i = 0; i < 5; ++i) p[i] -= factor * g[i];
    expect_near(model.values(), p, "clipped", 1);
    set_gradient(model, {0, 0, 0, 0, 0});
    sgd.step();
    EXPECT_EQ(sgd.gradient_norm().item(), 0.0);
    expect_near(model.values(), p, "no gradient", 2);
  }
  Model model;
  ParameterSet parameters(model);
  EXPECT_FALSE(Sgd(parameters, {}).gradient_norm().defined()) << "no limit, no norm";
}

TEST(Optimizer, Shows_a_norm_that_is_not_finite) {
  for (const double bad : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    Model model;
    ParameterSet parameters(model);
    Sgd sgd(parameters, {.learning_rate = 1.0, .max_norm = 1.0});
    set_gradient(model, {1, bad, 1, 1, 1});
    sgd.step();
    EXPECT_FALSE(std::isfinite(sgd.gradient_norm().item()));
    for (const double v : model.values()) EXPECT_TRUE(std::isnan(v)) << "a clipped infinity would hide";
  }
}

TEST(Optimizer, Names_everything_that_a_step_changes) {
  Model model;
  ParameterSet parameters(model);
  const auto names = [](const Optimizer& optimizer) {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : optimizer.state()) names.push_back(name);
    return names;
  };
  EXPECT_THAT(names(Sgd(parameters, {})), ::testing::UnorderedElementsAre("step", "learning_rate", "values"));
  EXPECT_THAT(names(Adam(parameters, {.max_norm = 1})),
              ::testing::UnorderedElementsAre("first_moment", "second_moment", "step", "learning_rate", "values",
                                              "gradient_norm", "clip_factor"));
  EXPECT_THAT(names(Sgd(parameters, {.momentum = 0.5})),
              ::testing::UnorderedElementsAre("velocity", "step", "learning_rate", "values"));
}

TEST(Optimizer, Resumes_from_its_state) {
  Model a, b;
  ParameterSet pa(a), pb(b);
  Adam original(pa, {}), resumed(pb, {.learning_rate = 0.5});
  for (int step = 1; step <= 3; ++step) {
    set_gradient(a, gradient_of_step(step));
    original.step();
  }
  const auto from = original.state();
  auto to = resumed.state();
  ASSERT_EQ(from.size(), to.size());
  for (std::size_t i = 0; i < from.size(); ++i) to[i].second.copy_from(from[i].second);
  for (Model* model : {&a, &b}) set_gradient(*model, gradient_of_step(4));
  original.step();
  resumed.step();
  EXPECT_EQ(bits(pa.values()), bits(pb.values()));
}

TEST(WeightAverage, Follows_its_formula_and_changes_places_with_the_parameters) {
  for (const double decay : {0.0, 0.3, 0.999}) {
    Model model;
    ParameterSet parameters(model);
    Sgd sgd(parameters, {.learning_rate = 0.1});
    WeightAverage average(parameters, decay);
    Vector expected = model.values();
    for (int step = 1; step <= kSteps; ++step) {
      set_gradient(model, gradient_of_step(step));
      sgd.step();
      average.update();
      const Vector p = model.values();
      const double d = std::min(decay, (1.0 + step) / (10.0 + step));
      for (std::size_t i = 0; i < p.size(); ++i) expected[i] += (1 - d) * (p[i] - expected[i]);
      average.swap();
      expect_near(model.values(), expected, "average", step);
      average.swap();
      EXPECT_EQ(model.values(), p);
    }
  }
  Model model;
  ParameterSet parameters(model);
  expect_error([&] { WeightAverage(parameters, 1.0); }, "E-CONF-003", "average.*1.*\\[0, 1\\)", Exit::usage);
}

TEST(Optimizer, Refuses_options_out_of_range) {
  Model model;
  ParameterSet p(model);
  const auto refuses = [](const std::function<void()>& make, const char* pattern) {
    expect_error(make, "E-CONF-003", pattern, Exit::usage);
  };
  refuses([&] { Sgd(p, {.learning_rate = -0.1}); }, "^learning rate: -0\\.1 is out of range; expected a number >= 0");
  refuses([&] { Sgd(p, {.momentum = 1}); }, "^momentum: 1 .*\\[0, 1\\)");
  refuses([&] { Sgd(p, {.weight_decay = -1}); }, "^weight decay: -1 ");
  refuses([&] { Sgd(p, {.max_norm = -1}); }, "^clip: -1 ");
  refuses([&] { Adam(p, {.beta1 = 1}); }, "^beta1: 1 ");
  refuses([&] { Adam(p, {.beta2 = -0.5}); }, "^beta2: -0\\.5 ");
  refuses([&] { Adam(p, {.eps = -1}); }, "^eps: -1 ");
  refuses([&] { Adam(p, {.learning_rate = std::nan("")}); }, "^learning rate: nan ");
}

// ---- Flat buffers ----

class Layout final : public Module {
 public:
  Layout() {
    frozen.set_trainable(false);
    add("a", a);
    add("frozen", frozen);
    add("b", b);
    add("c", c);
  }
  Parameter a{vector_of({1, 2, 3}, DType::f32)}, frozen{vector_of({7, 7}, DType::f32)}, b{Tensor::full({17}, 5)},
      c{tensor({9}, {}, DType::f32)};
};

TEST(ParameterSet, Lays_parameters_out_in_slices_of_64_bytes) {
  Layout model;
  const std::vector<double> before = model.b.value().to_vector();
  ParameterSet set(model);
  EXPECT_EQ(set.count(), 3 + 17 + 1);
  EXPECT_EQ(set.values().count(), 16 + 32 + 16);
  EXPECT_EQ(set.gradients().count(), set.values().count());
  const auto* flat = set.values().data_as<float>();
  EXPECT_EQ(model.a.value().data(), flat);
  EXPECT_EQ(model.b.value().data(), flat + 16);
  EXPECT_EQ(model.c.value().data(), flat + 48);
  EXPECT_EQ(model.b.gradient().data(), set.gradients().data_as<float>() + 16);
  EXPECT_EQ(model.b.value().to_vector(), before);
  EXPECT_EQ(model.frozen.value().to_vector(), (std::vector<double>{7, 7}));
  EXPECT_NE(model.frozen.value().storage().get(), set.values().storage().get());
}

TEST(ParameterSet, Leaves_out_frozen_parameters_that_the_model_lists) {
  Layout model;
  ParameterSet set(model);
  std::vector<std::string> all, trained;
  for (const NamedParameter& p : model.parameters()) all.push_back(p.name);
  for (const NamedParameter& p : set.parameters()) trained.push_back(p.name);
  EXPECT_THAT(all, ElementsAre("a", "frozen", "b", "c"));
  EXPECT_THAT(trained, ElementsAre("a", "b", "c"));
  EXPECT_EQ(model.parameter_count(), 3 + 2 + 17 + 1);
}

TEST(ParameterSet, Keeps_its_gaps_zero) {
  Layout model;
  ParameterSet set(model);
  Adam adam(set, {.learning_rate = 0.1, .weight_decay = 0.1, .max_norm = 0.5});
  for (int step = 0; step < 3; ++step) {
    Tape tape;
    Tensor y;
    {
      const auto recording = tape.record();
      y = sum(exp(model.a.value())) + sum(exp(model.b.value())) + exp(model.c.value());
    }
    tape.backward(y);
    adam.step();
  }
  const Vector values = set.values().to_vector(), gradients = set.gradients().to_vector();
  for (std::size_t i = 0; i < values.size(); ++i) {
    const bool used = i < 3 || (i >= 16 && i < 33) || i == 48;
    if (used) {
      EXPECT_NE(values[i], 0.0) << i;
    } else {
      EXPECT_EQ(values[i], 0.0) << i;
      EXPECT_EQ(gradients[i], 0.0) << i;
    }
  }
}

class Refused final : public Module {
 public:
  Refused() {
    add("a", a);
    add("b", b);
  }
  Parameter a{vector_of({1}, DType::f32)}, b{vector_of({1}, DType::f64)};
};

TEST(ParameterSet, Refuses_mixed_types_and_nothing_to_train) {
  Refused model;
  expect_error([&] { ParameterSet set(model); }, "E-OP-006", "'b' is f64 on cpu but 'a' is f32 on cpu");
  model.a.set_trainable(false);
  EXPECT_NO_THROW(ParameterSet set(model));
  model.b.set_trainable(false);
  expect_error([&] { ParameterSet set(model); }, "E-CONF-006", "no trainable parameter", Exit::usage);
}

// ---- Schedules ----

TEST(Schedule, Warms_up_in_equal_steps) {
  for (const Schedule kind : {Schedule::constant, Schedule::linear, Schedule::cosine}) {
    const ScheduleOptions o{.kind = kind, .rate = 0.8, .warmup = 4, .total_steps = 14};
    for (std::int64_t step = 1; step <= 4; ++step)
      EXPECT_DOUBLE_EQ(scheduled_rate(o, step), 0.2 * static_cast<double>(step));
    EXPECT_DOUBLE_EQ(scheduled_rate(o, 5), 0.8) << "the first step after the warm-up has the full rate";
  }
}

TEST(Schedule, Falls_as_it_says) {
  const auto rate = [](Schedule kind, std::int64_t step) {
    return scheduled_rate({.kind = kind, .rate = 0.8, .warmup = 4, .total_steps = 14}, step);
  };
  EXPECT_DOUBLE_EQ(rate(Schedule::constant, 1000), 0.8);
  EXPECT_DOUBLE_EQ(rate(Schedule::linear, 10), 0.4);
  EXPECT_DOUBLE_EQ(rate(Schedule::linear, 14), 0.08);
  EXPECT_DOUBLE_EQ(rate(Schedule::linear, 15), 0.0);
  EXPECT_DOUBLE_EQ(rate(Schedule::linear, 1000), 0.0);
  EXPECT_DOUBLE_EQ(rate(Schedule::cosine, 10), 0.4);
  EXPECT_DOUBLE_EQ(rate(Schedule::cosine, 8), 0.4 * (1 + std::cos(0.3 * std::numbers::pi)));
  EXPECT_NEAR(rate(Schedule::cosine, 15), 0.0, 1e-16);
  EXPECT_DOUBLE_EQ(scheduled_rate({.rate = 0.3}, 1), 0.3) << "no warm-up";
}

}  // namespace
}  // namespace adjoint::testing
