#!/bin/bash
# shellcheck disable=SC2016 # the stand-ins are written with their $ as they are
# The slurm-*.sbatch scripts with stand-ins for srun, mpirun, scontrol and mealrec-dist: what they
# start, what they refuse, when they requeue, what becomes of signals. Runs unprivileged anywhere;
# test_slurm_live.sh does the same on a real controller.
set -u
# shellcheck source=tests/launch/stand_ins.sh
. "$(dirname "$0")/stand_ins.sh"
mkdir -p "$tmp/submit/launch"
ln -s "$source_dir/launch/"* "$tmp/submit/launch/"
cd "$tmp/submit" || exit 1
for launcher in srun mpirun; do
    stub "$launcher" 'echo "'"$launcher"': $*"
echo "place: ${OMPI_MCA_btl_vader_backing_directory:-none}"; exit "$(cat "$TMP/code")"'
done
stub scontrol 'echo "scontrol: $*"'
stub mealrec-dist 'echo "mealrec-dist: $*"
while [ $# -gt 0 ]; do [ "$1" = --out ] && touch "$2"; shift; done; exit 0'
# The file as sbatch runs it: a copy elsewhere, in the folder it was submitted from.
job() { # SCRIPT [VARIABLE=value]... -- ARGUMENT...
    cp "$source_dir/launch/$1" "$tmp/slurm_script"
    shift
    local set=()
    while [ "$1" != -- ]; do set+=("$1"); shift; done
    shift
    env -i TMP="$tmp" PATH="$tmp/bin:$PATH" HOME="$HOME" SLURM_JOB_ID=7 \
        SLURM_SUBMIT_DIR="$tmp/submit" SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=8 SLURM_CPUS_PER_TASK=4 \
        SLURM_JOB_NODELIST=n1 MR_BINARY=mealrec-dist "${set[@]}" bash "$tmp/slurm_script" "$@" \
        >"$tmp/out" 2>&1
    code=$?
}
code_of_ranks() { echo "$1" >"$tmp/code"; }
single=slurm-single-node.sbatch multi=slurm-multi-node.sbatch

for script in "$single" "$multi"; do
    code_of_ranks 0
    job "$script" -- --config 'a b.yaml' --run.name=x
    expect "$script" 0 '^srun: --mpi=pmix .*--wait=60 mealrec-dist train --config a b' 1
    expect "$script: environment" 0 '^SLURM_NTASKS=8$' 1
    expect "$script: threads" 0 '^OMP_NUM_THREADS=4$' 1
    expect "$script: done, not requeued" 0 '^scontrol' 0
    code_of_ranks 75
    job "$script" --
    expect "$script: requeued" 75 '^scontrol: requeue 7$' 1
    job "$script" SLURM_RESTART_COUNT=2 MR_MAX_REQUEUES=3 --
    expect "$script: below the limit" 75 '^scontrol: requeue 7$' 1
    job "$script" SLURM_RESTART_COUNT=3 MR_MAX_REQUEUES=3 --
    expect "$script: at the limit" 75 '^scontrol' 0
    for other in 2 65 66 70 74 76 77 78 130 137; do
        code_of_ranks "$other"
        job "$script" --
        expect "$script: exit code $other is final" "$other" '^scontrol' 0
    done
done
code_of_ranks 0
job "$single" MR_LAUNCHER=mpirun -- --run.name=x
expect "mpirun" 0 '^mpirun: -np 8 --bind-to none mealrec-dist train --run.name=x$' 1
if [ -w /dev/shm ]; then
    expect "shared memory of its own" 0 '^place: /dev/shm/mealrec-mpi-' 1
    place=$(sed -n 's/^place: //p' "$tmp/out")
    [ ! -e "$place" ] || fail "$place is left"
fi
job "$multi" MR_LAUNCHER=mpirun SLURM_JOB_NUM_NODES=2 -- --run.name=x
expect "mpirun on two nodes" 0 '^place: none$' 1
job "$single" MR_BIND=auto --
expect "bind" 0 '^srun: .*/launch/bind.sh mealrec-dist train' 1
job "$single" MR_LAUNCHER=prun --
expect "launcher" 78 "MR_LAUNCHER is 'prun'"
job "$single" MR_BINARY=./nowhere --
expect "not built" 78 'launch/build.sh'
job "$single" SLURM_JOB_ID= --
expect "outside SLURM" 78 'launch/mpirun.sh'
job "$single" SLURM_GPUS_ON_NODE=8 --
expect "a GPU each" 0 '^srun' 1
job "$single" SLURM_GPUS_ON_NODE=4 --
expect "fewer GPUs than ranks" 78 '8 ranks .* but 4 GPUs .*--ntasks-per-node=4'
job "$multi" SLURM_GPUS_ON_NODE=4 SLURM_JOB_NUM_NODES=2 --
expect "two nodes" 0 '^srun' 1
job "$multi" SLURM_GPUS_ON_NODE=8 SLURM_JOB_NUM_NODES=2 --
expect "idle GPUs" 78 '8 ranks .* but 16 GPUs'
expect "nothing started" 78 '^srun' 0

for script in "$single" "$multi" slurm-scaling.sbatch slurm-sweep.sbatch; do
    for option in --help -h; do
        job "$script" SLURM_JOB_ID= -- "$option" # outside SLURM
        expect "$script $option" 0 "^  sbatch .*launch/$script --config" 1
        expect "$script $option, nothing started" 0 '^srun' 0
    done
done

# ---- signals ----
for launcher in srun mpirun; do
    stub "$launcher" 'echo "'"$launcher"': $*"
trap "echo got USR1; sleep 0.5; exit 75" USR1
trap "echo got TERM; exit 143" TERM
touch "$TMP/ready"; for ((i = 0; i < 60; i++)); do sleep 0.05; done; exit 3'
done
signals() { # LAUNCHER SIGNAL...
    local launcher=$1 pid i
    shift
    rm -f "$tmp/ready"
    cp "$source_dir/launch/$single" "$tmp/slurm_script"
    env TMP="$tmp" PATH="$tmp/bin:$PATH" SLURM_JOB_ID=7 SLURM_SUBMIT_DIR="$tmp/submit" \
        SLURM_NTASKS=2 MR_BINARY=mealrec-dist MR_LAUNCHER="$launcher" \
        bash "$tmp/slurm_script" >"$tmp/out" 2>&1 &
    pid=$!
    for ((i = 0; i < 200; i++)); do [ -e "$tmp/ready" ] && break; sleep 0.05; done
    for i; do kill -s "$i" "$pid"; sleep 0.2; done
    wait "$pid"
    code=$?
}
for launcher in srun mpirun; do
    signals "$launcher" USR1
    expect "$launcher: USR1 is passed on" 75 'got USR1' 1
    expect "$launcher: then requeued" 75 '^scontrol: requeue 7$' 1
    signals "$launcher" USR1 USR1 TERM
    expect "$launcher: a second signal is not" 75 'got USR1' 1
    expect "$launcher: nor as TERM" 75 'got TERM' 0
done
signals mpirun TERM
expect "mpirun gets USR1 for TERM" 75 'got USR1' 1
signals srun TERM # SLURM gives it to the ranks itself; here nobody does
expect "srun gets nothing for TERM" 3 'got' 0

# ---- the grid ----
for launcher in srun mpirun; do stub "$launcher" 'echo "'"$launcher"': $*"; exit 0'; done
list=$("$source_dir/launch/slurm-sweep.sbatch" --list)
rows=$(tail -n +2 <<<"$list" | cut -f 2- | sort -u | wc -l)
[ "$rows" = 245 ] || { echo "FAILED: the grid has $rows different points, expected 245"; failed=1; }
for column in 2:5 3:7 4:7; do
    n=$(tail -n +2 <<<"$list" | cut -f "${column%:*}" | sort -u | wc -l)
    [ "$n" = "${column#*:}" ] || { echo "FAILED: column ${column%:*} has $n values"; failed=1; }
done
last=$(grep -oE '^#SBATCH --array=0-[0-9]+' "$source_dir/launch/slurm-sweep.sbatch")
[ "${last##*-}" = 244 ] || { echo "FAILED: the array ends at $last"; failed=1; }
for index in 0 1 7 48 49 100 244; do
    job slurm-sweep.sbatch SLURM_NTASKS=1 SLURM_ARRAY_TASK_ID="$index" -- --config c.yaml
    read -r _ T t n < <(grep -P "^$index\t" <<<"$list")
    want="mealrec-dist train --config c.yaml --diffusion.steps=$T --tcd.lambda=$t --npd.lambda=$n"
    expect "grid point $index" 0 "^srun: .* $want --run.name=sweep-T$T-t$t-n$n\$" 1
done
read -r _ T t n < <(sed -n 2p <<<"$list")
[ "$T $t $n" = "5 0.01 0.01" ] || { echo "FAILED: the grid starts at $T $t $n"; failed=1; }
read -r _ T t n < <(tail -n 1 <<<"$list")
[ "$T $t $n" = "25 0.9 0.9" ] || { echo "FAILED: the grid ends at $T $t $n"; failed=1; }
job slurm-sweep.sbatch SLURM_NTASKS=1 SLURM_ARRAY_TASK_ID=245 --
expect "outside the grid" 78 'index 245 is outside the grid of 245 points'
job slurm-sweep.sbatch SLURM_NTASKS=1 --
expect "no array" 78 'submit with --array=0-244'
job slurm-sweep.sbatch SLURM_NTASKS=1 SLURM_ARRAY_TASK_ID=3 MR_STEPS='5 9' MR_LAMBDA_T=0.2 \
    MR_LAMBDA_N='0.1 0.3' --
expect "another grid" 0 'diffusion.steps=9 --tcd.lambda=0.2 --npd.lambda=0.3' 2

# ---- scaling ----
job slurm-scaling.sbatch -- --config c.yaml
for shape in microlens-big shortvideo-big; do
    expect "synth $shape" 0 "^mealrec-dist: synth --shape $shape --out data/$shape-synth.h5\$" 1
    expect "bench $shape" 0 "^srun: .* bench scaling --config c.yaml --data.path=data/$shape-s" 1
done
expect "plot" 0 \
    '^mealrec-dist: bench plot scaling/.*microlens-big-7.json .*-7.json --svg .*-7.svg$' 1
job slurm-scaling.sbatch --
expect "data that is there already" 0 '^mealrec-dist: synth' 0
stub srun 'exit 70'
job slurm-scaling.sbatch --
expect "a failed measurement ends it" 70 '^mealrec-dist: bench plot' 0

[ "$failed" = 0 ] && echo "all as expected"
exit "$failed"
