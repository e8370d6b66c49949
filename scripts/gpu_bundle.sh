#!/usr/bin/env bash
# Gathers the libraries that the build needs, so that scripts/gpu_check.sh builds on a machine with a GPU and no package
# source. It needs the packages of scripts/setup.sh installed here, and a machine of the same processor there.
#   scripts/gpu_bundle.sh [FOLDER]     writes FOLDER (default build/gpu_bundle, where gpu_check.sh looks)
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-build/gpu_bundle}
packages=(libfmt-dev nlohmann-json3-dev libcli11-dev zlib1g-dev libutf8proc-dev libgtest-dev libgmock-dev)
rm -rf "$folder"
mkdir -p "$folder"
for package in "${packages[@]}"; do
  if ! files=$(dpkg-query -L "$package" 2> /dev/null); then
    echo "gpu_bundle: $package is not installed; try: scripts/setup.sh" >&2
    exit 2
  fi
  while read -r file; do
    case $file in
      /usr/share/doc/* | /usr/share/man/* | /usr/share/bug/* | /usr/src/* | /usr/share/lintian/*) continue ;;
    esac
    [ -f "$file" ] || continue
    target=$folder/${file#/usr/}
    mkdir -p "$(dirname "$target")"
    # A link into another package, as from a -dev package to the library itself: what it points to, under its own name.
    if [ -L "$file" ]; then
      cp "$(readlink -f "$file")" "$target"
      name=$(objdump -p "$file" 2> /dev/null | sed -n 's/^ *SONAME *//p')
      [ -z "$name" ] || cp "$(readlink -f "$file")" "$(dirname "$target")/$name"
      real=$(basename "$(readlink -f "$file")")  # CMake's packages name this one
      [ "$real" = "$(basename "$target")" ] || cp "$(readlink -f "$file")" "$(dirname "$target")/$real"
    else
      cp "$file" "$target"
    fi
  done <<< "$files"
done
git describe --always --dirty > "$folder/version"  # the record names it where the history did not come along
du -sh "$folder" | sed 's/\t/  /'
