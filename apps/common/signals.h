#pragma once
// Signals become values: a flag for "stop soon", and errno for full pipes and files.

namespace adjoint::app {

/// A closed pipe or a file size limit then fails the write (EPIPE, EFBIG) instead of killing the process.
void ignore_write_signals();

/// From now on the first SIGINT or SIGTERM sets stop_signal(); the second ends the process at once with 130 or 143.
void watch_stop_signals();
/// SIGINT, SIGTERM, or 0 while nobody asked to stop.
int stop_signal();
/// Forgets a signal that was dealt with.
void clear_stop_signal();

}  // namespace adjoint::app
