#include "engine/launch.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <thread>

#include "engine/scope.h"
#include "kernels/base/error.h"
#include "kernels/cpu/thread_pool.h"

namespace adjoint {
namespace {

struct Pool {
  std::unique_ptr<cpu::ThreadPool> pool;
  cpu::At at;

  Pool() { resize(threads_of_machine()); }
  void resize(int threads) {
    pool = std::make_unique<cpu::ThreadPool>(threads);
    at.pool = pool.get();
  }
};

Pool& pool() {
  static Pool pool;
  return pool;
}

}  // namespace

int threads_of_machine() {
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, static_cast<unsigned>(kMostThreads)));
}

void set_threads(int threads) {
  ADJOINT_CHECK(threads >= 1 && threads <= kMostThreads, "E-CONF-003", Exit::usage,
                fmt::format("threads: {} is out of range; expected an integer in 1..{}", threads, kMostThreads));
  if (pool().pool->threads() != threads) pool().resize(threads);
}

int threads() { return pool().pool->threads(); }

CpuLevel cpu_level() { return {cpu::name(pool().at.level), cpu::instructions(pool().at.level)}; }
CpuLevel best_cpu_level() { return {cpu::name(cpu::best_level()), cpu::instructions(cpu::best_level())}; }
void set_cpu_level(std::string_view text, std::string_view origin) {
  cpu::set_level(text, origin);
  pool().at.level = cpu::level();
}

const cpu::At& cpu_at() { return pool().at; }

namespace detail {

void no_kernel(Device device, std::string_view call) {
  throw Error("E-GPU-006", Exit::device,
              fmt::format("{}: this build has no kernel for '{}' there; try --device=cpu", text(device), call));
}

void launch_failed(Device device, const GpuFailure& failure) {
  Gpu::of(device).check(failure.status, failure.what);
  throw std::logic_error("launch_failed: without a failure");
}

void library_failed(Device device, const LibraryFailure& failure) {
  const std::string path = ScopeName::path();
  throw Error("E-GPU-008", Exit::device,
              fmt::format("{}: {}{}; expected success", text(device), failure.text,
                          path.empty() ? "" : fmt::format(", in layer '{}'", path)));
}

}  // namespace detail

void Recording::replay() const {
  for (std::size_t at = 0; at < buffer_.size();) {
    const auto& header = *reinterpret_cast<const Header*>(&buffer_[at]);
    header.run(header.device, &buffer_[at + 1]);
    at += 1 + header.units;
  }
}

}  // namespace adjoint
