/* hwloc: what this host has and what of it is ours.
 * What it is not: a place that binds anything. Only this file includes hwloc.h.
 * Invariant: decisions (threads, advice) are pure functions of mr_topo, so that any machine can be
 * tested by its description. */
#include "dist/topo.h"

#include <hwloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/env.h"
#include "base/log.h"
#include "base/mem.h"

/* Objects of a type that overlap the set, at least 1; *only = the number of the last one if alone.
 */
static int count_in(hwloc_topology_t topo, hwloc_obj_type_t type, hwloc_const_bitmap_t set,
                    int *only)
{
    int n = 0, last = -1;
    hwloc_obj_t o = NULL;
    while ((o = hwloc_get_next_obj_by_type(topo, type, o)))
        if (o->cpuset && hwloc_bitmap_intersects(o->cpuset, set)) {
            n++;
            last = (int)o->logical_index;
        }
    if (only) *only = n == 1 ? last : -1;
    return n < 1 ? 1 : n;
}

/* Virtual machines sometimes have no cores, only hardware threads. */
static int count_cores(hwloc_topology_t topo, hwloc_const_bitmap_t set)
{
    bool has_cores = hwloc_get_nbobjs_by_type(topo, HWLOC_OBJ_CORE) > 0;
    return count_in(topo, has_cores ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU, set, NULL);
}

static uint64_t hash_set(hwloc_const_bitmap_t set)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a over the numbers of the hardware threads */
    for (int i = hwloc_bitmap_first(set); i >= 0; i = hwloc_bitmap_next(set, i))
        h = (h ^ (uint64_t)i) * 1099511628211u;
    return h;
}

/* own = what this thread may run on, inside what the job may use. */
static mr_status find_binding(hwloc_topology_t topo, const char *synthetic, const char *bound_to,
                              hwloc_bitmap_t own)
{
    hwloc_const_bitmap_t all = hwloc_topology_get_topology_cpuset(topo);
    if (synthetic && bound_to && *bound_to) {
        MR_CHECK(hwloc_bitmap_list_sscanf(own, bound_to) == 0, MR_ERR_INTERNAL,
                 "\"%s\" is not a list of hardware threads such as 0-3,8", bound_to);
    } else if (synthetic || hwloc_get_cpubind(topo, own, HWLOC_CPUBIND_THREAD) != 0) {
        hwloc_bitmap_copy(own, all); /* no binding, or a system that cannot tell */
    }
    hwloc_bitmap_and(own, own, all);
    MR_CHECK(!hwloc_bitmap_iszero(own), MR_ERR_INTERNAL,
             "this process is bound to hardware threads that the machine does not have");
    return MR_OK;
}

static mr_status describe(mr_topo *t, hwloc_topology_t topo, const char *synthetic,
                          const char *bound_to, hwloc_bitmap_t own)
{
    if (synthetic)
        MR_CHECK(hwloc_topology_set_synthetic(topo, synthetic) == 0, MR_ERR_INTERNAL,
                 "hwloc does not understand the machine \"%s\"", synthetic);
    MR_CHECK(hwloc_topology_load(topo) == 0, MR_ERR_INTERNAL, "hwloc cannot read this machine");
    MR_TRY(find_binding(topo, synthetic, bound_to, own));
    hwloc_const_bitmap_t all = hwloc_topology_get_topology_cpuset(topo);
    *t = (mr_topo){.packages = count_in(topo, HWLOC_OBJ_PACKAGE, all, NULL),
                   .cores = count_cores(topo, all),
                   .pus = count_in(topo, HWLOC_OBJ_PU, all, NULL),
                   .numa_nodes = count_in(topo, HWLOC_OBJ_NUMANODE, all, NULL),
                   .own_cores = count_cores(topo, own),
                   .is_bound = !hwloc_bitmap_isequal(own, all),
                   .binding = hash_set(own),
                   .local_size = 1,
                   .sharers = 1};
    count_in(topo, HWLOC_OBJ_NUMANODE, own, &t->numa_node);
    if (gethostname(t->host, sizeof t->host - 1) != 0) snprintf(t->host, sizeof t->host, "?");
    return MR_OK;
}

mr_status mr_topo_read(mr_topo *out, const char *synthetic, const char *bound_to)
{
    hwloc_topology_t topo;
    mr_topo t;
    MR_CHECK(hwloc_topology_init(&topo) == 0, MR_ERR_MEMORY, "hwloc: no memory");
    hwloc_bitmap_t own = hwloc_bitmap_alloc();
    mr_status st = own ? describe(&t, topo, synthetic, bound_to, own)
                       : MR_RAISE(MR_ERR_MEMORY, "hwloc: no memory");
    if (own) hwloc_bitmap_free(own);
    hwloc_topology_destroy(topo);
    if (st == MR_OK) *out = t;
    return st;
}

