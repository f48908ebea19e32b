#!/bin/sh
# Two ranks with one thread each beside one rank with one thread: how much of a second core arrives.
#   weak    the same rows a rank (global batch twice as large): efficiency = t(1) / t(2)
#   strong  the same global batch:                             efficiency = t(1) / (2 t(2))
# The runs alternate and medians of the pairs count. Every rank is bound to a core of its own; as
# many cores as ranks must be free, or the figures say nothing.
# Usage: ranks_efficiency.sh BINARY DATA.h5 [ROWS=256] [PAIRS=3] [STEPS=10] [option ...]
set -eu
[ $# -ge 2 ] || { sed -n '2,7s/^# //p' "$0" >&2; exit 2; }
binary=$1 data=$2 rows=${3:-256} pairs=${4:-3} steps=${5:-10}
shift 2
for i in 1 2 3; do [ $# -eq 0 ] || shift; done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=1

# step RANKS ROWS OPTIONS... -> median seconds of a step
step() {
    np=$1 batch=$2
    shift 2
    mpirun --bind-to core -np "$np" "$binary" bench step --data.path="$data" \
        --train.batch="$batch" --steps "$steps" --warmup 3 --json "$folder/one.json" "$@" \
        >"$folder/log" 2>&1 || { cat "$folder/log" >&2; exit 1; }
    sed -n 's/.*"step_s_median": *\([0-9.e+-]*\).*/\1/p' "$folder/one.json"
}

i=0
while [ "$i" -lt "$pairs" ]; do
    one=$(step 1 "$rows" "$@")
    weak=$(step 2 $((2 * rows)) "$@")
    strong=$(step 2 "$rows" "$@")
    echo "$one $weak $strong" >>"$folder/times"
    i=$((i + 1))
done
awk -v rows="$rows" '
function median(x, n,   i, j, t) {
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && x[j - 1] > x[j]; j--) { t = x[j]; x[j] = x[j - 1]; x[j - 1] = t }
    return n % 2 ? x[(n + 1) / 2] : (x[n / 2] + x[n / 2 + 1]) / 2
}
{ a[NR] = $1; w[NR] = $2; s[NR] = $3; we[NR] = $1 / $2; se[NR] = $1 / (2 * $3) }
END {
    printf "1 rank  x %4d rows: %.4f s\n", rows, median(a, NR)
    printf "2 ranks x %4d rows: %.4f s, weak efficiency %.2f\n", rows, median(w, NR), median(we, NR)
    printf "2 ranks x %4d rows: %.4f s, strong efficiency %.2f\n", rows / 2, median(s, NR),
        median(se, NR)
}' "$folder/times"
