/* U-Net kernels: convolutions over the frame axis, resizing, concatenation, time embedding.
 * A convolution is one product for all frames: in a copy of x with a frame of zeros in front of
 * every sample and behind the last, [mr_framed_rows, ci], the window of output frame u is the 3 ci
 * elements from frame u * stride on, so the frames are a batch of equal products with a fixed
 * distance. Backward goes the same way over dy, where stride 2 leaves every second frame zero.
 * The copies are in ex->scratch (mr_conv_scratch). */
#include "kernels/cuda/conv.cuh"
#include "kernels/shared/draw.h"

namespace MR_ACT_SPACE
{

/* Row i of the copy of x[n,S / step,c]: frame f of a sample is x's frame f / step, or zeros between
 * its frames and around them. */
struct framed {
    const act_t *x;
    int64_t n, S, c;
    int step;

    __device__ float at(int64_t i, int64_t j) const
    {
        int64_t P = mr_framed_period(S), b = i / P, f = i % P - 1;
        if (b >= n || f < 0 || f >= S || f % step) return 0.0f;
        return x[(b * ((S + step - 1) / step) + f / step) * c + j];
    }
};

/* conv3_fwd: a row is a frame of y, which gets the terms that the products are added to, or behind
 * those a frame of the copy of x. */
struct conv_prepare {
    act_t *pad;
    conv_terms terms;
    framed x;
    int64_t n_y;

    __device__ void operator()(int64_t i, int64_t j) const
    {
        if (i >= n_y) {
            if (j < x.c) pad[(i - n_y) * x.c + j] = x.at(i - n_y, j);
        } else if (j < terms.co) {
            terms.put_at(i, j);
        }
    }
};

conv_terms make_conv_terms(void *y, const void *bias, const void *res, const void *ctx,
                           const mr_conv *cv)
{
    return {(act_t *)y, (const float *)bias, (const act_t *)res, (const act_t *)ctx, cv->So,
            cv->co,     cv->ctx_ld};
}

/* Frames of framed x times the weights, added to y. */
void conv_product(void *y, const void *framed_x, const void *w, const mr_conv *cv,
                  const mr_exec *ex)
{
    int64_t ci = cv->ci, co = cv->co, So = cv->So;
    mr_gemm_batch frames = {So, co, cv->stride * ci, 0};
    gemm_batch(y, framed_x, w, &frames, cv->n, co, 3 * ci, 0, 1, mr_framed_period(cv->S) * ci,
               3 * ci, So * co, 1.0, 1.0, MR_ACT_ACT, ex);
}

void conv3_fwd(void *y, const void *x, const void *w, const void *bias, const void *res,
               const void *ctx, const mr_conv *cv, const mr_exec *ex)
{
    int64_t ci = cv->ci, co = cv->co, n_y = cv->n * cv->So;
    act_t *pad = cv->x_framed ? (act_t *)x : (act_t *)ex->scratch;
    conv_prepare p = {
        pad, make_conv_terms(y, bias, res, ctx, cv), {(const act_t *)x, cv->n, cv->S, ci, 1}, n_y};
    cells(n_y + (cv->x_framed ? 0 : mr_framed_rows(cv->n, cv->S)), ci > co ? ci : co, ex, p);
    conv_product(y, pad, w, cv, ex);
}

enum { ADD_BLOCK = 16 }; /* samples of a block; mr_conv_scratch has room for their sums */

/* Column j of a block of samples: partial sum, contexts, residual. */
struct conv_add {
    mr_parts sums; /* .part NULL: not wanted */
    float *dbias;
    act_t *dres, *dctx;
    const act_t *dy;
    int64_t n, S, w, ctx_ld;
    int acc_bias, acc_res, acc_ctx;

    __device__ void column(int64_t k, int64_t j) const
    {
        int64_t end = (k + 1) * ADD_BLOCK < n ? (k + 1) * ADD_BLOCK : n;
        float total = 0;
        for (int64_t b = k * ADD_BLOCK; b < end; b++) {
            float s = 0;
            for (int64_t f = 0; f < S; f++) {
                int64_t e = (b * S + f) * w + j;
                float g = dy[e];
                s += g;
                if (dres) put(&dres[e], g, acc_res);
            }
            if (dctx) put(&dctx[b * ctx_ld + j], s, acc_ctx);
            total += s;
        }
        if (dbias) sums.part[k * w + j] = total;
    }
    __device__ void block(int64_t k) const
    {
        for (int64_t j = threadIdx.x; j < w; j += blockDim.x) column(k, j);
        if (!dbias) return;
        add_parts(sums, (int)k, [&](int64_t j, float s) { put(&dbias[j], s, acc_bias); });
    }
};

static conv_add make_add(void *dbias, void *dres, void *dctx, const void *dy, int64_t n, int64_t S,
                         int64_t w, float *part, const mr_exec *ex)
{
    conv_add a = {};
    a.sums = {part, w, w, (int)(n > 0 ? pieces(n, ADD_BLOCK) : 1), queue_of(ex)->counters};
    a.dbias = (float *)dbias;
    a.dres = (act_t *)dres;
    a.dctx = (act_t *)dctx;
    a.dy = (const act_t *)dy;
    a.n = n;
    a.S = S;
    a.w = w;
    return a;
}

/* Before the products of conv3_bwd: blocks are rows of the copy of x, rows of the copy of dy, rows
 * of the weights as flip[slot,o,i] = w[o,2 - slot,i] (frames of dy ascending see a frame of x
 * through taps 2, 1, 0), blocks of the added terms. */
struct conv_turn {
    act_t *pad_x, *pad_y, *flip;
    const act_t *w;
    framed x, dy;
    conv_add add;
    int64_t n_x, n_y, n_flip;

