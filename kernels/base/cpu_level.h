#pragma once
// Levels of processor that the CPU kernels are compiled for, and the one that is used.
//
// kernels/cpu/*.cpp is compiled once for each level, in the namespace that the level is named after; a call goes to the
// level of its At (kernels/base/backend.h). x86-64-v3 (AVX2, FMA), x86-64-v4 (AVX-512) and aarch64 give equal bits;
// x86-64-v2 has no fused multiply-add and gives its own. The levels are those of the x86-64 psABI, §3.1.1.

#include <cstdint>
#include <span>
#include <string_view>

#if defined(__x86_64__)
/// X(namespace, name, …), the best first.
#define ADJOINT_CPU_LEVELS(X, ...)       \
  X(x86_64_v4, "x86-64-v4", __VA_ARGS__) \
  X(x86_64_v3, "x86-64-v3", __VA_ARGS__) \
  X(x86_64_v2, "x86-64-v2", __VA_ARGS__)
#else
#define ADJOINT_CPU_LEVELS(X, ...) X(baseline, "baseline", __VA_ARGS__)
#endif

namespace adjoint::cpu {

enum class Level : std::uint8_t {
#define ADJOINT_LEVEL(level, text, ...) level,
  ADJOINT_CPU_LEVELS(ADJOINT_LEVEL)
#undef ADJOINT_LEVEL
};

/// All levels of this kind of processor, the best first.
std::span<const Level> levels();
/// "x86-64-v3"
std::string_view name(Level level);
/// What the level stands for: "AVX2".
std::string_view instructions(Level level);
/// Whether this processor has it. One that lacks even the last ends the program in its first kernel.
bool has(Level level);
/// The best level that this processor has.
Level best_level();

/// The level of calls that name none: best_level(), unless ADJOINT_CPU_LEVEL or set_level() names another.
Level level();
/// `text`: a level's name, or auto. Throws E-CONF-003 for another text and for a level that the processor lacks, naming
/// `origin` ("--cpu-level"). Not while kernels run.
void set_level(std::string_view text, std::string_view origin);

}  // namespace adjoint::cpu
