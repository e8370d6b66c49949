#include "apps/common/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "apps/common/metrics.h"
#include "apps/common/progress.h"
#include "apps/common/run_folder.h"
#include "apps/common/shared_options.h"
#include "apps/common/signals.h"
#include "apps/common/terminal.h"
#include "data/sha256.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::size_t kMostRuns = 10'000;
constexpr std::size_t kMaxReport = 16u << 20;

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// The values of the options that say what is trained, without those that say how it is run.
Json identity(const Settings& settings) {
  const Json config = Json::parse(settings.config_json());
  Json values = Json::object();
  for (const Option& option : settings.table().options())
    if (!option.per_call && option.group != "Machine") values[option.key()] = config["options"][option.key()]["value"];
  return values;
}

struct Cell {
  std::size_t point;
  std::string name;
  Settings settings;
};

std::vector<Axis> axes_of(const Settings& settings) {
  std::vector<Axis> axes;
  for (const std::string& typed : settings.list("grid")) {
    Axis axis = parse_axis(settings.table(), typed);
    const std::string& name = settings.table().options()[settings.table().at(axis.name)].name;
    ADJOINT_CHECK(name != "seed" && name != "grid" && name != "seeds", "E-CLI-002", Exit::usage,
                  fmt::format("--grid {}: cannot be an axis; expected --seeds N for runs with several seeds", name));
    for (std::size_t i = 0; i < axis.values.size(); ++i)
      ADJOINT_CHECK(std::find(axis.values.begin(), axis.values.begin() + static_cast<std::ptrdiff_t>(i),
                              axis.values[i]) == axis.values.begin() + static_cast<std::ptrdiff_t>(i),
                    "E-CLI-004", Exit::usage,
                    fmt::format("--grid {}: value {} given twice", name, shortened(axis.values[i], 60)));
    for (const Axis& other : axes)
      ADJOINT_CHECK(other.name != name, "E-CLI-004", Exit::usage,
                    fmt::format("--grid {}: given twice; expected all values in one, separated by commas", name));
    axis.name = name;
    axes.push_back(std::move(axis));
  }
  ADJOINT_CHECK(!axes.empty(), "E-CLI-003", Exit::usage,
                fmt::format("--grid: missing; expected at least one axis, as in --grid lr=1e-3,3e-4; see '{} --help'",
                            settings.table().full_name()));
  return axes;
}

/// Every combination of the axes' values, the last axis fastest.
std::vector<std::vector<std::string>> combinations(const std::vector<Axis>& axes) {
  std::vector<std::vector<std::string>> all{{}};
  for (const Axis& axis : axes) {
    std::vector<std::vector<std::string>> longer;
    for (const std::vector<std::string>& head : all)
      for (const std::string& value : axis.values) {
        longer.push_back(head);
        longer.back().push_back(value);
      }
    ADJOINT_CHECK(longer.size() <= kMostRuns, "E-CLI-004", Exit::usage,
                  fmt::format("--grid: more than {} points; expected fewer axes or values", kMostRuns));
    all = std::move(longer);
  }
  return all;
}

/// A folder name that says which point and seed it is, whatever the values hold.
std::string cell_name(const std::vector<Axis>& axes, const std::vector<std::string>& values, std::int64_t seed) {
  std::string readable, exact;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    exact += axes[i].name + "=" + values[i] + "\n";
    std::string shown = values[i].substr(0, 24);
    for (char& c : shown)
      if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '.' && c != '-') c = '_';
    readable += fmt::format("{}-{}-", axes[i].name, shown);
  }
  return fmt::format("{}{}-seed-{}", readable.substr(0, 120), data::sha256(exact).substr(0, 6), seed);
}

/// The report of a finished run, or null where there is none yet.
Json finished_report(const std::string& folder) {
  std::error_code ignored;
  if (!fs::exists(folder + "/report.json", ignored)) return nullptr;
  Json report = Json::parse(read_file(folder + "/report.json", kMaxReport), nullptr, false);
  if (!report.is_object() || !report.contains("ending") || report["ending"] == "signal") return nullptr;
  return report;
}

/// Finished runs count only if they are of this sweep; an unfinished one is removed.
Json take_up(const Cell& cell) {
  const std::string folder = cell.settings.text("out");
  std::error_code failed;
  if (!fs::exists(folder, failed)) return nullptr;
  const Json report = finished_report(folder);
  if (report.is_null()) {
    // Not someone else's: the folder must hold nothing, or a run.
    ADJOINT_CHECK(fs::is_empty(folder, failed) || fs::exists(folder + "/.lock", failed), "E-IO-007", Exit::io,
                  fmt::format("{}: holds something else than a run; expected a new folder; try another --out",
                              shortened(folder, 200)));
    { const RunFolder::Lock in_use(folder); }
    fs::remove_all(folder, failed);
    return nullptr;
  }
  Settings was(cell.settings.table());
  const Json config = Json::parse(read_file(folder + "/config.json", kMaxReport), nullptr, false);
  const Json wanted = identity(cell.settings);
  for (const auto& [key, value] : wanted.items()) {
    const bool same = config.is_object() && config.contains("options") && config["options"].contains(key) &&
                      config["options"][key]["value"] == value;
    ADJOINT_CHECK(same, "E-CONF-008", Exit::usage,
                  fmt::format("{}: was run with another {} (now {}); expected the same options for all of a sweep; try "
                              "another --out",
                              shortened(folder, 150), key, shortened(value.dump(), 60)));
  }
  return report;
}

