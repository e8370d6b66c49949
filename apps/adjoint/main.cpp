// Tells what this build is and what this machine lets it do.

#include "apps/common/command_line.h"
#include "apps/common/diagnosis.h"
#include "apps/common/main_guard.h"
#include "apps/common/shared_options.h"
#include "apps/common/terminal.h"
#include "engine/launch.h"
#include "kernels/base/error.h"

int main(int argc, char** argv) {
  using namespace adjoint;
  return app::run_program("adjoint", argc, argv, [](int count, char** words) {
    app::CommandLine line("adjoint", "Look after an Adjoint build.",
                          {"adjoint doctor", "adjoint doctor --json", "adjoint doctor --help"});
    app::OptionTable& doctor =
        line.command("doctor",
                     "Show compiler, processor, CUDA and devices, test each device, and say what to do; exit 7 if "
                     "something is there and cannot be used.",
                     {"adjoint doctor", "adjoint doctor --json", "adjoint doctor --json | python3 -m json.tool"});
    app::add_shared(doctor, {"cpu-level", "json"});

    const app::Invocation call = line.parse(count, words);
    if (!call.help.empty()) {
      app::print_result(call.help);
      return 0;
    }
    if (const std::string& level = call.settings.text("cpu-level"); level != "auto")
      set_cpu_level(level, "--cpu-level");
    const std::vector<app::Finding> findings = app::diagnose();
    app::print_result(call.settings.flag("json") ? app::json(findings) + "\n" : app::text(findings));
    return static_cast<int>(app::ill(findings) ? Exit::device : Exit::done);
  });
}
