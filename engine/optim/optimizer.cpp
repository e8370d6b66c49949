#include "kernels/optimizer.h"

#include <fmt/format.h>

#include "engine/launch.h"
#include "engine/optim/optimizer.h"
#include "engine/scope.h"

namespace adjoint {
namespace {

void check(bool ok, const char* option, double value, const char* expected) {
  ADJOINT_CHECK(ok, "E-CONF-003", Exit::usage,
                fmt::format("{}: {} is out of range; expected {}", option, value, expected));
}

}  // namespace

Optimizer::Optimizer(ParameterSet& parameters, double rate, double max_norm)
    : parameters_(parameters), rate_(rate), max_norm_(max_norm) {
  check(max_norm >= 0, "clip", max_norm, "a number >= 0");
  const Device device = parameters.values().device();
  const DType statistics = accumulator_of(parameters.values().dtype());
  rate_value_ = Tensor::zeros({}, DType::f64, device);
  step_ = Tensor::zeros({static_cast<std::int64_t>(sizeof(std::int64_t))}, DType::u8, device);
  if (max_norm_ > 0) {
    norm_ = Tensor::zeros({}, statistics, device);
    factor_ = Tensor::zeros({}, statistics, device);
    table_squares_ = Tensor::zeros({}, DType::f64, device);
  }
  set_learning_rate(rate);
}

void Optimizer::set_learning_rate(double rate) {
  check(rate >= 0, "learning rate", rate, "a number >= 0");
  rate_ = rate;
  rate_value_.write(std::span<const double>(&rate, 1));
}

void Optimizer::step() {
  parameters_.finish_gradients();
  const Tensor& g = parameters_.gradients();
  const void* factor = nullptr;
  if (max_norm_ > 0) {
    for (const ParameterSet::Table& table : parameters_.tables())
      launch(g.device(), RowSquares{.dtype = g.dtype(),
                                    .width = table.width,
                                    .g = at(g, table.begin),
                                    .rows = table.rows,
                                    .sum = table_squares_.data_as<double>()});
    launch(g.device(), GlobalNorm{.dtype = g.dtype(),
                                  .n = parameters_.dense_extent(),
                                  .g = g.data(),
                                  .max_norm = max_norm_,
                                  .norm = norm_.data(),
                                  .factor = factor_.data(),
                                  .more = table_squares_.data_as<double>()});
    factor = factor_.data();
  }
  launch(g.device(), StepAdvance{.step = step_.data_as<std::int64_t>()});
  if (parameters_.dense_extent() > 0) update(factor, 0, parameters_.dense_extent(), 0, {});
  for (const ParameterSet::Table& table : parameters_.tables()) update(factor, table.begin, 0, table.width, table.rows);
  ++parameters_.values().storage()->version;
  parameters_.clear_gradients();
}

void* Optimizer::at(const Tensor& flat, std::int64_t begin) {
  return static_cast<char*>(flat.data()) + begin * static_cast<std::int64_t>(size_of(flat.dtype()));
}

std::vector<std::pair<std::string, Tensor>> Optimizer::state() const {
  auto state = moments_;
  state.emplace_back("step", step_);
  state.emplace_back("learning_rate", rate_value_);
  state.emplace_back("values", parameters_.values());
  if (norm_.defined()) {
    state.emplace_back("gradient_norm", norm_);
    state.emplace_back("clip_factor", factor_);
  }
  return state;
}

Sgd::Sgd(ParameterSet& parameters, const SgdOptions& options)
    : Optimizer(parameters, options.learning_rate, options.max_norm), options_(options) {
  check(options.momentum >= 0 && options.momentum < 1, "momentum", options.momentum, "a number in [0, 1)");
  check(options.weight_decay >= 0, "weight decay", options.weight_decay, "a number >= 0");
  if (options.momentum > 0) {
    moments_.emplace_back("velocity", Tensor::zeros(parameters.values().shape(), parameters.values().dtype(),
                                                    parameters.values().device()));
  }
}

void Sgd::update(const void* factor, std::int64_t begin, std::int64_t n, std::int64_t width, const RowList& rows) {
  const Tensor& p = parameters_.values();
  launch(p.device(), SgdUpdate{.dtype = p.dtype(),
                               .n = n,
                               .p = at(p, begin),
                               .g = at(parameters_.gradients(), begin),
                               .v = moments_.empty() ? nullptr : at(moments_[0].second, begin),
                               .lr = rate_value_.data_as<double>(),
                               .factor = factor,
                               .momentum = options_.momentum,
                               .weight_decay = options_.weight_decay,
                               .nesterov = options_.nesterov,
                               .rows = rows,
                               .width = width});
}

Adam::Adam(ParameterSet& parameters, const AdamOptions& options)
    : Optimizer(parameters, options.learning_rate, options.max_norm), options_(options) {
  check(options.beta1 >= 0 && options.beta1 < 1, "beta1", options.beta1, "a number in [0, 1)");
  check(options.beta2 >= 0 && options.beta2 < 1, "beta2", options.beta2, "a number in [0, 1)");
  check(options.eps >= 0, "eps", options.eps, "a number >= 0");
  check(options.weight_decay >= 0, "weight decay", options.weight_decay, "a number >= 0");
  const Tensor& p = parameters.values();
  for (const char* moment : {"first_moment", "second_moment"})
    moments_.emplace_back(moment, Tensor::zeros(p.shape(), accumulator_of(p.dtype()), p.device()));
}

void Adam::update(const void* factor, std::int64_t begin, std::int64_t n, std::int64_t width, const RowList& rows) {
  const Tensor& p = parameters_.values();
  launch(p.device(), AdamUpdate{.dtype = p.dtype(),
                                .n = n,
                                .p = at(p, begin),
                                .g = at(parameters_.gradients(), begin),
                                .m = at(moments_[0].second, begin),
                                .v = at(moments_[1].second, begin),
                                .lr = rate_value_.data_as<double>(),
                                .step = step_.data_as<std::int64_t>(),
                                .factor = factor,
                                .beta1 = options_.beta1,
                                .beta2 = options_.beta2,
                                .eps = options_.eps,
                                .weight_decay = options_.weight_decay,
                                .decoupled = options_.decoupled,
                                .rows = rows,
                                .width = width});
}

WeightAverage::WeightAverage(ParameterSet& parameters, double decay)
    : parameters_(parameters),
      decay_(decay),
      average_(Tensor::empty_like(parameters.values())),
      step_(Tensor::zeros({static_cast<std::int64_t>(sizeof(std::int64_t))}, DType::u8, parameters.values().device())) {
  check(decay >= 0 && decay < 1, "decay of the average", decay, "a number in [0, 1)");
  restart();
}

void WeightAverage::restart() {
  average_.copy_from(parameters_.values());
  const std::byte zero[sizeof(std::int64_t)] = {};
  step_.write(std::span<const std::byte>(zero));
}

void WeightAverage::update() {
  const Tensor& p = parameters_.values();
  launch(p.device(), StepAdvance{.step = step_.data_as<std::int64_t>()});
  launch(p.device(), AverageUpdate{.dtype = p.dtype(),
                                   .n = p.count(),
                                   .a = average_.data(),
                                   .p = p.data(),
                                   .step = step_.data_as<std::int64_t>(),
                                   .decay = decay_});
}

void WeightAverage::swap() {
  Tensor values = parameters_.values();
  Tensor now = Tensor::empty_like(values);
  now.copy_from(values);
  values.copy_from(average_);
  average_.copy_from(now);
}

std::vector<std::pair<std::string, Tensor>> WeightAverage::state() const {
  return {{"average", average_}, {"average_step", step_}};
}

}  // namespace adjoint
