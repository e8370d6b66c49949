#include "apps/reverse_string/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "apps/common/config_file.h"
#include "data/metrics.h"
#include "engine/checkpoint.h"

namespace adjoint::reverse_string {
namespace {

constexpr std::int64_t kEvaluationBatch = 256;

Device device_of(const Seq2Seq& model) { return model.parameters().at(0).parameter->value().device(); }

/// Batches of the strings in order, no wider than needed, where the model lies.
template <class F>
void in_order(const Seq2Seq& model, const data::ReversalAlphabet& alphabet, const std::vector<std::string>& strings,
              F&& f) {
  for (std::size_t begin = 0; begin < strings.size(); begin += kEvaluationBatch) {
    const std::size_t end = std::min(begin + kEvaluationBatch, strings.size());
    const std::vector<std::string> part(strings.begin() + static_cast<std::ptrdiff_t>(begin),
                                        strings.begin() + static_cast<std::ptrdiff_t>(end));
    data::ReversalBatches batches(alphabet, part, {.size = static_cast<std::int64_t>(part.size()), .shuffle = false});
    const data::ReversalBatch batch = batches.batch(0);
    f(part, batch, tensors_of(batch, batch.source.width, batch.target_in.width, device_of(model)));
  }
}

std::int64_t longest(const std::vector<std::string>& strings) {
  std::size_t n = 0;
  for (const std::string& s : strings) n = std::max(n, s.size());
  return static_cast<std::int64_t>(n);
}

}  // namespace

void add_task_options(app::OptionTable& table) {
  table.group("Task");
  table.add(app::choice("data", "generated", {"generated", "practical10"},
                        "strings to reverse: drawn from --seed, or the published ones"));
  table.add(app::text("letters", "LETTERS", "the alphabet", "abcdefgh"));
  table.add(app::integer("min-length", 3, 1, 1000, "shortest string"));
  table.add(app::integer("max-length", 12, 1, 1000, "longest string"));
  table.add(app::integer("train-strings", 4000, 1, 100'000'000, "strings to train on"));
  table.add(app::integer("validation-strings", 500, 1, 10'000'000, "unseen strings to judge by"));
  table.group("Model");
  table.add(app::choice("attention", "dot", {"dot", "none"}, "attention over the encoder's states"));
  table.add(app::flag("scaled", "divide the attention scores by the square root of the width"));
  table.add(app::flag("bidirectional", "let the encoder read in both directions, half of the width each"));
  table.add(app::integer("embedding", 32, 0, 65536, "width of the symbol embeddings, 0 for frozen one-hot vectors"));
  table.add(app::integer("hidden", 64, 1, 65536, "width of the decoder's state"));
}

data::ReversalStrings strings_of(const app::Settings& s) {
  if (s.text("data") == "practical10") return data::practical10_strings();
  return data::generate_strings({.letters = s.text("letters"),
                                 .min_length = static_cast<std::int32_t>(s.integer("min-length")),
                                 .max_length = static_cast<std::int32_t>(s.integer("max-length")),
                                 .train = s.integer("train-strings"),
                                 .validation = s.integer("validation-strings"),
                                 .seed = static_cast<std::uint64_t>(s.integer("seed"))});
}

std::unique_ptr<Seq2Seq> model_of(const app::Settings& s, const data::ReversalAlphabet& alphabet, Device device) {
  Generator random(static_cast<std::uint64_t>(s.integer("seed")), device);
  return std::make_unique<Seq2Seq>(
      Initializer{random},
      Seq2SeqOptions{.symbols = alphabet.size(),
                     .embedding = s.integer("embedding"),
                     .hidden = s.integer("hidden"),
                     .bidirectional = s.flag("bidirectional"),
                     .attention = s.text("attention") == "dot" ? Seq2SeqAttention::dot : Seq2SeqAttention::none,
                     .scaled = s.flag("scaled")});
}

TensorBatch tensors_of(const data::ReversalBatch& batch, std::int64_t source_width, std::int64_t target_width,
                       Device device) {
  const auto widened = [&](const data::Padded& p, std::int64_t width) {
    const std::int32_t pad = p.rows * p.width > 0 ? p.ids.back() : 0;
    std::vector<std::int32_t> ids(static_cast<std::size_t>(p.rows * width), pad);
    for (std::int64_t r = 0; r < p.rows; ++r) {
      std::copy_n(p.ids.begin() + r * p.width, p.width, ids.begin() + r * width);
    }
    return Tensor::from(std::span<const std::int32_t>(ids), {p.rows, width}, device);
  };
  const auto lengths = [&](const data::Padded& p) {
    return Tensor::from(std::span<const std::int32_t>(p.lengths), {p.rows}, device);
  };
  // Targets past the end must not count, whatever stands in the last column of the narrower matrix.
  data::Padded out = batch.target_out;
  const std::int64_t wide = std::max(target_width, out.width);
  std::vector<std::int32_t> targets(static_cast<std::size_t>(out.rows * wide), data::ReversalBatches::kIgnore);
  for (std::int64_t r = 0; r < out.rows; ++r)
    std::copy_n(out.ids.begin() + r * out.width, out.lengths[static_cast<std::size_t>(r)], targets.begin() + r * wide);
  return {widened(batch.source, std::max(source_width, batch.source.width)),
          lengths(batch.source),
          widened(batch.target_in, wide),
          lengths(batch.target_out),
          Tensor::from(std::span<const std::int32_t>(targets), {out.rows, wide}, device),
          out.tokens()};
}

Tensor loss_of(const Seq2Seq& model, std::span<const Tensor> in) {
  return cross_entropy(model.forward({in[0], in[1]}, {in[2], in[3]}), in[4], data::ReversalBatches::kIgnore);
}

std::vector<std::string> reverse(const Seq2Seq& model, const data::ReversalAlphabet& alphabet,
                                 const std::vector<std::string>& strings) {
  std::vector<std::string> results;
  in_order(model, alphabet, strings, [&](const auto& part, const auto&, const TensorBatch& batch) {
    for (const auto& ids : model.greedy({batch.source, batch.source_lengths}, data::ReversalAlphabet::kBegin,
                                        data::ReversalAlphabet::kEnd, 2 * longest(part) + 2)) {
      results.push_back(alphabet.decode(ids));
    }
  });
  return results;
}

Alignment align(const Seq2Seq& model, const data::ReversalAlphabet& alphabet, const std::string& text) {
  const std::string written = reverse(model, alphabet, {text})[0];
  std::vector<std::int32_t> source = alphabet.encode(text), target = alphabet.encode(written);
  target.pop_back();  // the decoder reads <s> and what it has written
  const Device device = device_of(model);
  const auto tensor = [device](const std::vector<std::int32_t>& ids) {
    return Tensor::from(std::span<const std::int32_t>(ids), {1, static_cast<std::int64_t>(ids.size())}, device);
  };
  const auto length = [device](const std::vector<std::int32_t>& ids) {
    const std::int32_t n = static_cast<std::int32_t>(ids.size());
    return Tensor::from(std::span<const std::int32_t>(&n, 1), {1}, device);
  };
  const std::vector<double> weights =
      model.alignment({tensor(source), length(source)}, {tensor(target), length(target)}).to_vector();
  Alignment a;
  for (const std::int32_t id : source) a.columns.push_back(alphabet.symbol(id));
  for (std::size_t t = 1; t < target.size(); ++t) a.rows.push_back(alphabet.symbol(target[t]));
  a.rows.push_back(alphabet.symbol(data::ReversalAlphabet::kEnd));
  a.weights.assign(weights.begin(), weights.end());
  return a;
}

app::Metrics evaluate(const Seq2Seq& model, const data::ReversalAlphabet& alphabet,
                      const std::vector<std::string>& strings) {
  std::int64_t right = 0, tokens = 0;
  double loss = 0;
  in_order(model, alphabet, strings, [&](const auto&, const data::ReversalBatch& host, const TensorBatch& batch) {
    const Tensor logits = model.forward({batch.source, batch.source_lengths}, {batch.target_in, batch.target_lengths});
    const std::vector<std::int32_t> chosen = argmax(logits).to_ints();
    const std::vector<std::int32_t>& wanted = host.target_out.ids;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      if (wanted[i] == data::ReversalBatches::kIgnore) continue;
      right += chosen[i] == wanted[i] ? 1 : 0;
    }
    tokens += batch.tokens;
    loss += cross_entropy(logits, batch.target_out, data::ReversalBatches::kIgnore).item() *
            static_cast<double>(batch.tokens);
  });
  data::TokenSequences written, wanted;  // a token is a letter
  const auto letters = [](auto begin, auto end) {
    std::vector<std::string> tokens;
    for (; begin != end; ++begin) tokens.emplace_back(1, *begin);
    return tokens;
  };
  for (const std::string& s : reverse(model, alphabet, strings)) written.push_back(letters(s.begin(), s.end()));
  for (const std::string& s : strings) wanted.push_back(letters(s.rbegin(), s.rend()));
  return {{"token_accuracy", static_cast<double>(right) / static_cast<double>(tokens)},
          {"exact_match", data::exact_match(written, wanted)},
          {"bleu4", data::bleu4(written, wanted)},
          {"loss", loss / static_cast<double>(tokens)}};
}

