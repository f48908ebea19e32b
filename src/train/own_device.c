/* One rank, one GPU: which one, and how ranks exchange what lies in its memory.
 * What it is not: a policy for cores and NUMA nodes (dist/topo.h). */
#include "train/own_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "dist/comm_nccl.h"
#include "dist/topo.h"

/* Do two ranks of this host have the same GPU? Named by the higher of them. */
static mr_status refuse_sharing(const mr_device *dev, mr_comm *host, int world_rank)
{
    const int64_t width = (int64_t)sizeof dev->id;
    char *all = NULL;
    mr_status st = MR_OK;
    MR_TRY(mr_comm_gather(host, dev->id, width, &all));
    for (int r = 0; st == MR_OK && r < host->rank; r++)
        /* The uuid: two ranks may see one GPU under different numbers. */
        if (!strcmp(strrchr(all + r * width, ' '), strrchr(dev->id, ' ')))
            st = MR_RAISE(MR_ERR_CONFIG,
                          "rank %d has the GPU of another rank on this host (%s); start one rank a "
                          "GPU, or let ranks share it with --dist.comm=mpi, which is slow",
                          world_rank, dev->id);
    MR_FREE(all);
    return st;
}

mr_precision mr_own_device_precision(const mr_config *cfg)
{
    const char *p = cfg->run.precision;
    return !strcmp(p, "tf32") ? MR_TF32 : !strcmp(p, "bf16") ? MR_BF16_PRODUCTS : MR_FP32;
}

mr_status mr_own_device_open(mr_device **out_p, const char *name, const mr_config *cfg,
                             mr_comm *world)
{
    mr_device *dev = NULL;
    mr_comm *host = NULL;
    mr_device_set_owner(world->rank);
    if (strcmp(name, "cuda")) return mr_device_open(out_p, name, 0);
    MR_TRY(world->split_host(world, &host));
    int count = mr_device_count(name);
    mr_status st = mr_device_open(&dev, name, mr_topo_gpu(host->rank, count));
    st = mr_comm_agree(world, st);
    /* NCCL_HOSTID: somebody tells NCCL which ranks to take for different hosts; so do we. */
    bool may_share = !strcmp(cfg->dist.comm, "mpi") || world->size == 1 || getenv("NCCL_HOSTID");
    if (st == MR_OK && !may_share)
        st = mr_comm_agree(world, refuse_sharing(dev, host, world->rank));
    mr_comm_destroy(&host);
    if (st != MR_OK) {
        mr_device_close(&dev);
        return st;
    }
    static const char *const names[] = {"fp32", "tf32", "bf16"};
    dev->precision = mr_own_device_precision(cfg);
    if (dev->precision == MR_BF16_PRODUCTS) dev->act = MR_BF16;
    mr_info("rank %d computes on %s in %s", world->rank, dev->id, names[dev->precision]);
    *out_p = dev;
    return MR_OK;
}

mr_status mr_own_device_comm(mr_comm **out_p, const mr_config *cfg, mr_comm *comm, mr_device *dev,
                             bool moves_rows)
{
    *out_p = comm;
    if (!comm || dev->host_memory) return MR_OK;
    *out_p = NULL;
    bool wants_nccl = !strcmp(cfg->dist.comm, "nccl");
#ifdef MR_HAVE_NCCL
    bool may = comm->size > 1 && dev->native_stream && !strcmp(cfg->dist.comm, "auto");
    if (wants_nccl || may) {
        mr_comm *inner = NULL;
        mr_nccl_use use = !cfg->run.capture ? MR_NCCL_EAGER
                          : moves_rows      ? MR_NCCL_RECORDED_ROWS
                                            : MR_NCCL_RECORDED;
        MR_TRY(mr_comm_nccl(comm, dev, dev->native_stream, use, &inner));
        mr_status st = mr_comm_traced(inner, out_p);
        if (st != MR_OK) mr_comm_destroy(&inner);
        return st;
    }
#else
    (void)moves_rows;
#endif
    MR_CHECK(!wants_nccl, MR_ERR_CONFIG,
             "dist.comm=nccl: NCCL is not compiled into this program; use auto or mpi");
    return mr_comm_staged(comm, dev, out_p);
}
