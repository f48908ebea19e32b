/* Group norm + FiLM + SiLU + dropout. Only mean and 1/std are kept; the rest is computed again.
 * A warp does a sample: a lane has AT_ONCE neighbouring channels, and those AT_ONCE * WARP further
 * on, of all frames, in registers. Samples that are too wide or too long for that, or do not fall
 * into such pieces, are a block's, and read again (the kernels that end in _any).
 * Invariant: every sum has an order that follows from sizes alone. */
#include "kernels/cuda/conv.cuh"

namespace MR_ACT_SPACE
{
enum { AT_ONCE = 4, FWD_WARPS = 4, BWD_WARPS = MR_GN_WARPS };

struct gn_args {
    const act_t *x, *film, *dy;
    const float *gamma, *beta, *mean, *rstd;
    int64_t n, S, c, G, cg, film_ld;
    mask drop;

    /* For the dropout factors of sample i, which is one row of width S * c. */
    __device__ mask_row row(int64_t i) const { return drop.row(i, S * c); }
    float count() const { return (float)(S * cg); }
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

/* What backward writes. */
struct gn_grads {
    act_t *dx, *dfilm;
    float *dgamma, *dbeta;
    float *part; /* [blocks,w] their sums over a block's samples */
    float *sums; /* [blocks,2,c] terms of the group means; NULL: shared memory */
    unsigned *counters;
    int acc_x, acc_film, acc_gamma, acc_beta;
    int64_t samples; /* of a block of group_norm_bwd_any */
    int64_t w;       /* columns of part: 3c with the sums of next.dbias */
    conv_begin next; /* .n 0: none */
};

/* V neighbouring channels from j on of sample i, which are of one group, with everything their
 * elements share: v = (x - mu) slope + add. */
template <int V> struct gn_channels {
    const gn_args &a;
    int64_t i, j;
    float mu, rs, gamma[V], beta[V], up[V], slope[V], add[V];

    __device__ gn_channels(const gn_args &args, int64_t sample, int64_t first, float mean,
                           float rstd)
        : a(args), i(sample), j(first), mu(mean), rs(rstd)
    {
        float shift[V] = {};
        load<V>(gamma, a.gamma + j);
        load<V>(beta, a.beta + j);
        if (a.film) {
            load<V>(up, a.film + i * a.film_ld + j);
            load<V>(shift, a.film + i * a.film_ld + a.c + j);
        }
        UNROLL
        for (int v = 0; v < V; v++) {
            up[v] = a.film ? 1 + up[v] : 1.0f;
            slope[v] = rs * gamma[v] * up[v];
            add[v] = beta[v] * up[v] + shift[v];
        }
    }
    /* y = the channels of frame f, whose x is given. */
    __device__ void put(act_t *y, const float x[V], const mask_row &row, int64_t f) const
    {
        float m[V];
        a.drop.factors<V>(m, row, f * a.c + j);
        UNROLL
        for (int v = 0; v < V; v++) m[v] *= mr_siluf((x[v] - mu) * slope[v] + add[v]);
        store<V>(y + f * a.c + j, m, 0);
    }
    /* Frame f: d = x - mu, and the gradient of v. */
    __device__ void back(float dv[V], float d[V], const mask_row &row, int64_t f) const
    {
        float m[V];
        int64_t e = f * a.c + j;
        load<V>(d, a.x + i * a.S * a.c + e);
        load<V>(dv, a.dy + i * a.S * a.c + e);
        a.drop.factors<V>(m, row, e);
        UNROLL
        for (int v = 0; v < V; v++) {
            d[v] -= mu;
            dv[v] *= m[v] * mr_silu_gradf(d[v] * slope[v] + add[v]);
        }
    }
    /* Gradients of FiLM and parameters from P = sum of dv and Q = sum of dv d over frames; adds the
     * channels' terms of the group means to *term0 and *term1. */
    __device__ void params(const gn_grads &g, const float P[V], const float Q[V], float *dgamma,
                           float *dbeta, float *term0, float *term1) const
    {
        float dup[V];
        UNROLL
        for (int v = 0; v < V; v++) {
            float q = Q[v] * rs;
            dup[v] = gamma[v] * q + beta[v] * P[v];
            dgamma[v] += up[v] * q;
            dbeta[v] += up[v] * P[v];
            *term0 += gamma[v] * up[v] * P[v];
            *term1 += gamma[v] * up[v] * q;
        }
        if (!g.dfilm) return;
        store<V>(g.dfilm + i * a.film_ld + j, dup, g.acc_film);
        store<V>(g.dfilm + i * a.film_ld + a.c + j, P, g.acc_film);
    }
};

/* Where y goes: rows of frames between samples, P; framed (P > S): zeros around a sample, and the
 * terms of the convolution that follows. */
struct gn_out {
    act_t *y;
    int64_t P;
    conv_terms terms;