    /* Row i, unless it is a block of the added terms. */
    __device__ bool copy(int64_t i) const
    {
        int64_t ci = x.c, co = dy.c;
        if (i < n_x) {
            for (int64_t j = threadIdx.x; j < ci; j += blockDim.x) pad_x[i * ci + j] = x.at(i, j);
        } else if ((i -= n_x) < n_y) {
            for (int64_t j = threadIdx.x; j < co; j += blockDim.x) pad_y[i * co + j] = dy.at(i, j);
        } else if ((i -= n_y) < n_flip) {
            const act_t *from = w + (i % co * 3 + 2 - i / co) * ci;
            for (int64_t j = threadIdx.x; j < ci; j += blockDim.x) flip[i * ci + j] = from[j];
        } else {
            return false;
        }
        return true;
    }
};

__global__ static void conv_turn_kernel(conv_turn t)
{
    if (t.copy(blockIdx.x)) return;
    t.add.block(blockIdx.x - (t.n_x + t.n_y + t.n_flip));
}

static void turn(const conv_turn &t, const mr_exec *ex)
{
    bool adds = t.add.dbias || (t.add.n > 0 && (t.add.dres || t.add.dctx));
    int64_t blocks = t.n_x + t.n_y + t.n_flip + (adds ? t.add.sums.count : 0);
    int64_t w = t.x.c > t.dy.c ? t.x.c : t.dy.c;
    if (blocks) LAUNCH(conv_turn_kernel, (unsigned)blocks, threads_for(w), 0, ex, t);
}

void conv3_bwd_add(void *dbias, void *dres, void *dctx, const void *dy, int64_t n, int64_t S,
                   int64_t w, int64_t ctx_ld, int acc_bias, int acc_res, int acc_ctx,
                   const mr_exec *ex)
{
    conv_turn t = {};
    t.add = make_add(dbias, dres, dctx, dy, n, S, w, (float *)ex->scratch, ex);
    t.add.ctx_ld = ctx_ld;
    t.add.acc_bias = acc_bias;
    t.add.acc_res = acc_res;
    t.add.acc_ctx = acc_ctx;
    t.dy.c = w;
    turn(t, ex);
}

void conv3_bwd(void *dx, void *dw, void *dbias, void *dres, void *dctx, const void *dy,
               const void *x, const void *w, const mr_conv *cv, const mr_conv_acc *acc,
               const mr_exec *ex)
{
    int64_t n = cv->n, ci = cv->ci, co = cv->co, S = cv->S, P = mr_framed_period(S);
    int64_t rows = mr_framed_rows(n, S);
    float *part = (float *)ex->scratch;
    act_t *pad_y = (act_t *)(part + mr_conv_part(cv)), *flip = pad_y + rows * co;
    act_t *pad_x = cv->x_framed ? (act_t *)x : flip + 3 * ci * co;
    /* The residual is written first, so where it is x the product adds to it. */
    bool is_same = dx && dres == dx;
    conv_turn t = {};
    t.pad_x = pad_x;
    t.pad_y = pad_y;
    t.flip = flip;
    t.w = (const act_t *)w;
    t.x = {(const act_t *)x, n, S, ci, 1};
    t.dy = {(const act_t *)dy, n, S, co, cv->stride};
    t.add = make_add(dbias, dres, dctx, dy, n, cv->So, co, part, ex);
    t.add.ctx_ld = cv->ctx_ld;
    t.add.acc_bias = acc->bias;
    t.add.acc_res = is_same ? acc->x : acc->res;
    t.add.acc_ctx = acc->ctx;
    t.n_x = dw && !cv->x_framed ? rows : 0;
    t.n_y = dx || dw ? rows : 0;
    t.n_flip = dx && n > 0 ? 3 * co : 0;
    turn(t, ex);
    /* dw[:,tap,:] = dy^T (x, tap - 1 rows on): zero rows of dy meet what belongs to other samples.
     * A long sum for few numbers, which the library splits between blocks as it finds best. */
    mr_gemm_batch taps = {dw ? 3 : 0, ci, 0, ci};
    gemm_batch(dw, pad_y + co, pad_x, &taps, co, ci, n > 0 ? rows - 2 : 0, 1, 0, co, ci, 3 * ci,
               1.0, acc->w ? 1.0 : 0.0, MR_REAL_ACT, ex);
    /* dx[s] = dy[s - 1 .. s + 1] flip */
    mr_gemm_batch frames = {dx ? S : 0, ci, co, 0};
    gemm_batch(dx, pad_y, flip, &frames, n, ci, 3 * co, 0, 0, P * co, ci, S * ci, 1.0,
               is_same || acc->x ? 1.0 : 0.0, MR_ACT_ACT, ex);
}

void frame_add(void *yv, const void *xv, const void *vv, int64_t n, int64_t S, int64_t c,
               const mr_exec *ex)
{
    act_t *y = (act_t *)yv;
    const act_t *x = (const act_t *)xv, *v = (const act_t *)vv;
    cells(n * S, c, ex,
          [=] __device__(int64_t i, int64_t j) { y[i * c + j] = x[i * c + j] + v[i / S * c + j]; });
}

void upsample_fwd(void *yv, const void *xv, int64_t n, int64_t S, int64_t S2, int64_t c,
                  const mr_exec *ex)
{
    act_t *y = (act_t *)yv;
    const act_t *x = (const act_t *)xv;
    cells(n * S2, c, ex, [=] __device__(int64_t i, int64_t j) {
        y[i * c + j] = x[(i / S2 * S + i % S2 * S / S2) * c + j];
    });
}

void upsample_bwd(void *dxv, const void *dyv, int64_t n, int64_t S, int64_t S2, int64_t c, int acc,
                  const mr_exec *ex)
{
    act_t *dx = (act_t *)dxv;
    const act_t *dy = (const act_t *)dyv;
    cells(n * S, c, ex, [=] __device__(int64_t i, int64_t j) {
        int64_t b = i / S, s = i % S;
        float v = acc ? (float)dx[i * c + j] : 0.0f;
        /* the frames that copy frame s: floor(u S / S2) = s */
        for (int64_t u = (s * S2 + S - 1) / S; u < S2 && u * S / S2 == s; u++)
            v += dy[(b * S2 + u) * c + j];
        dx[i * c + j] = v;
    });
}

void concat_fwd(void *yv, const void *av, const void *bv, const void *biasv, int64_t n, int64_t wa,
                int64_t wb, const mr_exec *ex)
{
    act_t *y = (act_t *)yv;
    const act_t *a = (const act_t *)av, *b = (const act_t *)bv;
    const float *bias = (const float *)biasv;
    cells(n, wa + wb, ex, [=] __device__(int64_t i, int64_t j) {
        float v = j < wa ? a[i * wa + j] : b[i * wb + j - wa];
        y[i * (wa + wb) + j] = bias ? v + bias[j] : v;
    });
}

void concat_bwd(void *dav, void *dbv, const void *dyv, int64_t n, int64_t wa, int64_t wb, int acc_a,
                int acc_b, const mr_exec *ex)
{
    act_t *da = (act_t *)dav, *db = (act_t *)dbv;
    const act_t *dy = (const act_t *)dyv;
    /* One thread does column j of both: they may be one tensor, which then gets two terms. */
    cells(n, wa > wb ? wa : wb, ex, [=] __device__(int64_t i, int64_t j) {
        const act_t *g = dy + i * (wa + wb) + j;
        if (j < wa && da) put(&da[i * wa + j], g[0], acc_a);
        if (j < wb && db) put(&db[i * wb + j], g[wa], acc_b);
    });
}

/* In double: t w_i reaches hundreds of radians, and there are few of them. */
void time_embed(void *outv, const uint32_t *rid, int64_t n, int64_t C, uint32_t purpose,
                int64_t t_max, const mr_int_list *t_set, const mr_exec *ex)
{
    act_t *out = (act_t *)outv;
    int64_t half = C / 2;
    double rate = half > 1 ? log(10000.0) / (double)(half - 1) : 0.0;
    uint64_t seed = ex->seed;
    const mr_step_state *state = ex->state;
    mr_int_list set = {};
    if (t_set) set = *t_set;
    cells(n, half, ex, [=] __device__(int64_t b, int64_t i) {
        int64_t t = rid ? mr_draw_t(seed, purpose, state->step, rid[b], t_max, &set) : b + 1;
        double a = (double)t * exp(-rate * (double)i);
        out[b * C + i] = (float)sin(a);
        out[b * C + half + i] = (float)cos(a);
    });
}

void silu_fwd(void *yv, const void *xv, int64_t n, const mr_exec *ex)
{
    act_t *y = (act_t *)yv;
    const act_t *x = (const act_t *)xv;
    each(n, ex, [=] __device__(int64_t i) { y[i] = mr_siluf(x[i]); });
}

void silu_bwd(void *dxv, const void *dyv, const void *xv, int64_t n, int acc, const mr_exec *ex)
{
    act_t *dx = (act_t *)dxv;
    const act_t *dy = (const act_t *)dyv, *x = (const act_t *)xv;
    each(n, ex, [=] __device__(int64_t i) { put(&dx[i], dy[i] * mr_silu_gradf(x[i]), acc); });
}
} // namespace MR_ACT_SPACE
