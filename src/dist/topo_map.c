/* The map of a job: which rank runs where, found, applied and logged once at the start.
 * What it is not: the policy (mr_topo_place), nor the choice of a device (train/own_device.h). */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "dist/topo.h"
#include "tensor/device.h"

enum { TEXT = 256, MOST_GPUS = 64, MOST_LINES = 32 };

/* What the kernel says of a device on the PCI bus; "" when it says nothing. */
static void read_cpus(const char *bus_id, char *out, size_t bytes)
{
    char path[160];
    out[0] = 0;
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%.32s/local_cpulist", bus_id);
    FILE *f = fopen(path, "r");
    if (!f) return;
    if (fgets(out, (int)bytes, f)) out[strcspn(out, "\n")] = 0;
    fclose(f);
}

static void describe(const mr_topo *t, const mr_place *p, const char *how, char *text)
{
    char gpu[64] = "", node[48] = "";
    if (p->gpu >= 0)
        snprintf(gpu, sizeof gpu, ", GPU %d%s", p->gpu, p->gpu_ranks > 1 ? " (shared)" : "");
    if (p->numa_node >= 0) snprintf(node, sizeof node, ", NUMA node %d", p->numa_node);
    snprintf(text, TEXT, "%.80s%s%s, %s", t->host, gpu, node, how);
}

/* Equal lines of neighbouring ranks become one. */
static void print_map(const char *all, int size)
{
    int lines = 0;
    for (int r = 0, last; r < size; r = last + 1) {
        for (last = r; last + 1 < size && !strcmp(all + r * TEXT, all + (last + 1) * TEXT);) last++;
        if (++lines > MOST_LINES) {
            mr_info("map: and %d more ranks", size - r);
            return;
        }
        if (last > r)
            mr_info("map: ranks %d to %d on %s", r, last, all + r * TEXT);
        else
            mr_info("map: rank %d on %s", r, all + r * TEXT);
    }
}

static mr_status share_map(mr_comm *comm, const char *text)
{
    char *all = NULL;
    MR_TRY(mr_comm_gather(comm, text, TEXT, &all));
    if (comm->rank == 0) print_map(all, comm->size);
    MR_FREE(all);
    return MR_OK;
}

/* On this rank alone; how it ended goes into the map. */
static void settle(const mr_topo *t, const char *device, const char *bind, char *text)
{
    static char cpus[MOST_GPUS][256];
    const char *near[MOST_GPUS];
    char how[96], bus[32];
    int n = strcmp(device, "cuda") ? 0 : mr_device_count(device);
    mr_place p;
    if (n > MOST_GPUS) n = MOST_GPUS;
    for (int i = 0; i < n; i++) {
        mr_device_bus_id(device, i, bus, sizeof bus);
        read_cpus(bus, cpus[i], sizeof cpus[i]);
        near[i] = cpus[i];
    }
    if (mr_topo_place(&p, t, NULL, n, near, !strcmp(bind, "cores")) != MR_OK) {
        snprintf(text, TEXT, "%.80s, which cannot be read", t->host);
        return;
    }
    if (t->is_bound)
        snprintf(how, sizeof how, "bound by the launcher to %d core(s)", t->own_cores);
    else if (!p.cpus[0] || !strcmp(bind, "none"))
        snprintf(how, sizeof how, "not bound (%d cores)", t->own_cores);
    else if (mr_topo_bind(p.cpus))
        snprintf(how, sizeof how, "bound to hardware threads %.48s", p.cpus);
    else
        snprintf(how, sizeof how, "not bound: the system refuses");
    describe(t, &p, how, text);
}

mr_status mr_topo_settle(mr_comm *comm, const char *device, const char *bind)
{
    mr_topo t;
    char text[TEXT] = "";
    mr_errors_to_log(false);
    mr_status st = mr_comm_agree(comm, mr_topo_read(&t, NULL, NULL));
    mr_errors_to_log(true);
    if (st == MR_ERR_COMM) return st;
    if (st != MR_OK) {
        mr_warn("hwloc cannot read a host: no map, nothing is bound");
        return MR_OK;
    }
    MR_TRY(mr_topo_meet(&t, comm));
    settle(&t, device, bind, text);
    return comm->size > 1 ? share_map(comm, text) : MR_OK;
}
