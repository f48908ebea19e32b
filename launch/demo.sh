#!/bin/bash
# The demonstration: builds mealrec-dist and trains on a synthetic data set made on the spot, first
# the backbone alone, then MealRec, on two ranks; under three minutes on two cores.
#   launch/demo.sh [--ranks N] [--no-install]
# Missing Debian packages are installed first (deps.sh); --no-install leaves that out.
set -u
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=launch/mpi_env.sh
. launch/mpi_env.sh

ranks=2 deps=()
while [ $# -gt 0 ]; do
    case $1 in
        --ranks)
            ranks=${2-}
            case $ranks in
                [1-9] | [1-9][0-9] | [1-9][0-9][0-9]) ;;
                *)
                    echo "demo.sh: --ranks wants a number from 1 to 999, not '$ranks'" >&2
                    exit 2
                    ;;
            esac
            shift
            ;;
        --no-install) deps+=(--no-install) ;;
        -h | --help) sed -n '2,5s/^# //p' "$0"; exit 0 ;;
        *)
            echo "demo.sh: unknown option '$1'; known: --ranks N, --no-install" >&2
            exit 2
            ;;
    esac
    shift
done

launch/deps.sh "${deps[@]}" || exit
launch/build.sh mealrec-dist || exit

mr_mpi_env "$ranks"
started=$SECONDS
command=(mpirun -np "$ranks" "${mr_mpirun_args[@]}" build/release/mealrec-dist)
echo "demo: ${command[*]}" >&2
"${command[@]}"
code=$?
if [ "$code" != 0 ]; then
    echo "demo: mealrec-dist ended with exit code $code (meanings: docs/exit-codes.md)" >&2
    exit "$code"
fi
echo "demo: $((SECONDS - started)) s. Configuration, log, metrics and checkpoints of the runs:" >&2
for folder in runs/*/; do
    [ -e "$folder/metrics.jsonl" ] && echo "demo:   $PWD/${folder%/}" >&2
done
exit 0
