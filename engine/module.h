#pragma once
// A named tree of parameters and submodules. Each model has the forward signature it needs.

#include <string>
#include <utility>
#include <vector>

#include "engine/parameter.h"
#include "engine/scope.h"

namespace adjoint {

/// Base of layers and models. A derived class registers its parameters and submodules in its constructor, in the order
/// in which files list them; the registered objects are members, so a module neither copies nor moves.
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// All parameters with their paths, each once, in order of registration, submodules where they were registered.
  std::vector<NamedParameter> parameters() const;
  /// Number of elements of all parameters, trainable or not.
  std::int64_t parameter_count() const;
  /// Training mode turns dropout on, here and in all submodules. Off at first.
  void set_training(bool training);
  bool training() const { return training_; }

 protected:
  void add(std::string name, Parameter& parameter) { entries_.push_back({std::move(name), &parameter, nullptr}); }
  void add(std::string name, Module& module);
  /// Names this module in the errors of ops that run while the result lives. At the start of forward.
  ScopeName scope() const { return ScopeName(name_.c_str()); }

 private:
  struct Entry {
    std::string name;
    Parameter* parameter;
    Module* module;
  };
  void collect(const std::string& prefix, std::vector<NamedParameter>& out) const;

  std::vector<Entry> entries_;
  std::string name_;  // the name the parent gave
  bool training_ = false;
};

}  // namespace adjoint
