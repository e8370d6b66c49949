// Runs every planted bug under many schedules and prints who caught it. The three builds of this program (plain,
// sanitizers, checker) see different bugs; what each must see is written down here, so that a change of the executor
// that blinds one of them fails.

#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <string>

#include "tests/simt/cases.h"
#include "tests/simt/child.h"
#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {
namespace {

/// What a build owes for a bug, under both shuffled orders and every seed.
enum class Owed {
  diagnosis,   // named, by executor, checker or sanitizer
  notice,      // named, or seen in the values
  with_nan,    // a notice when memory is poisoned with NaN; a masked, finite number is harmless
  with_large,  // a notice when memory is poisoned with a large number; fmax swallows NaN
  luck,        // depends on what lies beside the memory, or on the order
  nothing,     // invisible to this build, and it must say so: were it seen, this table would be out of date
};

struct Expectation {
  Owed plain, sanitizers, checker;
};

// Two bugs are invisible to every order of fibers and every poison, since a fiber's read-modify-write is never
// interrupted: only the checker sees them. Wrong arithmetic is visible in the values alone, in every build.
const std::map<Bug, Expectation> kExpected = {
    {Bug::half_warp_mask, {Owed::diagnosis, Owed::diagnosis, Owed::diagnosis}},
    {Bug::collective_under_lane_if, {Owed::notice, Owed::notice, Owed::notice}},
    {Bug::reduction_one_step_short, {Owed::notice, Owed::notice, Owed::notice}},
    {Bug::shuffle_down_broadcast, {Owed::notice, Owed::notice, Owed::notice}},
    {Bug::one_vector_too_many, {Owed::luck, Owed::diagnosis, Owed::diagnosis}},
    {Bug::plain_add_across_blocks, {Owed::nothing, Owed::nothing, Owed::diagnosis}},
    {Bug::misaligned_vector, {Owed::notice, Owed::diagnosis, Owed::diagnosis}},
    {Bug::accumulator_not_cleared, {Owed::notice, Owed::notice, Owed::diagnosis}},
    {Bug::no_barrier_before_refill, {Owed::notice, Owed::notice, Owed::diagnosis}},
    {Bug::no_barrier_after_fill, {Owed::notice, Owed::notice, Owed::diagnosis}},
    {Bug::tile_tail_not_filled, {Owed::with_nan, Owed::with_nan, Owed::diagnosis}},
    {Bug::bound_from_tile, {Owed::luck, Owed::diagnosis, Owed::diagnosis}},
    {Bug::shared_tile_overrun, {Owed::notice, Owed::diagnosis, Owed::diagnosis}},
    {Bug::barrier_under_warp_if, {Owed::diagnosis, Owed::diagnosis, Owed::diagnosis}},
    {Bug::warp_skips_barriers, {Owed::diagnosis, Owed::diagnosis, Owed::diagnosis}},
    {Bug::wrong_gate_stride, {Owed::notice, Owed::diagnosis, Owed::diagnosis}},
    {Bug::return_before_barrier, {Owed::diagnosis, Owed::diagnosis, Owed::diagnosis}},
    {Bug::no_barrier_before_maxima, {Owed::with_large, Owed::with_large, Owed::diagnosis}},
    {Bug::reads_unwritten_slots, {Owed::luck, Owed::diagnosis, Owed::diagnosis}},
    {Bug::no_barrier_before_total, {Owed::notice, Owed::notice, Owed::diagnosis}},
    {Bug::lost_update, {Owed::nothing, Owed::nothing, Owed::diagnosis}},
    {Bug::shared_total_not_cleared, {Owed::notice, Owed::notice, Owed::diagnosis}},
    {Bug::no_syncwarp_after_store, {Owed::notice, Owed::notice, Owed::diagnosis}},
    {Bug::no_syncwarp_in_tree, {Owed::notice, Owed::notice, Owed::diagnosis}},
    {Bug::waits_for_one_group_less, {Owed::notice, Owed::notice, Owed::diagnosis}},
    {Bug::no_barrier_after_wait, {Owed::notice, Owed::notice, Owed::diagnosis}},
    {Bug::no_barrier_before_reload, {Owed::notice, Owed::notice, Owed::diagnosis}},
    {Bug::ldmatrix_halves_swapped, {Owed::notice, Owed::notice, Owed::notice}},
};

Owed owed_by_this_build(const Expectation& e) {
#ifdef __SANITIZE_ADDRESS__
  return e.sanitizers;
#else
  return has_checker() ? e.checker : e.plain;
#endif
}

bool pays(Owed owed, Verdict verdict, const Schedule& schedule) {
  switch (owed) {
    case Owed::diagnosis: return verdict == Verdict::diagnosed || verdict == Verdict::sanitizer;
    case Owed::notice: return verdict != Verdict::missed;
    case Owed::with_nan: return schedule.poison != kNan || verdict != Verdict::missed;
    case Owed::with_large: return schedule.poison != kLarge || verdict != Verdict::missed;
    case Owed::luck: return true;
    case Owed::nothing: return verdict == Verdict::missed;
  }
  return false;
}

struct Tally {
  int seen = 0, runs = 0;
  void count(Verdict verdict) {
    ++runs;
    seen += verdict != Verdict::missed ? 1 : 0;
  }
  std::string text() const { return std::to_string(seen) + "/" + std::to_string(runs); }
};

/// One line of the table; returns how the bug showed itself.
void check_bug(const Case& c) {
  Owed owed = owed_by_this_build(kExpected.at(c.bug));
  std::map<Order, Tally> tallies;
  std::map<std::string, int> verdicts;
  std::string example;
  for (const Schedule& schedule : schedules(affordable_seeds())) {
    Outcome outcome = run_in_child([&] {
      Under under(schedule);
      c.run();
    });
    tallies[schedule.order].count(outcome.verdict);
    ++verdicts[name(outcome.verdict)];
    if (outcome.verdict != Verdict::missed) example = outcome.text;
    bool shuffled = schedule.order == Order::random || schedule.order == Order::skewed;
    EXPECT_TRUE(!shuffled || pays(owed, outcome.verdict, schedule))
        << c.kernel << " with " << c.bug_name << " under " << name(schedule) << ": " << name(outcome.verdict) << " "
        << outcome.text;
  }
  Tally zero;
  for (std::uint64_t seed : {1, 2}) {
    zero.count(run_in_child([&] {
                 Under under({Order::skewed, seed, 0});
                 c.run();
               }).verdict);
  }
  std::string how;
  for (const auto& [verdict, count] : verdicts) how += (how.empty() ? "" : ", ") + verdict;
  std::printf("%-26s %5s %5s %6s %6s %6s  %-20s %.110s\n", c.bug_name, tallies[Order::ascending].text().c_str(),
              tallies[Order::descending].text().c_str(), tallies[Order::random].text().c_str(),
              tallies[Order::skewed].text().c_str(), zero.text().c_str(), how.c_str(), example.c_str());
}

TEST(PlantedBugs, Are_caught_by_whom_the_table_says) {
  std::printf("%-26s %5s %5s %6s %6s %6s  %-20s %s\n", "bug (caught/runs)", "asc", "desc", "random", "skewed", "zeros",
              "how", "for example");
  std::map<Bug, bool> ran;
  for (const Case& c : all_cases()) {
    if (c.bug == Bug::none) continue;
    ran[c.bug] = true;
    check_bug(c);
  }
  EXPECT_EQ(ran.size(), kExpected.size()) << "a bug without a case, or a case without an expectation";
}

TEST(PlantedBugs, Each_has_a_build_that_must_catch_it) {
  for (const auto& [bug, e] : kExpected) {
    bool caught = false;
    for (Owed owed : {e.plain, e.sanitizers, e.checker}) caught |= owed == Owed::diagnosis || owed == Owed::notice;
    EXPECT_TRUE(caught) << "bug " << static_cast<int>(bug);
  }
}

TEST(SelfTestKernels, Agree_with_their_references_under_every_schedule) {
  for (const Case& c : all_cases()) {
    if (c.bug != Bug::none) continue;
    for (const Schedule& schedule : schedules(affordable_seeds())) {
      Under under(schedule);
      try {
        c.run();
      } catch (const std::exception& e) {
        ADD_FAILURE() << c.kernel << " under " << name(schedule) << ": " << e.what();
      }
    }
  }
}

}  // namespace
}  // namespace adjoint::simt::self_test
