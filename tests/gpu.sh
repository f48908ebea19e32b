#!/bin/bash
# Runs what needs a GPU, from a build made with nvcc:   tests/gpu.sh [build folder]
# Exit code 77: there is no GPU here. docs/gpu.md says what to do with the result.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${1:-build/release}
program=$build/tests/test_kernels_cuda
if [ ! -x "$program" ]; then
    echo "gpu.sh: $program is missing; first cmake --preset cuda && cmake --build --preset cuda" >&2
    exit 1
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
git describe --always --dirty 2>/dev/null
exec "$program"
