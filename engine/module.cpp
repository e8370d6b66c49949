#include "engine/module.h"

#include <algorithm>

namespace adjoint {

void Module::add(std::string name, Module& module) {
  module.name_ = name;
  module.set_training(training_);
  entries_.push_back({std::move(name), nullptr, &module});
}

void Module::collect(const std::string& prefix, std::vector<NamedParameter>& out) const {
  for (const Entry& entry : entries_) {
    const std::string path = prefix.empty() ? entry.name : prefix + "." + entry.name;
    if (entry.module != nullptr) {
      entry.module->collect(path, out);
    } else if (std::none_of(out.begin(), out.end(), [&](const auto& p) { return p.parameter == entry.parameter; })) {
      out.push_back({path, entry.parameter});  // a shared parameter is listed under its first name
    }
  }
}

std::vector<NamedParameter> Module::parameters() const {
  std::vector<NamedParameter> out;
  collect("", out);
  return out;
}

std::int64_t Module::parameter_count() const {
  std::int64_t n = 0;
  for (const NamedParameter& p : parameters()) n += p.parameter->shape().count();
  return n;
}

void Module::set_training(bool training) {
  training_ = training;
  for (const Entry& entry : entries_)
    if (entry.module != nullptr) entry.module->set_training(training);
}

}  // namespace adjoint
