# shellcheck shell=bash
# What the slurm-*.sbatch scripts share; to be sourced by them after their variables.
#   mr_job_start              prints what the job has, checks it, sets the environment
#   mr_job_run ARGUMENT...    mealrec-dist on all ranks; its exit code in mr_code
#   mr_job_end                requeues on exit code 75 and only then, and leaves with mr_code
# SLURM sends USR1 to the script before the time limit (#SBATCH --signal=B:USR1@...); it goes on to
# the ranks once, they write a checkpoint and end with 75. A second signal would end them at once,
# so nothing else is passed on.

mr_say() { echo "$(date '+%F %T') job ${SLURM_JOB_ID:-?}: $*"; }

mr_child='' mr_interrupted=0 mr_sent=0 mr_code=0
mr_pass_on() { # SIGNAL
    mr_interrupted=1
    [ -n "$mr_child" ] || { mr_sent=1; return; }
    # With srun, SLURM gives TERM to the ranks itself (preemption, scancel).
    if [ "$1" = TERM ] && [ "$MR_LAUNCHER" = srun ]; then return; fi
    [ "$mr_sent" = 0 ] || return
    mr_sent=1
    mr_say "signal $1: asking the ranks for a checkpoint"
    kill -USR1 "$mr_child" 2>/dev/null
}

mr_refuse() { mr_say "$*" >&2; exit 78; }

mr_job_start() {
    [ -n "${SLURM_JOB_ID:-}" ] || mr_refuse "for sbatch; on one machine: launch/mpirun.sh"
    cd "$MR_ROOT" || exit 78
    case $MR_LAUNCHER in
        srun | mpirun) ;;
        *) mr_refuse "MR_LAUNCHER is '$MR_LAUNCHER'; srun or mpirun is accepted" ;;
    esac
    command -v "$MR_BINARY" >/dev/null || [ -x "$MR_BINARY" ] ||
        mr_refuse "$MR_BINARY is missing in $PWD; build it with launch/build.sh mealrec-dist"
    local nodes=${SLURM_JOB_NUM_NODES:-1} ranks=${SLURM_NTASKS:-1}
    # GPUs of the whole job, when it has any. One rank drives one GPU.
    local here=${SLURM_GPUS_ON_NODE:-0}
    if [ "$here" != 0 ] && [ "$ranks" != $((here * nodes)) ]; then
        mr_refuse "$ranks ranks (SLURM_NTASKS) but $((here * nodes)) GPUs ($here on each of" \
            "$nodes nodes); use --ntasks-per-node=$here"
    fi
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
    # srun does not hand down --cpus-per-task of the job by itself since SLURM 22.05.
    export SRUN_CPUS_PER_TASK=${SRUN_CPUS_PER_TASK:-${SLURM_CPUS_PER_TASK:-1}}
    export PMIX_MCA_gds=${PMIX_MCA_gds:-hash} # ds12 fails in containers
    trap 'mr_pass_on USR1' USR1
    trap 'mr_pass_on TERM' TERM
    mr_say "$ranks ranks, $nodes nodes (${SLURM_JOB_NODELIST:-?}), $here GPUs a node," \
        "$OMP_NUM_THREADS threads a rank, start number $((${SLURM_RESTART_COUNT:-0} + 1))"
    env | grep -E '^(SLURM_(JOB|N|CPUS|GPU|ARRAY|RESTART)|OMP|OMPI|PMIX|NCCL|MR_|CUDA_VISIBLE)' |
        sort
}


mr_job_run() {
    local command
    if [ "$MR_LAUNCHER" = srun ]; then
        # Ranks that end in order end together; what still runs a minute after the first is lost.
        # --kill-on-bad-exit would give a rank that is about to exit with 75 a second signal.
        command=(srun --mpi=pmix --kill-on-bad-exit=0 --wait=60)
    else
        command=(mpirun -np "${SLURM_NTASKS:-1}" --bind-to none)
    fi
    [ "${MR_BIND:-none}" = none ] || command+=("$MR_ROOT/launch/bind.sh")
    command+=("$MR_BINARY" "$@")
    mr_say "${command[*]}"
    if [ "$mr_sent" = 1 ]; then # the signal came before the start
        mr_code=75
        return
    fi
    # shellcheck source=launch/mpi_env.sh
    . "$MR_ROOT/launch/mpi_env.sh"
    trap mr_shm_remove EXIT
    if [ "$MR_LAUNCHER" = mpirun ] && [ "${SLURM_JOB_NUM_NODES:-1}" = 1 ]; then mr_shm_make; fi
    "${command[@]}" &
    mr_child=$!
    local this
    while :; do
        mr_interrupted=0
        wait "$mr_child"
        this=$?
        [ "$this" = 127 ] || mr_code=$this # 127: this child was waited for already
        [ "$mr_interrupted" = 0 ] && break
    done
    mr_child=''
    mr_shm_remove
    mr_say "exit code $mr_code (meanings: docs/exit-codes.md)"
}

mr_job_end() {
    if [ "$mr_code" = 75 ]; then
        if [ "${SLURM_RESTART_COUNT:-0}" -lt "$MR_MAX_REQUEUES" ]; then
            mr_say "stopped with a checkpoint: requeued"
            scontrol requeue "$SLURM_JOB_ID" || mr_say "scontrol requeue failed"
        else
            mr_say "stopped with a checkpoint; $MR_MAX_REQUEUES requeues are used up"
        fi
    fi
    exit "$mr_code"
}
