#include "apps/common/signals.h"

#include <unistd.h>

#include <csignal>

namespace adjoint::app {
namespace {

volatile std::sig_atomic_t received = 0;

void on_stop(int signal) {
  if (received != 0) _exit(128 + signal);
  received = signal;
}

}  // namespace

void ignore_write_signals() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
}

void watch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop;
  action.sa_flags = SA_RESTART;  // a save in progress is not torn by EINTR
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int stop_signal() { return received; }
void clear_stop_signal() { received = 0; }

}  // namespace adjoint::app
