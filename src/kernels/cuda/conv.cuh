/* What a convolution shares with the group norm in front of it: the terms that its products are
 * added to, and the product. What it is not: the kernels (unet.cu, groupnorm.cu). */
#ifndef MR_KERNELS_CUDA_CONV_CUH
#define MR_KERNELS_CUDA_CONV_CUH

#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{
/* y[n,So,co] = bias + residual + context of the sample; each may be NULL. */
struct conv_terms {
    act_t *y;
    const float *bias;
    const act_t *res, *ctx;
    int64_t So, co, ctx_ld;

    /* Channel j of frame i of n So. */
    __device__ void put_at(int64_t i, int64_t j) const
    {
        float v = bias ? bias[j] : 0.0f;
        if (res) v += res[i * co + j];
        if (ctx) v += ctx[i / So * ctx_ld + j];
        y[i * co + j] = v;
    }
};

conv_terms make_conv_terms(void *y, const void *bias, const void *res, const void *ctx,
                           const mr_conv *cv);
/* y += the products of framed rows of x. */
void conv_product(void *y, const void *framed_x, const void *w, const mr_conv *cv,
                  const mr_exec *ex);
} // namespace MR_ACT_SPACE

#endif
