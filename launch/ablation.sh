#!/bin/bash
# The ablation table: trains every file of configs/ablation, one after another, and prints the test
# metrics, mean over the seeds, as a table.
#   launch/ablation.sh [--config FILE] [--seeds "2020 2021"] [--ranks N] [--out DIR] [--table]
# Without --config: a small SYNTHETIC data set is made, which says nothing about any real data.
# A run that has its test result is not repeated; --table only prints what is there.
# MR_BINARY names the program (build/release/mealrec-dist).
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=launch/mpi_env.sh
. "$here/launch/mpi_env.sh"
binary=${MR_BINARY:-$here/build/release/mealrec-dist}

config='' seeds=2020 ranks=1 out=runs/ablation table_only=0
usage() { echo "ablation.sh: $*; see launch/ablation.sh --help" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
        --config | --seeds | --ranks | --out)
            [ $# -ge 2 ] || usage "$1 wants a value"
            declare "${1#--}=$2"
            shift
            ;;
        --table) table_only=1 ;;
        -h | --help) sed -n '2,7s/^# //p' "$0"; exit 0 ;;
        *) usage "unknown option '$1'; known: --config, --seeds, --ranks, --out, --table" ;;
    esac
    shift
done
case $ranks in [1-9] | [1-9][0-9] | [1-9][0-9][0-9]) ;; *) usage "--ranks '$ranks'" ;; esac
for seed in $seeds; do
    case $seed in *[!0-9]*) usage "--seeds wants numbers, not '$seed'" ;; esac
done
[ -n "${seeds// /}" ] || usage "--seeds names no seed"
[ -x "$binary" ] || { echo "ablation.sh: no program at $binary; run launch/build.sh" >&2; exit 66; }
mkdir -p "$out" || exit 73

settings=()
if [ -n "$config" ]; then
    settings+=(--config "$config")
else
    data=$out/synthetic-small.h5
    if [ "$table_only" = 0 ] && [ ! -e "$data" ]; then
        "$binary" synth --shape demo --users 2000 --items 2000 --interactions 16000 \
            --name synthetic-small --out "$data" >&2 || exit
    fi
    settings+=(--config "$here/configs/synthetic-small.yaml" "--data.path=$data")
fi

done_run() { grep -q '"event": *"test"' "$out/$1/metrics.jsonl" 2>/dev/null; }

mr_mpi_env "$ranks"
for seed in $seeds; do
    for file in "$here"/configs/ablation/*.yaml; do
        run=$(basename "$file" .yaml)-seed$seed
        if [ "$table_only" = 1 ] || done_run "$run"; then continue; fi
        echo "ablation: $run" >&2
        mpirun -np "$ranks" "${mr_mpirun_args[@]}" "$binary" train "${settings[@]}" \
            --config "$file" "--run.seed=$seed" "--run.dir=$out" "--run.name=$run" || exit
    done
done

# value KEY FILE: a number of the test event.
value() { sed -n '/"event": *"test"/s/.*"'"$1"'": *\([0-9.e+-]*\).*/\1/p' "$2" | tail -n 1; }

echo "| configuration | seeds | H@10 | N@10 | H@20 | N@20 | N@10 of each seed |"
echo "| --- | --- | --- | --- | --- | --- | --- |"
for file in "$here"/configs/ablation/*.yaml; do
    name=$(basename "$file" .yaml)
    for seed in $seeds; do
        run=$name-seed$seed
        done_run "$run" || continue
        for key in hit@10 ndcg@10 hit@20 ndcg@20; do value "$key" "$out/$run/metrics.jsonl"; done |
            paste -sd ' '
    done | awk -v name="$name" '
        { for (i = 1; i <= 4; i++) sum[i] += $i; each = each sprintf(" %.4f", $2) }
        END {
            if (!NR) { printf "| %s | 0 | | | | | |\n", name; exit }
            printf "| %s | %d |", name, NR
            for (i = 1; i <= 4; i++) printf " %.4f |", sum[i] / NR
            printf "%s |\n", each
        }'
done
