// Prints the levels of this processor as a CMake list, for tests that are compiled for one level.

#include <cstdio>

#include "kernels/base/cpu_level.cpp"

int main() {
  for (const adjoint::cpu::Level level : adjoint::cpu::levels())
    if (has(level)) std::printf("%s;", name(level).data());
}