static mr_status meet_on_host(mr_topo *t, mr_comm *host)
{
    int64_t *binding = NULL, *ones = NULL;
    mr_status st;
    MR_TRY_GOTO(MR_ALLOC(&binding, host->size, "bindings of ranks"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&ones, host->size, "bindings of ranks"), st, done);
    for (int r = 0; r < host->size; r++) ones[r] = 1;
    binding[host->rank] = (int64_t)t->binding;
    MR_TRY_GOTO(host->allgatherv(host, &binding[host->rank], binding, ones, MR_I64), st, done);
    t->local_rank = host->rank;
    t->local_size = host->size;
    t->sharers = 0;
    for (int r = 0; r < host->size; r++) t->sharers += binding[r] == (int64_t)t->binding;
done:
    MR_FREE(binding);
    MR_FREE(ones);
    return st;
}

mr_status mr_topo_meet(mr_topo *t, mr_comm *comm)
{
    mr_comm *host = NULL;
    MR_TRY(comm->split_host(comm, &host));
    mr_status st = meet_on_host(t, host);
    mr_comm_destroy(&host);
    return st;
}

mr_status mr_topo_of(mr_topo *out, mr_comm *comm)
{
    mr_topo t;
    MR_TRY(mr_comm_agree(comm, mr_topo_read(&t, NULL, NULL)));
    MR_TRY(mr_topo_meet(&t, comm));
    *out = t;
    return MR_OK;
}

/* The first number of OMP_NUM_THREADS (nested levels follow a comma); 0 when it says nothing. */
static int wanted_threads(void)
{
    int64_t n = 0;
    return mr_env_int("OMP_NUM_THREADS", 1, 1 << 20, ",", &n) ? (int)n : 0;
}

/* What this rank can have for itself. */
static int fair_cores(const mr_topo *t)
{
    int n = t->own_cores / t->sharers;
    return n < 1 ? 1 : n;
}

int mr_topo_threads(const mr_topo *t)
{
    int wanted = wanted_threads();
    return wanted ? wanted : fair_cores(t);
}

int mr_topo_decide_threads(mr_comm *comm)
{
    mr_topo t;
    char text[512];
    if (mr_topo_of(&t, comm) != MR_OK) return 1;
    if (mr_topo_advice(&t, text, sizeof text)) mr_warn("%s", text);
    return mr_topo_threads(&t);
}

void mr_topo_text(const mr_topo *t, char *buf, size_t bytes)
{
    char where[64] = "";
    if (t->numa_node >= 0 && t->numa_nodes > 1)
        snprintf(where, sizeof where, " of NUMA node %d", t->numa_node);
    snprintf(buf, bytes,
             "%s: packages %d, NUMA nodes %d, cores %d, hardware threads %d; rank %d of %d here %s "
             "%d core%s%s",
             t->host, t->packages, t->numa_nodes, t->cores, t->pus, t->local_rank, t->local_size,
             t->is_bound ? "is bound to" : "may use", t->own_cores, t->own_cores == 1 ? "" : "s",
             where);
}

bool mr_topo_advice(const mr_topo *t, char *text, size_t bytes)
{
    int threads = mr_topo_threads(t), fair = t->cores / t->local_size;
    if (threads > fair_cores(t)) {
        if (t->is_bound && threads <= fair)
            snprintf(text, bytes,
                     "OMP_NUM_THREADS asks for %d threads on %s but this rank is bound to %d of %d "
                     "cores; start with `mpirun --bind-to none`, or `--map-by ppr:%d:node:PE=%d`",
                     threads, t->host, t->own_cores, t->cores, t->local_size, threads);
        else
            snprintf(text, bytes,
                     "OMP_NUM_THREADS asks for %d threads on %s but there %s %d core%s for each of "
                     "%d ranks; use OMP_NUM_THREADS=%d",
                     threads, t->host, fair_cores(t) == 1 ? "is" : "are", fair_cores(t),
                     fair_cores(t) == 1 ? "" : "s", t->local_size, fair_cores(t));
        return true;
    }
    if (t->is_bound && t->own_cores / t->sharers < fair && !wanted_threads()) {
        snprintf(text, bytes,
                 "on %s this rank is bound to %d of %d cores although each of the %d ranks there "
                 "could have %d; start with `mpirun --bind-to none`, or "
                 "`--map-by ppr:%d:node:PE=%d`",
                 t->host, t->own_cores, t->cores, t->local_size, fair, t->local_size, fair);
        return true;
    }
    return false;
}
