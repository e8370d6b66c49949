// The page of a sweep: a table and two drawings, as static SVG. Without scripts, so that it works everywhere.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "apps/common/metrics.h"
#include "apps/common/page.h"
#include "apps/common/sweep.h"
#include "apps/common/terminal.h"

namespace adjoint::app {
namespace {

constexpr const char* kStyle =
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 "
    "1rem}table{border-collapse:collapse}th,td{padding:.2rem .8rem;text-align:right;border-bottom:1px solid "
    "#8884}svg{width:100%;height:auto;margin:1rem 0}text{font:12px system-ui,sans-serif;fill:currentColor}.end{"
    "text-anchor:end}.middle{text-anchor:middle}line{stroke:currentColor;stroke-opacity:.25}.spread{stroke:#2a6fb0;"
    "stroke-opacity:1;stroke-width:2}circle{fill:#2a6fb0}.run{fill-opacity:.35}";

std::string escaped(const std::string& text) { return html_escaped(printable(text)); }

std::string name_of(const SweepResult& result, const SweepPoint& point) {
  std::string name;
  for (std::size_t i = 0; i < result.axes.size(); ++i)
    name += fmt::format("{}{} {}", i == 0 ? "" : ", ", result.axes[i].name, point.values[i]);
  return name;
}

/// A scale from data to a pixel range, with round ticks.
class Scale {
 public:
  Scale(double low, double high, double from, double to) : low_(low), high_(high), from_(from), to_(to) {
    if (!(high_ - low_ > 1e-12)) {
      low_ -= 0.5 * std::max(std::abs(low_), 1e-3);
      high_ += 0.5 * std::max(std::abs(high_), 1e-3);
    }
    const double margin = 0.05 * (high_ - low_);
    low_ -= margin;
    high_ += margin;
  }
  double at(double value) const { return from_ + (value - low_) / (high_ - low_) * (to_ - from_); }
  std::vector<double> ticks() const {
    const double rough = (high_ - low_) / 5, power = std::pow(10, std::floor(std::log10(rough)));
    double step = power;
    for (const double factor : {2.0, 5.0, 10.0})
      if (step < rough) step = factor * power;
    std::vector<double> out;
    for (double k = std::ceil(low_ / step); k * step <= high_; ++k) out.push_back(k * step);
    return out;
  }

