// The sequence-to-sequence model: padding does not show, decoding is what teacher forcing says, gradients are right.

#include "models/seq2seq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "engine/checkpoint.h"
#include "engine/optim/optimizer.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

constexpr std::int32_t kBegin = 0, kEnd = 1;

std::vector<Seq2SeqOptions> variants() {
  std::vector<Seq2SeqOptions> all;
  for (const bool bidirectional : {false, true}) {
    for (const Seq2SeqAttention attention : {Seq2SeqAttention::none, Seq2SeqAttention::dot}) {
      for (const std::int64_t embedding : {0, 5}) {
        all.push_back({.symbols = 6,
                       .embedding = embedding,
                       .hidden = 8,
                       .bidirectional = bidirectional,
                       .attention = attention,
                       .scaled = embedding == 5});
      }
    }
  }
  return all;
}

std::string label(const Seq2SeqOptions& o) {
  return std::string(o.bidirectional ? "bidirectional" : "one direction") +
         (o.attention == Seq2SeqAttention::dot ? ", attention" : "") + (o.embedding > 0 ? ", embeddings" : "");
}

using Ids = std::vector<std::vector<std::int32_t>>;

/// [B, longest] ids and their lengths; `padding` fills the rest.
std::pair<Tensor, Tensor> padded(const Ids& sequences, std::int32_t padding) {
  std::size_t longest = 0;
  for (const auto& s : sequences) longest = std::max(longest, s.size());
  std::vector<std::int32_t> ids, lengths;
  for (const auto& s : sequences) {
    ids.insert(ids.end(), s.begin(), s.end());
    ids.insert(ids.end(), longest - s.size(), padding);
    lengths.push_back(static_cast<std::int32_t>(s.size()));
  }
  const auto rows = static_cast<std::int64_t>(sequences.size());
  return {ints(ids, {rows, static_cast<std::int64_t>(longest)}), ints(lengths, {rows})};
}
Seq2Seq::Source source_of(const Ids& sequences, std::int32_t padding = 1) {
  const auto [ids, lengths] = padded(sequences, padding);
  return {ids, lengths};
}
Seq2Seq::Target target_of(const Ids& sequences, std::int32_t padding = 1) {
  const auto [ids, lengths] = padded(sequences, padding);
  return {ids, lengths};
}

const Ids kSources = {{0, 2, 3, 4, 1}, {0, 5, 1}, {0, 2, 2, 3, 3, 4, 4, 5, 1}, {0, 1}};
const Ids kTargets = {{0, 4, 3, 2}, {0, 5}, {0, 5, 4, 4, 3, 3, 2, 2}, {0}};

TEST(Seq2Seq, Gives_a_padded_sequence_what_it_gets_alone) {
  for (const Seq2SeqOptions& options : variants()) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      SCOPED_TRACE(label(options) + (dtype == DType::f32 ? ", f32" : ", f64"));
      Generator random(1);
      const Seq2Seq model({random, dtype}, options);
      const Tensor together = model.forward(source_of(kSources), target_of(kTargets));
      ASSERT_EQ(together.shape(), (Shape{4, 8, 6}));
      EXPECT_EQ(bits(model.forward(source_of(kSources, 3), target_of(kTargets, 4))), bits(together))
          << "what fills the padding must not show";
      for (std::int64_t b = 0; b < 4; ++b) {
        const auto at = static_cast<std::size_t>(b);
        const Tensor alone = model.forward(source_of({kSources[at]}), target_of({kTargets[at]}));
        const auto length = static_cast<std::int64_t>(kTargets[at].size());
        const Tensor row = slice(together, 0, b, b + 1);
        EXPECT_EQ(bits(contiguous(slice(row, 1, 0, length))), bits(alone)) << "sequence " << b;
        for (const double v : slice(row, 1, length, 8).to_vector()) EXPECT_EQ(v, 0.0) << "padded position";
      }
    }
  }
}

