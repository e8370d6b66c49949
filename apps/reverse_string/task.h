#pragma once
// The string-reversal task: its options, its data as tensors, its model, and how well the model does.

#include <memory>
#include <string>
#include <vector>

#include "apps/common/metrics.h"
#include "apps/common/options.h"
#include "data/reversal.h"
#include "models/seq2seq.h"

namespace adjoint::reverse_string {

/// Adds what describes the task and the model; training, predicting and looking inside share it.
void add_task_options(app::OptionTable& table);

/// The strings that a run's options describe.
data::ReversalStrings strings_of(const app::Settings& settings);
/// The model, with weights drawn from --seed.
std::unique_ptr<Seq2Seq> model_of(const app::Settings& settings, const data::ReversalAlphabet& alphabet, Device device);

/// A batch as tensors of a fixed width, so that a recorded step serves all batches: lengths say what is real.
struct TensorBatch {
  Tensor source, source_lengths, target_in, target_lengths, target_out;
  std::int64_t tokens = 0;
  std::vector<Tensor> inputs() const { return {source, source_lengths, target_in, target_lengths, target_out}; }
};
TensorBatch tensors_of(const data::ReversalBatch& batch, std::int64_t source_width, std::int64_t target_width,
                       Device device);

/// Mean cross entropy over the real target tokens of a batch, given in the order of TensorBatch::inputs().
Tensor loss_of(const Seq2Seq& model, std::span<const Tensor> inputs);

/// Decodes strings greedily.
std::vector<std::string> reverse(const Seq2Seq& model, const data::ReversalAlphabet& alphabet,
                                 const std::vector<std::string>& strings);
/// Attention weights of one string [T, S], with its target decoded greedily: rows are what is written.
struct Alignment {
  std::vector<std::string> rows, columns;
  std::vector<float> weights;
};
Alignment align(const Seq2Seq& model, const data::ReversalAlphabet& alphabet, const std::string& text);

/// token_accuracy (teacher forcing, with </s>), exact_match (greedy), bleu4 (greedy; corpus, no smoothing, a
/// token is a letter) and loss over the strings.
app::Metrics evaluate(const Seq2Seq& model, const data::ReversalAlphabet& alphabet,
                      const std::vector<std::string>& strings);
/// Share of letters whose largest weight lies on the mirrored source position.
double anti_diagonal_share(const Seq2Seq& model, const data::ReversalAlphabet& alphabet,
                           const std::vector<std::string>& strings);

/// A finished run, opened again.
struct Run {
  std::string folder;
  data::ReversalAlphabet alphabet;
  std::unique_ptr<Seq2Seq> model;
};
/// From --run, or the newest folder below runs/reverse_string that has weights. Throws E-IO-008 if there is none.
Run open_run(const app::OptionTable& train_table, const std::string& folder, Device device);

}  // namespace adjoint::reverse_string
