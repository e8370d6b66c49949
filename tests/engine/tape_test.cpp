// Recording, running back, and what goes wrong with either.

#include "engine/tape.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <thread>

#include "engine/module.h"
#include "engine/ops.h"
#include "engine/optim/optimizer.h"
#include "models/layers.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

using ::testing::ElementsAre;

/// Runs f on a thread with a stack of 1 MiB.
template <class F>
void on_small_stack(F f) {
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 1 << 20), 0);
  const auto enter = [](void* context) -> void* {
    (*static_cast<F*>(context))();
    return nullptr;
  };
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, enter, &f), 0);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
}

constexpr int kChain = 1'000'000;

/// x times 3, by a million nodes: factors 6, 1/2, 2, 1/2, 2, … are exact.
Tensor long_chain(Tensor x) {
  for (int i = 0; i < kChain; ++i) x = scale_shift(x, i == 0 ? 6.0 : i % 2 == 0 ? 2.0 : 0.5, 0.0);
  return x;
}

TEST(Tape, Runs_a_million_nodes_back_and_frees_them_on_a_stack_of_1_MiB) {
  std::size_t nodes = 0;
  double gradient = 0, value = 0;
  on_small_stack([&] {
    Tape tape;
    Tensor x, y;
    {
      const auto recording = tape.record();
      x = tape.watch(vector_of({1.5}));
      y = long_chain(x);
    }
    tape.backward(y, true);  // retained: the tape frees all nodes at its end
    nodes = tape.nodes();
    gradient = tape.gradient(x).item();
    value = y.item();
  });
  EXPECT_EQ(nodes, static_cast<std::size_t>(kChain));
  EXPECT_EQ(gradient, 3.0);
  EXPECT_EQ(value, 4.5);
}

TEST(Tape, Frees_nodes_that_keep_their_results_on_a_stack_of_1_MiB) {
  constexpr std::size_t kNodes = 100'000;
  const std::uint64_t live = Allocator::of({}).statistics().live;
  std::size_t nodes = 0;
  std::uint64_t kept = 0;
  on_small_stack([&] {
    Tape tape;
    const auto recording = tape.record();
    Tensor x = tape.watch(vector_of({1.0}));
    for (std::size_t i = 0; i < kNodes; ++i) x = tanh(x);
    nodes = tape.nodes();
    kept = Allocator::of({}).statistics().live - live;
  });
  EXPECT_EQ(nodes, kNodes);
  EXPECT_GE(kept, kNodes);
  EXPECT_EQ(Allocator::of({}).statistics().live, live);
}

TEST(Tape, Goes_back_once_unless_the_graph_is_retained) {
  Tape tape;
  Tensor x, y;
  {
    const auto recording = tape.record();
    x = tape.watch(vector_of({1, -2, 3}));
    y = sum(x * x * x);
  }
  tape.backward(y, true);
  const Tensor first = tape.gradient(x);
  EXPECT_THAT(first.to_vector(), ElementsAre(3, 12, 27));
  tape.backward(y, true);
  EXPECT_THAT(tape.gradient(x).to_vector(), ElementsAre(3, 12, 27)) << "a second run assigns, it does not add";
  tape.backward(y, Tensor::scalar(2.0, DType::f64));
  EXPECT_THAT(tape.gradient(x).to_vector(), ElementsAre(6, 24, 54));
  EXPECT_THAT(first.to_vector(), ElementsAre(3, 12, 27)) << "an earlier gradient keeps its values";
  expect_error([&] { tape.backward(y); }, "E-GRAD-001", "graph.*already freed.*retain");
}

TEST(Tape, Passes_a_gradient_on_to_one_input_alone) {
  Tape tape;
  Tensor a, b, twice, y;
  {
    const auto recording = tape.record();
    a = tape.watch(vector_of({1, 2}));
    b = tape.watch(vector_of({3, 4}));
    const Tensor sum_of_both = reshape(a + b, {2, 1});  // both gradients are dy
    twice = sum_of_both + sum_of_both;                  // one input in two places
    y = sum(tanh(a) + (reshape(twice, {2}) + a) * 3.0);
  }
  for (const bool retain : {true, false}) {
    tape.backward(y, retain);
    const Tensor da = tape.gradient(a), db = tape.gradient(b);
    EXPECT_NE(da.data(), db.data()) << "two leaves never share their gradients' memory";
    const auto slope = [](double x) { return 1 - std::tanh(x) * std::tanh(x) + 9; };
    EXPECT_THAT(da.to_vector(),
                ElementsAre(::testing::DoubleNear(slope(1), 1e-14), ::testing::DoubleNear(slope(2), 1e-14)));
    EXPECT_THAT(db.to_vector(), ElementsAre(6, 6));
  }
}

