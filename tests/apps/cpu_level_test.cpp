// The level of processor as a user chooses it, and what a report says of it and of the weights.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "data/sha256.h"
#include "engine/launch.h"
#include "engine/safetensors.h"
#include "kernels/base/cpu_level.h"
#include "tests/apps/program.h"
#include "tests/support/engine.h"

namespace adjoint::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class CpuLevel : public ProgramTest {
 protected:
  CpuLevel() : ProgramTest("reverse_string") {}
  ~CpuLevel() override { unsetenv("ADJOINT_CPU_LEVEL"); }

  json trained(const std::string& options) {
    std::filesystem::remove_all(folder_ / "run");
    const Outcome r =
        run("train --letters abc --min-length 2 --max-length 4 --train-strings 60 --validation-strings 20 --hidden 16 "
            "--epochs 2 --out run --json " +
            options);
    EXPECT_EQ(r.exit, 0) << r.err;
    return r.exit == 0 ? json::parse(r.out) : json::object();
  }
};

TEST_F(CpuLevel, Is_reported_with_a_digest_that_fused_levels_and_threads_share) {
  std::string digest;
  for (const cpu::Level level : cpu::levels()) {
    if (!cpu::has(level)) continue;
    const std::string name(cpu::name(level));
    for (const char* threads : {"1", "2"}) {
      const json report = trained("--cpu-level " + name + " --threads " + threads);
      EXPECT_EQ(report["cpu_level"], name);
      const std::string found = report["weights_sha256"];
      EXPECT_EQ(found.size(), 64u);
      if (name == "x86-64-v2") continue;
      if (digest.empty()) digest = found;
      EXPECT_EQ(found, digest) << name << ", " << threads << " threads";
    }
  }
}

TEST_F(CpuLevel, Digest_is_that_of_the_values_in_the_order_of_their_names) {
  const json report = trained("");
  const SafetensorsFile file((folder_ / "run" / "model.safetensors").string());
  std::map<std::string, std::string> tensors;
  for (const TensorInfo& tensor : file.header().tensors) {
    std::string& bytes = tensors[tensor.name];
    bytes.resize(tensor.bytes());
    file.read(tensor, std::as_writable_bytes(std::span(bytes)));
  }
  std::string all;
  for (const auto& [name, bytes] : tensors) all += bytes;
  EXPECT_EQ(report["weights_sha256"], data::sha256(all));
}

TEST_F(CpuLevel, That_does_not_exist_is_an_error_that_lists_those_that_do) {
  const Outcome option = run("train --cpu-level x86-64-v9 --out run");
  EXPECT_EQ(option.exit, 2);
  EXPECT_THAT(option.err, HasSubstr("error[E-CONF-003]: --cpu-level: 'x86-64-v9'"));
  EXPECT_THAT(option.err, HasSubstr("expected auto"));
  setenv("ADJOINT_CPU_LEVEL", "fast", 1);
  const Outcome variable = run("train --out run");
  EXPECT_EQ(variable.exit, 2);
  EXPECT_THAT(variable.err, HasSubstr("error[E-CONF-003]: ADJOINT_CPU_LEVEL: 'fast'"));
}

TEST_F(CpuLevel, Of_the_environment_is_used_unless_an_option_says_otherwise) {
  const std::string lowest(cpu::name(cpu::levels().back())), best(cpu::name(cpu::best_level()));
  setenv("ADJOINT_CPU_LEVEL", lowest.c_str(), 1);
  EXPECT_EQ(trained("")["cpu_level"], lowest);
  EXPECT_EQ(trained("--cpu-level " + best)["cpu_level"], best);
}

TEST(CpuLevels, That_the_processor_lacks_are_refused_and_leave_the_level_as_it_was) {
  const std::string before(cpu_level().name);
  for (const cpu::Level level : cpu::levels()) {
    if (cpu::has(level)) continue;
    expect_error([&] { set_cpu_level(cpu::name(level), "--cpu-level"); }, "E-CONF-003", "this processor lacks",
                 Exit::usage);
  }
  expect_error([&] { set_cpu_level("", "--cpu-level"); }, "E-CONF-003", "'' is no level", Exit::usage);
  EXPECT_EQ(cpu_level().name, before);
  EXPECT_TRUE(cpu::has(cpu::best_level()));
  EXPECT_TRUE(cpu::has(cpu::levels().back()));
}

}  // namespace
}  // namespace adjoint::testing