TEST(Seq2Seq, Decodes_what_teacher_forcing_finds_most_likely) {
  for (const Seq2SeqOptions& options : variants()) {
    SCOPED_TRACE(label(options));
    Generator random(21);
    const Seq2Seq model({random, DType::f64}, options);
    for (const NamedParameter& p : model.parameters()) {  // larger weights, so that symbols differ
      if (p.parameter->trainable()) p.parameter->value().detached().copy_from(4.0 * p.parameter->value());
    }
    constexpr std::int64_t kLongest = 7;
    const Ids decoded = model.greedy(source_of(kSources), kBegin, kEnd, kLongest);
    ASSERT_EQ(decoded.size(), kSources.size());
    for (std::size_t b = 0; b < kSources.size(); ++b) {
      std::vector<std::int32_t> fed = {kBegin}, expected;
      while (static_cast<std::int64_t>(expected.size()) < kLongest) {
        const Tensor logits = model.forward(source_of({kSources[b]}), target_of({fed}));
        const std::int32_t next = argmax(logits).to_ints().back();
        if (next == kEnd) break;
        expected.push_back(next);
        fed.push_back(next);
      }
      EXPECT_EQ(decoded[b], expected) << "sequence " << b;
    }
  }
}

TEST(Seq2Seq, Aligns_with_rows_that_sum_to_one) {
  for (const Seq2SeqOptions& options : variants()) {
    SCOPED_TRACE(label(options));
    Generator random(2);
    const Seq2Seq model({random, DType::f64}, options);
    const auto align = [&] { return model.alignment(source_of(kSources), target_of(kTargets)); };
    if (options.attention == Seq2SeqAttention::none) {
      expect_error([&] { (void)align(); }, "E-CONF-007", "^seq2seq: the model has no attention.*--attention dot",
                   Exit::usage);
      continue;
    }
    const Tensor weights = align();
    ASSERT_EQ(weights.shape(), (Shape{4, 8, 9}));
    const std::vector<double> w = weights.to_vector();
    for (std::size_t b = 0; b < 4; ++b) {
      for (std::size_t t = 0; t < kTargets[b].size(); ++t) {
        double total = 0;
        for (std::size_t s = 0; s < 9; ++s) {
          const double v = w[(b * 8 + t) * 9 + s];
          EXPECT_GE(v, 0.0);
          EXPECT_TRUE(v == 0.0 || s < kSources[b].size()) << "weight on padding";
          total += v;
        }
        EXPECT_NEAR(total, 1.0, 1e-14) << "sequence " << b << ", position " << t;
      }
    }
  }
}

TEST(Seq2Seq, Refuses_options_that_make_no_model) {
  Generator random(1);
  const Initializer init{random};
  expect_error([&] { Seq2Seq(init, {.symbols = 6, .hidden = 7, .bidirectional = true}); }, "E-CONF-005",
               "^seq2seq: hidden width 7 is odd; .*try 8", Exit::usage);
  EXPECT_NO_THROW(Seq2Seq(init, {.symbols = 6, .hidden = 7}));
  expect_error([&] { Seq2Seq(init, {.symbols = 0}); }, "E-CONF-003", "alphabet of 0 symbols", Exit::usage);
  expect_error([&] { Seq2Seq(init, {.symbols = 6, .hidden = 0}); }, "E-CONF-003", "hidden width is 0", Exit::usage);
  const Seq2Seq model(init, {.symbols = 6, .hidden = 4});
  expect_error(
      [&] {
        (void)model.forward(source_of({{0, 6, 1}}), target_of({{0}}));
      },
      "E-OP-010", "^embedding: .*index 6.*6 rows");
}

