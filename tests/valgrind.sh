#!/bin/bash
# Unit tests under valgrind:   tests/valgrind.sh [NAME]...      (test names of ctest -N, one rank)
# Uses the ordinary build folder build/cpu, compiled for every x86-64 CPU in build/valgrind because
# valgrind does not know AVX-512. Suppressions: Open MPI's own file and tests/valgrind.supp, which
# covers MPI and the libraries under it, never the program. Exit code 1 when valgrind reports
# anything, 77 when it is not installed.
set -u
cd "$(dirname "$0")/.." || exit 1
command -v valgrind >/dev/null || { echo "valgrind is not installed" && exit 77; }

names=("$@")
[ $# -gt 0 ] || names=(base config args progress data_npy data_h5 safetensors
    checkpoint_damage run_folder compare metrics graph fault_import)
cmake --preset cpu -B build/valgrind -DMR_NATIVE=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null &&
    cmake --build build/valgrind --target "${names[@]/#/test_}" >/dev/null || exit 1
options=(--quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite
    --suppressions=tests/valgrind.supp)
file=/usr/share/openmpi/openmpi-valgrind.supp
[ -f $file ] && options+=("--suppressions=$file")
export OMP_NUM_THREADS=1 OPENBLAS_CORETYPE=Haswell OMPI_ALLOW_RUN_AS_ROOT=1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 MR_BINARY=$PWD/build/valgrind/mealrec-dist MR_SOURCE=$PWD
clean=0
for name in "${names[@]}"; do
    log=$(mktemp)
    start=$SECONDS
    valgrind "${options[@]}" build/valgrind/tests/test_"$name" >"$log" 2>&1
    code=$?
    if [ $code = 0 ]; then
        clean=$((clean + 1))
        echo "$name: clean, $((SECONDS - start)) s"
    else
        echo "$name: exit code $code"
        grep -A 12 '^==' "$log" | head -60
    fi
    rm -f "$log"
done
echo "$clean of ${#names[@]} clean"
[ "$clean" = ${#names[@]} ]
