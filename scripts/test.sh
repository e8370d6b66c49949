#!/usr/bin/env bash
# Builds everything with its tests and runs them all. With an argument: that preset (release, dev, asan, tsan).
set -euo pipefail
cd "$(dirname "$0")/.."

preset=${1:-release}
cmake --preset "$preset" > /dev/null
cmake --build --preset "$preset"
ctest --preset "$preset" --no-tests=error
