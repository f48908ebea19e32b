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
build() {
    cmake --preset release && cmake --build --preset release "${targets[@]}"
}
if ! build >"$log" 2>&1; then
    # The messages, without the progress lines and the compiler's command lines.
    grep -vE '^\[[0-9]+/[0-9]+\]|^/[^ :]+ ' "$log" | tail -n 40 >&2
    echo "build: failed; the whole log is $log" >&2
    exit 1
fi
echo "build: done in $((SECONDS - started)) s" >&2
