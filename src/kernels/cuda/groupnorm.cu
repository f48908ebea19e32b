/* Group norm + FiLM + SiLU + dropout. Only mean and 1/std are kept; the rest is computed again.
 * Invariants: forward does one sample a block; backward a few samples a block, as many blocks as
 * the scratch of the contract has room for, a thread owning its channels throughout, so every sum
 * has a fixed order. */
#include "kernels/cuda/conv.cuh"

namespace MR_ACT_SPACE
{

struct gn_args {
    const act_t *x, *film, *dy;
    const float *gamma, *beta, *mean, *rstd;
    int64_t n, S, c, G, cg, film_ld;
    mask drop;

    /* Dropout of element e of sample i: the sample is one row of width S * c. */
    __device__ float factor(int64_t i, int64_t e) const { return drop.factor(i, S * c, e); }
    /* 1 + scale and shift of channel j of sample i */
    __device__ float scale1(int64_t i, int64_t j) const
    {
        return film ? 1 + film[i * film_ld + j] : 1.0f;
    }
    __device__ float shift(int64_t i, int64_t j) const
    {
        return film ? (float)film[i * film_ld + c + j] : 0.0f;
    }
};

static gn_args make_args(const void *x, const void *gamma, const void *beta, const void *film,
                         const mr_gn *gn, const mr_exec *ex)
{
    gn_args a = {};
    a.x = (const act_t *)x;
    a.gamma = (const float *)gamma;
    a.beta = (const float *)beta;
    a.film = (const act_t *)film;
    a.n = gn->n;
    a.S = gn->S;
    a.c = gn->c;
    a.G = gn->groups;
    a.cg = gn->c / gn->groups;
    a.film_ld = gn->film_ld;
    a.drop = mask_of(&gn->drop, ex);
    a.drop.per_row = 1;
    return a;
}

/* mean and rstd of sample i, a warp per group. */
__device__ static void sample_stats(float *mean, float *rstd, const gn_args &a, int64_t i,
                                    float eps)
{
    int lane = (int)threadIdx.x % WARP;
    const act_t *x = a.x + i * a.S * a.c;
    float count = (float)(a.S * a.cg);
    for (int64_t g = threadIdx.x / WARP; g < a.G; g += blockDim.x / WARP) {
        float s = 0, q = 0;
        for (int64_t f = 0; f < a.S; f++)
            for (int64_t j = lane; j < a.cg; j += WARP) s += x[f * a.c + g * a.cg + j];
        float mu = warp_sum(s) / count;
        for (int64_t f = 0; f < a.S; f++)
            for (int64_t j = lane; j < a.cg; j += WARP) {
                float d = x[f * a.c + g * a.cg + j] - mu;
                q += d * d;
            }
        float rs = 1 / sqrtf(warp_sum(q) / count + eps);
        if (lane) continue;
        mean[i * a.G + g] = mu;
        rstd[i * a.G + g] = rs;
    }
}

/* Where y goes: rows of frames between samples, P; framed (P > S): zeros around a sample, and the
 * terms of the convolution that follows. */
struct gn_out {
    act_t *y;
    int64_t P;
    conv_terms terms;

