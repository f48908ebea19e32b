#!/bin/bash
# Runs what needs a GPU, from a build made with nvcc: tests/gpu.sh [--make] [BUILD] [options]
#   --make   configure and compile first, for this machine's GPU and no other, what the checks need
# The options are those of gpu_checks.py, above all
#   --keep FOLDER      machine, log, results and figures, to take along
#   --budget SECONDS   begin nothing that may not end in time; the same command goes on later
#   --only NAME ...    --only figures: the figures beside PyTorch alone
#   --python PATH      an interpreter with torch, for the figures (default: python3)
# Results go to gpu-results.json in the build folder; a second run goes on where the first stopped.
# Exit code 77: there is no GPU here. docs/gpu.md says what to do with the result.
set -u
cd "$(dirname "$0")/.." || exit 1
make=no
if [ "${1-}" = --make ]; then
    make=yes
    shift
fi
build=build/cuda
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    build=$1
    shift
fi
keep=
for ((i = 1; i < $#; i++)); do
    next=$((i + 1))
    [ "${!i}" = --keep ] && keep=${!next}
done
if [ "$make" = yes ]; then
    log=$build/make.log
    mkdir -p "$build"
    # Found where Python packages brought it, when it is nowhere else.
    nccl=$(python3 -c 'import nvidia.nccl as n; print(list(n.__path__)[0])' 2>/dev/null)
    chip=90
    nvidia-smi -L >/dev/null 2>&1 && chip=native
    begin=$SECONDS
    if ! { cmake -S . -B "$build" --preset cuda -DCMAKE_CUDA_ARCHITECTURES=$chip \
        ${nccl:+-DMR_NCCL_ROOT="$nccl"} &&
        cmake --build "$build" -j "$(nproc)" --target mealrec-dist test_kernels_cuda \
            test_ops_basic test_ops_a test_ops_b test_ops_c test_ops_bf16; } >"$log" 2>&1; then
        tail -n 60 "$log"
        [ -n "$keep" ] && mkdir -p "$keep" && tail -c 1000000 "$log" >"$keep/make.log"
        echo "gpu.sh: the build failed; all of it is in $log" >&2
        exit 1
    fi
    echo "built in $((SECONDS - begin)) s"
fi
if [ ! -x "$build/mealrec-dist" ]; then
    echo "gpu.sh: $build/mealrec-dist is missing; first cmake --preset cuda &&" \
        "cmake --build --preset cuda, or tests/gpu.sh --make" >&2
    exit 1
fi
exec python3 tests/gpu/gpu_checks.py "$build" --json "$build/gpu-results.json" --bench "$@"
