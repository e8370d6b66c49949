#include "data/batches.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "data/random.h"
#include "tests/data/support.h"

namespace adjoint::data {
namespace {

std::vector<int32_t> mixed_lengths(int64_t count) {
  CounterRandom random(3);
  std::vector<int32_t> lengths(count);
  for (int32_t& length : lengths) length = 1 + static_cast<int32_t>(random.below(40));
  return lengths;
}

std::vector<int64_t> whole_epoch(BatchOrder& order, int64_t epoch) {
  std::vector<int64_t> all;
  for (int64_t i = 0; i < order.batches_per_epoch(); ++i) {
    const auto batch = order.batch(epoch * order.batches_per_epoch() + i);
    all.insert(all.end(), batch.begin(), batch.end());
  }
  return all;
}

// Padding a batch order leads to, in tokens.
int64_t padding(BatchOrder& order, const std::vector<int32_t>& lengths) {
  int64_t total = 0;
  for (int64_t i = 0; i < order.batches_per_epoch(); ++i) {
    const auto batch = order.batch(i);
    int32_t longest = 0;
    for (const int64_t example : batch) longest = std::max(longest, lengths[example]);
    for (const int64_t example : batch) total += longest - lengths[example];
  }
  return total;
}

TEST(DropWords, Replaces_its_share_of_words_as_a_function_of_seed_and_cursor) {
  std::vector<std::vector<int32_t>> sequences(200);
  for (size_t i = 0; i < sequences.size(); ++i) sequences[i].assign(50 + i % 50, static_cast<int32_t>(2 + i));
  std::vector<int64_t> all(sequences.size());
  std::iota(all.begin(), all.end(), 0);
  const Padded whole = pad(sequences, all, 0);
  const auto dropped = [&](double share, uint64_t seed, int64_t cursor) {
    Padded batch = whole;
    drop_words(batch, share, 1, seed, cursor);
    return batch.ids;
  };
  EXPECT_EQ(dropped(0, 1, 1), whole.ids);
  const std::vector<int32_t> ids = dropped(0.3, 1, 1);
  EXPECT_EQ(ids, dropped(0.3, 1, 1));
  EXPECT_NE(ids, dropped(0.3, 2, 1));
  EXPECT_NE(ids, dropped(0.3, 1, 2));
  int64_t unknown = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == whole.ids[i]) continue;
    EXPECT_EQ(ids[i], 1);
    EXPECT_NE(whole.ids[i], 0) << "padding became a word";
    ++unknown;
  }
  // 14,900 words; standard deviation of the share sqrt(0.3 * 0.7 / 14900) = 0.0038: five of them.
  EXPECT_NEAR(static_cast<double>(unknown) / static_cast<double>(whole.tokens()), 0.3, 0.019);
}

TEST(CounterRandom, Is_uniform_below_its_bound) {
  CounterRandom random(1, 2);
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) ++counts[random.below(7)];
  // 10,000 each with a standard deviation of 93: five of them.
  for (const int count : counts) EXPECT_NEAR(count, 10000, 470);
  double sum = 0, squares = 0;
  for (int i = 0; i < 40000; ++i) {
    const double value = random.normal();
    sum += value;
    squares += value * value;
  }
  EXPECT_NEAR(sum / 40000, 0, 0.025);      // sd 1/200
  EXPECT_NEAR(squares / 40000, 1, 0.036);  // sd sqrt(2)/200
}

TEST(CounterRandom, Has_no_bias_where_the_bound_does_not_divide_the_range) {
  CounterRandom random(1);
  const uint64_t third = uint64_t{1} << 62;  // taking the remainder alone would give the first third half of all draws
  int first = 0;
  for (int i = 0; i < 30000; ++i) first += random.below(3 * third) < third;
  EXPECT_NEAR(first, 10000, 410);  // sd 82
}

TEST(CounterRandom, Streams_differ) { EXPECT_NE(CounterRandom(1, 0).next(), CounterRandom(1, 1).next()); }

TEST(BatchOrder, Shows_every_example_once_an_epoch) {
  for (const bool shuffled : {false, true}) {
    for (const bool bucket : {false, true}) {
      for (const int64_t size : {1, 7, 32, 5000}) {
        BatchOrder order(mixed_lengths(1000), {.size = size, .seed = 4, .shuffle = shuffled, .bucket = bucket});
        for (const int64_t epoch : {0, 3}) {
          std::vector<int64_t> all = whole_epoch(order, epoch);
          std::ranges::sort(all);
          std::vector<int64_t> expected(1000);
          std::iota(expected.begin(), expected.end(), 0);
          ASSERT_EQ(all, expected) << "size " << size << " shuffle " << shuffled << " bucket " << bucket;
        }
      }
    }
  }
}

