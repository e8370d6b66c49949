#include "apps/common/diagnosis.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "apps/common/metrics.h"
#include "apps/common/terminal.h"
#include "engine/gpu.h"
#include "engine/gpu_libraries.h"
#include "engine/launch.h"

namespace adjoint::app {
namespace {

Finding program() {
  return {.item = "program",
          .text = fmt::format("Adjoint {}, compiled by " ADJOINT_COMPILER " ({})", ADJOINT_VERSION,
#ifdef NDEBUG
                              "optimised"
#else
                              "with debug checks"
#endif
                              )};
}

std::string processor_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return line.substr(std::min(line.size(), line.find(':') + 2));
  return "unknown processor";
}

Finding processor() {
  const CpuLevel level = cpu_level(), best = best_cpu_level();
  return {.item = "processor",
          .text = fmt::format("{}, {} threads; kernels of level {} ({}), {}", processor_name(),
                              std::max(1u, std::thread::hardware_concurrency()), level.name, level.instructions,
                              level.name == best.name
                                  ? "the best that it has"
                                  : fmt::format("as asked; it has {} ({})", best.name, best.instructions))};
}

/// Display and compute cards of NVIDIA that the system sees, with a driver or without.
int nvidia_cards(const std::string& pci) {
  const auto number = [](const std::filesystem::path& file) {
    std::ifstream in(file);
    unsigned long value = 0;
    in >> std::hex >> value;
    return value;
  };
  int cards = 0;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(pci, none))
    if (number(entry.path() / "vendor") == 0x10de && number(entry.path() / "class") >> 16 == 0x03) ++cards;
  return cards;
}

std::string cuda_version(int number) { return fmt::format("{}.{}", number / 1000, number % 1000 / 10); }

/// "80-real 90" in words.
std::string architectures_text(const std::string& list) {
  std::string text = "sm";
  std::string rest;
  for (const char c : list + ' ') {
    if (c != ' ') {
      rest += c;
      continue;
    }
    const std::size_t dash = rest.find('-');
    const std::string number = rest.substr(0, dash);
    text += rest.ends_with("-virtual")  ? fmt::format(" {} (PTX)", number)
            : dash == std::string::npos ? fmt::format(" {} (and PTX)", number)
                                        : ' ' + number;
    rest.clear();
  }
  return text;
}

Finding driver_finding(const GpuApi& api, const std::string& pci) {
  int driver = 0, runtime = 0;
  if (const int status = api.versions(&driver, &runtime); status != 0) {
    return {.item = "driver",
            .state = State::wrong,
            .text = fmt::format("{}: {}", api.error_name(status), api.error_text(status)),
            .advice = "look at what nvidia-smi says"};
  }
  if (driver == 0) {
    const int cards = nvidia_cards(pci);
    if (cards == 0) return {.item = "driver", .state = State::absent, .text = "none, and no NVIDIA card either"};
    return {.item = "driver",
            .state = State::wrong,
            .text = fmt::format("none, but the machine has {} NVIDIA card{}", cards, cards == 1 ? "" : "s"),
            .advice = fmt::format("install NVIDIA's driver for CUDA {} or newer", cuda_version(runtime))};
  }
  if (driver / 1000 < runtime / 1000) {
    return {.item = "driver",
            .state = State::wrong,
            .text = fmt::format("too old: it runs CUDA {}, this program was built with {}", cuda_version(driver),
                                cuda_version(runtime)),
            .advice = fmt::format("install a newer driver, or build with a toolkit of CUDA {}", driver / 1000)};
  }
  return {.item = "driver", .text = "runs CUDA " + cuda_version(driver)};
}

