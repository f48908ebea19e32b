# shellcheck shell=bash
# Settings of Open MPI for a single machine; to be sourced. They only fill in what is not set.
#   mr_mpi_env RANKS: environment for that many ranks, and mr_mpirun_args for mpirun.

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
