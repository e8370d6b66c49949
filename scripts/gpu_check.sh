#!/usr/bin/env bash
# Proves and measures Adjoint on a machine with a GPU, in one command: builds for this GPU (or takes programs that were
# brought along), runs the tests of kernels and engine on it, compute-sanitizer, both programs, and the benchmarks beside
# PyTorch's. Nothing stops at the first failure. Results: bench/results/gpu-NAME-DATE.json and .md. More: docs/gpu_check.md
#   scripts/gpu_check.sh                               everything; exit 1 if a task failed, 7 without a GPU
#   scripts/gpu_check.sh --stages tests,sanitizer      a part; the record keeps the others
#   scripts/gpu_check.sh --build DIR                   with the programs in DIR/bin
#   scripts/gpu_check.sh --device simt --out DIR       a dry run on the CPU, without a GPU
set -euo pipefail
if ! command -v python3 > /dev/null; then
  echo "gpu_check: python3 is not installed; try: apt-get install python3" >&2
  exit 2
fi
exec python3 "$(dirname "$0")/gpu_check.py" "$@"