TEST(BatchOrder, Is_a_function_of_seed_and_cursor) {
  BatchOrder straight(mixed_lengths(500), {.size = 16, .seed = 4, .bucket = true});
  BatchOrder jumping(mixed_lengths(500), {.size = 16, .seed = 4, .bucket = true});
  const int64_t per_epoch = straight.batches_per_epoch();
  std::vector<std::vector<int64_t>> batches;
  for (int64_t cursor = 0; cursor < 3 * per_epoch; ++cursor) {
    const auto batch = straight.batch(cursor);
    batches.emplace_back(batch.begin(), batch.end());
  }
  for (int64_t cursor = 3 * per_epoch - 1; cursor >= 0; cursor -= 13) {
    const auto batch = jumping.batch(cursor);
    ASSERT_TRUE(std::ranges::equal(batch, batches[cursor])) << "cursor " << cursor;
  }
  BatchOrder other(mixed_lengths(500), {.size = 16, .seed = 5, .bucket = true});
  EXPECT_NE(whole_epoch(straight, 0), whole_epoch(other, 0));
  EXPECT_NE(whole_epoch(straight, 0), whole_epoch(straight, 1));
}

TEST(BatchOrder, Keeps_the_data_order_when_not_shuffled) {
  BatchOrder order(mixed_lengths(10), {.size = 4, .shuffle = false});
  EXPECT_EQ(whole_epoch(order, 2), (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
}

TEST(BatchOrder, Saves_padding_by_bucketing) {
  const std::vector<int32_t> lengths = mixed_lengths(4000);
  BatchOrder plain(lengths, {.size = 32, .seed = 1});
  BatchOrder bucketed(lengths, {.size = 32, .seed = 1, .bucket = true});
  EXPECT_LT(padding(bucketed, lengths) * 10, padding(plain, lengths));
}

TEST(BatchOrder, Refuses_empty_data_and_impossible_sizes) {
  expect_error([] { BatchOrder({}, {}); }, Exit::data, "E-DATA-001.*no examples");
  expect_error([] { BatchOrder({1}, {.size = 0}); }, Exit::usage, "E-CONF-003.*batch_size.*integer.*1\\.\\.");
  expect_error([] { BatchOrder({1}, {}).batch(-1); }, Exit::usage, "E-CONF-003.*cursor: -1");
}

TEST(StratifiedSplit, Gives_each_part_its_share_of_each_class) {
  std::vector<int32_t> labels;
  for (int i = 0; i < 1000; ++i) labels.push_back(i % 10 == 0 ? 2 : i % 10 < 4 ? 1 : 0);
  const Split parts = stratified_split(labels, 0.1, 0.1, 7);
  const auto of_class = [&](const std::vector<int64_t>& part, int32_t label) {
    return std::ranges::count_if(part, [&](int64_t example) { return labels[example] == label; });
  };
  const int sizes[] = {600, 300, 100};
  for (const int32_t label : {0, 1, 2}) {
    EXPECT_EQ(of_class(parts.train, label), sizes[label] * 8 / 10);
    EXPECT_EQ(of_class(parts.validation, label), sizes[label] / 10);
    EXPECT_EQ(of_class(parts.test, label), sizes[label] / 10);
  }
  std::vector<int64_t> all = parts.train;
  all.insert(all.end(), parts.validation.begin(), parts.validation.end());
  all.insert(all.end(), parts.test.begin(), parts.test.end());
  std::ranges::sort(all);
  for (int64_t i = 0; i < 1000; ++i) ASSERT_EQ(all.at(i), i);
  EXPECT_EQ(stratified_split(labels, 0.1, 0.1, 7).test, parts.test);
  EXPECT_NE(stratified_split(labels, 0.1, 0.1, 8).test, parts.test);
  EXPECT_TRUE(stratified_split({0, 0, 1}, 0.5, 0.4, 1).train.empty());
  expect_error([] { stratified_split({0}, 0.5, 0.5, 1); }, Exit::usage, "E-CONF-003.*0\\.5.*together below 1");
}

TEST(LabelledBatch, Carries_labels_and_positions) {
  const std::vector<std::vector<int32_t>> sequences = {{5, 6, 7}, {8}, {}};
  const LabelledBatch batch = labelled_batch(sequences, {0, 1, 2}, std::vector<int64_t>{2, 0, 1}, 9);
  EXPECT_EQ(batch.tokens.rows, 3);
  EXPECT_EQ(batch.tokens.ids, (std::vector<int32_t>{9, 9, 9, 5, 6, 7, 8, 9, 9}));
  EXPECT_EQ(batch.tokens.lengths, (std::vector<int32_t>{0, 3, 1}));
  EXPECT_EQ(batch.labels, (std::vector<int32_t>{2, 0, 1}));
  EXPECT_EQ(batch.examples, (std::vector<int64_t>{2, 0, 1}));
}

}  // namespace
}  // namespace adjoint::data
