#!/usr/bin/env bash
# Compiles the GPU kernels for every architecture of a release, one file at a time, and records what each costs:
#   scripts/cuda_all_architectures.sh [FOLDER]     writes FOLDER/cuda-build-DATE.json and .md (default bench/results)
# It needs a CUDA toolkit and no GPU. ADJOINT_CUDA_ARCHITECTURES in the environment replaces the list.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-bench/results}
build=build/cuda-all
options=(-DCMAKE_BUILD_TYPE=Release -DADJOINT_CUDA=ON -DADJOINT_BUILD_TESTS=OFF -DADJOINT_BUILD_BENCH=OFF
         "-DADJOINT_CUDA_ARCHITECTURES=${ADJOINT_CUDA_ARCHITECTURES:-all}")
rm -rf "$build"
cmake -S . -B "$build" -G Ninja "${options[@]}" > /dev/null
cmake --build "$build" --target adjoint_cuda -- -j1 -k0  # one file's failure says nothing of the others

cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }
nvcc=$(cached ADJOINT_NVCC)
version=$("$nvcc" --version | sed -n 's/^Cuda compilation tools, release \([^,]*\), V\(.*\)$/\2/p')
architectures=$(cached ADJOINT_CUDA_ARCHITECTURES_BUILT)
machine=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
date=$(date +%F)
archive=$(stat -c %s "$build/kernels/libadjoint_cuda.a")

# One line a file: name, seconds, bytes of the object, kernels of one architecture, most registers (f64 left out).
files=$(for object in "$build"/cuda/*.o; do
  name=$(basename "$object" .o)
  seconds=$(awk -v o="cuda/$name.o" '$4 == o { t = ($2 - $1) / 1000 } END { printf "%.1f", t }' "$build/.ninja_log")
  awk -v name="$name" -v seconds="$seconds" -v bytes="$(stat -c %s "$object")" '
    $1 ~ /^sm_/ { if (first == "") first = $1; if ($1 == first) ++kernels; if ($0 !~ /<double[,>]/ && $2 > most) most = $2 }
    END { print name, seconds, bytes, kernels + 0, most + 0 }' "$build/cuda/$name.txt"
done)
[ -n "$files" ] || { echo "cuda_all_architectures: no object in $build/cuda" >&2; exit 1; }

mkdir -p "$folder"
awk -v date="$date" -v machine="$machine" -v nvcc="$version" -v architectures="$architectures" -v archive="$archive" '
  BEGIN { printf "{\n  \"date\": \"%s\",\n  \"machine\": \"%s\",\n  \"nvcc\": \"%s\",\n  \"architectures\": \"%s\",\n  \"archive_bytes\": %s,\n  \"files\": [", date, machine, nvcc, architectures, archive }
  { printf "%s\n    {\"name\": \"%s\", \"seconds\": %s, \"bytes\": %s, \"kernels\": %s, \"most_registers\": %s}", (NR > 1 ? "," : ""), $1, $2, $3, $4, $5 }
  END { print "\n  ]\n}" }' <<< "$files" > "$folder/cuda-build-$date.json"
awk -v date="$date" -v machine="$machine" -v nvcc="$version" -v architectures="$architectures" -v archive="$archive" '
  BEGIN {
    printf "# The GPU kernels compiled for all architectures\n\n"
    printf "`scripts/cuda_all_architectures.sh`, %s, %s, nvcc %s, for %s, one file at a time.\n\n", date, machine, nvcc, architectures
    print "| file | seconds | KiB | kernels | most registers |\n|---|--:|--:|--:|--:|"
  }
  { printf "| %s.cu | %s | %d | %d | %d |\n", $1, $2, $3 / 1024, $4, $5; s += $2; b += $3; k += $4 }
  END { printf "| all | %.1f | %d | %d | |\n\nThe archive that programs link has %d KiB.\n", s, b / 1024, k, archive / 1024 }
' <<< "$files" > "$folder/cuda-build-$date.md"
cat "$folder/cuda-build-$date.md"
