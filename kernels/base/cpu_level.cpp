#include "kernels/base/cpu_level.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include "kernels/base/error.h"

namespace adjoint::cpu {
namespace {

constexpr std::array kLevels{
#define ADJOINT_LEVEL(level, text, ...) Level::level,
    ADJOINT_CPU_LEVELS(ADJOINT_LEVEL)
#undef ADJOINT_LEVEL
};
constexpr std::string_view kNames[] = {
#define ADJOINT_LEVEL(level, text, ...) text,
    ADJOINT_CPU_LEVELS(ADJOINT_LEVEL)
#undef ADJOINT_LEVEL
};

std::string list() {
  std::string all = "auto";
  for (const std::string_view text : kNames) all += fmt::format(", {}", text);
  return all;
}

Level parse(std::string_view text, std::string_view origin) {
  if (text == "auto") return best_level();
  const auto* const found = std::find(std::begin(kNames), std::end(kNames), text);
  ADJOINT_CHECK(found != std::end(kNames), "E-CONF-003", Exit::usage,
                fmt::format("{}: '{}' is no level of processor; expected {}", origin, text, list()));
  const Level level = kLevels[static_cast<std::size_t>(found - std::begin(kNames))];
  ADJOINT_CHECK(has(level), "E-CONF-003", Exit::usage,
                fmt::format("{}: this processor lacks {} ({}); expected {} or lower, or auto", origin, text,
                            instructions(level), name(best_level())));
  return level;
}

Level& chosen() {
  static Level level = [] {
    const char* const text = std::getenv("ADJOINT_CPU_LEVEL");
    return text == nullptr || *text == '\0' ? best_level() : parse(text, "ADJOINT_CPU_LEVEL");
  }();
  return level;
}

}  // namespace

std::span<const Level> levels() { return kLevels; }

std::string_view name(Level level) { return kNames[static_cast<std::size_t>(level)]; }

#if defined(__x86_64__)

std::string_view instructions(Level level) {
  switch (level) {
    case Level::x86_64_v4: return "AVX-512";
    case Level::x86_64_v3: return "AVX2";
    default: return "SSE4.2";
  }
}

bool has(Level level) {
  const bool v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  const bool v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  switch (level) {
    case Level::x86_64_v4:
      return v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
             __builtin_cpu_supports("avx512vl");
    case Level::x86_64_v3: return v3;
    default: return v2;
  }
}

#else

std::string_view instructions(Level) {
#if defined(__aarch64__)
  return "NEON";
#else
  return "what every processor of this kind has";
#endif
}
bool has(Level) { return true; }

#endif

Level best_level() {
  static const Level best = *std::find_if(kLevels.begin(), kLevels.end() - 1, has);
  return best;
}

Level level() { return chosen(); }

void set_level(std::string_view text, std::string_view origin) { chosen() = parse(text, origin); }

}  // namespace adjoint::cpu
