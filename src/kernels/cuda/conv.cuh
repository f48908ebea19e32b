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

    /* Channel j of frame i = sample b's, of n So. */
    __device__ void put_at(int64_t b, int64_t i, int64_t j) const
    {
        float v = bias ? bias[j] : 0.0f;
        if (res) v += res[i * co + j];
        if (ctx) v += ctx[b * ctx_ld + j];
        y[i * co + j] = v;
    }
};

conv_terms make_conv_terms(void *y, const void *bias, const void *res, const void *ctx,
                           const mr_conv *cv);
/* y += the products of framed rows of x. */
void conv_product(void *y, const void *framed_x, const void *w, const mr_conv *cv,
                  const mr_exec *ex);

enum { KEPT_FRAMES = 8 }; /* of a sample: a thread keeps its channel in registers */

/* mr_conv_begin, channel by channel. */
struct conv_begin {
    act_t *unfolded, *dres, *dctx;
    float *dbias;
    mr_parts sums;                   /* of dbias */
    int64_t n, S, So, co, P, ctx_ld; /* P: rows from one sample of x to the next */
    int stride, acc_bias, acc_res, acc_ctx;

    /* Row r of sample b in the layout of x; r = P: the zero row behind the last sample. */
    __device__ act_t *taps(int64_t b, int64_t r, int64_t j) const
    {
        return unfolded + ((b * P + r) * co + j) * 3;
    }
    __device__ static void set(act_t *to, float v0, float v1, float v2)
    {
        to[0] = v0;
        to[1] = v1;
        to[2] = v2;
    }
    /* The rows around a sample of framed x. */
    __device__ void zeros(int64_t b, int64_t j) const
    {
        if (P == S) return;
        set(taps(b, 0, j), 0, 0, 0);
        for (int64_t r = S + 1; r < P + (b == n - 1); r++) set(taps(b, r, j), 0, 0, 0);
    }
    /* Row of frame s: dy of the frames (s + 1 - tap) / STRIDE that there are. d: 0 behind So. */
    template <int STRIDE>
    __device__ void unfold(const float d[KEPT_FRAMES + 1], int64_t b, int64_t j) const
    {
        UNROLL
        for (int s = 0; s < KEPT_FRAMES; s++) {
            const bool is_even = s % STRIDE == 0, is_odd = (s + 1) % STRIDE == 0;
            float v0 = is_odd ? d[(s + 1) / STRIDE] : 0.0f, v1 = is_even ? d[s / STRIDE] : 0.0f;
            float v2 = is_odd && s > 0 ? d[(s - 1) / STRIDE] : 0.0f;
            if (s < S) set(taps(b, s + (P > S), j), v0, v1, v2);
        }
    }
    /* The same where a sample has too many frames. */
    __device__ void unfold_long(const act_t *dy, int64_t b, int64_t j) const
    {
        for (int64_t s = 0; s < S; s++) {
            float v[3];
            for (int tap = 0; tap < 3; tap++) {
                int64_t t = s + 1 - tap, u = t >> (stride - 1); /* stride is 1 or 2 */
                bool is_there = t >= 0 && u << (stride - 1) == t && u < So;
                v[tap] = is_there ? (float)dy[(b * So + u) * co + j] : 0.0f;
            }
            set(taps(b, s + (P > S), j), v[0], v[1], v[2]);
        }
    }
    /* Channel j of sample b, of which this thread may have written dy; gives its sum. What is read
     * of dy is read at once, and then used. */
    __device__ float channel(const act_t *dy, int64_t b, int64_t j) const
    {
        float d[KEPT_FRAMES + 1], s = 0;
        int64_t e = b * So * co + j;
        UNROLL
        for (int u = 0; u <= KEPT_FRAMES; u++) d[u] = u < So ? (float)dy[e + u * co] : 0.0f;
        UNROLL
        for (int u = 0; u < KEPT_FRAMES; u++) {
            if (u >= So) continue;
            s += d[u];
            if (dres) put(&dres[e + u * co], d[u], acc_res);
        }
        for (int64_t u = KEPT_FRAMES; u < So; u++) {
            float g = dy[e + u * co];
            s += g;
            if (dres) put(&dres[e + u * co], g, acc_res);
        }
        if (dctx) put(&dctx[b * ctx_ld + j], s, acc_ctx);
        if (!unfolded) return s;
        zeros(b, j);
        if (S > KEPT_FRAMES)
            unfold_long(dy, b, j);
        else if (stride == 1)
            unfold<1>(d, b, j);
        else
            unfold<2>(d, b, j);
        return s;
    }
};

conv_begin make_conv_begin(const mr_conv_begin *q, const mr_exec *ex);
} // namespace MR_ACT_SPACE

#endif
