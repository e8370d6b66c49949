// Text classifiers: what they have in common, whatever they do between word vectors and logits.

#include "models/classifiers.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/tape.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

const std::vector<ClassifierKind> kKinds{ClassifierKind::logreg,       ClassifierKind::ffnn,
                                         ClassifierKind::attention,    ClassifierKind::lstm,
                                         ClassifierKind::lstm_encoder, ClassifierKind::encoder};
const std::vector<Pooling> kPoolings{Pooling::last, Pooling::mean, Pooling::max, Pooling::mean_max};

std::unique_ptr<Classifier> classifier(ClassifierOptions options, std::uint64_t seed = 1) {
  options.vocabulary = 12;
  options.classes = 3;
  options.embedding = 8;
  options.hidden = 8;
  options.heads = 2;
  options.intermediate = 10;
  options.max_length = 9;
  Generator random(seed);
  return make_classifier(Initializer{random, DType::f64}, options);
}

/// Every kind, and the LSTM's with each of their poolings and directions.
std::vector<ClassifierOptions> all_options() {
  std::vector<ClassifierOptions> all;
  for (const ClassifierKind kind : kKinds) {
    const bool lstm = kind == ClassifierKind::lstm || kind == ClassifierKind::lstm_encoder;
    for (const Pooling pooling : lstm ? kPoolings : std::vector{Pooling::last}) {
      if (kind == ClassifierKind::lstm_encoder && pooling == Pooling::last) continue;
      for (const bool both : {false, true})
        if (!both || lstm) all.push_back({.kind = kind, .bidirectional = both, .pooling = pooling});
    }
  }
  return all;
}

std::string shown(const ClassifierOptions& o) {
  return "kind " + std::to_string(static_cast<int>(o.kind)) + ", pooling " +
         std::to_string(static_cast<int>(o.pooling)) + (o.bidirectional ? ", both directions" : "");
}

TEST(Classifier, A_padded_batch_gives_what_each_text_gives_alone) {
  const std::vector<std::vector<std::int32_t>> texts{{3, 5, 7, 2, 9}, {4}, {11, 3, 3}};
  for (const ClassifierOptions& options : all_options()) {
    SCOPED_TRACE(shown(options));
    const auto model = classifier(options);
    std::vector<std::int32_t> padded, lengths;
    for (const auto& t : texts) {
      padded.insert(padded.end(), t.begin(), t.end());
      padded.resize(lengths.size() * 7 + 7, 0);
      lengths.push_back(static_cast<std::int32_t>(t.size()));
    }
    const std::vector<double> together =
        model->forward(ints(padded, {3, 7}), {.lengths = ints(lengths, {3})}).to_vector();
    ASSERT_EQ(together.size(), 9u);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto n = static_cast<std::int64_t>(texts[i].size());
      const std::vector<double> alone =
          model->forward(ints(texts[i], {1, n}), {.lengths = ints({static_cast<std::int32_t>(n)}, {1})}).to_vector();
      for (std::size_t c = 0; c < 3; ++c) EXPECT_NEAR(together[i * 3 + c], alone[c], 1e-12) << i << " " << c;
    }
  }
}

TEST(Classifier, Every_parameter_takes_part) {
  const Tensor ids = ints({3, 5, 7, 4, 2, 0}, {2, 3}), lengths = ints({3, 2}, {2}), labels = ints({1, 2}, {2});
  for (const ClassifierOptions& options : all_options()) {
    SCOPED_TRACE(shown(options));
    const auto model = classifier(options);
    Tape tape;
    Tensor loss;
    {
      const auto recording = tape.record();
      loss = cross_entropy(model->forward(ids, {.lengths = lengths}), labels);
    }
    tape.backward(loss);
    for (const NamedParameter& p : model->parameters()) {
      double largest = 0;
      for (const double g : p.parameter->gradient().to_vector()) largest = std::max(largest, std::abs(g));
      // A bias of the keys moves all scores of a query alike, which the softmax does not see: 0, but for roundings.
      if (p.name.ends_with("k.bias")) {
        EXPECT_LT(largest, 1e-15) << p.name;
      } else {
        EXPECT_GT(largest, 1e-9) << p.name;
      }
    }
  }
}

TEST(Pooling, Sees_real_tokens_only) {
  const Tensor x = tensor({-1, -5, -3, -2, 9, 9, /**/ 4, -6, 9, 9, 9, 9}, {2, 3, 2});
  const Tensor lengths = ints({2, 1}, {2});
  EXPECT_EQ(max_over_tokens(x, lengths).to_vector(), (std::vector<double>{-1, -2, 4, -6}));
  const std::vector<double> means = mean_over_tokens(x, lengths).to_vector(), expected{-2, -3.5, 4, -6};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(means[i], expected[i], 1e-14);
}

TEST(Pooling, Last_states_are_none_of_a_block) {
  expect_error([] { classifier({.kind = ClassifierKind::lstm_encoder, .pooling = Pooling::last}); }, "E-CONF-003",
               "lstm-encoder.*pooling.*last.*mean-max", Exit::usage);
}

}  // namespace
}  // namespace adjoint::testing
