/* What a convolution shares with its neighbours: with the group norm in front of it the terms that
 * its products are added to, and the product; with whoever writes its dy what backward begins with.
 * What it is not: the kernels (unet.cu, groupnorm.cu). */
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

/* mr_conv_begin, channel by channel. */
struct conv_begin {
    act_t *unfolded, *dres, *dctx;
    float *dbias;
    mr_parts sums;                   /* of dbias */
    int64_t n, S, So, co, P, ctx_ld; /* P: rows from one sample of x to the next */
    int stride, acc_bias, acc_res, acc_ctx;

    /* Row r of sample b in the layout of x; r = P: the zero row behind the last sample. */
    __device__ void unfold(const act_t *dy, int64_t b, int64_t r, int64_t j) const
    {
        act_t *to = unfolded + ((b * P + r) * co + j) * 3;
        int64_t s = P > S ? r - 1 : r;
        for (int tap = 0; tap < 3; tap++) {
            int64_t t = s + 1 - tap;
            bool is_there = s >= 0 && s < S && t >= 0 && t % stride == 0 && t / stride < So;
            to[tap] = is_there ? (float)dy[(b * So + t / stride) * co + j] : 0.0f;
        }
    }
    /* Channel j of sample b, of which this thread may have written dy; gives its sum. */
    __device__ float channel(const act_t *dy, int64_t b, int64_t j) const
    {
        float s = 0;
        for (int64_t u = 0; u < So; u++) {
            int64_t e = (b * So + u) * co + j;
            float g = dy[e];
            s += g;
            if (dres) put(&dres[e], g, acc_res);
        }
        if (dctx) put(&dctx[b * ctx_ld + j], s, acc_ctx);
        int64_t rows = P > S && b == n - 1 ? P + 1 : P;
        for (int64_t r = 0; unfolded && r < rows; r++) unfold(dy, b, r, j);
        return s;
    }
};

conv_begin make_conv_begin(const mr_conv_begin *q, const mr_exec *ex);
} // namespace MR_ACT_SPACE

#endif
