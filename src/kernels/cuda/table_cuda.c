/* The CUDA kernel table: a missing kernel is a link error. */
#include "kernels/kernels.h"

#define X(name, args) void name##_cuda args;
MR_KERNEL_LIST(X)
#undef X

const mr_kernels mr_kernels_cuda = {
#define X(name, args) .name = name##_cuda,
    MR_KERNEL_LIST(X)
#undef X
};