TEST(Seq2Seq, Has_the_gradient_of_its_loss) {
  for (const Seq2SeqOptions& options : variants()) {
    SCOPED_TRACE(label(options));
    Generator random(3);
    Seq2Seq model({random, DType::f64}, options);
    const Tensor targets = padded({{4, 3, 2, 1}, {5, 1}, {5, 4, 4, 3, 3, 2, 2, 1}, {1}}, -100).first;
    const auto loss = [&] {
      return cross_entropy(model.forward(source_of(kSources), target_of(kTargets)), targets, -100);
    };
    Tape tape;
    Tensor y;
    {
      const auto recording = tape.record();
      y = loss();
    }
    tape.backward(y);

    std::vector<NamedParameter> trained;
    double largest = 0;
    for (const NamedParameter& p : model.parameters()) {
      if (!p.parameter->trainable()) continue;
      trained.push_back(p);
      for (const double g : p.parameter->gradient().to_vector()) largest = std::max(largest, std::abs(g));
    }
    constexpr double kStep = 1e-4;
    const std::vector<double> picks = random.uniform({120}, 0, 1, DType::f64).to_vector();
    // Each parameter, then any; on the executor, where a loss takes long, each parameter.
    const std::size_t checks = default_device() == Device{} ? 60 : trained.size();
    for (std::size_t i = 0; i < checks; ++i) {
      const NamedParameter& p =
          trained[i < trained.size() ? i
                                     : static_cast<std::size_t>(picks[2 * i] * static_cast<double>(trained.size()))];
      const auto element =
          static_cast<std::size_t>(picks[2 * i + 1] * static_cast<double>(p.parameter->shape().count()));
      double& weight = p.parameter->value().data_as<double>()[element];
      const double at = weight;
      const auto moved = [&](double by) {
        weight = at + by;
        const double value = loss().item();
        weight = at;
        return value;
      };
      // Four points: the error is of order h^4.
      const double numeric =
          (8 * (moved(kStep) - moved(-kStep)) - (moved(2 * kStep) - moved(-2 * kStep))) / (12 * kStep);
      EXPECT_NEAR(p.parameter->gradient().to_vector()[element], numeric, 1e-7 * largest)
          << p.name << ", element " << element;
    }
  }
}

TEST(Seq2Seq, Lists_its_parameters_under_stable_names) {
  Generator random(1);
  const Seq2Seq model({random}, {.symbols = 6, .hidden = 4, .bidirectional = true});
  std::vector<std::string> names;
  for (const NamedParameter& p : model.parameters()) names.push_back(p.name + text(p.parameter->shape()));
  EXPECT_THAT(names, ::testing::ElementsAre(
                         "source_embedding.weight[6,6]", "target_embedding.weight[6,6]", "encoder.weight_ih_l0[8,6]",
                         "encoder.weight_hh_l0[8,2]", "encoder.bias_ih_l0[8]", "encoder.bias_hh_l0[8]",
                         "encoder.weight_ih_l0_reverse[8,6]", "encoder.weight_hh_l0_reverse[8,2]",
                         "encoder.bias_ih_l0_reverse[8]", "encoder.bias_hh_l0_reverse[8]", "decoder.weight_ih_l0[16,6]",
                         "decoder.weight_hh_l0[16,4]", "decoder.bias_ih_l0[16]", "decoder.bias_hh_l0[16]",
                         "combine.weight[4,8]", "combine.bias[4]", "output.weight[6,4]", "output.bias[6]"));
}

TEST(Seq2Seq, Learns) {
  Generator random(4);
  Seq2Seq model({random}, {.symbols = 6, .hidden = 16});
  ParameterSet parameters(model);
  Adam adam(parameters, {.learning_rate = 0.02});
  const Tensor targets = padded({{4, 3, 2, 1}, {5, 1}, {5, 4, 4, 3, 3, 2, 2, 1}, {1}}, -100).first;
  Tape tape;
  double first = 0, last = 0;
  for (int i = 0; i < 150; ++i) {
    Tensor loss;
    {
      const auto recording = tape.record();
      loss = cross_entropy(model.forward(source_of(kSources), target_of(kTargets)), targets, -100);
    }
    tape.backward(loss);
    adam.step();
    (i == 0 ? first : last) = loss.item();
  }
  EXPECT_NEAR(first, std::log(6.0), 0.3);
  EXPECT_LT(last, 0.05);
  EXPECT_EQ(model.greedy(source_of(kSources), kBegin, kEnd, 12), (Ids{{4, 3, 2}, {5}, {5, 4, 4, 3, 3, 2, 2}, {}}));
}

// ---- Files ----

