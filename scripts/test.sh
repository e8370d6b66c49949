#!/usr/bin/env bash
# Builds everything with its tests and runs them all. With an argument: that preset (release, dev, asan, tsan).
set -euo pipefail
cd "$(dirname "$0")/.."

preset=${1:-release}
# Two GPU architectures rather than all of a release: enough to see that the kernels compile.
cmake --preset "$preset" -DADJOINT_CUDA_ARCHITECTURES="80-real;90-real" > /dev/null
cmake --build --preset "$preset"
ctest --preset "$preset" --no-tests=error
