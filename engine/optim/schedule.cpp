#include "engine/optim/schedule.h"

#include <algorithm>

#include "kernels/base/real_math.h"

namespace adjoint {

double scheduled_rate(const ScheduleOptions& o, std::int64_t step) {
  if (step <= o.warmup) return o.rate * static_cast<double>(step) / static_cast<double>(o.warmup);
  if (o.kind == Schedule::constant) return o.rate;
  const double span = static_cast<double>(std::max<std::int64_t>(o.total_steps - o.warmup, 1));
  // The first step after the warm-up has the full rate; the step after the last would have none.
  const double done = std::clamp(static_cast<double>(step - o.warmup - 1) / span, 0.0, 1.0);
  if (o.kind == Schedule::linear) return o.rate * (1.0 - done);
  double sine, cosine;
  real::sincos_turns(0.5 * done, sine, cosine);
  return o.rate * 0.5 * (1.0 + cosine);
}

}  // namespace adjoint
