#pragma once
// A library that is opened while the program runs, so that the program needs it neither to be linked nor to start.

#include <string>

namespace adjoint {

/// What became of opening a library. Found out once in a process, at first use.
struct LibraryState {
  std::string file;     ///< what was opened
  std::string version;  ///< "13.1.0"
  std::string why_not;  ///< why it cannot be used; empty if it can
};

/// Opens a library and tells that of it: a backend's function for it, null where it was built without its header.
using LibraryStateOf = const LibraryState& (*)();
namespace cuda {
inline constinit LibraryStateOf cublaslt = nullptr, cudnn = nullptr;
}
namespace simt {
inline constinit LibraryStateOf cublaslt = nullptr, cudnn = nullptr;
}

/// What launch code throws when a library refuses a call; the engine adds what it knows and throws E-GPU-008.
struct LibraryFailure {
  std::string text;  ///< shapes, function and status
};

class SharedLibrary {
 public:
  /// Opens the file that the environment variable names, if it is set; else `name` where the system looks for it, in
  /// $CUDA_HOME and $CUDA_PATH, and in /usr/local/cuda. Never closed again.
  SharedLibrary(const char* variable, const std::string& name);

  /// Null, and noted in why_not(), if the library has none of that name.
  void* find(const char* symbol);

  const std::string& file() const { return file_; }
  /// Why it could not be opened, with every place that was tried, or what it lacks; empty if all is there.
  const std::string& why_not() const { return why_not_; }

 private:
  void* handle_ = nullptr;
  std::string file_, why_not_;
};

/// A function of such a library, with its name for messages.
template <class F>
struct Imported {
  Imported(SharedLibrary& library, const char* symbol)
      : name(symbol), call(reinterpret_cast<F*>(library.find(symbol))) {}
  const char* name;
  F* call;
};

}  // namespace adjoint
