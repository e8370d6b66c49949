#include "apps/clickbait/init_from.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "apps/common/terminal.h"
#include "engine/checkpoint.h"

namespace adjoint::clickbait {
namespace {

constexpr const char* kLstm = "lstm.";
constexpr const char* kWordVectors = "embedding.weight";

void check_shape(const std::string& file, const std::string& name, const Tensor& theirs, const Tensor& ours,
                 const char* advice) {
  ADJOINT_CHECK(theirs.shape() == ours.shape() && theirs.dtype() == ours.dtype(), "E-CKPT-019", Exit::data,
                fmt::format("{}: {}: file {}, model {}; expected equal shapes; try {}", app::shortened(file, 150), name,
                            text(theirs.shape()), text(ours.shape()), advice));
}

}  // namespace

std::string Taken::text() const {
  return fmt::format("from {}: {} and {} of {} word vectors; fresh: {}", run, fmt::join(taken, " "), words, vocabulary,
                     fmt::join(fresh, " "));
}

nlohmann::ordered_json Taken::json() const {
  return {{"run", run}, {"taken", taken}, {"fresh", fresh}, {"word_vectors", words}, {"vocabulary", vocabulary}};
}

Taken take_weights(Classifier& model, const data::Vocabulary& vocabulary, const std::string& run) {
  const std::string file = run + "/model.safetensors";
  const std::map<std::string, Tensor> theirs = read_parameters(file);
  const data::Vocabulary words = data::Vocabulary::read(run + "/vocab.txt");
  Taken result{.run = run, .taken = {}, .fresh = {}, .words = 0, .vocabulary = vocabulary.size()};

  std::vector<std::pair<Tensor, Tensor>> copies;  // to, from
  bool wanted = false;
  for (const NamedParameter& p : model.parameters()) {
    if (p.name == kWordVectors) continue;
    const auto found = theirs.find(p.name);
    const bool lstm = p.name.starts_with(kLstm);
    wanted |= lstm;
    if (!lstm || found == theirs.end()) {
      result.fresh.push_back(p.name);
      continue;
    }
    const Tensor to = p.parameter->value().detached();
    check_shape(file, p.name, found->second, to, "the --embedding and --hidden of that run");
    copies.emplace_back(to, found->second);
    result.taken.push_back(p.name);
  }
  ADJOINT_CHECK(wanted, "E-CONF-009", Exit::usage,
                fmt::format("--init-from {}: the model has no LSTM to start; expected --model lstm or lstm-encoder",
                            app::shortened(run, 150)));
  ADJOINT_CHECK(
      !result.taken.empty(), "E-CONF-009", Exit::usage,
      fmt::format("--init-from {}: that run has no LSTM to take; expected one of --objective lm or of --model "
                  "lstm or lstm-encoder",
                  app::shortened(run, 150)));

  Tensor table = model.word_vectors().value().detached();
  const auto source = theirs.find(kWordVectors);
  ADJOINT_CHECK(source != theirs.end(), "E-CKPT-019", Exit::data,
                fmt::format("{}: no {}; expected a classifier's or a language model's weights",
                            app::shortened(file, 200), kWordVectors));
  const Tensor& rows = source->second;
  ADJOINT_CHECK(rows.rank() == 2 && rows.extent(1) == table.extent(1) && rows.dtype() == table.dtype(), "E-CKPT-019",
                Exit::data,
                fmt::format("{}: {}: file {}, model {}; expected rows of one width; try the --embedding of that run",
                            app::shortened(file, 150), kWordVectors, text(rows.shape()), text(table.shape())));
  ADJOINT_CHECK(rows.extent(0) == words.size(), "E-CKPT-021", Exit::data,
                fmt::format("{}: {} word vectors, but its vocab.txt has {} tokens; expected the vocabulary of that run",
                            app::shortened(file, 200), rows.extent(0), words.size()));
  Tensor filled = Tensor::empty_like(table);
  filled.copy_from(table);
  for (std::int64_t id = 0; id < vocabulary.size(); ++id) {
    const std::string& token = vocabulary.token(id);
    if (!words.contains(token)) continue;
    const std::int64_t from = words.id(token);
    slice(filled, 0, id, id + 1).copy_from(slice(rows, 0, from, from + 1));
    ++result.words;
  }
  copies.emplace_back(table, filled);
  for (auto& [to, from] : copies) to.copy_from(from);
  return result;
}

}  // namespace adjoint::clickbait