    __device__ bool is_framed(const gn_args &a) const { return P > a.S; }
    __device__ act_t *first(const gn_args &a, int64_t i) const
    {
        return y + (i * P + is_framed(a)) * a.c;
    }
    /* Zeros around sample i, and its part of the convolution's terms: what thread `own` of `count`
     * does. */
    template <int V> __device__ void around(const gn_args &a, int64_t i, int own, int count) const
    {
        const float none[V] = {};
        if (!is_framed(a)) return;
        for (int64_t r = 0; r <= P; r++) {
            if ((r > 0 && r <= a.S) || (r == P && i < a.n - 1)) continue;
            for (int64_t j = own * V; j < a.c; j += count * V)
                store<V>(y + (i * P + r) * a.c + j, none, 0);
        }
        terms.put_sample<V>(i, own, count);
    }
};

/* The lane's p-th channels of a sample begin here. */
__device__ static inline int64_t channel_at(int p) { return AT_ONCE * (p * WARP + lane()); }

/* f(p, j) for the lane's channels, from j on. */
template <int CH, class F> __device__ static inline void each_channels(const gn_args &a, F f)
{
    UNROLL
    for (int p = 0; p < CH; p++)
        if (channel_at(p) < a.c) f(p, channel_at(p));
}

/* s[p] becomes the sum over the group that the p-th channels are of. part[CH * WARP] is the warp's
 * own; nobody reads it any more. */
template <int CH> __device__ static void sum_groups(float s[CH], float *part, const gn_args &a)
{
    int n = (int)a.cg / AT_ONCE;
    UNROLL
    for (int p = 0; p < CH; p++) part[p * WARP + lane()] = s[p];
    __syncwarp();
    UNROLL
    for (int p = 0; p < CH; p++) {
        if (channel_at(p) >= a.c) continue;
        const float *first = part + (p * WARP + lane()) / n * n;
        s[p] = 0;
        for (int k = 0; k < n; k++) s[p] += first[k];
    }
}

/* CH * AT_ONCE channels a lane, F frames at most. */
template <int CH, int F>
__global__ static void group_norm_fwd_warps(gn_out out, float *mean, float *rstd, gn_args a,
                                            float count, float eps)
{
    SHARED(float, part, [FWD_WARPS][2][CH * WARP]);
    int warp = (int)threadIdx.x / WARP;
    int64_t i = (int64_t)blockIdx.x * FWD_WARPS + warp;
    if (i >= a.n) return;
    float x[CH][F][AT_ONCE], mu[CH] = {}, square[CH] = {};
    each_channels<CH>(a, [&](int p, int64_t j) {
        UNROLL
        for (int f = 0; f < F; f++) {
            if (f >= a.S) continue;
            load<AT_ONCE>(x[p][f], a.x + (i * a.S + f) * a.c + j);
            UNROLL
            for (int v = 0; v < AT_ONCE; v++) mu[p] += x[p][f][v];
        }
    });
    sum_groups<CH>(mu, part[warp][0], a);
    each_channels<CH>(a, [&](int p, int64_t) {
        mu[p] /= count;
        UNROLL
        for (int f = 0; f < F; f++) {
            UNROLL
            for (int v = 0; v < AT_ONCE; v++) {
                float d = f < a.S ? x[p][f][v] - mu[p] : 0.0f;
                square[p] += d * d;
            }
        }
    });
    sum_groups<CH>(square, part[warp][1], a);
    mask_row row = a.row(i);
    each_channels<CH>(a, [&](int p, int64_t j) {
        gn_channels<AT_ONCE> ch(a, i, j, mu[p], 1 / sqrtf(square[p] / count + eps));
        if (j % a.cg == 0) {
            mean[i * a.G + j / a.cg] = ch.mu;
            rstd[i * a.G + j / a.cg] = ch.rs;
        }
        UNROLL
        for (int f = 0; f < F; f++)
            if (f < a.S) ch.put(out.first(a, i), x[p][f], row, f);
    });
    out.around<AT_ONCE>(a, i, lane(), WARP);
}

/* What a sample adds to the sums over samples, of a lane's channels. */
template <int CH> struct gn_sums {
    float gamma[CH][AT_ONCE] = {}, beta[CH][AT_ONCE] = {}, bias[CH][AT_ONCE] = {};
};

/* dx = or += x; x becomes what dx then is. */
template <int V> __device__ static inline void store_back(act_t *dx, float x[V], int acc)
{
    float old[V] = {};
    if (acc) load<V>(old, dx);
    UNROLL
    for (int v = 0; v < V; v++) x[v] = act_t(old[v] + x[v]);
    store<V>(dx, x, 0);
}

/* Sample i. part[2][CH * WARP]: the warp's. */
template <int CH, int F>
__device__ static void sample_back(const gn_args &a, const gn_grads &g, int64_t i, float count,
                                   gn_sums<CH> &sums, float (*part)[CH * WARP])
{
    /* A frame more than there are: conv_begin looks behind the last. */
    float d[CH][F][AT_ONCE], dv[CH][F + 1][AT_ONCE] = {}, slope[CH][AT_ONCE], rs[CH] = {};
    float term0[CH] = {}, term1[CH] = {};
    mask_row row = a.row(i);
    each_channels<CH>(a, [&](int p, int64_t j) {
        int64_t q = i * a.G + j / a.cg;
        gn_channels<AT_ONCE> ch(a, i, j, a.mean[q], a.rstd[q]);
        float P[AT_ONCE] = {}, Q[AT_ONCE] = {};
        UNROLL
        for (int f = 0; f < F; f++) {
            if (f >= a.S) continue;
            ch.back(dv[p][f], d[p][f], row, f);
            UNROLL
            for (int v = 0; v < AT_ONCE; v++) {
                P[v] += dv[p][f][v];
                Q[v] += dv[p][f][v] * d[p][f][v];
            }
        }
        ch.params(g, P, Q, sums.gamma[p], sums.beta[p], &term0[p], &term1[p]);
        rs[p] = ch.rs;
        UNROLL
        for (int v = 0; v < AT_ONCE; v++) slope[p][v] = ch.slope[v];
    });
    if (!g.dx) return;
    sum_groups<CH>(term0, part[0], a);
    sum_groups<CH>(term1, part[1], a);
    each_channels<CH>(a, [&](int p, int64_t j) {
        float m0 = term0[p] / count * rs[p], m1 = term1[p] / count * rs[p] * rs[p];
        UNROLL
        for (int f = 0; f < F; f++) {
            if (f >= a.S) continue;
            UNROLL
            for (int v = 0; v < AT_ONCE; v++)
                dv[p][f][v] = slope[p][v] * dv[p][f][v] - m0 - d[p][f][v] * m1;
            store_back<AT_ONCE>(g.dx + (i * a.S + f) * a.c + j, dv[p][f], g.acc_x);
        }
        if (g.next.n) g.next.channels_of<AT_ONCE, F>(sums.bias[p], dv[p], i, j);
    });
}

/* to[j] = sum over the block's warps of channel j; `space` has room for all of them. */
template <int CH>
__device__ static void sum_warps(float *to, const float own[CH][AT_ONCE], float *space, int64_t c)
{
    int w = CH * WARP * AT_ONCE;
    __syncthreads(); /* it may still be read by the call before */
    for (int p = 0; p < CH; p++)
        for (int v = 0; v < AT_ONCE; v++)
            space[(int)threadIdx.x / WARP * w + (int)channel_at(p) + v] = own[p][v];
    __syncthreads();
    for (int j = (int)threadIdx.x; j < c; j += (int)blockDim.x) {
        float s = 0;
        for (int r = 0; r < BWD_WARPS; r++) s += space[r * w + j];
        to[j] = s;
    }
}

/* Adds the parts of all blocks. */
__device__ static void add_sums(const gn_args &a, const gn_grads &g)
{
    mr_parts parts = {g.part, g.w, g.w, (int)gridDim.x, g.counters};
    add_parts(parts, (int)blockIdx.x, [&](int64_t j, float s) {
        if (j < a.c)
            put(&g.dgamma[j], s, g.acc_gamma);
        else if (j < 2 * a.c)
            put(&g.dbeta[j - a.c], s, g.acc_beta);
        else
            put(&g.next.dbias[j - 2 * a.c], s, g.next.acc_bias);
    });
}

/* Where four blocks fit a multiprocessor, all samples of a batch of 2,048 are under way at once. */
#define BWD_BOUNDS(CH, F) __launch_bounds__(BWD_WARPS *WARP, CH *F > 6 ? 1 : 4)

template <int CH, int F>
__global__ static void BWD_BOUNDS(CH, F) group_norm_bwd_warps(gn_args a, gn_grads g, float count)
{
    SHARED(float, part, [BWD_WARPS][2][CH * WARP]);
    SHARED(float, space, [BWD_WARPS * CH * WARP * AT_ONCE]);
    int warp = (int)threadIdx.x / WARP;
    int64_t i = (int64_t)blockIdx.x * BWD_WARPS + warp;
    float *to = g.part + blockIdx.x * g.w;
    gn_sums<CH> own;
    if (i < a.n) sample_back<CH, F>(a, g, i, count, own, part[warp]);
    sum_warps<CH>(to, own.gamma, space, a.c);
    sum_warps<CH>(to + a.c, own.beta, space, a.c);
    if (g.w > 2 * a.c) sum_warps<CH>(to + 2 * a.c, own.bias, space, a.c);
    add_sums(a, g);
}

/* Starts kernel<CH,F> for the shape; none of these: false, and nothing. */
#define START_WARPS(kernel, shape, blocks, warps, ...)                                             \
    [&] {                                                                                          \
        switch (shape) {                                                                           \
        case 23: LAUNCH((kernel<2, 3>), blocks, warps *WARP, 0, ex, __VA_ARGS__); return true;     \
        case 43: LAUNCH((kernel<4, 3>), blocks, warps *WARP, 0, ex, __VA_ARGS__); return true;     \
        case 15: LAUNCH((kernel<1, 5>), blocks, warps *WARP, 0, ex, __VA_ARGS__); return true;     \
        case 25: LAUNCH((kernel<2, 5>), blocks, warps *WARP, 0, ex, __VA_ARGS__); return true;     \
        }                                                                                          \
        return false;                                                                              \
    }()

/* 10 CH + F: pieces of channels a lane, 1, 2 or (of three frames) 4, and frames, 3 or 5; 0: a block
 * does it. */
static int shape_of(const gn_args &a, const act_t *y, const act_t *dfilm)
{
    int64_t ch = pieces(a.c, AT_ONCE * WARP), film_ld = a.film ? a.film_ld : AT_ONCE;
    int F = ch > 1 && a.S <= 3 ? 3 : a.S <= 5 ? 5 : 0;
    bool in_pieces = a.cg % AT_ONCE == 0 && splits_by<AT_ONCE>(a.x, a.c) &&
                     splits_by<AT_ONCE>(y, a.c) && splits_by<AT_ONCE>(a.dy, a.c) &&
                     splits_by<AT_ONCE>(a.film, film_ld) && splits_by<AT_ONCE>(dfilm, film_ld) &&
                     splits_by<AT_ONCE>(a.gamma, a.c) && splits_by<AT_ONCE>(a.beta, a.c);
    if (!in_pieces || !F || ch > (F == 3 ? 4 : 2)) return 0;
    return (ch == 3 ? 40 : 10 * (int)ch) + F;
}

/* mean and rstd of sample i, a warp per group. */
__device__ static void sample_stats(float *mean, float *rstd, const gn_args &a, int64_t i,
                                    float count, float eps)
{
    const act_t *x = a.x + i * a.S * a.c;
    for (int64_t g = threadIdx.x / WARP; g < a.G; g += blockDim.x / WARP) {
        float s = 0, q = 0;
        for (int64_t f = 0; f < a.S; f++)
            for (int64_t j = lane(); j < a.cg; j += WARP) s += x[f * a.c + g * a.cg + j];
        float mu = warp_sum(s) / count;
        for (int64_t f = 0; f < a.S; f++)
            for (int64_t j = lane(); j < a.cg; j += WARP) {
                float d = x[f * a.c + g * a.cg + j] - mu;
                q += d * d;
            }
        float rs = 1 / sqrtf(warp_sum(q) / count + eps);
        if (lane()) continue;
        mean[i * a.G + g] = mu;
        rstd[i * a.G + g] = rs;
    }
}

__global__ static void group_norm_fwd_any(gn_out out, float *mean, float *rstd, gn_args a,
                                          float count, float eps)
{
    int64_t i = blockIdx.x;
    sample_stats(mean, rstd, a, i, count, eps);
    __syncthreads();
    mask_row row = a.row(i);
    for (int64_t j = threadIdx.x; j < a.c; j += blockDim.x) {
        int64_t q = i * a.G + j / a.cg;
        gn_channels<1> ch(a, i, j, mean[q], rstd[q]);
        for (int64_t f = 0; f < a.S; f++) {
            float x[1] = {a.x[(i * a.S + f) * a.c + j]};
            ch.put(out.first(a, i), x, row, f);
        }
    }
    out.around<1>(a, i, (int)threadIdx.x, (int)blockDim.x);
}

/* y, and where out is framed what the convolution's products are added to. */
static void forward(const gn_out &out, void *mean, void *rstd, const gn_args &a, const mr_gn *gn,
                    const mr_exec *ex)
{
    float *m = (float *)mean, *r = (float *)rstd, eps = (float)gn->eps, count = a.count();
    int shape = out.P == a.S || out.terms.splits<AT_ONCE>() ? shape_of(a, out.y, NULL) : 0;
    if (a.n == 0) return;
    if (!START_WARPS(group_norm_fwd_warps, shape, (unsigned)pieces(a.n, FWD_WARPS), FWD_WARPS, out,
                     m, r, a, count, eps))
        LAUNCH(group_norm_fwd_any, (unsigned)a.n, BLOCK, 0, ex, out, m, r, a, count, eps);
}

void group_norm_fwd(void *y, void *mean, void *rstd, const void *x, const void *gamma,
                    const void *beta, const void *film, const mr_gn *gn, const mr_exec *ex)
{
    gn_out out = {(act_t *)y, gn->S, {}};
    forward(out, mean, rstd, make_args(x, gamma, beta, film, gn, ex), gn, ex);
}

void group_norm_conv3_fwd(void *y, void *framed, void *mean, void *rstd, const void *x,
                          const void *gamma, const void *beta, const void *film, const mr_gn *gn,
                          const void *w, const void *bias, const void *residual,
                          const void *context, const mr_conv *cv, const mr_exec *ex)
{
    gn_out out = {(act_t *)framed, mr_framed_period(gn->S),
                  make_conv_terms(y, bias, residual, context, cv)};
    forward(out, mean, rstd, make_args(x, gamma, beta, film, gn, ex), gn, ex);
    conv_product(y, framed, w, cv, ex);
}

/* total[2,G] = group means of the terms, a warp per group. All threads take part. */
__device__ static void group_means(float *total, const gn_args &a, float count, const float *term0,
                                   const float *term1)
{
    __syncthreads();
    for (int64_t q = threadIdx.x / WARP; q < a.G; q += blockDim.x / WARP) {
        float s0 = 0, s1 = 0;
        for (int64_t j = lane(); j < a.cg; j += WARP) {
            s0 += term0[q * a.cg + j];
            s1 += term1[q * a.cg + j];
        }
        s0 = warp_sum(s0);
        s1 = warp_sum(s1);
        if (lane()) continue;
        total[q] = s0 / count;
        total[a.G + q] = s1 / count;
    }
    __syncthreads();
}

/* Sample i: a thread owns its channels throughout. */
__device__ static void sample_back_any(const gn_args &a, const gn_grads &g, int64_t i, float count,
                                       float *total, float *term0, float *term1)
{
    float *part = g.part + blockIdx.x * g.w, d[1], dv[1];
    mask_row row = a.row(i);
    for (int64_t j = threadIdx.x; j < a.c; j += blockDim.x) {
        int64_t q = i * a.G + j / a.cg;
        gn_channels<1> ch(a, i, j, a.mean[q], a.rstd[q]);
        float P[1] = {}, Q[1] = {};
        for (int64_t f = 0; f < a.S; f++) {
            ch.back(dv, d, row, f);
            P[0] += dv[0];
            Q[0] += dv[0] * d[0];
        }
        term0[j] = term1[j] = 0;
        ch.params(g, P, Q, &part[j], &part[a.c + j], &term0[j], &term1[j]);
    }
    group_means(total, a, count, term0, term1);
    for (int64_t j = threadIdx.x; g.dx && j < a.c; j += blockDim.x) {
        int64_t q = j / a.cg;
        gn_channels<1> ch(a, i, j, a.mean[i * a.G + q], a.rstd[i * a.G + q]);
        float m0 = total[q] * ch.rs, m1 = total[a.G + q] * ch.rs * ch.rs, s[1] = {};
        for (int64_t f = 0; f < a.S; f++) {
            ch.back(dv, d, row, f);
            put(&g.dx[(i * a.S + f) * a.c + j], ch.slope[0] * dv[0] - m0 - d[0] * m1, g.acc_x);
        }
        if (g.next.n) g.next.channels<1>(s, g.dx, i, j);
        if (g.next.dbias) part[2 * a.c + j] += s[0];
    }
    __syncthreads();
}

__global__ static void group_norm_bwd_any(gn_args a, gn_grads g, float count)
{
    SHARED_REST(float, total); /* [2,G], then the terms when they fit */
    int64_t k = blockIdx.x;
    int64_t end = (k + 1) * g.samples < a.n ? (k + 1) * g.samples : a.n;
    float *term0 = g.sums ? g.sums + k * 2 * a.c : total + 2 * a.G, *term1 = term0 + a.c;
    for (int64_t j = threadIdx.x; j < a.c; j += blockDim.x)
        for (int64_t q = j; q < g.w; q += a.c) g.part[k * g.w + q] = 0;
    for (int64_t i = k * g.samples; i < end; i++)
        sample_back_any(a, g, i, count, total, term0, term1);
    add_sums(a, g);
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
    int64_t c = gn->c;
    gn_grads g = {};
    g.dx = (act_t *)dx;
    g.dfilm = (act_t *)dfilm;
    g.dgamma = (float *)dgamma;
    g.dbeta = (float *)dbeta;
    g.part = (float *)ex->scratch;
    g.counters = queue_of(ex)->counters;
    g.acc_x = acc_x;
    g.acc_film = acc_film;
    g.acc_gamma = acc_gamma;
    g.acc_beta = acc_beta;
    if (next) g.next = make_conv_begin(next, ex);
    g.w = next && next->dbias ? 3 * c : 2 * c;
    int shape = !next || g.next.splits<AT_ONCE>() ? shape_of(a, g.dx, g.dfilm) : 0;
    g.samples = shape ? BWD_WARPS : samples_of_block(gn, g.w);
    int64_t blocks = gn->n > 0 ? pieces(gn->n, g.samples) : 1; /* no samples: sums of nothing */
    bool is_shared = g.samples < MR_GN_BLOCK;
    g.sums = is_shared ? NULL : g.part + blocks * g.w;
    if (START_WARPS(group_norm_bwd_warps, shape, (unsigned)blocks, BWD_WARPS, a, g, a.count()))
        return;
    size_t shared = (size_t)(2 * a.G + (is_shared ? 2 * c : 0)) * sizeof(float);
    LAUNCH(group_norm_bwd_any, (unsigned)blocks, threads_for(c), shared, ex, a, g, a.count());
}
} // namespace MR_ACT_SPACE
