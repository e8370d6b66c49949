// Row-sparse gradients of tables: the same gradients as dense ones, and updates of the rows that have one.

#include <gtest/gtest.h>

#include <cmath>

#include "engine/launch.h"
#include "engine/module.h"
#include "engine/ops.h"
#include "engine/optim/optimizer.h"
#include "engine/step.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

using Vector = std::vector<double>;

constexpr std::int64_t kRows = 6, kWidth = 5;

/// A table between two dense parameters, so that its place in the flat buffers is not its place in the model.
class TableModel final : public Module {
 public:
  explicit TableModel(bool sparse, std::int64_t rows = kRows, std::int64_t width = kWidth, DType dtype = DType::f64) {
    Generator random(7);
    before.set(random.normal({width}, 0, 1, dtype));
    table.set(random.normal({rows, width}, 0, 1, dtype));
    after.set(random.normal({width}, 0, 1, dtype));
    add("before", before);
    add("table", table);
    add("after", after);
    table.set_row_sparse(sparse);
  }
  Tensor loss(const Tensor& ids, std::int64_t padding = -1) {
    return mean(square(embedding(ids, table, padding) * before + after));
  }
  Parameter before, table, after;
};

void backward(TableModel& model, const Tensor& ids, int times = 1) {
  Tape tape;
  for (int i = 0; i < times; ++i) {
    Tensor loss;
    {
      const auto recording = tape.record();
      const Tensor first = model.loss(ids);
      loss = first + model.loss(ints({5, 1}, {2}));
    }
    tape.backward(loss);
  }
}

const Tensor& ids_of_step(int step) {
  static const std::vector<Tensor> all{ints({4, 1, 1, 0, 4, 4}, {2, 3}), ints({1, 2}, {2}), ints({0, 0, 0}, {3})};
  return all[static_cast<std::size_t>(step) % all.size()];
}

TEST(RowSparse, Gradients_are_those_of_dense_ones) {
  for (const int times : {1, 2}) {  // gathered over two backward passes as well
    TableModel dense(false), sparse(true);
    ParameterSet a(dense), b(sparse);
    for (int step = 0; step < 3; ++step) {
      backward(dense, ids_of_step(step), times);
      backward(sparse, ids_of_step(step), times);
      for (Parameter TableModel::*p : {&TableModel::before, &TableModel::table, &TableModel::after})
        EXPECT_EQ((dense.*p).gradient().to_vector(), (sparse.*p).gradient().to_vector()) << "step " << step;
      a.clear_gradients();
      b.clear_gradients();
      for (const double g : sparse.table.gradient().to_vector()) EXPECT_EQ(g, 0.0);
    }
  }
}

TEST(RowSparse, Gradients_need_no_parameter_set) {
  TableModel dense(false), sparse(true);
  for (const double g : sparse.table.gradient().to_vector()) EXPECT_EQ(g, 0.0);
  backward(dense, ids_of_step(0));
  backward(sparse, ids_of_step(0));
  EXPECT_EQ(dense.table.gradient().to_vector(), sparse.table.gradient().to_vector());
}

TEST(RowSparse, Rows_are_listed_once_in_the_order_of_their_tokens) {
  TableModel model(true);
  ParameterSet parameters(model);
  ASSERT_EQ(parameters.tables().size(), 1u);
  const RowList& rows = parameters.tables()[0].rows;
  // Running back takes the second look-up first: 5 1, then the new ones of 4 1 1 0 4 4.
  backward(model, ids_of_step(0));
  EXPECT_EQ(std::vector<std::int32_t>(rows.rows, rows.rows + *rows.count), (std::vector<std::int32_t>{5, 1, 4, 0}));
  parameters.clear_gradients();
  EXPECT_EQ(*rows.count, 0);
  for (std::int64_t r = 0; r < kRows; ++r) EXPECT_EQ(rows.listed[r], 0);
}

TEST(RowSparse, Plain_sgd_is_that_of_dense_gradients) {
  for (const double max_norm : {0.0, 0.05}) {
    TableModel dense(false), sparse(true);
    ParameterSet a(dense), b(sparse);
    Sgd one(a, {.learning_rate = 0.1, .max_norm = max_norm}), two(b, {.learning_rate = 0.1, .max_norm = max_norm});
    for (int step = 0; step < 5; ++step) {
      backward(dense, ids_of_step(step));
      backward(sparse, ids_of_step(step));
      one.step();
      two.step();
      const Vector x = dense.table.value().to_vector(), y = sparse.table.value().to_vector();
      // Without clipping bit for bit; the norm is summed in another order.
      for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], y[i], max_norm > 0 ? 1e-15 : 0) << step << " " << i;
      if (max_norm > 0) {
        EXPECT_NEAR(one.gradient_norm().item(), two.gradient_norm().item(), 1e-14);
      }
    }
  }
}

