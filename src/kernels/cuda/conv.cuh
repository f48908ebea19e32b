/* What a convolution shares with its neighbours: with the group norm in front of it the terms that
 * its products are added to, and the product; with whoever writes its dy what backward begins with.
 * What it is not: the kernels (unet.cu, groupnorm.cu). */
#ifndef MR_KERNELS_CUDA_CONV_CUH
#define MR_KERNELS_CUDA_CONV_CUH

#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{
/* x += y, V elements. */
template <int V> __device__ static inline void add(float x[V], const float y[V])
{
    UNROLL
    for (int v = 0; v < V; v++) x[v] += y[v];
}

/* y[n,So,co] = bias + residual + context of the sample; each may be NULL. */
struct conv_terms {
    act_t *y;
    const float *bias;
    const act_t *res, *ctx;
    int64_t So, co, ctx_ld;

    /* Channels j .. j + V - 1 of frame i = sample b's, of n So. */
    template <int V> __device__ void put_at(int64_t b, int64_t i, int64_t j) const
    {
        float v[V] = {}, more[V];
        if (bias) load<V>(v, bias + j);
        if (res) {
            load<V>(more, res + i * co + j);
            add<V>(v, more);
        }
        if (ctx) {
            load<V>(more, ctx + b * ctx_ld + j);
            add<V>(v, more);
        }
        store<V>(y + i * co + j, v, 0);
    }
    /* Sample b, shared out among `count` threads of which this is number `own`. */
    template <int V> __device__ void put_sample(int64_t b, int own, int count) const
    {
        int width = (int)co / V;
        for (int q = own; q < (int)So * width; q += count)
            put_at<V>(b, b * So + q / width, (int64_t)(q % width) * V);
    }
    template <int V> bool splits() const
    {
        return splits_by<V>(y, co) && splits_by<V>(bias, co) && splits_by<V>(res, co) &&
               splits_by<V>(ctx, ctx ? ctx_ld : V);
    }
};

conv_terms make_conv_terms(void *y, const void *bias, const void *res, const void *ctx,
                           const mr_conv *cv);
/* y += the products of framed rows of x. */
void conv_product(void *y, const void *framed_x, const void *w, const mr_conv *cv,
                  const mr_exec *ex);

enum { KEPT_FRAMES = 8 }; /* of a sample: a thread keeps its channels in registers */

/* mr_conv_begin, some channels of a sample at a time: V neighbours from j on. */
struct conv_begin {
    act_t *unfolded, *dres, *dctx;
    float *dbias;
    mr_parts sums;                   /* of dbias */
    int64_t n, S, So, co, P, ctx_ld; /* P: rows from one sample of x to the next */
    int stride, acc_bias, acc_res, acc_ctx;

    /* Row r of sample b in the layout of x; r = P: the zero row behind the last sample. The three
     * taps of a channel lie together. */
    template <int V> __device__ void set(int64_t b, int64_t r, int64_t j, const float v[3][V]) const
    {
        float taps[3][V];
        act_t *to = unfolded + ((b * P + r) * co + j) * 3;
        UNROLL
        for (int e = 0; e < 3 * V; e++) taps[e / V][e % V] = v[e % 3][e / 3];
        UNROLL
        for (int t = 0; t < 3; t++) store<V>(to + t * V, taps[t], 0);
    }
    /* The rows around a sample of framed x. */
    template <int V> __device__ void zeros(int64_t b, int64_t j) const
    {
        const float none[3][V] = {};
        if (P == S) return;
        set<V>(b, 0, j, none);
        for (int64_t r = S + 1; r < P + (b == n - 1); r++) set<V>(b, r, j, none);
    }
    /* Row of frame s: dy of the frames (s + 1 - tap) / STRIDE that there are. d: 0 behind So. */
    template <int V, int F, int STRIDE>
    __device__ void unfold(const float d[F + 1][V], int64_t b, int64_t j) const
    {
        UNROLL
        for (int s = 0; s < F * STRIDE; s++) {
            const bool is_even = s % STRIDE == 0, is_odd = (s + 1) % STRIDE == 0;
            float v[3][V];
            UNROLL
            for (int k = 0; k < V; k++) {
                v[0][k] = is_odd ? d[(s + 1) / STRIDE][k] : 0.0f;
                v[1][k] = is_even ? d[s / STRIDE][k] : 0.0f;
                v[2][k] = is_odd && s > 0 ? d[(s - 1) / STRIDE][k] : 0.0f;
            }
            if (s < S) set<V>(b, s + (P > S), j, v);
        }
    }
    /* channels() where a sample has too many frames. */
    template <int V>
    __device__ void channels_long(float sum[V], const act_t *dy, int64_t b, int64_t j) const
    {
        float own[V] = {}, g[V];
        for (int64_t u = 0; u < So; u++) {
            load<V>(g, dy + (b * So + u) * co + j);
            add<V>(own, g);
            if (dres) store<V>(dres + (b * So + u) * co + j, g, acc_res);
        }
        if (dctx) store<V>(dctx + b * ctx_ld + j, own, acc_ctx);
        add<V>(sum, own);
        if (unfolded) zeros<V>(b, j);
        for (int64_t s = 0; unfolded && s < S; s++) {
            float v[3][V] = {};
            for (int tap = 0; tap < 3; tap++) {
                int64_t t = s + 1 - tap, u = t >> (stride - 1); /* stride is 1 or 2 */
                bool is_there = t >= 0 && u << (stride - 1) == t && u < So;
                if (is_there) load<V>(v[tap], dy + (b * So + u) * co + j);
            }
            set<V>(b, s + (P > S), j, v);
        }
    }
    /* Of sample b, whose frames are d, 0 behind So <= F; adds their sums to s. */
    template <int V, int F>
    __device__ void channels_of(float s[V], const float d[F + 1][V], int64_t b, int64_t j) const
    {
        float own[V] = {};
        UNROLL
        for (int u = 0; u < F; u++) {
            if (u >= So) continue;
            add<V>(own, d[u]);
            if (dres) store<V>(dres + (b * So + u) * co + j, d[u], acc_res);
        }
        if (dctx) store<V>(dctx + b * ctx_ld + j, own, acc_ctx);
        add<V>(s, own);
        if (!unfolded) return;
        zeros<V>(b, j);
        if (stride == 1)
            unfold<V, F, 1>(d, b, j);
        else
            unfold<V, F, 2>(d, b, j);
    }
    /* Of sample b, of which this thread may have written dy; adds their sums to s. */
    template <int V>
    __device__ void channels(float s[V], const act_t *dy, int64_t b, int64_t j) const
    {
        if (So > KEPT_FRAMES) {
            channels_long<V>(s, dy, b, j);
            return;
        }
        float d[KEPT_FRAMES + 1][V] = {}; /* what is read is read at once, and then used */
        UNROLL
        for (int u = 0; u < KEPT_FRAMES; u++)
            if (u < So) load<V>(d[u], dy + (b * So + u) * co + j);
        channels_of<V, KEPT_FRAMES>(s, d, b, j);
    }
    template <int V> bool splits() const
    {
        return splits_by<V>(unfolded, co) && splits_by<V>(dres, co) &&
               splits_by<V>(dctx, dctx ? ctx_ld : V);
    }
};

conv_begin make_conv_begin(const mr_conv_begin *q, const mr_exec *ex);
} // namespace MR_ACT_SPACE

#endif
