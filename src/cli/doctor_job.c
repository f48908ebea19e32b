/* Checks of doctor that look at the job: MPI, GPU, NCCL. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "cli/doctor.h"
#include "io/environment.h"
#include "tensor/device.h"
#include "train/trainer.h"

enum { SMALL_CALLS = 50, LARGE = 4 << 20 /* floats: 16 MiB */ };

static mr_status start(mr_doctor *d)
{
    bool self = !strcmp(d->cfg->dist.comm, "self");
    MR_TRY(self ? mr_comm_self(&d->s.world) : mr_comm_mpi_world(&d->s.world));
    return mr_session_compare(d->s.world, d->cfg);
}

/* Integer-valued floats, so that the sum over ranks is exact in any order. */
static mr_status sums(mr_comm *w, float *x, double *small_s, double *large_s, bool *is_right)
{
    double one = 1, at = mr_seconds();
    for (int i = 0; i < SMALL_CALLS; i++) {
        one = 1;
        MR_TRY(w->allreduce(w, &one, 1, MR_F64, MR_SUM));
    }
    *small_s = (mr_seconds() - at) / SMALL_CALLS;
    for (int64_t i = 0; i < LARGE; i++) x[i] = (float)(i % 1000 + w->rank);
    at = mr_seconds();
    MR_TRY(w->allreduce(w, x, LARGE, MR_F32, MR_SUM));
    *large_s = mr_seconds() - at;
    bool right = one == w->size;
    float ranks = (float)((int64_t)w->size * (w->size - 1) / 2);
    for (int64_t i = 0; i < LARGE && right; i++)
        right = x[i] == (float)(i % 1000) * (float)w->size + ranks;
    *is_right = right;
    return MR_OK;
}

static mr_status hosts_of(mr_comm *w, int64_t *n)
{
    mr_comm *host = NULL;
    MR_TRY(w->split_host(w, &host));
    *n = host->rank == 0;
    mr_comm_destroy(&host);
    return w->allreduce(w, n, 1, MR_I64, MR_SUM);
}

static void mpi_verdict(mr_doctor *d, mr_verdict *v, double small_s, double large_s, bool is_right,
                        int64_t hosts)
{
    mr_version ver[16];
    const char *library = "MPI";
    int n = mr_environment(ver, 16);
    for (int i = 0; i < n; i++)
        if (!strcmp(ver[i].name, "mpi")) library = ver[i].text;
    if (!is_right)
        mr_verdict_fail(v, MR_ERR_COMM,
                        "a sum over %d ranks is wrong (%s); the network or the MPI is broken, try "
                        "`--mca btl self,vader,tcp`",
                        d->s.world->size, library);
    else if (d->s.world->size == 1)
        mr_verdict_ok(v, "%s; one rank (start with mpirun -np N to check more)", library);
    else
        mr_verdict_ok(v,
                      "%s; %d ranks on %lld host(s), sums right; allreduce of 8 bytes %.1f us, of "
                      "16 MiB %.1f ms",
                      library, d->s.world->size, (long long)hosts, 1e6 * small_s, 1e3 * large_s);
}

void mr_check_mpi(mr_doctor *d, mr_verdict *v)
{
    char before[1024];
    float *x = NULL;
    double small_s = 0, large_s = 0;
    bool is_right = false;
    int64_t hosts = 0;
    snprintf(before, sizeof before, "%s", mr_last_error());
    mr_status st = start(d);
    if (st == MR_OK) st = mr_comm_agree(d->s.world, MR_ALLOC(&x, LARGE, "message"));
    if (st == MR_OK) st = hosts_of(d->s.world, &hosts);
    if (st == MR_OK) st = sums(d->s.world, x, &small_s, &large_s, &is_right);
    MR_FREE(x);
    if (st != MR_OK)
        mr_verdict_raised(v, st, before);
    else
        mpi_verdict(d, v, small_s, large_s, is_right, hosts);
}

void mr_check_gpu(mr_doctor *d, mr_verdict *v)
{
    char text[400];
    bool is_wanted = !strcmp(d->cfg->run.device, "cuda"), is_free = true;
    mr_status st = mr_device_cuda_text(0, text, sizeof text, &is_free);
    mr_device *dev = NULL;
    if (st == MR_OK) st = mr_device_open(&dev, "cuda", 0);
    mr_device_close(&dev);
    if (st != MR_OK && is_wanted)
        mr_verdict_fail(v, st, "%s", mr_last_error());
    else if (st != MR_OK)
        mr_verdict_ok(v, "none is used: run.device=%s computes on the CPU (%.300s)",
                      d->cfg->run.device, mr_last_error());
    else if (!is_free)
        mr_verdict_warn(v, "%s: another process holds part of its memory; see `nvidia-smi`", text);
    else if (d->topo.local_size > 1)
        mr_verdict_warn(v, "%s: the %d ranks of %s would share it", text, d->topo.local_size,
                        d->topo.host);
    else
        mr_verdict_ok(v, "%s", text);
}

void mr_check_nccl(mr_doctor *d, mr_verdict *v)
{
    if (!strcmp(d->cfg->dist.comm, "nccl"))
        mr_verdict_fail(v, MR_ERR_CONFIG,
                        "dist.comm=nccl is not compiled into this program; use auto or mpi");
    else
        mr_verdict_ok(v, "not used: dist.comm=%s communicates by %s", d->cfg->dist.comm,
                      d->s.world->kind);
}