void add_result(SweepPoint& point, const Json& report, const std::string& metric) {
  const Json& val = report.contains("val") ? report["val"] : Json();
  if (!val.is_object() || !val.contains(metric) || !val[metric].is_number()) {
    point.failure = fmt::format("no {} of a validation", metric);
    return;
  }
  point.metric.push_back(val[metric].get<double>());
  if (report.contains("epoch_s") && report["epoch_s"].is_number())
    point.epoch_seconds.push_back(report["epoch_s"].get<double>());
  point.parameters = report.value("parameters", std::int64_t{0});
}

void rank(SweepResult& result) {
  const bool high = higher_is_better(result.metric);
  std::stable_sort(result.points.begin(), result.points.end(), [&](const SweepPoint& a, const SweepPoint& b) {
    if (a.metric.empty() || b.metric.empty()) return !a.metric.empty() && b.metric.empty();
    return high ? a.mean() > b.mean() : a.mean() < b.mean();
  });
}

Json as_json(const SweepResult& result, const std::string& program, const std::string& folder) {
  Json points = Json::array();
  for (const SweepPoint& p : result.points) {
    Json values = Json::object();
    for (std::size_t i = 0; i < result.axes.size(); ++i) values[result.axes[i].name] = p.values[i];
    points.push_back({{"values", values}, {"runs", p.metric}, {"parameters", p.parameters}});
    if (!p.metric.empty()) points.back().update({{"mean", p.mean()}, {"sd", p.sd()}});
    if (!p.epoch_seconds.empty()) points.back()["epoch_s"] = p.mean_epoch_seconds();
    if (!p.failure.empty()) points.back()["failure"] = p.failure;
  }
  return {{"app", program},        {"command", "sweep"}, {"metric", result.metric},
          {"seeds", result.seeds}, {"points", points},   {"folder", folder}};
}

}  // namespace

double SweepPoint::mean() const { return mean_of(metric); }
double SweepPoint::sd() const {
  if (metric.size() < 2) return 0;
  double sum = 0;
  for (const double m : metric) sum += (m - mean()) * (m - mean());
  return std::sqrt(sum / static_cast<double>(metric.size() - 1));
}
double SweepPoint::mean_epoch_seconds() const { return mean_of(epoch_seconds); }

void add_sweep_options(OptionTable& table, const OptionTable& train_table) {
  add_shared(table, {"grid", "seeds"});
  table.take(train_table,
             {"require", "name", "out", "dry-run", "overfit-batch", "profile", "progress", "color", "beside"});
  table.group("Run");
  table.add(path("out", "DIR", "folder of the sweep, instead of one below runs/ that is named after its options")
                .for_this_call());
}

std::string sweep_table(const SweepResult& result) {
  std::vector<std::string> headings{"rank"};
  for (const Axis& axis : result.axes) headings.push_back(axis.name);
  for (const char* heading : {"mean", "sd", "runs", "s an epoch", "parameters"}) headings.emplace_back(heading);
  headings[1 + result.axes.size()] = result.metric;
  Table table(headings);
  std::size_t place = 0;
  for (const SweepPoint& p : result.points) {
    std::vector<std::string> row{p.metric.empty() ? "-" : fmt::format("{}", ++place)};
    row.insert(row.end(), p.values.begin(), p.values.end());
    row.push_back(p.metric.empty() ? "-" : fmt::format("{:.4f}", p.mean()));
    row.push_back(p.metric.size() < 2 ? "-" : fmt::format("{:.4f}", p.sd()));
    row.push_back(fmt::format("{}", p.metric.size()));
    row.push_back(p.epoch_seconds.empty() ? "-" : fmt::format("{:.2f}", p.mean_epoch_seconds()));
    row.push_back(p.parameters == 0 ? "-" : fmt::format("{}", p.parameters));
    table.add(std::move(row));
  }
  return table.text();
}

