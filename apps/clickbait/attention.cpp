// attention: where a trained classifier looks.

#include <fmt/format.h>

#include <algorithm>

#include "apps/clickbait/commands.h"
#include "apps/clickbait/task.h"
#include "apps/common/attention_page.h"
#include "apps/common/engine_options.h"
#include "apps/common/finished_run.h"
#include "apps/common/shared_options.h"
#include "engine/ops.h"

namespace adjoint::clickbait {
namespace {

/// The tokens among themselves, and the row by which the classification sees them: that of [CLS] in the transformer
/// encoder, whose hidden state is classified, else the mean of all rows.
std::vector<app::AttentionView> views_of(const std::vector<Tensor>& weights, const std::vector<std::string>& tokens,
                                         const std::string& predicted, bool by_first_token) {
  const std::size_t n = tokens.size();
  app::AttentionView all{.name = "Encoder", .left = tokens, .right = tokens};
  app::AttentionView head{.name = "Cross", .left = {predicted + "?"}, .right = tokens};
  all.layers = head.layers = weights.size();
  all.heads = head.heads = static_cast<std::size_t>(weights.at(0).extent(1));
  for (const Tensor& layer : weights) {
    const std::vector<double> values = layer.to_vector();  // [1, heads, n, n]
    all.weights.insert(all.weights.end(), values.begin(), values.end());
    for (std::size_t h = 0; h < all.heads; ++h)
      for (std::size_t k = 0; k < n; ++k) {
        double sum = 0;
        for (std::size_t q = 0; q < n; ++q) sum += values[(h * n + q) * n + k];
        head.weights.push_back(by_first_token ? values[h * n * n + k] : sum / static_cast<double>(n));
      }
  }
  return {std::move(head), std::move(all)};
}

}  // namespace

void add_attention_options(app::OptionTable& table) {
  table.arguments({.placeholder = "RUN HEADLINE...", .min = 2, .max = 65, .help = "folder of the run, and headlines"});
  app::add_attention_output(table);
  app::add_shared(table,
                  {"device", "gemm-backend", "lstm-backend", "attention-backend", "threads", "cpu-level", "color"});
}

int attention(const app::Settings& settings, const app::OptionTable& train_table) {
  const Device device = app::device_of(settings);
  const Run run = open_run(train_table, app::finished_run("clickbait", settings.arguments()[0]), device);
  const std::string& kind = run.settings.text("model");
  ADJOINT_CHECK(
      kind == "attention" || kind == "lstm-encoder" || kind == "encoder", "E-CONF-007", Exit::usage,
      fmt::format("{}: model {} has no attention; expected attention, lstm-encoder or encoder; try 'clickbait "
                  "train --model lstm-encoder'",
                  run.folder, kind));
  const data::Tokenizer tokenizer = tokenizer_of(run.settings);
  std::vector<app::AttentionExample> examples;
  for (std::size_t i = 1; i < settings.arguments().size(); ++i) {
    const std::string& text = settings.arguments()[i];
    std::vector<std::string> tokens = tokenizer.tokens(text);
    ADJOINT_CHECK(!tokens.empty(), "E-DATA-001", Exit::data, "headline: no tokens; expected at least one word");
    const std::vector<std::int32_t> ids = ids_of(run.settings, run.vocabulary, tokens);
    if (kind == "encoder") tokens.insert(tokens.begin(), "[CLS]");
    tokens.resize(ids.size());
    const auto n = static_cast<std::int32_t>(ids.size());
    std::vector<Tensor> weights;
    const std::vector<double> p =
        softmax(run.model->forward(
                    Tensor::from(std::span<const std::int32_t>(ids), {1, n}, device),
                    {.lengths = Tensor::from(std::span<const std::int32_t>(&n, 1), {1}, device), .weights = &weights}))
            .to_vector();
    const auto best = std::max_element(p.begin(), p.end());
    const std::string& predicted = run.classes.at(static_cast<std::size_t>(best - p.begin()));
    examples.push_back({.text = text,
                        .predicted = predicted,
                        .probability = *best,
                        .views = views_of(weights, tokens, predicted, kind == "encoder")});
  }
  app::write_attention(settings, examples, run.folder + "/model.safetensors", run.folder + "/attention.html");
  return 0;
}

}  // namespace adjoint::clickbait
