#pragma once
// The classification task: its options, its data as ids, its model, and how well the model does.

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "apps/common/metrics.h"
#include "apps/common/options.h"
#include "data/batches.h"
#include "data/dataset.h"
#include "data/metrics.h"
#include "data/text.h"
#include "data/vocabulary.h"
#include "models/classifiers.h"

namespace adjoint::clickbait {

/// Adds what tells where the texts are and how a table is laid out.
void add_data_options(app::OptionTable& table);
/// Adds what describes the texts' treatment and the model; training and all that opens a run share it.
void add_model_options(app::OptionTable& table);

/// The texts that the options describe; the bundled sample if they name none. Throws E-IO-009 if it is not there.
data::Dataset dataset_of(const app::Settings& settings, data::BadRows bad_rows = data::BadRows::error);
/// The three parts of a data set, of the shares --validation and --test, by --seed.
data::Split split_of(const app::Settings& settings, const data::Dataset& dataset);
data::Tokenizer tokenizer_of(const app::Settings& settings);
/// Of the training part alone.
data::Vocabulary vocabulary_of(const app::Settings& settings, const std::vector<std::vector<std::string>>& tokens,
                               std::span<const std::int64_t> train);
/// What the model reads: at most --max-length ids, for the transformer encoder with [CLS] in front.
std::vector<std::int32_t> ids_of(const app::Settings& settings, const data::Vocabulary& vocabulary,
                                 const std::vector<std::string>& tokens);

/// The texts of a run as ids, with what was learnt from its training part.
struct Corpus {
  data::Dataset dataset;
  data::Split split;
  data::Vocabulary vocabulary;
  std::vector<std::vector<std::int32_t>> ids;

  std::int64_t classes() const { return static_cast<std::int64_t>(dataset.classes.size()); }
};

Corpus corpus_of(const app::Settings& settings);
/// "25600 training, 3200 validation and 3200 test texts, 11605 tokens in the vocabulary".
std::string description(const Corpus& corpus);
/// The contents of a run's classes.txt.
std::string class_lines(const std::vector<std::string>& classes);

/// The model, with weights drawn from --seed.
std::unique_ptr<Classifier> model_of(const app::Settings& settings, std::int64_t vocabulary, std::int64_t classes,
                                     Device device);

/// A batch as tensors. Widths are rounded up so that few recorded steps serve all batches; lengths say what is real.
struct TensorBatch {
  Tensor ids, lengths, labels;
  std::int64_t tokens = 0;
  std::vector<Tensor> inputs() const { return {ids, lengths, labels}; }
};
TensorBatch tensors_of(const data::LabelledBatch& batch, std::int64_t max_length, Device device);

/// Probabilities of the classes [chosen examples, classes], in the order of `chosen`.
std::vector<std::vector<double>> probabilities(const Classifier& model,
                                               const std::vector<std::vector<std::int32_t>>& ids,
                                               std::span<const std::int64_t> chosen, std::int64_t max_length,
                                               Device device);

struct Judgement {
  data::Confusion confusion;
  double loss = 0;
  std::vector<std::vector<double>> probabilities;  // of each example

  /// accuracy, precision, recall and f1 of the last class, macro_f1, loss.
  app::Metrics metrics() const;
};
Judgement judge(const Classifier& model, const std::vector<std::vector<std::int32_t>>& ids,
                const std::vector<std::int32_t>& labels, std::int64_t classes, std::span<const std::int64_t> chosen,
                std::int64_t max_length, Device device);

/// The wrong answers of which the model was surest, [{truth, predicted, probability of the truth, text}].
nlohmann::ordered_json worst_errors(const Judgement& judgement, const data::Dataset& dataset,
                                    std::span<const std::int64_t> chosen);

/// The confusion matrix as lines of text, and as rows of numbers.
std::string confusion_text(const data::Confusion& confusion, const std::vector<std::string>& classes);
std::vector<std::vector<std::int64_t>> confusion_rows(const data::Confusion& confusion);

/// A finished run, opened again.
struct Run {
  std::string folder;
  app::Settings settings;
  data::Vocabulary vocabulary;
  std::vector<std::string> classes;
  std::unique_ptr<Classifier> model;
};
/// Throws E-CONF-009 for a language model's run.
Run open_run(const app::OptionTable& train_table, const std::string& folder, Device device);

}  // namespace adjoint::clickbait