TEST(Tape, Leaves_the_gradient_it_starts_from_as_it_is) {
  Tape tape;
  Tensor a, y;
  const Tensor dy = vector_of({1, 2});
  {
    const auto recording = tape.record();
    a = tape.watch(vector_of({1, 2}));
    y = tanh(a + vector_of({1, 1}));  // its gradient is formed in place, and passed on
  }
  tape.backward(y, dy);
  EXPECT_THAT(dy.to_vector(), ElementsAre(1, 2));
  EXPECT_NE(tape.gradient(a).data(), dy.data());
}

TEST(Tape, Has_no_second_derivatives_and_says_so) {
  Tape tape, other;
  Tensor y;
  {
    const auto recording = tape.record();
    const Tensor x = tape.watch(vector_of({1, 2}));
    y = sum(x * x);
    expect_error([&] { tape.backward(y); }, "E-GRAD-002", "tape is recording.*no second derivative");
  }
  {
    const auto recording = other.record();
    expect_error([&] { tape.backward(y); }, "E-GRAD-002", "tape is recording.*no second derivative");
  }
  tape.backward(y);
}

TEST(Tape, Notices_that_a_saved_tensor_was_overwritten) {
  Tape tape;
  Tensor x, e, y;
  {
    const auto recording = tape.record();
    x = tape.watch(vector_of({0, 1}));
    e = exp(x);
    y = sum(2.0 * e);
  }
  e.write(std::span<const double>(std::vector<double>{5, 6}));
  expect_error([&] { tape.backward(y); }, "E-GRAD-003", "^exp: .*\\[2\\].*modified.*version 1.*expected 0");
  expect_error([&] { tape.backward(y); }, "E-GRAD-001", "already freed");  // half of the nodes are gone
}

TEST(Tape, Can_be_told_to_keep_the_graph_of_a_failed_backward) {
  Tape tape;
  Tensor x, e, y;
  {
    const auto recording = tape.record();
    x = tape.watch(vector_of({0, 1}));
    e = exp(x);
    y = sum(tanh(e));
  }
  e.copy_from(vector_of({5, 6}));
  for (int i = 0; i < 2; ++i) expect_error([&] { tape.backward(y, true); }, "E-GRAD-003", "^exp: ");
}

TEST(Tape, Takes_the_gradient_of_one_element_on_the_tape_only) {
  Tape tape;
  Tensor x, y, constant = vector_of({1});
  {
    const auto recording = tape.record();
    x = tape.watch(vector_of({1, 2}));
    y = x * x;
  }
  expect_error([&] { tape.backward(y); }, "E-GRAD-004", "shape \\[2\\] has 2 elements; expected one");
  expect_error([&] { tape.backward(constant); }, "E-GRAD-004", "not recorded on this tape");
  expect_error([&] { tape.backward(y, vector_of({1, 2, 3})); }, "E-GRAD-004", "f64 \\[3\\] for a tensor f64 \\[2\\]");
  expect_error([&] { tape.backward(y, vector_of({1, 2}, DType::f32)); }, "E-GRAD-004", "f32 \\[2\\] for.*f64");
  expect_error([&] { Tape().backward(sum(y)); }, "E-GRAD-004", "not recorded on this tape");
  expect_error([&] { (void)tape.gradient(y); }, "E-GRAD-004", "not watched by this tape");
  expect_error([&] { (void)tape.gradient(constant); }, "E-GRAD-004", "not watched by this tape");
  tape.backward(y, vector_of({1, 10}));
  EXPECT_THAT(tape.gradient(x).to_vector(), ElementsAre(2, 40));
}

TEST(Tape, Records_alone_on_its_thread) {
  Tape tape, other;
  {
    const auto recording = tape.record();
    expect_error([&] { (void)other.record(); }, "E-GRAD-005", "records on this thread already");
    expect_error([&] { (void)tape.record(); }, "E-GRAD-005", "records on this thread already");
    expect_error([&] { (void)other.watch(vector_of({1})); }, "E-GRAD-005", "watch: the tape does not record");
    expect_error([&] { (void)tape.watch(ints({1}, {1})); }, "E-OP-006", "watch: dtype i32 has no gradient");
    EXPECT_EQ(Tape::active(), &tape);
  }
  EXPECT_EQ(Tape::active(), nullptr);
  expect_error([&] { (void)tape.watch(vector_of({1})); }, "E-GRAD-005", "watch: the tape does not record");
}

