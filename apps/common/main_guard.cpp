#include "apps/common/main_guard.h"

#include <fmt/format.h>

#include <exception>
#include <new>
#include <string>
#include <system_error>

#include "apps/common/signals.h"
#include "apps/common/terminal.h"
#include "kernels/base/error.h"

namespace adjoint::app {
namespace {

constexpr std::size_t kLongest = 400;  // one line that a person reads

int report(const char* name, const std::string& line, Exit exit) {
  std::fflush(stdout);
  const std::string text = shortened(fmt::format("{}: {}", name, line), kLongest) + "\n";
  std::fwrite(text.data(), 1, text.size(), stderr);  // and if stderr is gone too, the exit code still tells
  return static_cast<int>(exit);
}

}  // namespace

int run_program(const char* name, int argc, char** argv, const std::function<int(int, char**)>& program) {
  ignore_write_signals();
  try {
    const int code = program(argc, argv);
    print_result("");  // flushes
    return code;
  } catch (const Error& error) {
    return report(name, error.line(), error.exit());
  } catch (const std::bad_alloc&) {
    return report(name, "error[E-MEM-001]: out of memory; try a smaller --batch-size or model", Exit::memory);
  } catch (const std::system_error& error) {
    return report(name, fmt::format("error[E-IO-001]: {}", error.what()), Exit::io);
  } catch (const std::exception& error) {
    return report(
        name, fmt::format("error[E-BUG-001]: {}; this is a bug, please report it with the command line", error.what()),
        Exit::bug);
  } catch (...) {
    return report(name, "error[E-BUG-001]: unknown exception; this is a bug, please report it with the command line",
                  Exit::bug);
  }
}

}  // namespace adjoint::app
