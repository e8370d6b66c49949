// adjoint doctor: what it says where there is no driver, an old one, no toolkit, or a device that it cannot use.

#include "apps/common/diagnosis.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/gpu.h"
#include "engine/gpu_libraries.h"
#include "tests/apps/program.h"

namespace adjoint::app {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

/// A machine's driver and cards, in place of the real one while it lives.
struct Machine {
  int driver = 13000, status = 0, devices = 1;
  bool fits = true;

  explicit Machine(bool backend = true) : before(cuda::api) {
    here = this;
    table.versions = [](int* of_driver, int* of_runtime) {
      *of_driver = here->driver;
      *of_runtime = 13000;
      return 0;
    };
    table.device_count = [](int* count) {
      *count = here->devices;
      return here->status;
    };
    table.properties = [](int device, GpuProperties* p) {
      std::snprintf(p->name, sizeof p->name, "Card %d", device);
      p->compute_capability = 121;
      p->multiprocessors = 48;
      p->memory = std::size_t{16} << 30;
      return 0;
    };
    table.error_name = [](int) { return "cudaErrorUnknown"; };
    table.error_text = [](int) { return "unknown error"; };
    table.architectures = [] { return "80-real 90 100-virtual"; };
    table.runs_on = [](int) { return here->fits; };
    cuda::api = backend ? &table : nullptr;
  }
  ~Machine() { cuda::api = before; }

 private:
  GpuApi* before;
  GpuApi table{};
  static inline Machine* here = nullptr;
};

SelfTest passes(Device) { return {true, "as it should be"}; }

class Doctor : public adjoint::testing::ProgramTest {
 protected:
  Doctor() : ProgramTest("adjoint") {}

  std::vector<Finding> diagnosis() { return diagnose(test, path("pci")); }
  Finding finding(const std::string& item) {
    for (const Finding& f : diagnosis())
      if (f.item == item) return f;
    return {.item = "none", .state = State::absent, .text = "no finding " + item, .advice = ""};
  }
  void plug_in(const std::string& slot, const std::string& vendor, const std::string& kind) {
    write("pci/" + slot + "/vendor", vendor + "\n");
    write("pci/" + slot + "/class", kind + "\n");
  }

