#!/bin/bash
# How a job of several ranks speaks and ends: test_job.sh MPIEXEC PROGRAM
mpiexec=$1 program=$2
out=$(mktemp)
trap 'rm -f "$out"' EXIT
failed=0

# expect NAME CODE COUNT PATTERN: exit code, and the number of lines that hold the pattern.
expect() {
    local n
    n=$(grep -c -- "$4" "$out")
    if [ "$code" != "$2" ] || [ "$n" != "$3" ]; then
        echo "$1: exit code $code (expected $2), $n lines with '$4' (expected $3):"
        cat "$out"
        failed=1
    fi
}
launch() { # ranks mode
    timeout $((60 * ${MR_TIME_SCALE:-1})) "$mpiexec" -np "$1" "$program" "$2" >"$out" 2>&1
    code=$?
}

launch 4 same
expect "all fail alike" 65 1 "the sentence of rank"
expect "the lowest rank speaks" 65 1 "the sentence of rank 0"
launch 4 last
expect "one fails" 65 1 "the sentence of rank"
expect "the failing rank speaks" 65 1 "rank 3: error: the sentence of rank 3"
launch 4 handled
expect "a handled error is forgotten" 0 0 "the sentence"
launch 3 leave
expect "nothing held is lost" 74 1 "the sentence of rank 2"
launch 3 abort
expect "abort names the cause" 65 1 "the sentence of rank 2"
expect "abort names rank and host" 65 1 "rank 2 on $(hostname) ends the job with exit code 65"

# A process that a launcher meant to be one of many but that MPI started alone.
lone() { # VAR=value ...
    env -u OMPI_COMM_WORLD_SIZE -u PMI_SIZE -u SLURM_NTASKS -u SLURM_STEP_NUM_TASKS "$@" \
        timeout $((60 * ${MR_TIME_SCALE:-1})) "$program" start >"$out" 2>&1
    code=$?
}
lone SLURM_NTASKS=4
expect "SLURM_NTASKS" 78 1 'srun --mpi=list'
lone SLURM_STEP_NUM_TASKS=2
expect "SLURM_STEP_NUM_TASKS" 78 1 'SLURM_STEP_NUM_TASKS=2'
lone SLURM_NTASKS=1
expect "one task" 0 0 'error'
lone SLURM_NTASKS=four
expect "not a number" 0 0 'error'
lone UNRELATED=1
expect "no launcher" 0 0 'error'
SLURM_NTASKS=8 launch 1 start
expect "mpirun -np 1 inside a SLURM job" 0 0 'error'
exit $failed
