#pragma once
// Device memory of the simt device: ordinary host allocations of exact size, made known to the checker by name.
// Without the checker build, registering costs nothing; ASan still sees the exact ends.

#include <cstddef>

namespace adjoint::simt {

/// Makes [data, data + bytes) known as memory kernels may touch; `name` appears in reports and is copied.
/// `initialised`: the host has already written it. `element`: bytes of the smallest element; accesses by different
/// threads are told apart down to min(element, 4) bytes.
void register_buffer(const void* data, std::size_t bytes, const char* name, bool initialised = false,
                     std::size_t element = 2);
void unregister_buffer(const void* data);

/// Fills with options().poison (NaN in every float format, unless changed) and counts the contents as never written.
void poison(void* data, std::size_t bytes);

/// The host has written this range (an upload, a memset): reading it is legal from now on.
void mark_initialised(const void* data, std::size_t bytes);

/// An allocation that ends after `bytes` for ASan and for the checker alike, aligned to 256 as cudaMalloc's are.
void* allocate(std::size_t bytes);
void deallocate(void* data);

}  // namespace adjoint::simt