  std::function<SelfTest(Device)> test = passes;
};

TEST_F(Doctor, Finds_a_machine_well) {
  Machine machine;
  machine.devices = 2;
  EXPECT_FALSE(ill(diagnosis())) << text(diagnosis());
  EXPECT_THAT(finding("program").text, HasSubstr("Adjoint 0."));
  EXPECT_THAT(finding("processor").text, HasSubstr("kernels of level "));
  EXPECT_EQ(finding("test cpu").text, "as it should be");
  EXPECT_EQ(finding("CUDA backend").text, "built with CUDA 13.0, for sm 80 90 (and PTX) 100 (PTX)");
  EXPECT_EQ(finding("driver").text, "runs CUDA 13.0");
  EXPECT_EQ(finding("cuda:1").text, "Card 1, sm_121, 48 multiprocessors, 16 GiB");
  EXPECT_EQ(finding("test cuda:1").text, "as it should be");
  for (const GpuLibrary& library : gpu_libraries()) {
    const Finding found = finding(library.name);
    EXPECT_EQ(found.state, library.why_not.empty() ? State::good : State::absent);
    EXPECT_THAT(found.text, HasSubstr(library.why_not.empty() ? library.version : library.why_not));
  }
}

TEST_F(Doctor, Says_that_there_is_no_driver) {
  Machine machine;
  machine.driver = 0;
  EXPECT_FALSE(ill(diagnosis()));
  EXPECT_EQ(finding("driver").state, State::absent);
  EXPECT_EQ(finding("driver").text, "none, and no NVIDIA card either");
  EXPECT_EQ(finding("cuda:0").item, "none");
  EXPECT_EQ(finding("cuDNN").item, "none") << "there is nothing that could use it";

  plug_in("a", "0x8086", "0x030000");  // another maker's display
  plug_in("b", "0x10de", "0x040300");  // NVIDIA's, a sound device
  EXPECT_EQ(finding("driver").state, State::absent);
  plug_in("c", "0x10de", "0x030200");
  EXPECT_EQ(finding("driver").state, State::wrong);
  EXPECT_EQ(finding("driver").text, "none, but the machine has 1 NVIDIA card");
  EXPECT_EQ(finding("driver").advice, "install NVIDIA's driver for CUDA 13.0 or newer");
  EXPECT_TRUE(ill(diagnosis()));
}

TEST_F(Doctor, Says_that_the_driver_is_too_old) {
  Machine machine;
  machine.driver = 12080;
  machine.status = 35;
  EXPECT_TRUE(ill(diagnosis()));
  EXPECT_EQ(finding("driver").text, "too old: it runs CUDA 12.8, this program was built with 13.0");
  EXPECT_EQ(finding("driver").advice, "install a newer driver, or build with a toolkit of CUDA 12");
  machine.driver = 13010;
  machine.status = 0;
  EXPECT_EQ(finding("driver").state, State::good);
}

TEST_F(Doctor, Says_that_the_build_has_no_cuda) {
  Machine machine(false);
  EXPECT_FALSE(ill(diagnosis()));
  EXPECT_EQ(finding("CUDA backend").state, State::absent);
  EXPECT_THAT(finding("CUDA backend").text, HasSubstr("no toolkit was found when it was configured"));
  EXPECT_THAT(finding("CUDA backend").advice, IsEmpty());
  plug_in("c", "0x10de", "0x030200");
  EXPECT_THAT(finding("CUDA backend").advice, HasSubstr("install a CUDA toolkit"));
}

TEST_F(Doctor, Says_that_a_device_is_not_for_this_build) {
  Machine machine;
  machine.fits = false;
  EXPECT_TRUE(ill(diagnosis()));
  EXPECT_EQ(finding("cuda:0").state, State::wrong);
  EXPECT_THAT(finding("cuda:0").text, AllOf(HasSubstr("Card 0"), HasSubstr("cuda:0 is sm_121; this build has"),
                                            HasSubstr("-DADJOINT_CUDA_ARCHITECTURES=121")));
  EXPECT_EQ(finding("test cuda:0").item, "none") << "it would fail";
}

TEST_F(Doctor, Says_that_the_driver_finds_no_device) {
  Machine machine;
  machine.devices = 0;
  EXPECT_EQ(finding("devices").text, "the driver found none");
  machine.status = 999;
  EXPECT_EQ(finding("devices").text, "cudaErrorUnknown: unknown error");
  EXPECT_TRUE(ill(diagnosis()));
}

TEST_F(Doctor, Says_that_a_device_computes_wrongly) {
  Machine machine;
  test = [](Device device) { return SelfTest{device.type == DeviceType::cpu, "7 is not 8"}; };
  EXPECT_TRUE(ill(diagnosis()));
  EXPECT_EQ(finding("test cuda:0").state, State::wrong);
  EXPECT_EQ(finding("test cuda:0").text, "7 is not 8");
  EXPECT_THAT(finding("test cuda:0").advice, HasSubstr("--device cpu"));
  const std::string lines = text(diagnosis());
  EXPECT_THAT(lines, HasSubstr("\ntest cuda:0   wrong   7 is not 8\n                      -> do not use it"));
}

TEST_F(Doctor, Reports_as_json) {
  Machine machine;
  const auto well = nlohmann::json::parse(json(diagnosis()));
  EXPECT_EQ(well["schema"], 1);
  EXPECT_EQ(well["well"], true);
  machine.fits = false;
  const auto ill = nlohmann::json::parse(json(diagnosis()));
  EXPECT_EQ(ill["well"], false);
  ASSERT_EQ(ill["findings"].size(), diagnosis().size());
  const auto card = std::find_if(ill["findings"].begin(), ill["findings"].end(),
                                 [](const auto& finding) { return finding["item"] == "cuda:0"; });
  ASSERT_NE(card, ill["findings"].end());
  EXPECT_EQ((*card)["state"], "wrong");
}

TEST_F(Doctor, Tests_the_cpu_itself) {
  const SelfTest result = self_test(Device{});
  EXPECT_TRUE(result.passed) << result.text;
  EXPECT_THAT(result.text, HasSubstr("a replay gives equal bits"));
  const SelfTest none = self_test({DeviceType::cuda, 99});
  EXPECT_FALSE(none.passed);
  EXPECT_THAT(none.text, HasSubstr("E-GPU-001"));
}

TEST(SelfTest, Sees_every_difference) {
  const std::vector<std::vector<double>> right{{1, -2}, {1e-6}};
  EXPECT_EQ(largest_difference(right, right), 0);
  EXPECT_NEAR(largest_difference({{1, -2.2}, {1e-6}}, right), 0.1, 1e-12);
  EXPECT_NEAR(largest_difference({{1, -2}, {2e-6}}, right), 1.0, 1e-12) << "a small tensor counts by its own size";
  EXPECT_TRUE(std::isinf(largest_difference({{1, std::nan("")}, {1e-6}}, right)));
  EXPECT_TRUE(std::isinf(largest_difference({{1, -2}}, right)));
  EXPECT_TRUE(std::isinf(largest_difference({{1}, {1e-6}}, right)));
}

TEST_F(Doctor, Is_a_program) {
  const auto lines = run("doctor");
  EXPECT_THAT(lines.out, AllOf(HasSubstr("program "), HasSubstr("\ntest cpu      ok "), HasSubstr("\nCUDA backend ")));
  EXPECT_THAT(lines.err, IsEmpty());
  const auto report = run("doctor --json");
  const auto content = nlohmann::json::parse(report.out);
  EXPECT_EQ(report.exit, content["well"] == true ? 0 : 7);
  EXPECT_EQ(run("doctor --device cuda").exit, 2);
  EXPECT_THAT(run("doctor --help").out, HasSubstr("adjoint doctor --json"));
}

}  // namespace
}  // namespace adjoint::app
