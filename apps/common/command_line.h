#pragma once
// A program's commands: from argv to the settings of one of them.

#include <deque>
#include <string>
#include <vector>

#include "apps/common/options.h"

namespace adjoint::app {

/// What the user asked for: either a text to print (--help), or settings to run with.
struct Invocation {
  std::string help;
  Settings settings;
  /// "train".
  const std::string& command() const { return settings.table().command(); }
};

class CommandLine {
 public:
  CommandLine(std::string program, std::string summary, std::vector<std::string> examples);

  /// Adds a command; "data review" is two words. References stay valid.
  OptionTable& command(const std::string& name, std::string summary, std::vector<std::string> examples);

  /// Arguments without argv[0]. Strength of values: default < preset < config file < command line.
  /// E-CLI-001 unknown option or command, E-CLI-002 bad value, E-CLI-003 something missing, E-CLI-004 given twice or
  /// too much, E-CONF-… from --config, E-IO-001 for a config file that cannot be read.
  Invocation parse(const std::vector<std::string>& arguments) const;
  Invocation parse(int argc, char** argv) const;

 private:
  OptionTable top_;  // holds only --help
  std::deque<OptionTable> commands_;
};

/// The --help of a command, `columns` wide.
std::string help_text(const OptionTable& table, int columns = 100);

}  // namespace adjoint::app