/// The device's finding, and if it is usable that of its test.
void add_device(std::vector<Finding>& findings, const GpuApi& api, Device device,
                const std::function<SelfTest(Device)>& test) {
  GpuProperties properties{};
  Finding found{.item = text(device)};
  if (const int status = api.properties(device.index, &properties); status == 0) {
    found.text =
        fmt::format("{}, sm_{}, {} multiprocessors, {:.0f} GiB", properties.name, properties.compute_capability,
                    properties.multiprocessors, static_cast<double>(properties.memory) / (1 << 30));
  }
  if (const std::string why = Gpu::why_not(device); !why.empty()) {
    found.state = State::wrong;
    found.text += (found.text.empty() ? "" : "; ") + why;
    findings.push_back(found);
    return;
  }
  findings.push_back(found);
  const SelfTest result = test(device);
  findings.push_back({.item = "test " + text(device),
                      .state = result.passed ? State::good : State::wrong,
                      .text = result.text,
                      .advice = result.passed ? "" : "do not use it: --device cpu; run scripts/gpu_check.sh"});
}

void add_cuda(std::vector<Finding>& findings, const std::function<SelfTest(Device)>& test, const std::string& pci) {
  if (cuda::api == nullptr) {
    const int cards = nvidia_cards(pci);
    findings.push_back(
        {.item = "CUDA backend",
         .state = State::absent,
         .text = "not in this build: no toolkit was found when it was configured, or it was left out",
         .advice = cards == 0 ? "" : "this machine has an NVIDIA card: install a CUDA toolkit and configure again"});
    return;
  }
  const GpuApi& api = *cuda::api;
  int driver = 0, runtime = 0;
  const bool known = api.versions(&driver, &runtime) == 0;
  findings.push_back({.item = "CUDA backend",
                      .text = fmt::format("built with CUDA {}, for {}", known ? cuda_version(runtime) : "?",
                                          architectures_text(api.architectures()))});
  const Finding& found = findings.emplace_back(driver_finding(api, pci));
  if (found.state != State::good) return;
  int count = 0;
  if (const int status = api.device_count(&count); status != 0 || count == 0) {
    findings.push_back({.item = "devices",
                        .state = State::wrong,
                        .text = status != 0 ? fmt::format("{}: {}", api.error_name(status), api.error_text(status))
                                            : "the driver found none",
                        .advice = "look at what nvidia-smi says, and at CUDA_VISIBLE_DEVICES"});
    return;
  }
  for (int i = 0; i < count; ++i) add_device(findings, api, {DeviceType::cuda, static_cast<std::uint8_t>(i)}, test);
  for (const GpuLibrary& library : gpu_libraries()) {  // nothing needs them, so none is missed
    const bool there = library.why_not.empty();
    findings.push_back({.item = library.name,
                        .state = there ? State::good : State::absent,
                        .text = there ? library.version + " at " + library.file : library.why_not});
  }
}

}  // namespace

const char* name(State state) { return state == State::good ? "ok" : state == State::absent ? "absent" : "wrong"; }

std::vector<Finding> diagnose(const std::function<SelfTest(Device)>& test, const std::string& pci) {
  std::vector<Finding> findings{program(), processor()};
  if (findings.back().state == State::good) {
    const SelfTest result = test(Device{});
    findings.push_back({.item = "test cpu",
                        .state = result.passed ? State::good : State::wrong,
                        .text = result.text,
                        .advice = result.passed ? "" : "this is a bug: please report it with this output"});
  }
  add_cuda(findings, test, pci);
  if (simt::api != nullptr) add_device(findings, *simt::api, {DeviceType::simt, 0}, test);
  return findings;
}

bool ill(const std::vector<Finding>& findings) {
  return std::any_of(findings.begin(), findings.end(), [](const Finding& f) { return f.state == State::wrong; });
}

std::string text(const std::vector<Finding>& findings) {
  std::string all;
  for (const Finding& f : findings) {
    all += fmt::format("{:<13} {:<7} {}\n", f.item, name(f.state), printable(f.text));
    if (!f.advice.empty()) all += fmt::format("{:<13} {:<7} -> {}\n", "", "", printable(f.advice));
  }
  return all;
}

std::string json(const std::vector<Finding>& findings) {
  nlohmann::ordered_json lines = nlohmann::ordered_json::array();
  for (const Finding& f : findings)
    lines.push_back({{"item", f.item}, {"state", name(f.state)}, {"text", f.text}, {"advice", f.advice}});
  return json_text({{"schema", 1}, {"well", !ill(findings)}, {"findings", lines}});
}

}  // namespace adjoint::app