TEST(RowSparse, Adam_updates_the_rows_of_the_step_and_leaves_the_others) {
  for (const bool decoupled : {false, true}) {
    TableModel model(true);
    ParameterSet parameters(model);
    const AdamOptions o{.learning_rate = 0.05, .weight_decay = 0.1, .decoupled = decoupled};
    Adam adam(parameters, o);
    Vector p = model.table.value().to_vector(), m(p.size(), 0.0), v(p.size(), 0.0);
    for (int step = 1; step <= 6; ++step) {
      backward(model, ids_of_step(step));
      const Vector g = model.table.gradient().to_vector();
      std::vector<bool> touched(kRows, false);
      touched[5] = touched[1] = true;
      for (const std::int32_t id : ids_of_step(step).to_ints()) touched[static_cast<std::size_t>(id)] = true;
      adam.step();
      for (std::size_t i = 0; i < p.size(); ++i) {
        if (!touched[i / kWidth]) continue;
        const double gradient = g[i] + (decoupled ? 0.0 : o.weight_decay * p[i]);
        m[i] = o.beta1 * m[i] + (1 - o.beta1) * gradient;
        v[i] = o.beta2 * v[i] + (1 - o.beta2) * gradient * gradient;
        if (decoupled) p[i] *= 1 - o.learning_rate * o.weight_decay;
        p[i] -= o.learning_rate * (m[i] / (1 - std::pow(o.beta1, step))) /
                (std::sqrt(v[i] / (1 - std::pow(o.beta2, step))) + o.eps);
      }
      const Vector actual = model.table.value().to_vector();
      for (std::size_t i = 0; i < p.size(); ++i)
        EXPECT_NEAR(actual[i], p[i], touched[i / kWidth] ? 1e-14 : 0) << "step " << step << ", element " << i;
      p = actual;
    }
  }
}

TEST(RowSparse, Recorded_steps_are_plain_ones_for_any_number_of_threads) {
  constexpr std::int64_t rows = 3000, width = 40;
  const auto ids = [](int step) {
    std::vector<std::int32_t> values(700);
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<std::int32_t>((i * 37 + static_cast<std::size_t>(step) * 101) % 997 * 3);
    return ints(values, {700});
  };
  std::string expected;
  for (const auto& [threads, replayed] : {std::pair{1, false}, {1, true}, {2, true}, {4, false}}) {
    if (threads > 1 && default_device() != Device{}) continue;  // they are the CPU's
    set_threads(threads);
    TableModel model(true, rows, width, DType::f32);
    ParameterSet parameters(model);
    Adam adam(parameters, {.learning_rate = 0.01, .max_norm = 0.5});
    Tape tape;
    const auto plain = [&](std::span<const Tensor> in) {
      Tensor loss;
      {
        const auto recording = tape.record();
        loss = model.loss(in[0]);
      }
      tape.backward(loss);
      adam.step();
      return std::vector<Tensor>{loss};
    };
    std::vector<Tensor> state;
    for (const auto& [name, tensor] : adam.state()) state.push_back(tensor);
    Step step(plain, state);
    for (int i = 0; i < 4; ++i) {
      const std::vector<Tensor> in{ids(i)};
      if (!replayed) {
        plain(in);
      } else if (i == 0) {
        step.verify(in);
      } else {
        step(in);
      }
    }
    std::string all;
    for (const auto& [name, tensor] : adam.state()) all += bits(tensor);
    if (expected.empty()) expected = all;
    EXPECT_EQ(all == expected, true) << threads << " threads, replayed " << replayed;
  }
  set_threads(1);
}

TEST(RowSparse, Refuses_to_lose_the_gradient_of_another_use) {
  TableModel model(true);
  Tape tape;
  Tensor loss;
  {
    const auto recording = tape.record();
    loss = sum(matmul(embedding(ids_of_step(1), model.table), transpose(model.table, 0, 1)));
  }
  expect_error([&] { tape.backward(loss); }, "E-GRAD-006", "\\[6,5\\].*row-sparse.*embedding\\(\\)");
  expect_error([&] { model.before.set_row_sparse(true); }, "E-OP-008", "\\[5\\].*rows");
}

}  // namespace
}  // namespace adjoint::testing
