#include "apps/common/engine_options.h"

#include <fmt/format.h>

#include "apps/common/shared_options.h"
#include "engine/gpu.h"
#include "tests/apps/common_support.h"

namespace adjoint::app {
namespace {

Settings settings_of(const std::string& device) {
  static OptionTable& table = *[] {
    auto* t = new OptionTable("program", "train", "", {});
    add_shared(*t, {"device", "threads"});
    return t;
  }();
  return Settings(table).with("device", device).with("threads", "1");
}

/// A CUDA driver that says what it is told to say.
class Driver : public ::testing::Test {
 protected:
  Driver() : before_(cuda::api) {
    api_.device_count = [](int* count) {
      *count = devices;
      return status;
    };
    api_.properties = [](int, GpuProperties* properties) {
      *properties = {.name = "Some GPU", .compute_capability = 70, .multiprocessors = 80, .memory = 1 << 30};
      return 0;
    };
    api_.error_name = [](int) { return "cudaErrorInsufficientDriver"; };
    api_.error_text = [](int) { return "CUDA driver version is insufficient for CUDA runtime version"; };
    api_.architectures = [] { return "80-real 90"; };
    api_.runs_on = [](int compute_capability) { return compute_capability >= 80; };
    cuda::api = &api_;
    status = 0;
    devices = 0;
  }
  ~Driver() override { cuda::api = before_; }

  void expect_cpu_because(const std::string& why) {
    EXPECT_EQ(device_of(settings_of("auto")), Device{});
    EXPECT_EQ(place_text(settings_of("auto"), Device{}), "on cpu, because " + why);
    EXPECT_EQ(place_text(settings_of("cpu"), Device{}), "on cpu");
  }

  static inline int status = 0, devices = 0;
  GpuApi api_{};

 private:
  GpuApi* before_;
};

TEST_F(Driver, That_is_too_old_leaves_auto_the_cpu_and_says_why) {
  status = 35;
  expect_cpu_because(
      "cuda:0: no CUDA device (cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime "
      "version); try --device=cpu");
  expect_error([] { device_of(settings_of("cuda")); }, "E-GPU-001", Exit::device,
               "^--device cuda:0: no CUDA device .*driver version is insufficient.*--device=cpu");
}

TEST_F(Driver, Without_a_device_is_an_error_only_where_one_was_asked_for) {
  expect_cpu_because("cuda:0: no CUDA device (the driver found none); try --device=cpu");
  expect_error([] { device_of(settings_of("cuda:1")); }, "E-GPU-001", Exit::device, "^--device cuda:1: no CUDA device");
  devices = 1;
  expect_error([] { device_of(settings_of("cuda:3")); }, "E-GPU-001", Exit::device,
               "^--device cuda:3: no CUDA device .the machine has 1, numbered from 0");
}

TEST_F(Driver, Of_a_device_that_the_kernels_do_not_run_on_names_both) {
  devices = 1;
  expect_cpu_because("cuda:0 is sm_70; this build has 80-real 90; rebuild with -DADJOINT_CUDA_ARCHITECTURES=70");
  expect_error([] { device_of(settings_of("cuda")); }, "E-GPU-004", Exit::device,
               "sm_70; this build has 80-real 90; rebuild with -DADJOINT_CUDA_ARCHITECTURES=70");
}

TEST_F(Driver, That_is_no_part_of_the_build_says_so) {
  cuda::api = nullptr;
  EXPECT_EQ(device_of(settings_of("auto")), Device{});
  EXPECT_EQ(place_text(settings_of("auto"), Device{}), "on cpu");
  expect_error([] { device_of(settings_of("cuda")); }, "E-GPU-001", Exit::device, "this build has no CUDA backend");
}

}  // namespace
}  // namespace adjoint::app
