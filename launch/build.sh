#!/bin/bash
# Configures and builds build/release:   launch/build.sh [TARGET]...   (no target: everything)
# Targets: mealrec-dist (the program), or one that CMake knows; options are not passed on.
# With nvcc in sight the CUDA kernels are compiled too. The log is shown only when the build fails.
# Exit codes: 0 built, 2 usage, else that of CMake.
set -u
for arg in "$@"; do
    case $arg in
        -h | --help) sed -n '2,5s/^# //p' "$0"; exit 0 ;;
        -* | '')
            echo "build.sh: unknown option '$arg'; see launch/build.sh --help" >&2
            exit 2
            ;;
    esac
done
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
build >"$log" 2>&1
code=$?
if [ "$code" != 0 ]; then
    # The messages, without the progress lines and the compiler's command lines.
    grep -vE '^\[[0-9]+/[0-9]+\]|^/[^ :]+ ' "$log" | tail -n 40 >&2
    echo "build: failed; the whole log is $log" >&2
    exit "$code"
fi
echo "build: done in $((SECONDS - started)) s" >&2
