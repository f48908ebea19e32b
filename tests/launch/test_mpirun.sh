#!/bin/bash
# shellcheck disable=SC2016 # the stand-ins are written with their $ as they are
# launch/mpirun.sh and launch/bind.sh with stand-ins for mpirun, mealrec-dist, taskset, nvidia-smi:
# what they start, when they start again, what becomes of signals.
set -u
# shellcheck source=tests/launch/stand_ins.sh
. "$(dirname "$0")/stand_ins.sh"
mkdir -p "$tmp/runs/r/checkpoints"
cd "$tmp" || exit 1

# mealrec-dist: only `config show`, as the program prints it. mpirun: line k of $tmp/plan is "CODE
# [CHECKPOINT]": what start k leaves behind.
stub mealrec-dist 'echo "settings: $*" >>"$TMP/asked"
[ "$1 $2" = "config show" ] || exit 2
printf "run:\n  name: \"r\"   # x\n  dir: \"runs\" # y\ncheckpoint:\n"
echo "  max_restarts: $(cat "$TMP/max")   # default"'
stub mpirun 'echo "mpirun: $*"
n=$(($(cat "$TMP/count") + 1)); echo $n >"$TMP/count"
read -r code checkpoint <<<"$(sed -n "${n}p" "$TMP/plan")"
[ -z "$checkpoint" ] || echo "$checkpoint" >"$TMP/runs/r/checkpoints/latest"
exit "$code"'
start() { # MAX-RESTARTS-OF-CONFIG PLAN ARGUMENT...
    echo "$1" >"$tmp/max"
    printf '%b' "$2" >"$tmp/plan"
    echo 0 >"$tmp/count"
    rm -f "$tmp/runs/r/checkpoints/latest" "$tmp/asked"
    shift 2
    env TMP="$tmp" PATH="$tmp/bin:$PATH" MR_BINARY=mealrec-dist MR_RESTART_PAUSE=0 \
        "$source_dir/launch/mpirun.sh" "$@" >"$tmp/out" 2>&1
    code=$?
}
starts='^mpirun: '

start 0 '0\n' -n 3 train --config c.yaml --run.name=r --dry-run
expect "good run" 0 '^mpirun: -np 3 .*--bind-to none.* mealrec-dist train --config c.yaml' 1
grep -qx 'settings: config show --config c.yaml --run.name=r' "$tmp/asked" ||
    fail "the configuration was asked with: $(cat "$tmp/asked")"
start 0 '70\n' -n 2
expect "no restarts by default" 70 "$starts" 1
start 2 '70 step-1\n0\n' -n 2
expect "checkpoint.max_restarts" 0 "$starts" 2
start 0 '70 step-1\n137 step-2\n0\n' -n 2 --max-restarts 5
expect "restarts with progress" 0 "$starts" 3
start 0 '70 step-1\n70 step-2\n70 step-3\n0\n' -n 2 --max-restarts 2
expect "restarts are used up" 70 "$starts" 3
start 9 '76 step-1\n76\n0\n' -n 2
expect "no progress, starts" 76 "$starts" 2
expect "no progress, said" 76 'no progress, the last checkpoint is still step-1'
start 9 '74\n74\n0\n' -n 2
expect "never a checkpoint" 74 "$starts" 2
for code in 2 65 66 75 77 78 130; do
    start 9 "$code\n0\n" -n 2
    expect "final exit code $code" "$code" "$starts" 1
done
start 0 '0\n' -n 2 --bind train
expect "bind" 0 "launch/bind.sh mealrec-dist train" 2 # the announcement and the start
echo "a slots=4" >"$tmp/hosts"
start 0 '0\n' -n 4 --hostfile hosts train
expect "hostfile" 0 '^mpirun: -np 4 --hostfile hosts --bind-to none mealrec-dist train$' 1
start 0 '0\n' --hostfile nowhere
expect "no hostfile" 2 "cannot read the hostfile nowhere"
for wrong in 0 x -3 ''; do
    start 0 '0\n' -n "$wrong"
    expect "ranks '$wrong'" 2 "must be at least 1, not '$wrong'"
done
start 0 '0\n' --max-restarts two
expect "restarts" 2 "wants a number, not 'two'"
start 0 '0\n' -n
expect "no value" 2 "wants a value"
for wrong in --ranks --max-restarts=3 --hostfile=my.hosts -x; do
    start 0 '0\n' -n 2 "$wrong" 4 train
    expect "$wrong" 2 "unknown option '$wrong'; known: -n RANKS"
    expect "$wrong, nothing started" 2 "$starts" 0