double anti_diagonal_share(const Seq2Seq& model, const data::ReversalAlphabet& alphabet,
                           const std::vector<std::string>& strings) {
  std::int64_t mirrored = 0, letters = 0;
  in_order(model, alphabet, strings, [&](const auto& part, const data::ReversalBatch& host, const TensorBatch& batch) {
    const std::vector<double> weights =
        model.alignment({batch.source, batch.source_lengths}, {batch.target_in, batch.target_lengths}).to_vector();
    const std::int64_t rows = host.target_in.width, columns = host.source.width;
    for (std::size_t b = 0; b < part.size(); ++b) {
      const std::int64_t n = static_cast<std::int64_t>(part[b].size());
      for (std::int64_t t = 0; t < n; ++t) {
        const auto row = weights.begin() + (static_cast<std::int64_t>(b) * rows + t) * columns;
        const std::int64_t largest = std::max_element(row, row + columns) - row;
        mirrored += largest == n - t ? 1 : 0;  // position 0 is <s>: letter i of the string stands at i + 1
        ++letters;
      }
    }
  });
  return static_cast<double>(mirrored) / static_cast<double>(letters);
}

Run open_run(const app::OptionTable& train_table, const std::string& asked, Device device) {
  namespace fs = std::filesystem;
  std::string folder = asked;
  if (folder.empty()) {
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator("runs/reverse_string", ignored)) {
      const std::string path = entry.path().string();
      if (fs::exists(entry.path() / "model.safetensors", ignored) && path > folder)
        folder = path;  // names begin with the date
    }
    ADJOINT_CHECK(
        !folder.empty(), "E-IO-008", Exit::io,
        "runs/reverse_string: no finished run; expected one with model.safetensors; try 'reverse_string train' "
        "first, or --run DIR");
  }
  app::Settings settings = app::recorded_settings(train_table, folder);
  Run run{folder, strings_of(settings).alphabet, nullptr};
  run.model = model_of(settings, run.alphabet, device);
  load_model(folder + "/model.safetensors", *run.model);
  return run;
}

}  // namespace adjoint::reverse_string
