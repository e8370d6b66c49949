#include "data/prefetch.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <stdexcept>

namespace adjoint::data {
namespace {

TEST(Prefetch, Gives_everything_in_order_and_then_nothing) {
  for (const size_t depth : {0, 1, 3, 1000}) {
    int made = 0;
    Prefetch<std::unique_ptr<int>> items(
        [&]() -> std::optional<std::unique_ptr<int>> {
          if (made == 500) return std::nullopt;
          return std::make_unique<int>(made++);
        },
        depth);
    for (int i = 0; i < 500; ++i) {
      const auto item = items.next();
      ASSERT_TRUE(item) << i;
      ASSERT_EQ(**item, i);
    }
    EXPECT_FALSE(items.next());
    EXPECT_FALSE(items.next());
  }
}

TEST(Prefetch, Works_ahead_but_no_further_than_its_depth) {
  std::atomic<int> made = 0;
  Prefetch<int> items([&] { return std::optional(made++); }, 4);
  // Four are ready and a fifth is in the maker's hands; each one taken lets it make one more.
  const auto settles_at = [&](int count) {
    for (int i = 0; i < 5000 && made < count; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return made == count;
  };
  EXPECT_TRUE(settles_at(5)) << made;
  EXPECT_EQ(items.next(), 0);
  EXPECT_TRUE(settles_at(6)) << made;
}

TEST(Prefetch, Passes_an_exception_on_after_what_was_made_before) {
  int made = 0;
  Prefetch<int> items(
      [&] {
        if (made == 2) throw std::runtime_error("broken row");
        return std::optional(made++);
      },
      8);
  EXPECT_EQ(items.next(), 0);
  EXPECT_EQ(items.next(), 1);
  EXPECT_THROW(items.next(), std::runtime_error);
  EXPECT_FALSE(items.next());
}

TEST(Prefetch, Can_be_dropped_at_any_time) {
  for (int taken = 0; taken < 20; ++taken) {
    int made = 0;
    Prefetch<int> items([&] { return std::optional(made++); }, 2);
    for (int i = 0; i < taken; ++i) ASSERT_EQ(items.next(), i);
  }
}

}  // namespace
}  // namespace adjoint::data