    __device__ bool is_framed(const gn_args &a) const { return P > a.S; }
    /* Zeros around sample i, and its part of the convolution's terms. */
    __device__ void around(const gn_args &a, int64_t i) const
    {
        for (int64_t r = 0; r <= P; r++) {
            if ((r > 0 && r <= a.S) || (r == P && i < a.n - 1)) continue;
            for (int64_t j = threadIdx.x; j < a.c; j += blockDim.x) y[(i * P + r) * a.c + j] = 0;
        }
        for (int64_t u = i * terms.So; u < (i + 1) * terms.So; u++)
            for (int64_t j = threadIdx.x; j < terms.co; j += blockDim.x) terms.put_at(i, u, j);
    }
};

__global__ static void group_norm_fwd_kernel(gn_out out, float *mean, float *rstd, gn_args a,
                                             float eps)
{
    int64_t i = blockIdx.x, w = a.S * a.c;
    act_t *y = out.y + (i * out.P + out.is_framed(a)) * a.c;
    sample_stats(mean, rstd, a, i, eps);
    __syncthreads();
    for (int64_t j = threadIdx.x; j < a.c; j += blockDim.x) {
        int64_t g = j / a.cg;
        float mu = mean[i * a.G + g], up = a.scale1(i, j);
        float slope = rstd[i * a.G + g] * a.gamma[j] * up, add = a.beta[j] * up + a.shift(i, j);
        for (int64_t f = 0; f < a.S; f++) {
            int64_t e = f * a.c + j;
            float v = (a.x[i * w + e] - mu) * slope + add;
            y[e] = mr_siluf(v) * a.factor(i, e);
        }
    }
    if (out.is_framed(a)) out.around(a, i);
}

void group_norm_fwd(void *y, void *mean, void *rstd, const void *x, const void *gamma,
                    const void *beta, const void *film, const mr_gn *gn, const mr_exec *ex)
{
    gn_out out = {(act_t *)y, gn->S, {}};
    if (gn->n > 0)
        LAUNCH(group_norm_fwd_kernel, (unsigned)gn->n, BLOCK, 0, ex, out, (float *)mean,
               (float *)rstd, make_args(x, gamma, beta, film, gn, ex), (float)gn->eps);
}

void group_norm_conv3_fwd(void *y, void *framed, void *mean, void *rstd, const void *x,
                          const void *gamma, const void *beta, const void *film, const mr_gn *gn,
                          const void *w, const void *bias, const void *residual,
                          const void *context, const mr_conv *cv, const mr_exec *ex)
{
    gn_out out = {(act_t *)framed, mr_framed_period(gn->S),
                  make_conv_terms(y, bias, residual, context, cv)};
    if (gn->n > 0)
        LAUNCH(group_norm_fwd_kernel, (unsigned)gn->n, BLOCK, 0, ex, out, (float *)mean,
               (float *)rstd, make_args(x, gamma, beta, film, gn, ex), (float)gn->eps);
    conv_product(y, framed, w, cv, ex);
}

struct gn_grads {
    act_t *dx, *dfilm;
    float *dgamma, *dbeta;
    float *part; /* [blocks,w] their sums over a block's samples */
    float *sums; /* [blocks,2,c] terms of the group means; NULL: shared memory */
    unsigned *counters;
    int acc_x, acc_film, acc_gamma, acc_beta;
    int64_t samples; /* of a block */
    int64_t w;       /* columns of part: 3c with the sums of next.dbias */
    conv_begin next; /* .n 0: none */
};

/* Channel j of sample i, which is of group q, with everything its elements share. */
struct gn_channel {
    float mu, rs, slope, add;

