/* hwloc: what this host has, what of it is ours, and where a rank belongs.
 * What it is not: the map of all ranks (topo_map.c). Only this file includes hwloc.h.
 * Invariant: decisions (threads, advice, place) are functions of a description of the machine, so
 * that any machine can be tested. */
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

/* Cores of `near` that overlap the machine, [n] their sets in logical order; -1 without memory. */
static int list_cores(hwloc_topology_t topo, hwloc_const_bitmap_t near, hwloc_const_cpuset_t *out,
                      int most)
{
    bool has_cores = hwloc_get_nbobjs_by_type(topo, HWLOC_OBJ_CORE) > 0;
    hwloc_obj_type_t type = has_cores ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    int n = 0;
    hwloc_obj_t o = NULL;
    while ((o = hwloc_get_next_obj_by_type(topo, type, o)) && n < most)
        if (o->cpuset && hwloc_bitmap_intersects(o->cpuset, near)) out[n++] = o->cpuset;
    return n;
}

/* near = the hardware threads near GPU g that exist; all of them when nothing is known. */
static mr_status near_gpu(hwloc_topology_t topo, const char *cpus, hwloc_bitmap_t near)
{
    hwloc_const_bitmap_t all = hwloc_topology_get_topology_cpuset(topo);
    hwloc_bitmap_copy(near, all);
    if (!cpus || !*cpus) return MR_OK;
    MR_CHECK(hwloc_bitmap_list_sscanf(near, cpus) == 0, MR_ERR_INTERNAL,
             "\"%s\" is not a list of hardware threads such as 0-3,8", cpus);
    hwloc_bitmap_and(near, near, all);
    if (hwloc_bitmap_iszero(near)) hwloc_bitmap_copy(near, all);
    return MR_OK;
}

/* Part `index` of `parts` of the cores in near, as a list of hardware threads. */
static mr_status share_out(hwloc_topology_t topo, hwloc_const_bitmap_t near, int index, int parts,
                           mr_place *p)
{
    enum { MOST = 4096 };
    hwloc_const_cpuset_t *core = NULL;
    hwloc_bitmap_t mine = hwloc_bitmap_alloc();
    mr_status st = MR_ALLOC(&core, MOST, "cores");
    if (st == MR_OK && !mine) st = MR_RAISE(MR_ERR_MEMORY, "hwloc: no memory");
    int n = st == MR_OK ? list_cores(topo, near, core, MOST) : 0;
    if (n > 0) {
        int lo = (int)((int64_t)n * index / parts), hi = (int)((int64_t)n * (index + 1) / parts);
        if (hi == lo) { /* more ranks than cores */
            lo = index % n;
            hi = lo + 1;
        }
        for (int i = lo; i < hi; i++) hwloc_bitmap_or(mine, mine, core[i]);
        hwloc_bitmap_and(mine, mine, near);
        count_in(topo, HWLOC_OBJ_NUMANODE, mine, &p->numa_node);
        int bytes = hwloc_bitmap_list_snprintf(p->cpus, sizeof p->cpus, mine);
        if (bytes < 0 || bytes >= (int)sizeof p->cpus) p->cpus[0] = 0; /* too scattered to say */
    }
    if (mine) hwloc_bitmap_free(mine);
    MR_FREE(core);
    return st;
}

static mr_status place(hwloc_topology_t topo, const mr_topo *t, int n_gpus,
                       const char *const *gpu_cpus, bool is_spread, mr_place *p)
{
    hwloc_bitmap_t near = hwloc_bitmap_alloc(), other = hwloc_bitmap_alloc();
    int mates = 0, index = 0;
    mr_status st = near && other ? MR_OK : MR_RAISE(MR_ERR_MEMORY, "hwloc: no memory");
    if (n_gpus > 0) p->gpu = mr_topo_gpu(t->local_rank, n_gpus);
    for (int r = 0; n_gpus > 0 && r < t->local_size; r++)
        p->gpu_ranks += mr_topo_gpu(r, n_gpus) == p->gpu;
    bool stays = t->is_bound || (n_gpus < 1 && (!is_spread || t->local_size < 2));
    if (st == MR_OK && !stays) st = near_gpu(topo, p->gpu < 0 ? "" : gpu_cpus[p->gpu], near);
    for (int r = 0; st == MR_OK && !stays && r < t->local_size; r++) {
        st = near_gpu(topo, p->gpu < 0 ? "" : gpu_cpus[mr_topo_gpu(r, n_gpus)], other);
        if (st != MR_OK || !hwloc_bitmap_isequal(near, other)) continue;
        index += r < t->local_rank;
        mates++;
    }
    if (st == MR_OK && !stays) st = share_out(topo, near, index, mates, p);
    if (near) hwloc_bitmap_free(near);
    if (other) hwloc_bitmap_free(other);
    return st;
}

mr_status mr_topo_place(mr_place *out, const mr_topo *t, const char *synthetic, int n_gpus,
                        const char *const *gpu_cpus, bool is_spread)
{
    hwloc_topology_t topo;
    mr_place p = {.gpu = -1, .numa_node = t->numa_node};
    MR_CHECK(hwloc_topology_init(&topo) == 0, MR_ERR_MEMORY, "hwloc: no memory");
    mr_status st = MR_OK;
    if (synthetic && hwloc_topology_set_synthetic(topo, synthetic) != 0)
        st = MR_RAISE(MR_ERR_INTERNAL, "hwloc does not understand the machine \"%s\"", synthetic);
    if (st == MR_OK && hwloc_topology_load(topo) != 0)
        st = MR_RAISE(MR_ERR_INTERNAL, "hwloc cannot read this machine");
    if (st == MR_OK) st = place(topo, t, n_gpus, gpu_cpus, is_spread, &p);
    hwloc_topology_destroy(topo);
    if (st == MR_OK) *out = p;
    return st;
}

bool mr_topo_bind(const char *cpus)
{
    hwloc_topology_t topo;
    if (hwloc_topology_init(&topo) != 0) return false;
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    bool ok = set && hwloc_topology_load(topo) == 0 && hwloc_bitmap_list_sscanf(set, cpus) == 0 &&
              hwloc_set_cpubind(topo, set, HWLOC_CPUBIND_PROCESS) == 0;
    /* Memory near these cores first, elsewhere when there is none left: a preference, which
     * containers may forbid without harm. */
    if (ok) (void)hwloc_set_membind(topo, set, HWLOC_MEMBIND_BIND, 0);
    if (set) hwloc_bitmap_free(set);
    hwloc_topology_destroy(topo);
    return ok;
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