 private:
  double low_, high_, from_, to_;
};

/// Each point a row: its runs, their mean and their spread.
std::string ranking(const SweepResult& result) {
  constexpr double kLeft = 300, kRight = 880, kTop = 30, kRow = 22;
  std::vector<const SweepPoint*> shown;
  double low = 1e300, high = -1e300;
  for (const SweepPoint& p : result.points) {
    if (p.metric.empty()) continue;
    shown.push_back(&p);
    low = std::min({low, *std::min_element(p.metric.begin(), p.metric.end()), p.mean() - p.sd()});
    high = std::max({high, *std::max_element(p.metric.begin(), p.metric.end()), p.mean() + p.sd()});
  }
  if (shown.empty()) return "<p>No run finished.</p>";
  const double bottom = kTop + kRow * static_cast<double>(shown.size());
  const Scale x(low, high, kLeft, kRight);
  std::string svg = fmt::format("<svg viewBox=\"0 0 900 {:.0f}\" role=\"img\" aria-label=\"{} of each point\">\n",
                                bottom + 40, escaped(result.metric));
  for (const double t : x.ticks())
    svg += fmt::format(
        "<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\"/><text class=\"middle\" "
        "x=\"{0:.1f}\" y=\"{3:.1f}\">{4:.5g}</text>\n",
        x.at(t), kTop, bottom, bottom + 16, t);
  svg += fmt::format(
      "<text class=\"middle\" x=\"{:.0f}\" y=\"{:.0f}\">{} (points: runs and their mean; bar: ± sd)</text>\n",
      (kLeft + kRight) / 2, bottom + 34, escaped(result.metric));
  for (std::size_t i = 0; i < shown.size(); ++i) {
    const SweepPoint& p = *shown[i];
    const double y = kTop + kRow * (static_cast<double>(i) + 0.5);
    svg += fmt::format("<g><title>{}: {:.4f} ± {:.4f}</title><text class=\"end\" x=\"{:.0f}\" y=\"{:.1f}\">{}</text>",
                       escaped(name_of(result, p)), p.mean(), p.sd(), kLeft - 10, y + 4,
                       escaped(shortened(name_of(result, p), 48)));
    svg += fmt::format("<line class=\"spread\" x1=\"{0:.1f}\" y1=\"{2:.1f}\" x2=\"{1:.1f}\" y2=\"{2:.1f}\"/>",
                       x.at(p.mean() - p.sd()), x.at(p.mean() + p.sd()), y);
    for (const double m : p.metric)
      svg += fmt::format("<circle class=\"run\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"/>", x.at(m), y);
    svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\"/></g>\n", x.at(p.mean()), y);
  }
  return svg + "</svg>\n";
}

/// Quality over time.
std::string cost(const SweepResult& result) {
  constexpr double kLeft = 90, kRight = 880, kTop = 20, kBottom = 320;
  std::vector<const SweepPoint*> shown;
  double low = 1e300, high = -1e300, slowest = 0;
  for (const SweepPoint& p : result.points) {
    if (p.metric.empty() || p.epoch_seconds.empty()) continue;
    shown.push_back(&p);
    low = std::min(low, p.mean());
    high = std::max(high, p.mean());
    slowest = std::max(slowest, p.mean_epoch_seconds());
  }
  if (shown.empty()) return "";
  const Scale x(0, slowest, kLeft, kRight), y(low, high, kBottom, kTop);
  std::string svg = fmt::format("<svg viewBox=\"0 0 900 370\" role=\"img\" aria-label=\"{} over seconds an epoch\">\n",
                                escaped(result.metric));
  for (const double t : x.ticks())
    svg += fmt::format(
        "<line x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\"/><text class=\"middle\" x=\"{0:.1f}\" "
        "y=\"{3}\">{4:.5g}</text>\n",
        x.at(t), kTop, kBottom, kBottom + 16, t);
  for (const double t : y.ticks())
    svg += fmt::format(
        "<line x1=\"{1}\" y1=\"{0:.1f}\" x2=\"{2}\" y2=\"{0:.1f}\"/><text class=\"end\" x=\"{3}\" "
        "y=\"{4:.1f}\">{5:.5g}</text>\n",
        y.at(t), kLeft, kRight, kLeft - 8, y.at(t) + 4, t);
  svg += fmt::format("<text class=\"middle\" x=\"485\" y=\"{}\">seconds an epoch</text>\n", kBottom + 36);
  for (const SweepPoint* p : shown)
    svg += fmt::format(
        "<g><title>{0}</title><circle cx=\"{1:.1f}\" cy=\"{2:.1f}\" r=\"5\"/><text x=\"{3:.1f}\" "
        "y=\"{4:.1f}\">{0}</text></g>\n",
        escaped(shortened(name_of(result, *p), 40)), x.at(p->mean_epoch_seconds()), y.at(p->mean()),
        x.at(p->mean_epoch_seconds()) + 8, y.at(p->mean()) + 4);
  return svg + "</svg>\n";
}

std::string table(const SweepResult& result) {
  std::string html = "<table><thead><tr><th>rank</th>";
  for (const Axis& axis : result.axes) html += fmt::format("<th>{}</th>", escaped(axis.name));
  html += fmt::format("<th>{}</th><th>sd</th><th>runs</th><th>s an epoch</th><th>parameters</th></tr></thead><tbody>\n",
                      escaped(result.metric));
  std::size_t place = 0;
  for (const SweepPoint& p : result.points) {
    html += fmt::format("<tr><td>{}</td>", p.metric.empty() ? "–" : fmt::format("{}", ++place));
    for (const std::string& value : p.values) html += fmt::format("<td><bdi>{}</bdi></td>", escaped(value));
    if (p.metric.empty()) {
      html += fmt::format("<td colspan=\"5\">{}</td></tr>\n", escaped(p.failure.empty() ? "not run" : p.failure));
      continue;
    }
    html += fmt::format("<td>{:.4f}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n", p.mean(),
                        p.metric.size() < 2 ? "–" : fmt::format("{:.4f}", p.sd()), p.metric.size(),
                        p.epoch_seconds.empty() ? "–" : fmt::format("{:.2f}", p.mean_epoch_seconds()), p.parameters);
  }
  return html + "</tbody></table>\n";
}

}  // namespace

std::string sweep_page(const SweepResult& result, const std::string& title) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"Content-Security-Policy\" "
      "content=\"default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'\"><meta "
      "name=\"viewport\" content=\"width=device-width\"><title>{}</title><style>{}</style></head>\n<body><h1>{}</h1>\n"
      "<p>{} on the validation part, {} runs a point; {} is better.</p>\n{}{}{}</body></html>\n",
      policy_hash(kStyle), escaped(title), kStyle, escaped(title), escaped(result.metric), result.seeds,
      higher_is_better(result.metric) ? "higher" : "lower", ranking(result), cost(result), table(result));
}

}  // namespace adjoint::app
