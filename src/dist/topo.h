/* The host as a rank sees it: cores, NUMA nodes, where the launcher bound it, and how many threads
 * that leaves. What it is not: binding; the launcher does that, this only says when it went wrong.
 */
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

/* One line for people: the host, and where this rank is. */
void mr_topo_text(const mr_topo *t, char *buf, size_t bytes);
/* False: nothing to say. True: text holds one sentence on a binding that wastes or overloads cores.
 */
bool mr_topo_advice(const mr_topo *t, char *text, size_t bytes);

#endif
