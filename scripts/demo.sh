#!/usr/bin/env bash
# Builds the programs, trains string reversal without and with attention, and shows where the attention looks.
set -euo pipefail
cd "$(dirname "$0")/.."

# A build of its own, for the CPU alone: compiling the kernels for GPUs would take longer than everything else here.
cmake --preset release -B build/demo -DADJOINT_CUDA=OFF -DADJOINT_BUILD_BENCH=OFF -DADJOINT_BUILD_TESTS=OFF > /dev/null
cmake --build build/demo --target reverse_string
run=build/demo/runs
program=build/demo/bin/reverse_string
rm -rf "$run"

echo
echo "Without attention:"
$program train --attention none --out "$run/none"
echo
echo "With attention:"
$program train --attention dot --out "$run/dot" --beside "$run/none" --require 'exact_match>=0.995'
echo
echo "Where it looks while it writes:"
$program attention --run "$run/dot" --format text hgfedcbaab
echo
echo "Try it: $program predict --run $run/dot abcdefgh"
echo "The attention page, for a browser: $($program attention --run "$run/dot" hgfedcbaab abcdefgh)"
