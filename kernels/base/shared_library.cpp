#include "kernels/base/shared_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <vector>

namespace adjoint {
namespace {

std::string environment(const char* variable) {
  const char* const value = std::getenv(variable);
  return value != nullptr ? value : "";
}

std::vector<std::string> places_of(const char* variable, const std::string& name) {
  if (const std::string given = environment(variable); !given.empty()) return {given};
  std::vector<std::string> places{name};
  for (const char* root : {"CUDA_HOME", "CUDA_PATH"})
    if (const std::string folder = environment(root); !folder.empty()) places.push_back(folder + "/lib64/" + name);
  places.push_back("/usr/local/cuda/lib64/" + name);
  return places;
}

}  // namespace

SharedLibrary::SharedLibrary(const char* variable, const std::string& name) {
  std::string reason, tried;
  for (const std::string& place : places_of(variable, name)) {
    handle_ = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) {
      file_ = place;
      return;
    }
    // Most often that it is not there; of one that is there and lacks what it needs itself, that is what helps.
    const char* const why = dlerror();
    if (reason.empty() || std::string(why).find(place + ": cannot open shared object") != 0) reason = why;
    tried += (tried.empty() ? "" : ", ") + place;
  }
  why_not_ = reason + "; tried " + tried + "; set " + variable + " to its file";
}

void* SharedLibrary::find(const char* symbol) {
  if (handle_ == nullptr) return nullptr;
  void* const found = dlsym(handle_, symbol);
  if (found == nullptr && why_not_.empty()) why_not_ = file_ + " has no " + symbol;
  return found;
}

}  // namespace adjoint
