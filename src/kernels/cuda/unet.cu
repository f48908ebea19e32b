/* U-Net kernels: convolutions over the frame axis, resizing, concatenation, time embedding.
 * A convolution is one product for all frames: in a copy of x with a frame of zeros at either end,
 * [n,S+2,ci], the window of output frame u is the 3 ci elements from frame u * stride on, so the
 * frames are a batch of equal products with a fixed distance. Backward goes the same way over dy.
 * The copy is in ex->scratch (mr_conv_scratch). */
#include "kernels/cuda/common.cuh"
#include "kernels/shared/draw.h"

/* x[n,S,c] with a frame of zeros at either end of a sample: frame i of [n (S + 2)], channel j. */
struct framed {
    const float *x;
    int64_t S, c;

    __device__ float at(int64_t i, int64_t j) const
    {
        int64_t b = i / (S + 2), f = i % (S + 2) - 1;
        return f < 0 || f >= S ? 0.0f : x[(b * S + f) * c + j];
    }
};

/* conv3_fwd: a row is a frame of y, which gets the terms that the products are added to, or behind
 * those a frame of the copy of x. */
struct conv_prepare {
    float *y, *pad;
    const float *bias, *res, *ctx;
    framed x;
    int64_t n_y, So, co, ctx_ld;

    __device__ void operator()(int64_t i, int64_t j) const
    {
        if (i >= n_y) {
            if (j < x.c) pad[(i - n_y) * x.c + j] = x.at(i - n_y, j);
            return;
        }
        if (j >= co) return;
        float v = bias ? bias[j] : 0.0f;
        if (res) v += res[i * co + j];
        if (ctx) v += ctx[i / So * ctx_ld + j];
        y[i * co + j] = v;
    }
};

void conv3_fwd_cuda(void *yv, const void *xv, const void *w, const void *bias, const void *res,
                    const void *ctx, const mr_conv *cv, const mr_exec *ex)
{
    float *y = (float *)yv, *pad = (float *)ex->scratch;
    int64_t ci = cv->ci, co = cv->co, So = cv->So, P = cv->S + 2, n_y = cv->n * So;
    conv_prepare p = {y,
                      pad,
                      (const float *)bias,
                      (const float *)res,
                      (const float *)ctx,
                      {(const float *)xv, cv->S, ci},
                      n_y,
                      So,
                      co,
                      cv->ctx_ld};
    cells(n_y + cv->n * P, ci > co ? ci : co, ex, p);
    mr_gemm_batch frames = {So, co, cv->stride * ci, 0};
    gemm_batch_cuda(y, pad, w, &frames, cv->n, co, 3 * ci, 0, 1, P * ci, 3 * ci, So * co, 1.0, 1.0,
                    ex);
}

enum { ADD_BLOCK = 16 }; /* samples of a block; mr_conv_scratch has room for their sums */

/* Column j of a block of samples: partial sum, contexts, residual. */
struct conv_add {
    float *part, *dres, *dctx;
    const float *dy;
    int64_t n, S, w, ctx_ld;
    int acc_res, acc_ctx;

    __device__ void operator()(int64_t k, int64_t j) const
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
        if (part) part[k * w + j] = total;
    }
};

void conv3_bwd_add_cuda(void *dbias, void *dres, void *dctx, const void *dy, int64_t n, int64_t S,
                        int64_t w, int64_t ctx_ld, int acc_bias, int acc_res, int acc_ctx,
                        const mr_exec *ex)
{
    float *part = dbias ? (float *)ex->scratch : NULL;
    int64_t blocks = pieces(n, ADD_BLOCK);
    conv_add a = {part,   (float *)dres, (float *)dctx, (const float *)dy, n, S, w,
                  ctx_ld, acc_res,       acc_ctx};
    cells(blocks, w, ex, a);
    if (dbias) col_sum_cuda(dbias, part, blocks, w, acc_bias, ex);
}

/* Before the products of conv3_bwd: rows are frames of the copy of x, frames of the copy of dy,
 * rows of the weights as flip[slot,o,i] = w[o,tap(slot),i], blocks of the added terms. Output
 * frames ascending see an input frame through taps 2,1,0 with stride 1; with stride 2 odd frames
 * through 2,0 and even frames through 1, so the order is 2,0,1. */
struct conv_turn {
    float *pad_x, *pad_y, *flip;
    const float *w;
    framed x, dy;
    conv_add add;
    int64_t n_x, n_y, n_flip;
    bool strided;

