#!/bin/bash
# Runs what needs a GPU, from a build made with nvcc: tests/gpu.sh [BUILD] [option of gpu_checks.py]
# Results go to gpu-results.json in the build folder; a second run goes on where the first stopped.
# Exit code 77: there is no GPU here. docs/gpu.md says what to do with the result.
set -u
cd "$(dirname "$0")/.." || exit 1
build=build/cuda
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    build=$1
    shift
fi
if [ ! -x "$build/mealrec-dist" ]; then
    echo "gpu.sh: $build/mealrec-dist is missing; first cmake --preset cuda &&" \
        "cmake --build --preset cuda" >&2
    exit 1
fi
exec python3 tests/gpu/gpu_checks.py "$build" --json "$build/gpu-results.json" --bench "$@"