TEST(Tape, Gives_constants_no_nodes) {
  Parameter frozen(vector_of({1, 2}));
  frozen.set_trainable(false);
  Tape tape;
  const auto recording = tape.record();
  const Tensor a = vector_of({1, 2});
  const Tensor y = sum(exp(a * a + frozen));
  EXPECT_EQ(tape.nodes(), 0u);
  EXPECT_EQ(y.slot().epoch, 0u);
  const Tensor x = tape.watch(a);
  EXPECT_EQ(tape.nodes(), 0u);
  (void)(x * a);
  EXPECT_EQ(tape.nodes(), 1u);
  (void)(x.detached() * a);
  EXPECT_EQ(tape.nodes(), 1u);
}

TEST(Tape, Gives_a_watched_tensor_that_was_not_used_a_gradient_of_zero) {
  Tape tape;
  Tensor x, unused, y;
  {
    const auto recording = tape.record();
    x = tape.watch(vector_of({1, 2}));
    unused = tape.watch(vector_of({1, 2, 3}));
    y = sum(x);
  }
  tape.backward(y);
  EXPECT_THAT(tape.gradient(unused).to_vector(), ElementsAre(0, 0, 0));
}

TEST(Tape, Treats_tensors_of_an_earlier_recording_as_constants) {
  Tape tape;
  Tensor old_x, old_y;
  {
    const auto recording = tape.record();
    old_x = tape.watch(vector_of({2}));
    old_y = old_x * old_x;
  }
  Tensor x, y;
  {
    const auto recording = tape.record();
    EXPECT_EQ(tape.nodes(), 0u);
    (void)(old_y * old_x);
    EXPECT_EQ(tape.nodes(), 0u);
    x = tape.watch(vector_of({3}));
    y = x * old_y;
  }
  expect_error([&] { tape.backward(old_y); }, "E-GRAD-004", "not recorded on this tape");
  tape.backward(y);
  EXPECT_THAT(tape.gradient(x).to_vector(), ElementsAre(4));
  expect_error([&] { (void)tape.gradient(old_x); }, "E-GRAD-004", "not watched by this tape");
}

TEST(Tape, Does_not_see_what_another_tape_recorded) {
  Tape a, b;
  Tensor xa, ya, xb, yb;
  {
    const auto recording = a.record();
    xa = a.watch(vector_of({2}));
    ya = xa * xa;
  }
  {
    const auto recording = b.record();
    (void)(ya * xa);
    EXPECT_EQ(b.nodes(), 0u);
    xb = b.watch(vector_of({5}));
    yb = xb * ya;
  }
  a.backward(ya);  // still there after b recorded
  b.backward(yb);
  EXPECT_THAT(a.gradient(xa).to_vector(), ElementsAre(4));
  EXPECT_THAT(b.gradient(xb).to_vector(), ElementsAre(4));
}

