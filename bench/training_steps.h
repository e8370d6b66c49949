#pragma once
// The training steps that bench_step and bench_gpu time, on batches of bench/batches.h. All tensors are made on the
// default device.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bench/batches.h"
#include "engine/ops.h"
#include "engine/optim/optimizer.h"
#include "engine/step.h"
#include "engine/tape.h"
#include "models/classifiers.h"
#include "models/seq2seq.h"

namespace adjoint::bench {

inline Tensor ints(const std::vector<std::int32_t>& values, const Shape& shape) {
  return Tensor::from(std::span<const std::int32_t>(values), shape);
}

inline constexpr std::int32_t kIgnore = -100;

/// What distinguishes the two string-reversal comparisons; the rules stand in bench/peers/reverse_step.py.
struct ReverseTask {
  ReverseRules rules;
  std::int32_t begin, end;
  bool marked_source;
  Seq2SeqOptions model;

  static ReverseTask practical10(int batch, Seq2SeqAttention attention) {
    return {{.batch = batch, .min_length = 3, .max_length = 14, .first_letter = 2},
            0,
            1,
            true,
            {.symbols = 6, .embedding = 0, .hidden = 64, .attention = attention}};
  }
  static ReverseTask reverse(const ReverseRules& rules, std::int64_t hidden, Seq2SeqAttention attention) {
    return {rules, 1, 2, false, {.symbols = 7, .embedding = 64, .hidden = hidden, .attention = attention}};
  }

  std::int64_t source_width() const { return rules.max_length + (marked_source ? 2 : 0); }

  /// Source ids and lengths, decoder input and lengths, targets; as wide as the longest string could be.
  std::vector<Tensor> inputs(const Rows& rows) const {
    const std::int64_t batch = rules.batch, from = source_width(), to = rules.max_length + 1;
    std::vector<std::int32_t> source(static_cast<std::size_t>(batch * from), 0), source_lengths, target_lengths;
    std::vector<std::int32_t> in(static_cast<std::size_t>(batch * to), 0), out(in.size(), kIgnore);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      std::vector<std::int32_t> row = rows[r];
      std::vector<std::int32_t> reversed(row.rbegin(), row.rend());
      reversed.insert(reversed.begin(), begin);
      std::copy(reversed.begin(), reversed.end(), in.begin() + static_cast<std::ptrdiff_t>(r) * to);
      std::copy(reversed.begin() + 1, reversed.end(), out.begin() + static_cast<std::ptrdiff_t>(r) * to);
      out[r * static_cast<std::size_t>(to) + row.size()] = end;
      target_lengths.push_back(static_cast<std::int32_t>(reversed.size()));
      if (marked_source) {
        row.insert(row.begin(), begin);
        row.push_back(end);
      }
      std::copy(row.begin(), row.end(), source.begin() + static_cast<std::ptrdiff_t>(r) * from);
      source_lengths.push_back(static_cast<std::int32_t>(row.size()));
    }
    return {ints(source, {batch, from}), ints(source_lengths, {batch}), ints(in, {batch, to}),
            ints(target_lengths, {batch}), ints(out, {batch, to})};
  }
};

class ReverseTraining {
 public:
  ReverseTraining(const ReverseTask& task, std::uint64_t seed, bool sgd)
      : random_(seed), model_(Initializer{random_}, task.model), parameters_(model_) {
    if (sgd) {
      optimizer_ = std::make_unique<Sgd>(parameters_, SgdOptions{.learning_rate = 0.5});
    } else {
      optimizer_ = std::make_unique<Adam>(parameters_, AdamOptions{.learning_rate = 1e-3, .decoupled = false});
    }
  }

  std::vector<Tensor> plain_step(std::span<const Tensor> in) {
    Tensor loss;
    {
      const auto recording = tape_.record();
      loss = cross_entropy(model_.forward({in[0], in[1]}, {in[2], in[3]}), in[4], kIgnore);
    }
    tape_.backward(loss);
    optimizer_->step();
    return {loss};
  }
  std::vector<Tensor> step(std::span<const Tensor> in) { return step_(in); }
  std::size_t calls(std::span<const Tensor> in) const { return step_.recorded_calls(in); }
  std::int64_t parameters() const { return parameters_.count(); }

 private:
  Generator random_;
  Seq2Seq model_;
  ParameterSet parameters_;
  std::unique_ptr<Optimizer> optimizer_;
  Tape tape_;
  Step step_{[this](std::span<const Tensor> in) { return plain_step(in); }};
};

/// A headline classifier as bench/peers/headline_step.py has it.
struct HeadlineTask {
  bool encoder = false;
  bool sparse = false;  ///< gradient of the word vectors
  HeadlineRules rules;
  std::int64_t embedding = 100, hidden = 128, intermediate = 512;

  std::vector<Tensor> inputs(const HeadlineBatch& batch) const {
    std::vector<std::int32_t> ids, lengths;
    for (const std::vector<std::int32_t>& row : batch.rows) {
      ids.insert(ids.end(), row.begin(), row.end());
      ids.resize((lengths.size() + 1) * static_cast<std::size_t>(rules.max_length), 0);
      lengths.push_back(static_cast<std::int32_t>(row.size()));
    }
    return {ints(ids, {rules.batch, rules.max_length}), ints(lengths, {rules.batch}),
            ints(batch.labels, {rules.batch})};
  }
};

class HeadlineTraining {
 public:
  HeadlineTraining(const HeadlineTask& task, std::uint64_t seed)
      : random_(seed),
        model_(make_classifier(Initializer{random_},
                               {.kind = task.encoder ? ClassifierKind::lstm_encoder : ClassifierKind::lstm,
                                .vocabulary = task.rules.vocabulary,
                                .embedding = task.embedding,
                                .hidden = task.hidden,
                                .pooling = task.encoder ? Pooling::mean : Pooling::last,
                                .intermediate = task.intermediate})) {
    model_->word_vectors().set_row_sparse(task.sparse);
    parameters_ = std::make_unique<ParameterSet>(*model_);
    adam_ = std::make_unique<Adam>(*parameters_, AdamOptions{.learning_rate = 1e-3, .decoupled = false});
  }

  std::vector<Tensor> plain_step(std::span<const Tensor> in) {
    Tensor loss;
    {
      const auto recording = tape_.record();
      loss = cross_entropy(model_->forward(in[0], {.lengths = in[1]}), in[2]);
    }
    tape_.backward(loss);
    adam_->step();
    return {loss};
  }
  std::vector<Tensor> step(std::span<const Tensor> in) { return step_(in); }
  std::size_t calls(std::span<const Tensor> in) const { return step_.recorded_calls(in); }
  std::int64_t parameters() const { return parameters_->count(); }

 private:
  Generator random_;
  std::unique_ptr<Classifier> model_;
  std::unique_ptr<ParameterSet> parameters_;
  std::unique_ptr<Adam> adam_;
  Tape tape_;
  Step step_{[this](std::span<const Tensor> in) { return plain_step(in); }};
};

}  // namespace adjoint::bench