    __device__ void operator()(int64_t i, int64_t j) const
    {
        int64_t ci = x.c, co = dy.c;
        if (i < n_x) {
            if (j < ci) pad_x[i * ci + j] = x.at(i, j);
            return;
        }
        i -= n_x;
        if (i < n_y) {
            if (j < co) pad_y[i * co + j] = dy.at(i, j);
            return;
        }
        i -= n_y;
        if (i < n_flip) {
            int64_t slot = i / co, o = i % co;
            int64_t tap = !strided ? 2 - slot : slot == 0 ? 2 : slot == 1 ? 0 : 1;
            if (j < ci) flip[i * ci + j] = w[(o * 3 + tap) * ci + j];
            return;
        }
        if (j < co) add(i - n_flip, j);
    }
};

static void product_x(float *dx, const float *pad, const float *flip, const mr_conv *cv, int acc,
                      const mr_exec *ex)
{
    int64_t ci = cv->ci, co = cv->co, S = cv->S, P = cv->So + 2;
    double beta = acc ? 1.0 : 0.0;
    if (cv->stride == 1) { /* dx[s] = dy[s - 1 .. s + 1] flip */
        mr_gemm_batch frames = {S, ci, co, 0};
        gemm_batch_cuda(dx, pad, flip, &frames, cv->n, ci, 3 * co, 0, 0, P * co, ci, S * ci, 1.0,
                        beta, ex);
        return;
    }
    /* dx[2 u] = dy[u] w1; dx[2 u + 1] = dy[u] w2 + dy[u + 1] w0 */
    mr_gemm_batch even = {(S + 1) / 2, 2 * ci, co, 0}, odd = {S / 2, 2 * ci, co, 0};
    gemm_batch_cuda(dx, pad + co, flip + 2 * co * ci, &even, cv->n, ci, co, 0, 0, P * co, ci,
                    S * ci, 1.0, beta, ex);
    gemm_batch_cuda(dx + ci, pad + co, flip, &odd, cv->n, ci, 2 * co, 0, 0, P * co, ci, S * ci, 1.0,
                    beta, ex);
}

/* dw from every frame's own product, frames ascending; dbias from the blocks' sums. */
static void finish_sums(float *dw, float *dbias, const float *of_frames, const float *of_blocks,
                        const mr_conv *cv, const mr_conv_acc *acc, const mr_exec *ex)
{
    int64_t n_w = dw ? 3 * cv->ci * cv->co : 0, frames = cv->n > 0 ? cv->So : 0, co = cv->co;
    int64_t blocks = pieces(cv->n, ADD_BLOCK);
    int acc_w = acc->w, acc_bias = acc->bias;
    each(n_w + (dbias ? co : 0), ex, [=] __device__(int64_t i) {
        float s = 0;
        if (i < n_w) {
            for (int64_t u = 0; u < frames; u++) s += of_frames[u * n_w + i];
            put(&dw[i], s, acc_w);
            return;
        }
        int64_t j = i - n_w;
        for (int64_t k = 0; k < blocks; k++) s += of_blocks[k * co + j];
        put(&dbias[j], s, acc_bias);
    });
}

void conv3_bwd_cuda(void *dxv, void *dwv, void *dbias, void *dresv, void *dctx, const void *dy,
                    const void *x, const void *w, const mr_conv *cv, const mr_conv_acc *acc,
                    const mr_exec *ex)
{
    float *dx = (float *)dxv, *dw = (float *)dwv, *dres = (float *)dresv;
    int64_t n = cv->n, ci = cv->ci, co = cv->co, So = cv->So, P = cv->S + 2, n_w = 3 * ci * co;
    float *pad_x = (float *)ex->scratch, *pad_y = pad_x + n * P * ci;
    float *flip = pad_y + n * (So + 2) * co, *of_frames = flip + n_w;
    float *of_blocks = of_frames + So * n_w;
    /* The residual is written first, so where it is x the product adds to it. */
    bool is_same = dx && dres == dx;
    conv_add add = {dbias ? of_blocks : NULL,
                    dres,
                    (float *)dctx,
                    (const float *)dy,
                    n,
                    So,
                    co,
                    cv->ctx_ld,
                    is_same ? acc->x : acc->res,
                    acc->ctx};
    conv_turn t = {pad_x,
                   pad_y,
                   flip,
                   (const float *)w,
                   {(const float *)x, cv->S, ci},
                   {(const float *)dy, So, co},
                   add,
                   dw ? n * P : 0,
                   dx ? n * (So + 2) : 0,
                   dx && n > 0 ? 3 * co : 0,
                   cv->stride == 2};
    int64_t blocks = dbias || dres || dctx ? pieces(n, ADD_BLOCK) : 0;
    cells(t.n_x + t.n_y + t.n_flip + blocks, ci > co ? ci : co, ex, t);
    mr_gemm_batch frames = {n > 0 && dw ? So : 0, n_w, co, cv->stride * ci};
    gemm_batch_cuda(of_frames, dy, pad_x, &frames, co, 3 * ci, n, 1, 0, So * co, P * ci, 3 * ci,
                    1.0, 0.0, ex);
    if (dx) product_x(dx, pad_y, flip, cv, is_same || acc->x, ex);
    if (dw || dbias) finish_sums(dw, (float *)dbias, of_frames, of_blocks, cv, acc, ex);
}