    __device__ gn_channel(const gn_args &a, int64_t i, int64_t j, int64_t q)
    {
        mu = a.mean[i * a.G + q];
        rs = a.rstd[i * a.G + q];
        float up = a.scale1(i, j);
        slope = rs * a.gamma[j] * up;
        add = a.beta[j] * up + a.shift(i, j);
    }
    /* Gradient of v at element e of sample i, where d = x - mean. */
    __device__ float dv(const gn_args &a, int64_t i, int64_t e, float d) const
    {
        return a.dy[i * a.S * a.c + e] * a.factor(i, e) * mr_silu_gradf(d * slope + add);
    }
};

/* Parameter and FiLM gradients of channel j of sample i from P = sum of dv and Q = sum of dv xhat;
 * leaves its terms of the group means. */
__device__ static void channel_params(const gn_args &a, const gn_grads &g, int64_t i, int64_t j,
                                      float P, float Q, float *term0, float *term1)
{
    float *part = g.part + blockIdx.x * g.w, up = a.scale1(i, j);
    if (g.dfilm) {
        act_t *df = g.dfilm + i * a.film_ld;
        put(&df[j], a.gamma[j] * Q + a.beta[j] * P, g.acc_film);
        put(&df[a.c + j], P, g.acc_film);
    }
    part[j] += up * Q;
    part[a.c + j] += up * P;
    term0[j] = a.gamma[j] * up * P;
    term1[j] = a.gamma[j] * up * Q;
}

/* total[2,G] = group means of the terms, a warp per group. All threads take part. */
__device__ static void group_means(float *total, const gn_args &a, const float *term0,
                                   const float *term1)
{
    float count = (float)(a.S * a.cg);
    __syncthreads();
    for (int64_t q = threadIdx.x / WARP; q < a.G; q += blockDim.x / WARP) {
        float s0 = 0, s1 = 0;
        for (int64_t j = threadIdx.x % WARP; j < a.cg; j += WARP) {
            s0 += term0[q * a.cg + j];
            s1 += term1[q * a.cg + j];
        }
        s0 = warp_sum(s0);
        s1 = warp_sum(s1);
        if (threadIdx.x % WARP) continue;
        total[q] = s0 / count;
        total[a.G + q] = s1 / count;
    }
    __syncthreads();
}

/* The convolution that made x begins its backward with channel j of sample i. */
__device__ static void begin_next(const gn_args &a, const gn_grads &g, int64_t i, int64_t j)
{
    if (!g.next.n) return;
    float s = g.next.channel(g.dx, i, j);
    if (g.next.dbias) g.part[blockIdx.x * g.w + 2 * a.c + j] += s;
}

/* Sample i, where every thread has one channel at most and few frames: x and dv are kept. */
__device__ static void sample_kept(const gn_args &a, const gn_grads &g, int64_t i, float *total,
                                   float *term0, float *term1)
{
    int64_t j = threadIdx.x, at = i * a.S * a.c + j, q = j / a.cg;
    float d[KEPT_FRAMES] = {}, dv[KEPT_FRAMES] = {}, P = 0, Q = 0;
    bool is_own = j < a.c;
    if (is_own) {
        gn_channel ch(a, i, j, q);
        UNROLL
        for (int f = 0; f < KEPT_FRAMES; f++) d[f] = f < a.S ? a.x[at + f * a.c] - ch.mu : 0.0f;
        UNROLL
        for (int f = 0; f < KEPT_FRAMES; f++) {
            if (f >= a.S) continue;
            dv[f] = ch.dv(a, i, f * a.c + j, d[f]);
            P += dv[f];
            Q += dv[f] * d[f];
        }
        channel_params(a, g, i, j, P, Q * ch.rs, term0, term1);
    }
    group_means(total, a, term0, term1);
    if (is_own && g.dx) {
        gn_channel ch(a, i, j, q);
        float m0 = total[q] * ch.rs, m1 = total[a.G + q] * ch.rs * ch.rs;
        UNROLL
        for (int f = 0; f < KEPT_FRAMES; f++)
            if (f < a.S) put(&g.dx[at + f * a.c], ch.slope * dv[f] - m0 - d[f] * m1, g.acc_x);
        begin_next(a, g, i, j);
    }
    __syncthreads();
}

/* Sample i, however wide and long. */
__device__ static void sample_long(const gn_args &a, const gn_grads &g, int64_t i, float *total,
                                   float *term0, float *term1)
{
    int64_t at = i * a.S * a.c;
    for (int64_t j = threadIdx.x; j < a.c; j += blockDim.x) {
        gn_channel ch(a, i, j, j / a.cg);
        float P = 0, Q = 0;
        for (int64_t f = 0; f < a.S; f++) {
            int64_t e = f * a.c + j;
            float d = a.x[at + e] - ch.mu, dv = ch.dv(a, i, e, d);
            P += dv;
            Q += dv * d;
        }
        channel_params(a, g, i, j, P, Q * ch.rs, term0, term1);
    }
    group_means(total, a, term0, term1);
    for (int64_t j = threadIdx.x; g.dx && j < a.c; j += blockDim.x) {
        int64_t q = j / a.cg;
        gn_channel ch(a, i, j, q);
        float m0 = total[q] * ch.rs, m1 = total[a.G + q] * ch.rs * ch.rs;
        for (int64_t f = 0; f < a.S; f++) {
            int64_t e = f * a.c + j;
            float d = a.x[at + e] - ch.mu, dv = ch.dv(a, i, e, d);
            put(&g.dx[at + e], ch.slope * dv - m0 - d * m1, g.acc_x);
        }
        begin_next(a, g, i, j);
    }
    __syncthreads();
}

template <bool IS_KEPT> __global__ void group_norm_bwd_kernel(gn_args a, gn_grads g)
{
    SHARED_REST(float, total); /* [2,G], then the terms when they fit */
    int64_t k = blockIdx.x;
    int64_t end = (k + 1) * g.samples < a.n ? (k + 1) * g.samples : a.n;
    float *term0 = g.sums ? g.sums + k * 2 * a.c : total + 2 * a.G, *term1 = term0 + a.c;
    for (int64_t j = threadIdx.x; j < a.c; j += blockDim.x)
        for (int64_t q = j; q < g.w; q += a.c) g.part[k * g.w + q] = 0;
    for (int64_t i = k * g.samples; i < end; i++) {
        if (IS_KEPT)
            sample_kept(a, g, i, total, term0, term1);
        else
            sample_long(a, g, i, total, term0, term1);
    }
    mr_parts parts = {g.part, g.w, g.w, (int)gridDim.x, g.counters};
    add_parts(parts, (int)k, [&](int64_t j, float s) {
        if (j < a.c)
            put(&g.dgamma[j], s, g.acc_gamma);
        else if (j < 2 * a.c)
            put(&g.dbeta[j - a.c], s, g.acc_beta);
        else
            put(&g.next.dbias[j - 2 * a.c], s, g.next.acc_bias);
    });
}

/* The fewest samples a block for which the sums of w columns fit the scratch; MR_GN_BLOCK, with the
 * terms of the group means in scratch as well, when the channels are too many for shared memory. */
static int64_t samples_of_block(const mr_gn *gn, int64_t w)
{
    int64_t b = 1;
    if ((2 * gn->groups + 2 * gn->c) * (int64_t)sizeof(float) > SHARED_BYTES) return MR_GN_BLOCK;
    while (pieces(gn->n, b) * w > mr_gn_scratch(gn->n, gn->S, gn->c)) b++;
    return b < MR_GN_BLOCK ? b : MR_GN_BLOCK;
}

void group_norm_bwd(void *dx, void *dgamma, void *dbeta, void *dfilm, const void *dy, const void *x,
                    const void *mean, const void *rstd, const void *gamma, const void *beta,
                    const void *film, const mr_gn *gn, int acc_x, int acc_gamma, int acc_beta,
                    int acc_film, const mr_conv_begin *next, const mr_exec *ex)
{
    gn_args a = make_args(x, gamma, beta, film, gn, ex);
    a.mean = (const float *)mean;
    a.rstd = (const float *)rstd;
    a.dy = (const act_t *)dy;
    int64_t c = gn->c, sums = next && next->dbias ? 3 * c : 2 * c;
    int64_t samples = samples_of_block(gn, sums);
    int64_t blocks = gn->n > 0 ? pieces(gn->n, samples) : 1; /* no samples: sums of nothing */
    bool is_shared = samples < MR_GN_BLOCK;
    gn_grads g = {};
    g.dx = (act_t *)dx;
    g.dfilm = (act_t *)dfilm;
    g.dgamma = (float *)dgamma;
    g.dbeta = (float *)dbeta;
    g.part = (float *)ex->scratch;
    g.sums = is_shared ? NULL : g.part + blocks * sums;
    g.counters = queue_of(ex)->counters;
    g.acc_x = acc_x;
    g.acc_film = acc_film;
    g.acc_gamma = acc_gamma;
    g.acc_beta = acc_beta;
    g.samples = samples;
    g.w = sums;
    if (next) g.next = make_conv_begin(next, ex);
    size_t shared = (size_t)(2 * a.G + (is_shared ? 2 * c : 0)) * sizeof(float);
    if (c <= MOST_THREADS && gn->S <= KEPT_FRAMES)
        LAUNCH(group_norm_bwd_kernel<true>, (unsigned)blocks, threads_for(c), shared, ex, a, g);
    else
        LAUNCH(group_norm_bwd_kernel<false>, (unsigned)blocks, BLOCK, shared, ex, a, g);
}
} // namespace MR_ACT_SPACE
