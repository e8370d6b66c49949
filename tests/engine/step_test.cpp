// Steps: run plainly, recorded, replayed; always with the same result.

#include "engine/step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "engine/ops.h"
#include "engine/optim/optimizer.h"
#include "models/layers.h"
#include "tests/support/engine.h"

// Counts what this program takes from the heap, to see that a replayed step takes nothing.
namespace {
std::atomic<std::uint64_t> heap_allocations{0};
}

// Not inlined: the compiler would take the pair of malloc and delete it then sees for a mistake.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  heap_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(bytes == 0 ? 1 : bytes)) return p;
  throw std::bad_alloc();
}
// For std::stable_sort; a sanitizer has one of its own, which free() does not go with.
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  heap_allocations.fetch_add(1, std::memory_order_relaxed);
  return std::malloc(bytes);
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace adjoint::testing {
namespace {

using ::testing::ElementsAre;

TEST(Step, Runs_plainly_then_records_then_replays) {
  int calls = 0;
  Step step([&](std::span<const Tensor> in) {
    ++calls;
    return std::vector<Tensor>{in[0] * in[0] + in[1]};
  });
  const auto run = [&](double a, double b) { return step({vector_of({a, a}), vector_of({b, b})})[0].to_vector(); };
  const std::vector<Tensor> inputs = {vector_of({0, 0}), vector_of({0, 0})};
  EXPECT_EQ(step.recorded_calls(inputs), 0u);
  EXPECT_THAT(run(2, 1), ElementsAre(5, 5));
  EXPECT_EQ(step.recorded_calls(inputs), 0u) << "the first call is plain";
  EXPECT_EQ(step.recordings(), 0u);
  EXPECT_THAT(run(3, 1), ElementsAre(10, 10));
  EXPECT_EQ(step.recorded_calls(inputs), 2u);
  EXPECT_EQ(step.recordings(), 1u);
  EXPECT_EQ(calls, 2);
  EXPECT_THAT(run(4, 2), ElementsAre(18, 18));
  EXPECT_THAT(run(5, 3), ElementsAre(28, 28));
  EXPECT_EQ(calls, 2) << "replays do not call the function";
}

TEST(Step, Records_each_combination_of_shapes_and_dtypes) {
  int calls = 0;
  Step step([&](std::span<const Tensor> in) {
    ++calls;
    return std::vector<Tensor>{in[0] + in[0]};
  });
  const std::vector<Tensor> inputs = {vector_of({1, 2}), vector_of({1, 2, 3}), tensor({1, 2}, {2, 1}),
                                      vector_of({1, 2}, DType::f32), tensor({1, 2}, {1, 2})};
  for (int repeat = 0; repeat < 4; ++repeat) {
    for (const Tensor& x : inputs) {
      const Tensor y = step({x})[0];
      EXPECT_EQ(y.shape(), x.shape());
      EXPECT_EQ(y.dtype(), x.dtype());
      EXPECT_EQ(y.to_vector(), (x + x).to_vector());
    }
  }
  EXPECT_EQ(calls, 2 * 5);
  EXPECT_EQ(step.recordings(), 5u);
  EXPECT_EQ(step.recorded_calls({}), 0u) << "nothing was recorded for no inputs";
}

TEST(Step, Refuses_host_access_while_recording) {
  const Tensor x = vector_of({1, 2});
  const auto refuses = [&](const char* what, const std::function<Tensor(const Tensor&)>& f) {
    Step step([&](std::span<const Tensor> in) { return std::vector<Tensor>{f(in[0])}; });
    EXPECT_NO_THROW((void)step({x})) << what;  // the plain run may read
    for (int repeat = 0; repeat < 2; ++repeat) {
      expect_error([&] { (void)step({x}); }, "E-STEP-001", std::string("^") + what + ": host access while a step");
      EXPECT_FALSE(recording_a_step());
      EXPECT_EQ(&Allocator::current({}), &Allocator::of({}));
    }
  };
  refuses("to_vector", [](const Tensor& t) { return t * t.to_vector()[0]; });
  refuses("to_vector", [](const Tensor& t) { return t * sum(t).item(); });
  refuses("to_ints", [](const Tensor& t) { return t * static_cast<double>(argmax(t).to_ints()[0]); });
  refuses("tensor", [](const Tensor& t) { return t + vector_of({1, 2}); });
  refuses("write", [&](const Tensor& t) {
    Tensor y = t + t;
    y.write(std::as_bytes(std::span(x.data_as<double>(), 2)));
    return y;
  });
}

TEST(Step, Records_again_after_a_failed_recording) {
  bool fail = true;
  std::size_t seen = 0;
  Step step([&](std::span<const Tensor> in) {
    seen = in.size();
    Tensor y = in[0] + in[0];
    if (recording_a_step() && fail) (void)y.to_vector();
    return std::vector<Tensor>{y};
  });
  const Tensor x = vector_of({1, 2});
  (void)step({x});
  expect_error([&] { (void)step({x}); }, "E-STEP-001", "^to_vector: ");
  fail = false;
  EXPECT_THAT(step({x})[0].to_vector(), ElementsAre(2, 4));
  EXPECT_EQ(seen, 1u) << "the inputs of the failed recording must be gone";
  EXPECT_EQ(step.recorded_calls(std::vector<Tensor>{x}), 1u);
  EXPECT_THAT(step({vector_of({5, 6})})[0].to_vector(), ElementsAre(10, 12));
}

TEST(Step, Does_not_record_inside_another) {
  Step inner([](std::span<const Tensor> in) { return std::vector<Tensor>{in[0] + in[0]}; });
  Step outer([&](std::span<const Tensor> in) { return inner(in); });
  const Tensor x = vector_of({1});
  (void)outer({x});
  expect_error([&] { (void)outer({x}); }, "E-STEP-002", "^step: called while another step is being recorded");
  expect_error([&] { (void)inner({Tensor()}); }, "E-STEP-002", "^step: an input is undefined");
  EXPECT_THAT(inner({x})[0].to_vector(), ElementsAre(2));
}

TEST(Step, Draws_new_random_numbers_at_each_replay) {
  Generator random(3), plain(3);
  Step step([&](std::span<const Tensor> in) { return std::vector<Tensor>{dropout(in[0], 0.5, random)}; },
            {random.state()});
  const Tensor x = Tensor::full({257}, 1.0);
  std::vector<double> before;
  for (int i = 0; i < 6; ++i) {
    const std::vector<double> y = step({x})[0].to_vector();
    EXPECT_EQ(y, dropout(x, 0.5, plain).to_vector()) << "call " << i;
    EXPECT_NE(y, before) << "call " << i;
    before = y;
  }
}

TEST(Step, Sees_what_is_written_to_its_state_between_calls) {
  Tensor factor = Tensor::scalar(1, DType::f64);
  Step step([&](std::span<const Tensor> in) { return std::vector<Tensor>{in[0] * factor}; }, {factor});
  for (int i = 1; i <= 5; ++i) {
    factor.write(std::span<const double>(std::vector<double>{static_cast<double>(i)}));
    EXPECT_THAT(step({vector_of({1, 2})})[0].to_vector(), ElementsAre(i, 2 * i));
  }
}

TEST(Step, Verifies_what_depends_on_inputs_and_state_alone) {
  Generator random(8);
  Tensor sum_of_inputs = Tensor::zeros({2}, DType::f64);
  Step step(
      [&](std::span<const Tensor> in) {
        sum_of_inputs.copy_from(sum_of_inputs + in[0]);
        return std::vector<Tensor>{dropout(in[0], 0.5, random), tanh(sum_of_inputs)};
      },
      {random.state(), sum_of_inputs});
  const std::string start = bits(random.state());
  const std::vector<Tensor> out = step.verify({vector_of({1, 2})});
  EXPECT_THAT(sum_of_inputs.to_vector(), ElementsAre(1, 2)) << "the state is as after one call";
  EXPECT_NE(bits(random.state()), start);
  EXPECT_EQ(out.size(), 2u);
  EXPECT_EQ(step.recordings(), 1u);
  (void)step({vector_of({1, 2})});
  (void)step.verify({vector_of({1, 2})});
  EXPECT_THAT(sum_of_inputs.to_vector(), ElementsAre(3, 6));
}

TEST(Step, Catches_what_depends_on_anything_else) {
  const Tensor x = vector_of({1, 2});
  int hidden = 0;
  Step counts([&](std::span<const Tensor> in) { return std::vector<Tensor>{in[0] * static_cast<double>(++hidden)}; });
  expect_error([&] { (void)counts.verify({x}); }, "E-STEP-003", "output 0 of shape \\[2\\] differs.*element 0",
               Exit::bug);

  Generator forgotten(1);
  Step draws([&](std::span<const Tensor> in) { return std::vector<Tensor>{dropout(in[0], 0.5, forgotten)}; });
  expect_error([&] { (void)draws.verify({Tensor::full({999}, 1)}); }, "E-STEP-003", "output 0 of shape \\[999\\]",
               Exit::bug);
}

TEST(Step, Catches_what_depends_on_the_memory_of_an_earlier_call) {
  ADJOINT_NEED_SIZE_CLASSES();
  const Tensor x = vector_of({1, 2});
  Tensor held = Tensor::zeros({2}, DType::f64), previous;
  Step stale(
      [&](std::span<const Tensor> in) {
        // What the recorded call left in the arena is read by the replay: filled with NaN, it shows.
        const Tensor y = previous.defined() ? in[0] + previous : in[0] + in[0];
        previous = in[0] * 2.0;
        held.copy_from(y);
        return std::vector<Tensor>{};
      },
      {held});
  expect_error([&] { (void)stale.verify({x}); }, "E-STEP-003", "state 0 of shape \\[2\\] differs", Exit::bug);
}

TEST(Step, Outputs_of_a_dropped_step_stay) {
  Tensor y;
  {
    Step step([](std::span<const Tensor> in) { return std::vector<Tensor>{in[0] + in[0]}; });
    for (int i = 0; i < 3; ++i) y = step({vector_of({1, 2})})[0];
  }
  EXPECT_THAT(y.to_vector(), ElementsAre(2, 4));
}

// ---- Training ----

/// A classifier with dropout, trained by Adam with clipping; everything a real training step has.
struct Training {
  Training() : model({random}, 12, 5), parameters(model), adam(parameters, {.learning_rate = 0.05, .max_norm = 0.3}) {}

  std::vector<Tensor> run(std::span<const Tensor> in) {
    Tensor loss;
    {
      const auto recording = tape.record();
      loss = cross_entropy(model.forward(dropout(in[0], 0.3, random)), in[1]);
    }
    tape.backward(loss);
    adam.step();
    return {loss};
  }
  std::vector<Tensor> state() const {
    std::vector<Tensor> state = {random.state()};
    for (const auto& [name, tensor] : adam.state()) state.push_back(tensor);
    return state;
  }

  Generator random{5};
  Linear model;
  ParameterSet parameters;
  Adam adam;
  Tape tape;
};

std::pair<Tensor, Tensor> batch(Generator& random, std::int64_t rows) {
  const Tensor x = random.normal({rows, 12}, 0, 1);
  return {x, cast(random.uniform({rows}, 0, 5), DType::i32)};
}

TEST(Step, Trains_bit_for_bit_like_the_plain_loop) {
  Training plain, stepped;
  Step step([&](std::span<const Tensor> in) { return stepped.run(in); }, stepped.state());
  Generator data(1);
  for (int i = 0; i < 20; ++i) {
    const auto [x, targets] = batch(data, i % 3 == 2 ? 9 : 16);  // the last batch of an epoch is shorter
    for (Adam* adam : {&plain.adam, &stepped.adam}) adam->set_learning_rate(0.05 / (i + 1));
    const std::vector<Tensor> in = {x, targets};
    const Tensor expected = plain.run(in)[0];
    const Tensor loss = i == 10 ? step.verify(in)[0] : step(in)[0];
    ASSERT_EQ(bits(loss), bits(expected)) << "loss of step " << i;
    ASSERT_EQ(bits(stepped.parameters.values()), bits(plain.parameters.values())) << "step " << i;
    for (std::size_t s = 0; s < plain.state().size(); ++s)
      ASSERT_EQ(bits(stepped.state()[s]), bits(plain.state()[s])) << "state " << s << ", step " << i;
  }
  EXPECT_EQ(step.recordings(), 2u);
}

TEST(Step, Replays_without_taking_memory) {
  Training training;
  Step step([&](std::span<const Tensor> in) { return training.run(in); }, training.state());
  Generator data(1);
  const auto [x, targets] = batch(data, 64);
  const std::vector<Tensor> in = {x, targets};
  for (int i = 0; i < 3; ++i) (void)step(in);
  const std::uint64_t heap = heap_allocations, blocks = Allocator::of({}).statistics().allocations;
  for (int i = 0; i < 100; ++i) (void)step(in);
  EXPECT_EQ(heap_allocations - heap, 0u) << "in 100 steps";
  EXPECT_EQ(Allocator::of({}).statistics().allocations - blocks, 0u) << "in 100 steps";
  const std::uint64_t before = heap_allocations;
  for (int i = 0; i < 100; ++i) training.adam.set_learning_rate(0.01 / (i + 1));
  EXPECT_EQ(heap_allocations - before, 0u) << "in 100 changes of the learning rate";
}

TEST(Step, Leaves_live_memory_as_it_was) {
  ADJOINT_NEED_SIZE_CLASSES();
  Training training;
  Generator data(1);
  const auto [x, targets] = batch(data, 64);
  const std::vector<Tensor> in = {x, targets};
  AllocatorStatistics before;
  std::size_t nodes = 0;
  for (int i = 0; i < 200; ++i) {
    (void)training.run(in);
    const AllocatorStatistics now = Allocator::of({}).statistics();
    if (i >= 2) {
      ASSERT_EQ(now.in_use, before.in_use) << "plain step " << i;
      ASSERT_EQ(now.live, before.live) << "plain step " << i;
      ASSERT_EQ(now.system_allocations, before.system_allocations) << "plain step " << i;
      ASSERT_EQ(training.tape.nodes(), nodes) << "plain step " << i;
    }
    before = now;
    nodes = training.tape.nodes();
  }
}

}  // namespace
}  // namespace adjoint::testing
