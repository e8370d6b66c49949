#pragma once
// SHA-256 (FIPS 180-4), for fingerprints.

#include <string>
#include <string_view>

namespace adjoint::data {

/// 64 lower-case hexadecimal digits.
std::string sha256(std::string_view bytes);

}  // namespace adjoint::data
