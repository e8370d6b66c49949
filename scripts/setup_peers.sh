#!/usr/bin/env bash
# Makes the Python environment that the PyTorch benchmarks and the golden-vector script run in, and prints its interpreter.
# ADJOINT_PEERS_VENV names an existing environment to use instead. Arguments go to pip, e.g. for a build without CUDA:
#   scripts/setup_peers.sh --extra-index-url https://download.pytorch.org/whl/cpu
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
venv=${ADJOINT_PEERS_VENV:-$root/build/peers-venv}

if [ -z "${ADJOINT_PEERS_VENV:-}" ]; then
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/pip" install --disable-pip-version-check --no-cache-dir --quiet "$@" -r "$root/bench/peers/requirements.txt" >&2
elif [ ! -x "$venv/bin/python" ]; then
  echo "setup_peers: ADJOINT_PEERS_VENV=$venv: no bin/python there; expected a Python virtual environment" >&2
  exit 2
fi

"$venv/bin/python" - "$root/bench/peers/requirements.txt" >&2 <<'PYTHON'
import importlib.metadata
import sys

for line in open(sys.argv[1], encoding="utf-8"):
    name, pinned = line.strip().split("==")
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"setup_peers: {name}: not installed; expected {pinned}")
    note = "" if found.split("+")[0] == pinned else f" (pinned: {pinned}; recorded numbers used that one)"
    print(f"{name} {found}{note}")
PYTHON
echo "$venv/bin/python"