class Files : public ::testing::Test {
 protected:
  Files() {
    std::string name = (std::filesystem::temp_directory_path() / "adjoint-models-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    folder_ = name;
  }
  ~Files() override { std::filesystem::remove_all(folder_); }
  std::string path(const char* name) const { return folder_ / name; }

 private:
  std::filesystem::path folder_;
};

std::string all_bits(const Module& model) {
  std::string all;
  for (const NamedParameter& p : model.parameters()) all += bits(p.parameter->value());
  return all;
}

constexpr Seq2SeqOptions kOptions = {.symbols = 6, .embedding = 5, .hidden = 8, .bidirectional = true};

TEST_F(Files, Give_back_the_model_they_were_saved_from) {
  Generator a(1), b(2);
  const Seq2Seq saved({a}, kOptions);
  Seq2Seq loaded({b}, kOptions);
  ParameterSet in_flat_buffers(loaded);
  ASSERT_NE(all_bits(saved), all_bits(loaded));
  save_model(path("model.safetensors"), saved, {{"note", "42"}});
  const auto metadata = load_model(path("model.safetensors"), loaded);
  EXPECT_EQ(all_bits(saved), all_bits(loaded));
  EXPECT_EQ(metadata.at("format"), "pt");
  EXPECT_EQ(metadata.at("note"), "42");
  EXPECT_EQ(bits(saved.forward(source_of(kSources), target_of(kTargets))),
            bits(loaded.forward(source_of(kSources), target_of(kTargets))));
  EXPECT_EQ(loaded.parameters()[0].parameter->value().data(), in_flat_buffers.values().data())
      << "values are copied into the buffers that the optimizer updates";
}

TEST_F(Files, That_do_not_fit_change_nothing) {
  Generator random(1);
  const Seq2Seq saved({random}, kOptions);
  save_model(path("model.safetensors"), saved);
  const auto refuses = [&](const Seq2SeqOptions& options, DType dtype, const char* pattern) {
    Seq2Seq model({random, dtype}, options);
    const std::string before = all_bits(model);
    expect_error([&] { (void)load_model(path("model.safetensors"), model); }, "E-CKPT-019", pattern);
    EXPECT_EQ(all_bits(model), before);
  };
  Seq2SeqOptions other = kOptions;
  other.hidden = 6;
  refuses(other, DType::f32, "encoder\\.weight_ih_l0: file \\[16,5\\], model \\[12,5\\].*and [0-9]+ more");
  other = kOptions;
  other.attention = Seq2SeqAttention::none;
  refuses(other, DType::f32, "unexpected combine\\.weight, combine\\.bias|unexpected combine\\.bias, combine\\.weight");
  refuses(kOptions, DType::f64, "source_embedding\\.weight: file F32, model F64");
  other = kOptions;
  other.bidirectional = false;
  refuses(other, DType::f32, "unexpected encoder\\.[a-z_]*_l0_reverse");

  const Seq2Seq plain({random}, {.symbols = 6, .embedding = 5, .hidden = 8, .attention = Seq2SeqAttention::none});
  save_model(path("model.safetensors"), plain);
  refuses({.symbols = 6, .embedding = 5, .hidden = 8}, DType::f32, "missing combine\\.weight, combine\\.bias");
}

TEST_F(Files, With_values_that_are_not_finite_change_nothing) {
  Generator random(1);
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
    Seq2Seq saved({random}, kOptions);
    const std::vector<NamedParameter> parameters = saved.parameters();
    parameters.back().parameter->value().data_as<float>()[3] = static_cast<float>(bad);  // output.bias, read last
    save_model(path("model.safetensors"), saved);
    Seq2Seq model({random}, kOptions);
    const std::string before = all_bits(model);
    expect_error([&] { (void)load_model(path("model.safetensors"), model); }, "E-CKPT-022",
                 "\"output\\.bias\".*index 3.*(nan|inf).*--allow-nonfinite");
    EXPECT_EQ(all_bits(model), before);
    (void)load_model(path("model.safetensors"), model, {.allow_nonfinite = true});
    EXPECT_EQ(all_bits(model), all_bits(saved));
  }
}

TEST_F(Files, With_a_flipped_bit_change_nothing) {
  Generator random(1);
  save_model(path("model.safetensors"), Seq2Seq({random}, kOptions));
  {
    std::FILE* file = std::fopen(path("model.safetensors").c_str(), "r+b");
    ASSERT_NE(file, nullptr);
    std::fseek(file, -1, SEEK_END);
    const int last = std::fgetc(file);
    std::fseek(file, -1, SEEK_END);
    std::fputc(last ^ 1, file);
    std::fclose(file);
  }
  Seq2Seq model({random}, kOptions);
  const std::string before = all_bits(model);
  expect_error([&] { (void)load_model(path("model.safetensors"), model, {.hint = "newest intact checkpoint: b"}); },
               "E-CKPT-014", "checksum.*newest intact checkpoint: b");
  EXPECT_EQ(all_bits(model), before);
}

}  // namespace
}  // namespace adjoint::testing
