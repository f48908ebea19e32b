#!/bin/bash
# Tests under valgrind:   tests/valgrind.sh [--limit SECONDS] [NAME | NAME:RANKS]...
# The names are those of ctest -N; comm:2 runs test_comm on 2 ranks. Without names: every cmocka
# test that ends within some minutes, see `left` below for the others.
#   --limit SECONDS   for one test (1200); one that takes longer counts as not clean
# Uses build/valgrind, compiled for every x86-64 CPU because valgrind does not know AVX-512.
# Suppressions: Open MPI's own file and tests/valgrind.supp, which covers MPI and the libraries
# under it, never the program. Exit code 1 when valgrind reports anything, 77 when it is missing.
set -u
cd "$(dirname "$0")/.." || exit 1
command -v valgrind >/dev/null || { echo "valgrind is not installed" && exit 77; }

# What valgrind does not run, and why:
#   ops_b, ops_c, trainer: 8 to 30 minutes each, run them by name (--limit 2400)
#   scripts: they start the program, which the tests of its parts cover
#   the emulated GPU: its threads are stacks that valgrind takes for one
left=(ops_b ops_c trainer)
names=() limit=1200
while [ $# -gt 0 ]; do
    case $1 in
        --limit) limit=${2:?--limit wants seconds} && shift ;;
        -h | --help) sed -n '2,9s/^# //p' "$0" && exit 0 ;;
        -*) echo "unknown option $1" && exit 2 ;;
        *) names+=("$1") ;;
    esac
    shift
done
cmake --preset cpu -B build/valgrind -DMR_NATIVE=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null
# Every test that is a program test_NAME, alone or on the lowest number of ranks above 1.
all() {
    ctest --test-dir build/valgrind -N -V | sed -n 's/.*Test command: //p' | tr -d '"' |
        sed -n 's|.*-np 2 .*/test_\([a-z0-9_]*\)$|\1:2|p; s|^/[^ ]*/test_\([a-z0-9_]*\)$|\1|p'
}
if [ ${#names[@]} = 0 ]; then
    cmake --build build/valgrind >/dev/null || exit 1
    for name in $(all); do
        [[ " ${left[*]} " = *" ${name%:*} "* ]] || names+=("$name")
    done
fi
targets=("${names[@]%:*}")
cmake --build build/valgrind --target "${targets[@]/#/test_}" >/dev/null || exit 1
# Deep stacks: a leak of MPI is known by the call that led to it.
options=(--quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite
    --num-callers=40 --suppressions=tests/valgrind.supp)
file=/usr/share/openmpi/openmpi-valgrind.supp
[ -f $file ] && options+=("--suppressions=$file")
export OMP_NUM_THREADS=1 OPENBLAS_CORETYPE=Haswell OMPI_ALLOW_RUN_AS_ROOT=1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 MR_BINARY=$PWD/build/valgrind/mealrec-dist MR_SOURCE=$PWD
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
export MR_TIME_SCALE=50
[ -d /dev/shm ] && export TMPDIR=${TMPDIR:-/dev/shm}
clean=0
for name in "${names[@]}"; do
    log=$(mktemp)
    start=$SECONDS
    ranks=()
    [ "${name%:*}" = "$name" ] || ranks=(mpirun -np "${name#*:}" --oversubscribe --bind-to none)
    timeout "$limit" "${ranks[@]}" valgrind "${options[@]}" \
        build/valgrind/tests/test_"${name%:*}" >"$log" 2>&1
    code=$?
    if [ $code = 0 ]; then
        clean=$((clean + 1))
        echo "$name: clean, $((SECONDS - start)) s"
    else
        echo "$name: exit code $code after $((SECONDS - start)) s"
        grep -A 12 '^==\|rror' "$log" | head -60
    fi
    rm -f "$log"
done
echo "$clean of ${#names[@]} clean"
[ "$clean" = ${#names[@]} ]
