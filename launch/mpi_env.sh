# shellcheck shell=bash
# Settings of Open MPI for a single machine; to be sourced. They only fill in what is not set.
#   mr_mpi_env RANKS: environment for that many ranks, and mr_mpirun_args for mpirun.
#   mr_shm_make, mr_shm_remove: around a start of mpirun on this machine alone, see there.

mr_mpi_env() {
    local ranks=$1 cores
    cores=$(nproc)
    mr_mpirun_args=(--bind-to none)
    # Open MPI refuses more ranks than cores unless told.
    if [ "$ranks" -gt "$cores" ]; then
        mr_mpirun_args+=(--oversubscribe)
        export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
    fi
    if [ "$(id -u)" = 0 ]; then # common in containers; Open MPI asks for both
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    # Containers often forbid one process to read the memory of another; PMIx's shared store
    # prints warnings there.
    : "${OMPI_MCA_btl_vader_single_copy_mechanism:=none}"
    export OMPI_MCA_btl_vader_single_copy_mechanism
    export PMIX_MCA_gds=${PMIX_MCA_gds:-hash}
    # Share the cores among the ranks.
    local threads=$((cores / ranks))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
}

# Ranks of one machine share memory in files. mpirun removes them when ranks die, but not when it is
# killed itself; so each start gets a folder of its own, which goes with it.
mr_shm=''
mr_shm_make() {
    [ -z "${OMPI_MCA_btl_vader_backing_directory:-}" ] || return 0 # somebody chose a place
    mr_shm=$(mktemp -d /dev/shm/mealrec-mpi-XXXXXX 2>/dev/null) || return 0
    export OMPI_MCA_btl_vader_backing_directory=$mr_shm
}
mr_shm_remove() {
    [ -n "$mr_shm" ] || return 0
    rm -rf -- "$mr_shm"
    mr_shm=''
    unset OMPI_MCA_btl_vader_backing_directory
}
