#include "apps/common/attention_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "apps/common/files.h"
#include "apps/common/metrics.h"
#include "apps/common/page.h"
#include "apps/common/terminal.h"
#include "apps/pages/page_files.h"
#include "data/sha256.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::size_t kMaxTokens = 512;
constexpr std::size_t kMaxModel = std::size_t{1} << 34;

Json view_json(const AttentionView& v) {
  ADJOINT_CHECK(std::max(v.left.size(), v.right.size()) <= kMaxTokens, "E-DATA-011", Exit::data,
                fmt::format("attention: {} tokens; expected at most {}; try a shorter text",
                            std::max(v.left.size(), v.right.size()), kMaxTokens));
  Json layers = Json::array();
  auto w = v.weights.begin();
  for (std::size_t l = 0; l < v.layers; ++l) {
    Json heads = Json::array();
    for (std::size_t h = 0; h < v.heads; ++h) {
      Json matrix = Json::array();
      for (std::size_t q = 0; q < v.left.size(); ++q) {
        Json row = Json::array();
        double sum = 0;
        for (std::size_t k = 0; k < v.right.size(); ++k, ++w) {
          sum += *w;
          row.push_back(std::strtod(fmt::format("{:.6g}", *w).c_str(), nullptr));  // six digits say all there is
        }
        ADJOINT_CHECK(std::abs(sum - 1) <= 1e-4, "E-NUM-002", Exit::numeric,
                      fmt::format("attention: weights of layer {}, head {}, row {} sum to {}; expected 1 within 1e-4",
                                  l, h, q, sum));
        matrix.push_back(std::move(row));
      }
      heads.push_back(std::move(matrix));
    }
    layers.push_back(std::move(heads));
  }
  return {{"name", v.name}, {"left_text", v.left}, {"right_text", v.right}, {"attn", std::move(layers)}};
}

std::string text_of(const AttentionExample& example, const Terminal& terminal) {
  std::string out = fmt::format("{}: {}\n", printable(example.text), printable(example.predicted));
  for (const AttentionView& v : example.views)
    for (std::size_t m = 0; m < v.layers * v.heads; ++m) {
      const std::size_t size = v.left.size() * v.right.size();
      const auto from = v.weights.begin() + static_cast<std::ptrdiff_t>(m * size);
      out += fmt::format("{}, layer {}, head {}; rows look at columns\n", v.name, m / v.heads + 1, m % v.heads + 1) +
             heat_map_text({v.left, v.right, std::vector<float>(from, from + static_cast<std::ptrdiff_t>(size))},
                           terminal);
    }
  return out;
}

}  // namespace

Json attention_json(const std::vector<AttentionExample>& examples, const std::string& checkpoint_sha256) {
  Json list = Json::array();
  for (const AttentionExample& e : examples) {
    Json views = Json::array();
    for (const AttentionView& v : e.views) views.push_back(view_json(v));
    list.push_back({{"id", fmt::format("{}", list.size())},
                    {"text", e.text},
                    {"label", nullptr},
                    {"predicted", e.predicted},
                    {"probability", e.probability ? Json(*e.probability) : Json(nullptr)},
                    {"views", std::move(views)}});
  }
  return {{"format", "adjoint.attention"},
          {"version", 1},
          {"producer", {{"adjoint", ADJOINT_VERSION}, {"checkpoint_sha256", checkpoint_sha256}}},
          {"examples", std::move(list)}};
}

Json bertviz_params(const std::vector<AttentionExample>& examples) {
  Json views = Json::array(), layers = Json::array();
  std::size_t most = 0;
  for (const AttentionView& v : examples.at(0).views) {
    views.push_back(view_json(v));
    most = std::max(most, v.layers);
  }
  for (std::size_t l = 0; l < most; ++l) layers.push_back(l);
  return {{"attention", std::move(views)},
          {"default_filter", "0"},
          {"root_div_id", "bertviz"},
          {"layer", nullptr},
          {"heads", nullptr},
          {"include_layers", std::move(layers)}};
}

std::string attention_page(const Json& attention) {
  return page("Attention of " + attention["examples"].at(0)["text"].get<std::string>(), pages::attention_html,
              pages::attention_js, attention);
}

void add_attention_output(OptionTable& table) {
  table.group("Output");
  table.add(choice("format", "html", {"html", "json", "bertviz", "text"},
                   "a page for browsers, adjoint.attention JSON, BertViz's parameters, or the terminal"));
  table.add(path("out", "FILE", "where to write; by default attention.html in the run's folder, else stdout"));
}

void write_attention(const Settings& settings, const std::vector<AttentionExample>& examples,
                     const std::string& model_file, const std::string& page) {
  const std::string& format = settings.text("format");
  const Json attention = attention_json(examples, data::sha256(read_file(model_file, kMaxModel)));
  std::string out = settings.text("out"), content;
  if (format == "html") {
    if (out.empty()) out = page;
    content = attention_page(attention);
  } else if (format == "text") {
    const Terminal terminal = out.empty() ? detect_terminal(1, settings.text("color")) : Terminal{};
    for (const AttentionExample& e : examples) content += text_of(e, terminal);
  } else {
    content = json_text(format == "json" ? attention : bertviz_params(examples)) + "\n";
  }
  if (out.empty()) {
    print_result(content);
    return;
  }
  check_output_is_no_input(out, {model_file});
  write_file(out, content);
  print_result(out + "\n");
}

}  // namespace adjoint::app
