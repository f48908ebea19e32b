/* The host as a rank sees it: cores, NUMA nodes, where the launcher bound it, how many threads that
 * leaves, and where a rank that is not bound should go. What it is not: stronger than the launcher;
 * a rank that is bound already stays where it is. */
#ifndef MR_DIST_TOPO_H
#define MR_DIST_TOPO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "dist/comm.h"

typedef struct mr_topo {
    char host[256];
    int packages, cores, pus, numa_nodes; /* that this job may use on this host; each >= 1 */
    int own_cores; /* cores this rank may run on; one of them counts as soon as a part of it is ours
                    */
    bool is_bound; /* fewer hardware threads than the job may use */
    int numa_node; /* number of the NUMA node that holds all of own_cores, -1 if several do */
    uint64_t binding;           /* hash of the set of hardware threads */
    int local_rank, local_size; /* among the ranks on this host */
    int sharers;                /* ranks on this host with this very binding, this one included */
} mr_topo;

/* One process alone (local_size 1). synthetic NULL: this machine and this thread's binding; else a
 * description of hwloc ("numa:2 core:4 pu:2") with the binding given as a list of hardware threads
 * ("0-3,8"; NULL or "" = not bound), for tests. Not collective.
 * Errors: ERR_INTERNAL when hwloc refuses the description, the list or this machine. */
mr_status mr_topo_read(mr_topo *out, const char *synthetic, const char *bound_to);
/* This machine, with the other ranks of comm; collective. */
mr_status mr_topo_of(mr_topo *out, mr_comm *comm);
/* Fill local_rank, local_size and sharers of a topo from mr_topo_read; collective. */
mr_status mr_topo_meet(mr_topo *t, mr_comm *comm);

/* Threads for OpenMP: what OMP_NUM_THREADS says if it is set, else own_cores / sharers, at least 1.
 * (Not bound: all cores / ranks of the host. Bound one by one: the cores of the rank.) Pure. */
int mr_topo_threads(const mr_topo *t);
/* The same for one process and one call: mr_topo_of, mr_topo_advice logged as a warning by rank 0.
 * Returns 1 if the machine cannot be read. Collective. */
int mr_topo_decide_threads(mr_comm *comm);

typedef struct mr_place {
    int gpu;        /* number of the rank's GPU, -1 without */
    int gpu_ranks;  /* ranks of this host that have it, this one included; 0 without */
    int numa_node;  /* that holds all of cpus, -1 if several do */
    char cpus[256]; /* hardware threads to be bound to ("0-3,8"); "" = the process stays as it is */
} mr_place;

/* The GPU of a rank: its number on the host modulo the GPUs that it sees; 0 when it sees none. */
static inline int mr_topo_gpu(int local_rank, int n_gpus)
{
    return n_gpus > 0 ? local_rank % n_gpus : 0;
}

/* Where a rank of t's host belongs, t->local_rank and local_size known. GPU: mr_topo_gpu. Cores,
 * unless the launcher has bound the rank (t->is_bound): those near its GPU, shared evenly among the
 * ranks whose GPUs hang on the same cores; without GPUs, and when is_spread, an even contiguous
 * share of the host; whole cores, at least one. gpu_cpus [n_gpus]: hardware threads near each GPU,
 * "" = not known. synthetic as for mr_topo_read. Pure but for reading the machine. Errors:
 * ERR_INTERNAL as mr_topo_read. */
mr_status mr_topo_place(mr_place *out, const mr_topo *t, const char *synthetic, int n_gpus,
                        const char *const *gpu_cpus, bool is_spread);
/* Bind this process to hardware threads of this machine, and its future memory to the NUMA nodes
 * of those. False when the system refuses. */
bool mr_topo_bind(const char *cpus);
/* This machine: find the place of every rank, bind this process and its memory there, and log the
 * map of all ranks (rank 0). bind: dist.bind: "none" only logs, "auto" binds near GPUs, "cores"
 * also without. device: run.device, whose GPUs count. A machine that cannot be read or refuses is
 * left as it is, with a warning. Call before threads start. Collective. Errors: ERR_COMM. */
mr_status mr_topo_settle(mr_comm *comm, const char *device, const char *bind);

/* One line for people: the host, and where this rank is. */
void mr_topo_text(const mr_topo *t, char *buf, size_t bytes);
/* False: nothing to say. True: text holds one sentence on a binding that wastes or overloads cores.
 */
bool mr_topo_advice(const mr_topo *t, char *text, size_t bytes);

#endif
