#pragma once
// Runs a kernel call on the executor through its entry point, as the engine does.

#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>

#include "kernels/simt/buffer.h"
#include "kernels/simt/executor.h"

namespace adjoint::simt {

/// Runs the call, with scratch of exactly the size that it asks for. Throws Fault for what the executor finds.
template <class Call>
void run_call(Call call) {
  const Entry<At, Call>& it = entry_of<At>(call);
  if (it.run == nullptr) throw std::logic_error("no kernel entered for this call: see ADJOINT_GPU_KERNEL");
  std::optional<Buffer<unsigned char>> scratch;
  if constexpr (requires { call.scratch; }) {
    if (it.scratch_bytes == nullptr) throw std::logic_error("no scratch size entered: see ADJOINT_GPU_SCRATCH");
    if (const std::size_t bytes = it.scratch_bytes(At{}, call); bytes != 0) {
      scratch.emplace(bytes, "scratch");
      call.scratch = scratch->get();
    }
  }
  it.run(At{}, call);
}

}  // namespace adjoint::simt