void frame_add_cuda(void *yv, const void *xv, const void *vv, int64_t n, int64_t S, int64_t c,
                    const mr_exec *ex)
{
    float *y = (float *)yv;
    const float *x = (const float *)xv, *v = (const float *)vv;
    cells(n * S, c, ex,
          [=] __device__(int64_t i, int64_t j) { y[i * c + j] = x[i * c + j] + v[i / S * c + j]; });
}

void upsample_fwd_cuda(void *yv, const void *xv, int64_t n, int64_t S, int64_t S2, int64_t c,
                       const mr_exec *ex)
{
    float *y = (float *)yv;
    const float *x = (const float *)xv;
    cells(n * S2, c, ex, [=] __device__(int64_t i, int64_t j) {
        y[i * c + j] = x[(i / S2 * S + i % S2 * S / S2) * c + j];
    });
}

void upsample_bwd_cuda(void *dxv, const void *dyv, int64_t n, int64_t S, int64_t S2, int64_t c,
                       int acc, const mr_exec *ex)
{
    float *dx = (float *)dxv;
    const float *dy = (const float *)dyv;
    cells(n * S, c, ex, [=] __device__(int64_t i, int64_t j) {
        int64_t b = i / S, s = i % S;
        float v = acc ? dx[i * c + j] : 0.0f;
        /* the frames that copy frame s: floor(u S / S2) = s */
        for (int64_t u = (s * S2 + S - 1) / S; u < S2 && u * S / S2 == s; u++)
            v += dy[(b * S2 + u) * c + j];
        dx[i * c + j] = v;
    });
}

void concat_fwd_cuda(void *yv, const void *av, const void *bv, const void *biasv, int64_t n,
                     int64_t wa, int64_t wb, const mr_exec *ex)
{
    float *y = (float *)yv;
    const float *a = (const float *)av, *b = (const float *)bv, *bias = (const float *)biasv;
    cells(n, wa + wb, ex, [=] __device__(int64_t i, int64_t j) {
        float v = j < wa ? a[i * wa + j] : b[i * wb + j - wa];
        y[i * (wa + wb) + j] = bias ? v + bias[j] : v;
    });
}

void concat_bwd_cuda(void *dav, void *dbv, const void *dyv, int64_t n, int64_t wa, int64_t wb,
                     int acc_a, int acc_b, const mr_exec *ex)
{
    float *da = (float *)dav, *db = (float *)dbv;
    const float *dy = (const float *)dyv;
    /* One thread does column j of both: they may be one tensor, which then gets two terms. */
    cells(n, wa > wb ? wa : wb, ex, [=] __device__(int64_t i, int64_t j) {
        const float *g = dy + i * (wa + wb) + j;
        if (j < wa && da) put(&da[i * wa + j], g[0], acc_a);
        if (j < wb && db) put(&db[i * wb + j], g[wa], acc_b);
    });
}

/* In double: t w_i reaches hundreds of radians, and there are few of them. */
void time_embed_cuda(void *outv, const uint32_t *rid, int64_t n, int64_t C, uint32_t purpose,
                     int64_t t_max, const mr_int_list *t_set, const mr_exec *ex)
{
    float *out = (float *)outv;
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

void silu_fwd_cuda(void *yv, const void *xv, int64_t n, const mr_exec *ex)
{
    float *y = (float *)yv;
    const float *x = (const float *)xv;
    each(n, ex, [=] __device__(int64_t i) { y[i] = mr_siluf(x[i]); });
}

void silu_bwd_cuda(void *dxv, const void *dyv, const void *xv, int64_t n, int acc,
                   const mr_exec *ex)
{
    float *dx = (float *)dxv;
    const float *dy = (const float *)dyv, *x = (const float *)xv;
    each(n, ex, [=] __device__(int64_t i) { put(&dx[i], dy[i] * mr_silu_gradf(x[i]), acc); });
}
