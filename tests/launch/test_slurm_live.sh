#!/bin/bash
# The sbatch scripts on a real one-host SLURM with eight fake GPUs: installs SLURM when it is
# missing, starts munged, slurmctld and slurmd in a temporary folder, and stops them at the end.
# Only when asked for (MR_TEST_SLURM=1) and as root; needs about two minutes. 77 = skipped.
#   MR_TEST_SLURM=1 ctest -L slurm --output-on-failure
set -u
[ "${MR_TEST_SLURM:-0}" = 1 ] || { echo "skipped: MR_TEST_SLURM is not 1"; exit 77; }
[ "$(id -u)" = 0 ] || { echo "skipped: needs root"; exit 77; }
source_dir=${MR_SOURCE:-$(cd "$(dirname "$0")/../.." && pwd)}
binary=${MR_BINARY:-$source_dir/build/release/mealrec-dist}
[ -x "$binary" ] || { echo "skipped: $binary is not built"; exit 77; }

packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge)
if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
    command -v apt-get >/dev/null || { echo "skipped: no SLURM and no apt-get"; exit 77; }
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update >/dev/null
    if ! apt-get -q install -y --no-install-recommends "${packages[@]}" >/dev/null; then
        echo "skipped: SLURM cannot be installed"
        exit 77
    fi
fi

tmp=$(mktemp -d)
chmod 755 "$tmp"
mkdir -p "$tmp/state" "$tmp/spool" "$tmp/munge" "$tmp/work"
pids=()
# shellcheck disable=SC2317 # called by the trap
stop() {
    scancel --user=root 2>/dev/null
    sleep 1
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
    wait
    rm -rf "$tmp"
}
trap stop EXIT
failed=0
fail() { echo "FAILED: $*"; failed=1; }

# ---- one host that passes for a node of 8 cores and 8 GPUs ----
node=$(hostname -s)
for i in 0 1 2 3 4 5 6 7; do
    mknod "$tmp/gpu$i" c 1 3 || { echo "skipped: mknod is not allowed"; exit 77; }
done
gpus="Name=gpu Type=fake File=$tmp/gpu[0-7]"
echo "$gpus" >"$tmp/gres.conf"
cat >"$tmp/slurm.conf" <<CONF
ClusterName=mr
SlurmctldHost=$node
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$tmp/munge/socket
StateSaveLocation=$tmp/state
SlurmdSpoolDir=$tmp/spool
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$tmp/slurmctld.pid
SlurmdPidFile=$tmp/slurmd.pid
SlurmctldLogFile=$tmp/slurmctld.log
SlurmdLogFile=$tmp/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=pmix
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=$node CPUs=8 Gres=gpu:fake:8 State=UNKNOWN
PartitionName=main Nodes=$node Default=YES PriorityTier=1 GraceTime=20 MaxTime=2-0
PartitionName=urgent Nodes=$node PriorityTier=2 PreemptMode=off MaxTime=2-0
CONF
export SLURM_CONF=$tmp/slurm.conf
dd if=/dev/urandom of="$tmp/munge/key" bs=1024 count=1 2>/dev/null
chown -R munge: "$tmp/munge"
chmod 711 "$tmp/munge"
chmod 400 "$tmp/munge/key"
runuser -u munge -- munged --foreground --key-file="$tmp/munge/key" \
    --socket="$tmp/munge/socket" --pid-file="$tmp/munge/pid" --log-file="$tmp/munge/log" \
    --seed-file="$tmp/munge/seed" 2>/dev/null &
pids+=($!)
sleep 1
slurmctld -D -i 2>/dev/null & # they have log files
pids+=($!)
slurmd -D -N "$node" 2>/dev/null &
pids+=($!)
up=0
for ((i = 0; i < 60; i++)); do
    [ "$(sinfo -h -p main -o %T 2>/dev/null)" = idle ] && { up=1; break; }
    sleep 0.5
done
if [ "$up" = 0 ]; then
    tail -n 20 "$tmp/slurmctld.log" "$tmp/slurmd.log" "$tmp/munge/log"
    echo "FAILED: the node did not become idle"
    exit 1
fi

# ---- a small training, on the CPU ----
cd "$tmp/work" || exit 1
"$binary" synth --out s.h5 --users 60 --items 50 --interactions 500 --frames 3 --width 16 \
    --text-width 10 >/dev/null || exit 1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 MR_ROOT=$tmp/work MR_BINARY=$binary
export OMPI_MCA_btl_vader_single_copy_mechanism=none
ln -s "$source_dir/launch" launch
small=(--data.path=s.h5 --model.name=sasrec --model.hidden=12 --model.inner=16 --train.batch=64
    --checkpoint.every_epochs=0 --train.patience=1000000)
long=(--train.epochs=1000000 --train.max_steps=0)
size=(--nodes=1 --ntasks-per-node=2 --gpus-per-node=2 --cpus-per-task=1 --output=%j.log)