std::string csv_field(const std::string& text) {
  const auto is_number = [&] {
    char* end = nullptr;
    std::strtod(text.c_str(), &end);
    return !text.empty() && end == text.c_str() + text.size() && std::isspace(static_cast<unsigned char>(text[0])) == 0;
  };
  std::string field = text;
  if (!text.empty() && std::string_view("=+-@\t\r").find(text[0]) != std::string_view::npos && !is_number())
    field.insert(0, 1, '\'');
  if (field.find_first_of(",\"\r\n") == std::string::npos) return field;
  std::string quoted = "\"";
  for (const char c : field) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

std::string sweep_csv(const SweepResult& result) {
  std::string csv = "rank";
  for (const Axis& axis : result.axes) csv += "," + csv_field(axis.name);
  csv += fmt::format(",{0}_mean,{0}_sd,runs,epoch_s,parameters,failure\r\n", result.metric);
  std::size_t place = 0;
  for (const SweepPoint& p : result.points) {
    csv += p.metric.empty() ? "" : fmt::format("{}", ++place);
    for (const std::string& value : p.values) csv += "," + csv_field(value);
    csv += fmt::format(",{},{},{},{},{},{}\r\n", p.metric.empty() ? "" : fmt::format("{:.6f}", p.mean()),
                       p.metric.size() < 2 ? "" : fmt::format("{:.6f}", p.sd()), p.metric.size(),
                       p.epoch_seconds.empty() ? "" : fmt::format("{:.3f}", p.mean_epoch_seconds()),
                       p.parameters == 0 ? "" : fmt::format("{}", p.parameters), csv_field(p.failure));
  }
  return csv;
}

int run_sweep(const Settings& settings, const SweepTask& task) {
  const std::string& program = settings.table().program();
  SweepResult result{task.metric, settings.integer("seeds"), axes_of(settings), {}};
  const auto points = combinations(result.axes);
  ADJOINT_CHECK(
      points.size() * static_cast<std::size_t>(result.seeds) <= kMostRuns, "E-CLI-004", Exit::usage,
      fmt::format("--grid: {} points of {} runs; expected at most {} runs", points.size(), result.seeds, kMostRuns));
  std::string folder = settings.text("out");
  if (folder.empty()) {
    Json asked = identity(settings);
    asked.erase("seeds");
    folder = fmt::format("runs/{}/sweep-{}", program, data::sha256(asked.dump()).substr(0, 8));
  }

  std::vector<Cell> cells;
  for (std::size_t p = 0; p < points.size(); ++p) {
    result.points.push_back({.values = points[p], .metric = {}, .epoch_seconds = {}, .parameters = 0, .failure = ""});
    Settings at = settings.as(task.train_table).with("quiet", "true");
    for (std::size_t i = 0; i < result.axes.size(); ++i) at = at.with(result.axes[i].name, points[p][i]);
    task.check(at);
    for (std::int64_t s = 0; s < result.seeds; ++s) {
      const std::int64_t seed = settings.integer("seed") + s;
      const std::string name = cell_name(result.axes, points[p], seed);
      cells.push_back({p, name, at.with("seed", fmt::format("{}", seed)).with("out", folder + "/" + name)});
    }
  }

  const RunFolder::Lock lock(folder);
  watch_stop_signals();
  Progress progress = Progress::on_stderr("plain", "never", settings.flag("quiet"));
  int exit = 0;
  for (std::size_t i = 0; i < cells.size() && exit < 128; ++i) {
    const Cell& cell = cells[i];
    SweepPoint& point = result.points[cell.point];
    const std::string place = fmt::format("run {} of {}: {}", i + 1, cells.size(), cell.name);
    Json report = take_up(cell);
    const bool had = !report.is_null();
    try {
      if (!had) report = task.train(cell.settings);
    } catch (const Error& error) {
      if (error.exit() != Exit::numeric && error.exit() != Exit::memory) throw;
      point.failure = error.line();
      progress.message(place + ": " + error.line());
      if (exit == 0) exit = static_cast<int>(error.exit());
      continue;
    }
    if (stop_signal() != 0 && report["ending"] == "signal") {
      exit = 128 + stop_signal();
      progress.message(
          fmt::format("stopped at {}; the same command goes on: {} {} --out {} …", place, program, "sweep", folder));
      break;
    }
    add_result(point, report, task.metric);
    progress.message(fmt::format("{}: {} {}{}", place, task.metric,
                                 point.failure.empty() ? fmt::format("{:.4f}", point.metric.back()) : point.failure,
                                 had ? " (finished before)" : ""));
  }

  rank(result);
  const Json report = as_json(result, program, folder);
  write_file(folder + "/sweep.json", json_text(report, 2) + "\n");
  write_file(folder + "/sweep.csv", sweep_csv(result));
  write_file(folder + "/sweep.html", sweep_page(result, fmt::format("{} sweep", program)));
  if (settings.flag("json")) {
    print_result(json_text(report) + "\n");
  } else {
    print_result(fmt::format("By {} on the validation part, {} runs a point:\n{}Sweep: {} (sweep.csv, sweep.html)\n",
                             task.metric, result.seeds, sweep_table(result), folder));
  }
  return exit;
}

}  // namespace adjoint::app
