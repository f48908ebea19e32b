/* Kernel tables by device name, and the start-up check that none is missing. */
#include "kernels/kernels.h"

#include <stdio.h>
#include <string.h>

static const char *const names[] = {
#define X(name, args) #name,
    MR_KERNEL_LIST(X)
#undef X
};

int mr_kernels_count(void) { return (int)(sizeof names / sizeof *names); }
const char *mr_kernels_name(int i) { return names[i]; }

const char *mr_kernels_missing(const mr_kernels *k)
{
    int i = 0;
#define X(name, args)                                                                              \
    if (!k->name) return names[i];                                                                 \
    i++;
    MR_KERNEL_LIST(X)
#undef X
    return NULL;
}

#ifdef MR_HAVE_CUDA
/* The CUDA table, once it is complete. */
static mr_status cuda_table(const mr_kernels **out_p)
{
    const mr_kernels *k = &mr_kernels_cuda;
    char list[128] = "";
    int missing = 0, at = 0;
#define X(name, args)                                                                              \
    if (!k->name && ++missing <= 3)                                                                \
        at += snprintf(list + at, sizeof list - (size_t)at, "%s%s", at ? ", " : "", #name);
    MR_KERNEL_LIST(X)
#undef X
    MR_CHECK(missing == 0, MR_ERR_DEVICE,
             "device 'cuda': %d of %d kernels are not written yet (%s%s); use --run.device=cpu",
             missing, mr_kernels_count(), list, missing > 3 ? ", ..." : "");
    *out_p = k;
    return MR_OK;
}
#endif

mr_status mr_kernels_for(const mr_kernels **out_p, const char *device)
{
    if (!strcmp(device, "cpu") || !strcmp(device, "guard"))
        *out_p = &mr_kernels_cpu32;
    else if (!strcmp(device, "cpu64") || !strcmp(device, "guard64"))
        *out_p = &mr_kernels_cpu64;
#ifdef MR_HAVE_CUDA
    else if (!strcmp(device, "cuda"))
        return cuda_table(out_p);
#endif
    else
        return MR_RAISE(MR_ERR_DEVICE,
                        "device '%s': its kernels are not complete in this build; use "
                        "--run.device=cpu",
                        device);
    return MR_OK;
}
