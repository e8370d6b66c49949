#include "tests/libraries/libraries.h"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>

#include "kernels/base/error.h"
#include "kernels/simt/executor.h"

namespace adjoint::testing {
namespace {

/// Opened before the engine opens it, so that the engine gets the same one.
template <class Fake>
Fake& opened(const char* variable, const std::string& name, const char* symbol) {
  const std::string path = built(name);
  setenv(variable, path.c_str(), 1);
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error(dlerror());
  Fake& fake = *reinterpret_cast<Fake* (*)()>(dlsym(library, symbol))();
  fake.queue = [](std::function<void()> work) { simt::detail::submit(std::move(work)); };
  return fake;
}

}  // namespace

std::string built(const std::string& name) { return ADJOINT_LIBRARIES_FOLDER "/" + name; }

FakeCublasLt& cublas_lt() {
  static FakeCublasLt& fake =
      opened<FakeCublasLt>("ADJOINT_CUBLASLT_LIBRARY", "libfake_cublas_lt.so", "adjoint_fake_cublas_lt");
  return fake;
}

FakeCudnn& cudnn() {
  static FakeCudnn& fake = opened<FakeCudnn>("ADJOINT_CUDNN_LIBRARY", "libfake_cudnn.so", "adjoint_fake_cudnn");
  return fake;
}

std::string in_child(const std::function<std::string()>& action) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("pipe");
  const pid_t child = fork();
  if (child == 0) {
    std::string line;
    try {
      line = action();
    } catch (const Error& error) {
      line = error.line();
    } catch (const std::exception& error) {
      line = error.what();
    }
    [[maybe_unused]] const auto written = write(ends[1], line.data(), line.size());
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n = 0; (n = read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<std::size_t>(n));
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return text;
}

}  // namespace adjoint::testing
