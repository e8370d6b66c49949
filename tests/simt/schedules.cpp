#include "tests/simt/schedules.h"

namespace adjoint::simt::self_test {

std::vector<Schedule> schedules(int seeds) {
  std::vector<Schedule> all{{Order::ascending, 1, kNan}, {Order::descending, 1, kLarge}};
  for (int seed = 1; seed <= seeds; ++seed) {
    all.push_back({Order::random, static_cast<std::uint64_t>(seed), seed % 2 != 0 ? kNan : kLarge});
    all.push_back({Order::skewed, static_cast<std::uint64_t>(seed), seed % 2 != 0 ? kLarge : kNan});
  }
  return all;
}

int affordable_seeds() {
#ifdef __SANITIZE_ADDRESS__
  return 2;
#else
  return has_checker() ? 2 : 8;
#endif
}

const char* name(Order order) {
  switch (order) {
    case Order::ascending: return "ascending";
    case Order::descending: return "descending";
    case Order::random: return "random";
    case Order::skewed: return "skewed";
  }
  return "?";
}

std::string name(const Schedule& s) {
  return std::string(name(s.order)) + " order, seed " + std::to_string(s.seed) +
         (s.poison == kNan ? ", poison NaN" : ", poison 3.4e38");
}

Under::Under(const Schedule& schedule) : before_(options()) {
  options().order = schedule.order;
  options().seed = schedule.seed;
  options().poison = schedule.poison;
}

Under::~Under() { options() = before_; }

}  // namespace adjoint::simt::self_test