done
start 0 '0\n' -n 2 --run.name=r --json
expect "a key, no command" 0 '^mpirun: .* mealrec-dist --run.name=r --json$' 1
start 0 '0\n' -n 2 --config c.yaml
expect "a configuration, no command" 0 '^mpirun: .* mealrec-dist --config c.yaml$' 1
start 0 '0\n' -n 2 -- --other x
expect "after --" 0 '^mpirun: .* mealrec-dist --other x$' 1
start 0 '0\n' -n 2 train --other
expect "after the command" 0 '^mpirun: .* mealrec-dist train --other$' 1
start 0 '0\n' --help
expect "help" 0 'launch/mpirun.sh \[-n RANKS\]'
MR_BINARY=$tmp/none PATH="$tmp/bin:$PATH" "$source_dir/launch/mpirun.sh" -n 2 >"$tmp/out" 2>&1
code=$?
expect "not built" 78 "launch/build.sh"

# Memory that ranks share: a folder for each start, which goes even when mpirun is killed; none with
# other hosts, and the one that somebody chose stays.
if [ -w /dev/shm ]; then
    stub mpirun 'echo "mpirun: $*"; place=${OMPI_MCA_btl_vader_backing_directory:-none}
echo "place: $place, files: $(ls "$place" 2>/dev/null | wc -l)"; echo "$place" >>"$TMP/places"
[ -d "$place" ] && touch "$place/vader_segment.x"; kill -9 $$'
    start 0 '' -n 2 --max-restarts 1
    expect "killed mpirun" 137 '^place: /dev/shm/mealrec-mpi-.*, files: 0$' 2
    while read -r place; do
        [ ! -e "$place" ] || fail "$place is left"
    done <"$tmp/places"
    start 0 '' -n 2 --hostfile hosts
    expect "no folder on other hosts" 137 '^place: none'
    mkdir "$tmp/chosen"
    OMPI_MCA_btl_vader_backing_directory=$tmp/chosen start 0 '' -n 2
    expect "a place that was chosen" 137 "^place: $tmp/chosen"
    [ -e "$tmp/chosen/vader_segment.x" ] || fail "the chosen place was emptied"
fi

# mpirun that crashes at its own end, and one whose rank crashed.
stub mpirun 'echo "mpirun: $*"
printf "  Process name: [[1,1],0]\n  Exit code:    76\n" >&2
kill -SEGV $$'
start 0 '' -n 2
expect "crash of mpirun" 76 'mpirun itself crashed \(139\) after .* exit code 76' 1
expect "what mpirun said" 76 '^  Exit code:    76$' 1
stub mpirun 'echo "mpirun: $*"; echo "exited on signal 11 (Segmentation fault)." >&2; exit 139'
start 0 '' -n 2
expect "crash of a rank" 139 'exited on signal 11' 1

# Signals: one USR1 for mpirun, TERM at the second; no restart afterwards.
stub mpirun 'echo "mpirun: $*"
trap "echo got USR1; [ -e $TMP/stubborn ] || exit 75" USR1
trap "echo got TERM; exit 143" TERM
touch "$TMP/ready"; for ((i = 0; i < 200; i++)); do sleep 0.05; done; exit 1'
signals() { # SIGNAL...: to mpirun.sh, once its mpirun runs
    rm -f "$tmp/ready"
    set -m # without job control a process in the background ignores INT
    env TMP="$tmp" PATH="$tmp/bin:$PATH" MR_BINARY=mealrec-dist MR_RESTART_PAUSE=0 \
        "$source_dir/launch/mpirun.sh" -n 2 --max-restarts 3 >"$tmp/out" 2>&1 &
    local pid=$! i
    set +m
    for ((i = 0; i < 200; i++)); do [ -e "$tmp/ready" ] && break; sleep 0.05; done
    for i; do kill -s "$i" "$pid"; sleep 0.3; done
    wait "$pid"
    code=$?
}
for one in TERM INT USR1; do
    signals "$one"
    expect "$one" 75 "$starts" 1
    expect "$one reaches the ranks as USR1" 75 "got USR1" 1
