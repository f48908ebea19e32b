/* Kernel tables by device name. And the start-up check that none is missing. */
#include "kernels/kernels.h"

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

mr_status mr_kernels_for(const mr_kernels **out_p, const char *device, mr_dtype act)
{
    bool is_cuda = !strcmp(device, "cuda");
    MR_CHECK(is_cuda || act != MR_BF16, MR_ERR_INTERNAL, "device '%s' has no kernels for bf16",
             device);
    if (!strcmp(device, "cpu") || !strcmp(device, "guard"))
        *out_p = &mr_kernels_cpu32;
    else if (!strcmp(device, "cpu64") || !strcmp(device, "guard64"))
        *out_p = &mr_kernels_cpu64;
#ifdef MR_HAVE_CUDA
    else if (is_cuda)
        *out_p = act == MR_BF16 ? &mr_kernels_cuda_bf16 : &mr_kernels_cuda;
#endif
    else
        return MR_RAISE(MR_ERR_DEVICE,
                        "device '%s': its kernels are not complete in this build; use "
                        "--run.device=cpu",
                        device);
    const char *missing = mr_kernels_missing(*out_p);
    MR_CHECK(!missing, MR_ERR_DEVICE, "device '%s': the kernel %s is missing in this build", device,
             missing);
    return MR_OK;
}