submit() { sbatch --parsable "$@" || fail "sbatch $*"; }
state() { scontrol show job "$1" 2>/dev/null | sed -n "s/.*$2=\([^ ]*\).*/\1/p" | head -n 1; }
until_log() { # JOB PATTERN [COUNT]
    local i n
    for ((i = 0; i < 240; i++)); do
        n=$(grep -cE -- "$2" "$1.log" 2>/dev/null)
        [ "${n:-0}" -ge "${3:-1}" ] && return 0
        sleep 0.25
    done
    fail "job $1: no line with '$2' in:"
    grep -vE '^epoch |^SLURM_' "$1.log" | tail -n 15
    return 1
}
until_state() { # JOB STATE
    local i
    for ((i = 0; i < 240; i++)); do
        [ "$(state "$1" JobState)" = "$2" ] && return 0
        sleep 0.25
    done
    fail "job $1 is $(state "$1" JobState) and not $2"
    return 1
}
start_again() { # a requeued job waits for two minutes by itself, until the old start is cleaned up
    until_state "$1" PENDING && sleep 5 && scontrol update jobid="$1" StartTime=now
}
training='"event":"(valid|step)"'
until_training() { # NAME: its first line of metrics
    local i
    for ((i = 0; i < 240; i++)); do
        grep -qE "$training" "runs/$1/metrics.jsonl" 2>/dev/null && return 0
        sleep 0.25
    done
    fail "run $1 does not train"
}
single=launch/slurm-single-node.sbatch

# what fits and what does not
sbatch --test-only "${size[@]}" "$single" 2>"$tmp/out" || fail "--test-only: $(cat "$tmp/out")"
sbatch --test-only --ntasks-per-node=99 "$single" 2>"$tmp/out" && fail "99 tasks fit"
grep -q "Requested node configuration is not available" "$tmp/out" || fail "$(cat "$tmp/out")"

# a finished training
id=$(submit "${size[@]}" "$single" "${small[@]}" --run.name=done --train.max_steps=10)
until_state "$id" COMPLETED && until_log "$id" "^test "

# bad input: final, not requeued
id=$(submit "${size[@]}" "$single" "${small[@]}" --run.name=bad --train.lr=fast)
until_state "$id" FAILED
[ "$(state "$id" ExitCode)" = 78:0 ] || fail "bad input: ExitCode $(state "$id" ExitCode)"
[ "$(state "$id" Restarts)" = 0 ] || fail "bad input was requeued"
id=$(submit "${size[@]}" --gpus-per-node=3 "$single" "${small[@]}" --run.name=bad)
until_state "$id" FAILED && until_log "$id" "2 ranks .* but 3 GPUs"

# both launchers: USR1 to the script, requeue, continue, USR1 again at the limit of requeues
for launcher in srun mpirun; do
    id=$(MR_LAUNCHER=$launcher MR_MAX_REQUEUES=1 submit "${size[@]}" "$single" "${small[@]}" \
        "${long[@]}" --run.name="$launcher")
    until_training "$launcher"
    scancel --batch --signal=USR1 "$id"
    until_log "$id" "stopped with a checkpoint: requeued"
    step=$(cat "runs/$launcher/checkpoints/latest")
    start_again "$id"
    until_log "$id" "start number 2"
    until_log "$id" "going on from"
    until_state "$id" RUNNING
    for ((i = 0; i < 100; i++)); do # past the old checkpoint
        tail -n 1 "runs/$launcher/metrics.jsonl" | grep -qE "$training" && break
        sleep 0.1
    done
    sleep 1
    scancel --batch --signal=USR1 "$id"
    until_log "$id" "1 requeues are used up"
    until_state "$id" FAILED
    [ "$(state "$id" ExitCode)" = 75:0 ] || fail "$launcher: ExitCode $(state "$id" ExitCode)"
    [ "$(cat "runs/$launcher/checkpoints/latest")" != "$step" ] ||
        fail "$launcher: did not go on after $step"
done

# the time limit: USR1 comes before it
id=$(submit "${size[@]}" --time=1 --signal=B:USR1@50 "$single" "${small[@]}" "${long[@]}" \
    --run.name=limit)
until_log "$id" "signal USR1: asking the ranks for a checkpoint" &&
    until_log "$id" "stopped with a checkpoint: requeued"
scancel "$id"

# preemption: an urgent job takes the whole node; TERM, checkpoint inside the grace time, requeue
id=$(submit "${size[@]}" "$single" "${small[@]}" "${long[@]}" --run.name=preempted)
until_training preempted
urgent=$(sbatch --parsable -p urgent --exclusive --output=/dev/null --wrap='sleep 3')
until_state "$urgent" COMPLETED
[ -e runs/preempted/checkpoints/latest ] || fail "preemption: no checkpoint"
[ "$(state "$id" Restarts)" = 1 ] || fail "preemption: Restarts=$(state "$id" Restarts)"
scancel "$id"

# two points of the grid
id=$(submit --array=0,244 --gpus-per-node=1 --cpus-per-task=1 --output=sweep-%a.log \
    launch/slurm-sweep.sbatch "${small[@]}" --train.max_steps=3)
for ((i = 0; i < 120; i++)); do
    [ -z "$(squeue -h -j "$id" 2>/dev/null)" ] && break
    sleep 0.5
done
for run in sweep-T5-t0.01-n0.01 sweep-T25-t0.9-n0.9; do
    grep -q '"event":"test"' "runs/$run/metrics.jsonl" || fail "sweep: $run is not finished"
done

if [ "$failed" = 1 ]; then
    tail -n 40 "$tmp/slurmd.log"
else
    echo "all as expected"
fi
exit "$failed"
