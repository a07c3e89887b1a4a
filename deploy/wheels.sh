#!/usr/bin/env bash
# Collect the wheels that an image of Roundel is made of.
#
#   deploy/wheels.sh [DIR]    into DIR/dependencies and DIR/own; DIR is dist/wheels by default
#
#   PYTHON=python3.11         the interpreter: the version and the machine of the image
#   EXTRAS=privacy,report     what else to bring, of the extras in pyproject.toml
#
# pip's own settings say where wheels come from. The build of torch decides how large an image is.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=$(realpath --canonicalize-missing "${1:-dist/wheels}")
scratch=$(mktemp --directory)
trap 'rm -rf "$scratch"' EXIT

rm -rf "${out:?}/dependencies" "$out/own"
mkdir -p "$out"

# Nothing is built inside the checkout, where what an earlier build left would get into the wheel.
printf '[build]\nbuild_base=%s\n[egg_info]\negg_base=%s\n' "$scratch" "$scratch" >"$scratch/setup.cfg"
DIST_EXTRA_CONFIG="$scratch/setup.cfg" \
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$out/own" "$PWD"

# What has no wheel would need a compiler in the image, and is refused here.
own=("$out"/own/roundel-*.whl)
"$python" -m pip download --quiet --only-binary=:all: --constraint constraints.txt \
    --dest "$out/dependencies" "${own[0]}${EXTRAS:+[$EXTRAS]}"
rm "$out"/dependencies/roundel-*.whl
du --summarize --human-readable "$out"
