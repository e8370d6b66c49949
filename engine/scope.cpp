#include "engine/scope.h"

#include <fmt/format.h>

namespace adjoint {

ScopeName*& ScopeName::innermost() {
  static thread_local ScopeName* scope = nullptr;
  return scope;
}

std::string ScopeName::path() {
  std::string path;
  for (const ScopeName* s = innermost(); s != nullptr; s = s->outer_) {
    if (*s->name_ == 0) continue;
    path = fmt::format("{}{}{}", s->name_, path.empty() ? "" : ".", path);
  }
  return path;
}

Error op_error(const char* code, const std::string& message) {
  const std::string path = ScopeName::path();
  return Error(code, Exit::data, path.empty() ? message : message + "; in layer '" + path + "'");
}

}  // namespace adjoint
