// bench_overhead: what the engine adds to an op, in ns: a chain of 40 ops forward, recording, backward and replayed,
// against the same kernel calls made directly.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/common/main_guard.h"
#include "bench/op_chain.h"

namespace adjoint::bench {
namespace {

nlohmann::ordered_json measure_chain(std::int64_t rows, std::int64_t columns, double seconds) {
  OpChain chain(rows, columns, 0);
  constexpr double kBlock = 2e-4;  // short, so that some block escapes every disturbance
  const auto ns = [&](auto&& call) {
    return measure([&](int) { call(); }, 1, seconds, kBlock).min_ms * 1e6 / kChainOps;
  };
  const double forward = ns([&] { chain.forward(); });
  const double recording = ns([&] { chain.record(); });
  const double total = ns([&] { chain.forward_backward(); });
  const double replayed = ns([&] { chain.replay(); });
  const double kernels = ns([&] { chain.kernels(); });
  const auto rounded = [](double value) { return std::round(value * 10) / 10; };
  return {{"shape", {rows, columns}},           {"forward_ns", rounded(forward)},
          {"recording_ns", rounded(recording)}, {"backward_ns", rounded(total - recording)},
          {"total_ns", rounded(total)},         {"replayed_ns", rounded(replayed)},
          {"kernels_ns", rounded(kernels)},     {"engine_ns", rounded(total - kernels)}};
}

}  // namespace

int overhead(int argc, char** argv) {
  CLI::App app("Cost of one op, in ns: chains of 20 x (y * w + b), 40 ops, with gradients of x, w and b");
  bool json = false;
  double seconds = 0.2;
  app.add_flag("--json", json, "one JSON object instead of a table");
  app.add_option("--seconds", seconds, "time to spend on each figure")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  set_threads(1);
  nlohmann::ordered_json lines = nlohmann::ordered_json::array();
  for (const auto& [rows, columns] : {std::pair{1, 1}, std::pair{32, 64}})
    lines.push_back(measure_chain(rows, columns, seconds));
  if (json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"bench", "overhead"}, {"engine", "adjoint"}, {"ops", lines}}.dump());
    return 0;
  }
  fmt::print("{:<10}", "ns per op");
  for (const auto& [name, value] : lines[0].items())
    if (value.is_number()) fmt::print("{:>14}", name.substr(0, name.size() - 3));
  fmt::print("\n");
  for (const auto& line : lines) {
    fmt::print("{:<10}", line["shape"].dump());
    for (const auto& [name, value] : line.items())
      if (value.is_number()) fmt::print("{:>14.1f}", value.get<double>());
    fmt::print("\n");
  }
  return 0;
}

}  // namespace adjoint::bench

int main(int argc, char** argv) {
  return adjoint::app::run_program("bench_overhead", argc, argv, adjoint::bench::overhead);
}