done
touch "$tmp/stubborn"
signals TERM TERM
expect "a second signal, once" 143 "got USR1" 1
expect "a second signal, end" 143 "got TERM" 1
expect "a second signal, no restart" 143 "$starts" 1

# ---- launch/bind.sh: a node of 16 hardware threads, described in files ----
stub taskset 'echo "bound to $2: $4 threads $OMP_NUM_THREADS"'
stub program 'echo "not bound: $1"'
mkdir -p "$tmp/sys/devices/system/cpu" "$tmp/proc/self"
echo 0-15 >"$tmp/sys/devices/system/cpu/online"
allow() { printf 'Name:\tx\nCpus_allowed_list:\t%s\n' "$1" >"$tmp/proc/self/status"; }
bind() { # VARIABLE=value...
    env -u SLURM_LOCALID -u OMP_NUM_THREADS -u OMPI_COMM_WORLD_LOCAL_RANK PATH="$tmp/bin:$PATH" \
        MR_SYS="$tmp/sys" MR_PROC="$tmp/proc" "$@" \
        "$source_dir/launch/bind.sh" program x >"$tmp/out" 2>&1
    code=$?
}
ompi() { bind OMPI_COMM_WORLD_LOCAL_RANK="$1" OMPI_COMM_WORLD_LOCAL_SIZE="$2" "${@:3}"; }
allow 0-15
ompi 1 4
expect "second quarter" 0 '^bound to 4,5,6,7: x threads 4$'
ompi 1 3
expect "a third" 0 '^bound to 5,6,7,8,9: x threads 5$'
ompi 17 20
expect "more ranks than cores" 0 '^bound to 13: x threads 1$'
ompi 0 1
expect "alone" 0 '^not bound: x$'
ompi 1 4 MR_BIND=none
expect "MR_BIND=none" 0 '^not bound: x$'
bind SLURM_LOCALID=3 SLURM_STEP_TASKS_PER_NODE='4(x2)'
expect "srun" 0 '^bound to 12,13,14,15: x threads 4$'
ompi 3 4 SLURM_LOCALID=0 SLURM_STEP_TASKS_PER_NODE=1
expect "mpirun inside SLURM" 0 '^bound to 12,13,14,15: x threads 4$'
ompi 1 4 OMP_NUM_THREADS=2
expect "threads as asked" 0 '^bound to 4,5,6,7: x threads 2$'
allow 0-3
ompi 1 4
expect "bound already" 0 '^not bound: x$'
ompi 1 2 MR_JOB_CPUS=0-3
expect "all of the job" 0 '^bound to 2,3: x threads 2$'
allow 0-15
# Four GPUs: two on each half, the first two on the second half.
stub nvidia-smi 'printf "00000000:%s:00.0\n" 0A 0B 8A 8B'
for id in 0a 0b 8a 8b; do mkdir -p "$tmp/sys/bus/pci/devices/0000:$id:00.0"; done
echo 8-15 | tee "$tmp/sys/bus/pci/devices/0000:0a:00.0/local_cpulist" \
    >"$tmp/sys/bus/pci/devices/0000:0b:00.0/local_cpulist"
echo 0-7 | tee "$tmp/sys/bus/pci/devices/0000:8a:00.0/local_cpulist" \
    >"$tmp/sys/bus/pci/devices/0000:8b:00.0/local_cpulist"
ompi 0 4
expect "GPU 0" 0 '^bound to 8,9,10,11: x threads 4$'
ompi 1 4
expect "GPU 1" 0 '^bound to 12,13,14,15: x threads 4$'
ompi 3 4
expect "GPU 3" 0 '^bound to 4,5,6,7: x threads 4$'
ompi 4 8
expect "two ranks a GPU" 0 '^bound to 12,13: x threads 2$'
ompi 0 2
expect "two of four GPUs" 0 '^bound to 8,9,10,11: x threads 4$'
"$source_dir/launch/bind.sh" >"$tmp/out" 2>&1
code=$?
expect "no program" 2 "launch/bind.sh PROGRAM"
"$source_dir/launch/bind.sh" --help >"$tmp/out" 2>&1
code=$?
expect "bind.sh --help" 0 "launch/bind.sh PROGRAM"
"$source_dir/launch/bind.sh" --cores program >"$tmp/out" 2>&1
code=$?
expect "bind.sh, unknown option" 2 "unknown option '--cores'"

[ "$failed" = 0 ] && echo "all as expected"
exit "$failed"
