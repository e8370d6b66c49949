#!/usr/bin/env bash
# Fetches the "Stop Clickbait" headlines (Chakraborty, Paranjape, Kakarla and Ganguly, ASONAM 2016; MIT licence) into a
# folder that `clickbait data review` and `clickbait train` read, and checks that all of them arrived.
#   scripts/fetch_clickbait.sh [FOLDER]     (default: data/clickbait)
set -euo pipefail
folder=${1:-data/clickbait}
base=https://raw.githubusercontent.com/bhargaviparanjape/clickbait/master

mkdir -p "$folder"
fetch() {
  local path=$1 name
  name=$(basename "$path")
  if command -v curl > /dev/null; then
    curl --fail --silent --show-error --location --retry 3 --output "$folder/$name.part" "$base/$path"
  elif command -v wget > /dev/null; then
    wget --quiet --tries=3 --output-document="$folder/$name.part" "$base/$path"
  else
    echo "fetch_clickbait: neither curl nor wget is installed; try: apt-get install curl" >&2
    exit 2
  fi
  mv "$folder/$name.part" "$folder/$name"
}

check() {
  local file=$folder/$1 expected=$2 found
  found=$(gzip -dc "$file" | grep -c '[^[:space:]]' || true)
  if [ "$found" != "$expected" ]; then
    echo "fetch_clickbait: $file has $found headlines; expected $expected" >&2
    exit 3
  fi
}

fetch dataset/clickbait_data.gz
fetch dataset/non_clickbait_data.gz
check clickbait_data.gz 15999
check non_clickbait_data.gz 16001
echo "$folder: 15999 clickbait and 16001 other headlines"
