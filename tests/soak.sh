#!/bin/bash
# The long versions of the tests of reliability:   tests/soak.sh [--factor F] [PART]...
#   kills     200 x kill -9 of a random rank              cuts   10 cut points on 1, 2, 4 ranks
#   pairs     25 (P, Q) pairs                             disk   30 fill levels of a small tmpfs
#   damage    10,000 flips, cuts and mutations of data sets and checkpoints
#   mismatch  20 kinds of ranks that do not agree         fault  every n-th call fails
#   fuzz      10,000 inputs for each target (tests/fuzz.sh)
# --factor 0.1 does a tenth of it. Uses build/cpu (fuzz: build/debug). One line with counts a part;
# the last line says how many parts were clean. Runs for about an hour on two cores.
set -u
cd "$(dirname "$0")/.." || exit 1

factor=1 parts=()
while [ $# -gt 0 ]; do
    case $1 in
        --factor) factor=$2 && shift ;;
        -h | --help) sed -n '2,10s/^# //p' "$0" && exit 0 ;;
        -*) echo "unknown option $1" && exit 2 ;;
        *) parts+=("$1") ;;
    esac
    shift
done
[ ${#parts[@]} -gt 0 ] || parts=(kills cuts pairs disk damage mismatch fault fuzz)
times() { awk -v n="$1" -v f="$factor" 'BEGIN {n = int(n * f + 0.5); print n < 1 ? 1 : n}'; }

cmake --preset cpu >/dev/null && cmake --build --preset cpu >/dev/null || exit 1
export OMP_NUM_THREADS=1 MR_SOURCE=$PWD MR_BINARY=$PWD/build/cpu/mealrec-dist
export MR_WRITER=$PWD/build/cpu/tests/test_write_files PYTHONDONTWRITEBYTECODE=1
[ -d /dev/shm ] && export TMPDIR=${TMPDIR:-/dev/shm}
clean=0

# A cmocka binary: its verdict and what it prints about counts.
binary() {
    build/cpu/tests/test_"$1" 2>&1 | grep -v '^\[ RUN\|^\[===\|^\[       OK'
    return "${PIPESTATUS[0]}"
}

part() {
    case $1 in
        kills | mismatch | cuts | pairs)
            local n
            case $1 in kills) n=200 ;; mismatch) n=20 ;; cuts) n=10 ;; pairs) n=25 ;; esac
            /usr/bin/python3 tests/soak/soak.py "$1" --count "$(times $n)" ;;
        disk) tests/soak/in_mount.sh disk --count "$(times 30)" ;;
        damage) # 400 + 100 and 300 + 100 + 2000 trials, so many times
            MR_DAMAGE=$(times 10)
            export MR_DAMAGE
            binary checkpoint_damage && binary data_h5 &&
                echo "damage: $((MR_DAMAGE * 400)) flips and $((MR_DAMAGE * 100)) cuts of a" \
                    "checkpoint, $((MR_DAMAGE * 300)) flips, $((MR_DAMAGE * 100)) cuts and" \
                    "$((MR_DAMAGE * 2000)) mutations of a data set: all found" ;;
        fault)
            local failed=0
            [ "$factor" = 1 ] && export MR_FAULT_STRIDE=1
            for name in import files train; do binary fault_$name || failed=1; done
            return $failed ;;
        fuzz) tests/fuzz.sh --inputs "$(times 10000)" ;;
        *) echo "no part $1" && return 2 ;;
    esac
}

for name in "${parts[@]}"; do
    started=$SECONDS
    if part "$name"; then clean=$((clean + 1)); else echo "$name: NOT CLEAN"; fi
    echo "$name: $((SECONDS - started)) s"
done
echo "$clean of ${#parts[@]} parts clean"
[ "$clean" = ${#parts[@]} ]
