/* Devices by name. */
#include "tensor/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

static char owner[128] = "this process";

void mr_device_set_owner(int rank)
{
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    snprintf(owner, sizeof owner, "rank %d on %s", rank, host);
}

const char *mr_device_owner(void) { return owner; }

/* A kernel that is loaded by its first call may not be called first while a step is recorded. To
 * load all, those of the libraries too, takes seconds and hundreds of MB of the GPU's memory. The
 * variable is read by the first call of CUDA. */
void mr_device_will_record(void) { (void)setenv("CUDA_MODULE_LOADING", "EAGER", 0); }

mr_status mr_device_failed(const char *id, const char *what, const char *error, bool is_lost)
{
    if (!is_lost) return MR_RAISE(MR_ERR_DEVICE, "%s: %s failed on %s: %s", owner, what, id, error);
    return MR_RAISE(MR_ERR_DEVICE,
                    "%s lost its GPU (%s): %s failed: %s; nvidia-smi and the kernel's log (Xid) on "
                    "that host tell why; start again from the last checkpoint, without this GPU if "
                    "it happens again",
                    owner, id, what, error);
}

mr_status mr_device_wrong_chip(int index, const char *name, int chip, int least)
{
    return MR_RAISE(MR_ERR_DEVICE,
                    "run.device=cuda: %s has GPU %d, %s, of compute capability %d.%d, and this "
                    "program needs %d.%d; use another GPU or --run.device=cpu",
                    owner, index, name, chip / 10, chip % 10, least / 10, least % 10);
}

mr_status mr_device_open(mr_device **out_p, const char *name, int index)
{
    if (!strcmp(name, "cpu")) return mr_device_open_cpu(out_p, MR_F32);
    if (!strcmp(name, "cpu64")) return mr_device_open_cpu(out_p, MR_F64);
    if (!strcmp(name, "guard")) return mr_device_open_guard(out_p, MR_F32);
#ifdef MR_HAVE_CUDA
    if (!strcmp(name, "cuda")) return mr_device_open_cuda(out_p, index);
#endif
    (void)index;
    return MR_RAISE(MR_ERR_DEVICE,
                    "run.device: '%s' is not compiled into this program; use cpu, cpu64 or guard",
                    name);
}

int64_t mr_device_row_unit(const mr_device *d)
{
    return (int64_t)(d->row_bytes / mr_dtype_bytes(d->act));
}

int mr_device_count(const char *name)
{
#ifdef MR_HAVE_CUDA
    if (!strcmp(name, "cuda")) return mr_device_count_cuda();
#endif
    return strcmp(name, "cuda") ? 1 : 0;
}

#ifndef MR_HAVE_CUDA
mr_status mr_device_cuda_text(int index, char *text, size_t bytes, bool *is_free_p)
{
    (void)index, (void)text, (void)bytes, (void)is_free_p;
    return MR_RAISE(MR_ERR_DEVICE, "run.device: 'cuda' is not compiled into this program; build it "
                                   "where nvcc is, or use cpu");
}
#endif

void mr_device_bus_id(const char *name, int index, char *out, size_t bytes)
{
    if (bytes) out[0] = 0;
#ifdef MR_HAVE_CUDA
    if (!strcmp(name, "cuda")) mr_device_bus_id_cuda(index, out, bytes);
#endif
    (void)name, (void)index;
}

void mr_device_close(mr_device **dev_p)
{
    if (!dev_p || !*dev_p) return;
    if ((*dev_p)->close) (*dev_p)->close(*dev_p);
    MR_FREE(*dev_p);
}
