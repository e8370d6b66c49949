#!/usr/bin/env bash
# Builds the programs, trains string reversal without and with attention, and shows where the attention looks.
set -euo pipefail
cd "$(dirname "$0")/.."

cmake --preset release -DADJOINT_BUILD_BENCH=OFF > /dev/null
cmake --build --preset release --target reverse_string
run=build/demo
program=build/release/bin/reverse_string
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
