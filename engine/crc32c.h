#pragma once
// CRC32C (Castagnoli), the checksum of checkpoints and of TensorBoard records.

#include <cstddef>
#include <cstdint>
#include <span>

namespace adjoint {

/// CRC32C of the bytes; crc32c("123456789") = 0xe3069283. `before` is the CRC of the bytes in front of these, so a
/// stream is summed piece by piece. Uses the processor's instruction where there is one.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before = 0);

/// The same from tables alone: what machines without the instruction run, and what the tests compare with.
std::uint32_t crc32c_portable(std::span<const std::byte> bytes, std::uint32_t before = 0);

}  // namespace adjoint
