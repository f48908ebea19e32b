/* The CUDA kernel table of this type of mr_act: a missing kernel is a link error. */
#include "kernels/cuda/common.cuh"

#ifdef MR_ACT_BF16
#define TABLE mr_kernels_cuda_bf16
#else
#define TABLE mr_kernels_cuda
#endif

/* In the order of the list, as the members are. */
extern const mr_kernels TABLE;
const mr_kernels TABLE = {
#define X(name, args) MR_ACT_SPACE::name,
    MR_KERNEL_LIST(X)
#undef X
};
