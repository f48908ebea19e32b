#!/bin/bash
# Configures and builds build/release:   launch/build.sh [TARGET]...   (no target: everything)
# With nvcc in sight the CUDA kernels are compiled too. The log is shown only when the build fails.
set -u
cd "$(dirname "$0")/.." || exit 1

log=build/release.log
mkdir -p build
started=$SECONDS
echo "build: configuring and building in build/release (log: $log)" >&2
targets=()
for target in "$@"; do targets+=(--target "$target"); done
if ! { cmake --preset release && cmake --build --preset release "${targets[@]}"; } >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "build: failed; the lines above are the end of $log" >&2
    exit 1
fi
echo "build: done in $((SECONDS - started)) s" >&2