TEST(Tape, Records_on_several_threads_at_once) {
  std::vector<double> gradients(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < gradients.size(); ++t) {
    threads.emplace_back([&gradients, t] {
      Tape tape;
      for (int repeat = 0; repeat < 50; ++repeat) {
        Tensor x, y;
        {
          const auto recording = tape.record();
          x = tape.watch(vector_of({static_cast<double>(t + 1)}));
          y = x;
          for (int i = 0; i < 20; ++i) y = y + x;
        }
        tape.backward(y);
        gradients[t] = tape.gradient(x).item() * static_cast<double>(t + 1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(gradients, ElementsAre(21, 42, 63, 84));
}

// ---- Parameters ----

void add_gradient_of_square(Parameter& p, double factor) {
  Tape tape;
  Tensor y;
  {
    const auto recording = tape.record();
    const Tensor x = p;
    y = sum(factor * (x * x));
  }
  tape.backward(y);
}

TEST(Parameter, Gathers_gradients_until_they_are_cleared) {
  Parameter p(vector_of({1, 2}));
  EXPECT_THAT(p.gradient().to_vector(), ElementsAre(0, 0)) << "before any backward";
  add_gradient_of_square(p, 1);
  EXPECT_THAT(p.gradient().to_vector(), ElementsAre(2, 4));
  add_gradient_of_square(p, 10);
  EXPECT_THAT(p.gradient().to_vector(), ElementsAre(22, 44));
  p.clear_gradient();
  add_gradient_of_square(p, 1);
  EXPECT_THAT(p.gradient().to_vector(), ElementsAre(2, 4));
  p.clear_gradient();
  EXPECT_THAT(p.gradient().to_vector(), ElementsAre(0, 0));
}

TEST(Parameter, Adds_up_its_uses_in_one_recording) {
  Parameter p(vector_of({3}));
  Tape tape;
  Tensor y;
  {
    const auto recording = tape.record();
    y = p.value() * p.value() + p.value();
  }
  tape.backward(y);
  EXPECT_THAT(p.gradient().to_vector(), ElementsAre(7));
}

class Pair final : public Module {
 public:
  Pair() {
    add("a", a);
    add("b", b);
  }
  Parameter a{vector_of({1, 1})};
  Parameter b{vector_of({1, 1, 1})};
};

TEST(Parameter, Left_out_of_a_step_has_a_gradient_of_zero) {
  Pair model;
  ParameterSet parameters(model);
  Sgd sgd(parameters, {.learning_rate = 1.0});
  add_gradient_of_square(model.a, 1);
  add_gradient_of_square(model.b, 1);
  sgd.step();
  EXPECT_THAT(model.b.value().to_vector(), ElementsAre(-1, -1, -1));
  add_gradient_of_square(model.a, 1);
  sgd.step();
  EXPECT_THAT(model.a.value().to_vector(), ElementsAre(1, 1));
  EXPECT_THAT(model.b.value().to_vector(), ElementsAre(-1, -1, -1)) << "the gradient of the step before came back";
  EXPECT_THAT(model.a.gradient().to_vector(), ElementsAre(0, 0)) << "step() clears";
  EXPECT_THAT(model.b.gradient().to_vector(), ElementsAre(0, 0, 0));
}

TEST(Parameter, Changed_between_forward_and_backward_is_noticed) {
  Pair model;
  ParameterSet parameters(model);
  Sgd sgd(parameters, {.learning_rate = 1.0});
  Tape tape;
  Tensor y;
  {
    const auto recording = tape.record();
    y = sum(model.a.value() * model.a.value());
  }
  sgd.step();
  expect_error([&] { tape.backward(y); }, "E-GRAD-003", "^mul: .*modified.*version");
}

TEST(Embedding, Keeps_the_gradient_of_its_padding_row_zero) {
  Generator random(3);
  Embedding table({random, DType::f64}, 4, 2, 1);
  const auto at = [&](std::int64_t row) { return slice(table.weight().value(), 0, row, row + 1).to_vector(); };
  EXPECT_THAT(at(1), ElementsAre(0, 0));
  Tape tape;
  Tensor y;
  {
    const auto recording = tape.record();
    y = sum(table.forward(ints({1, 2, 1, 0, 2, 1}, {2, 3})));
  }
  tape.backward(y);
  EXPECT_THAT(table.weight().gradient().to_vector(), ElementsAre(1, 1, 0, 0, 2, 2, 0, 0));
}

// ---- Where an error happened ----

class Inner final : public Module {
 public:
  explicit Inner(const Initializer& init) : b(init, 3, 2) { add("b", b); }
  Tensor forward(const Tensor& x) const {
    const auto name = scope();
    return b.forward(x);
  }
  Linear b;
};
class Outer final : public Module {
 public:
  explicit Outer(const Initializer& init) : a(init) { add("a", a); }
  Tensor forward(const Tensor& x) const {
    const auto name = scope();
    return a.forward(x);
  }
  Inner a;
};

TEST(Module, Names_the_layer_in_which_an_op_failed) {
  Generator random(1);
  Outer model({random, DType::f64});
  expect_error(
      [&] {
        (void)model.forward(Tensor::zeros({2, 4}, DType::f64));
      },
      "E-OP-001", "\\[2,4\\].*; in layer 'a\\.b'$");
  try {
    (void)linear(Tensor::zeros({2, 4}, DType::f64), model.a.b.parameters()[0].parameter->value());
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("in layer"), std::string::npos) << "the scope must have ended";
  }
  EXPECT_EQ(model.forward(Tensor::zeros({2, 3}, DType::f64)).shape(), (Shape{2, 2}));
}

}  // namespace
}  // namespace adjoint::testing
