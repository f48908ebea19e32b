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

static inline int64_t wider(int64_t a, int64_t b) { return a > b ? a : b; }

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
    cells(n_y + cv->n * P, wider(ci, co), ex, p);
    mr_gemm_batch frames = {So, co, cv->stride * ci, 0};
    gemm_batch_cuda(y, pad, w, &frames, cv->n, co, 3 * ci, 0, 1, P * ci, 3 * ci, So * co, 1.0, 1.0,
                    ex);
}

/* conv3_bwd_x: a row is a frame of the copy of dy, or behind those of the weights as flip[slot,o,i]
 * = w[o,tap(slot),i]. Output frames ascending see an input frame through taps 2,1,0 with stride 1;
 * with stride 2 odd frames through 2,0 and even frames through 1, so the order is 2,0,1. */
struct conv_turn {
    float *pad, *flip;
    const float *w;
    framed dy;
    int64_t n_pad, ci;
    bool strided;

    __device__ void operator()(int64_t i, int64_t j) const
    {
        if (i < n_pad) {
            if (j < dy.c) pad[i * dy.c + j] = dy.at(i, j);
            return;
        }
        int64_t slot = (i - n_pad) / dy.c, o = (i - n_pad) % dy.c;
        int64_t tap = !strided ? 2 - slot : slot == 0 ? 2 : slot == 1 ? 0 : 1;
        if (j < ci) flip[(i - n_pad) * ci + j] = w[(o * 3 + tap) * ci + j];
    }
};

void conv3_bwd_x_cuda(void *dxv, const void *dy, const void *w, const mr_conv *cv, int acc,
                      const mr_exec *ex)
{
    float *dx = (float *)dxv, *pad = (float *)ex->scratch, beta = acc ? 1.0f : 0.0f;
    int64_t ci = cv->ci, co = cv->co, S = cv->S, P = cv->So + 2, n_pad = cv->n * P;
    float *flip = pad + n_pad * co;
    bool strided = cv->stride == 2;
    if (cv->n == 0) return;
    conv_turn t = {pad,   flip, (const float *)w, {(const float *)dy, cv->So, co},
                   n_pad, ci,   strided};
    cells(n_pad + 3 * co, wider(ci, co), ex, t);
    if (!strided) { /* dx[s] = dy[s - 1 .. s + 1] flip */
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

/* Every frame's own product in scratch behind the copy of x, then their sum, frames ascending. */
void conv3_bwd_w_cuda(void *dwv, const void *dy, const void *xv, const mr_conv *cv, int acc,
                      const mr_exec *ex)
{
    float *dw = (float *)dwv, *pad = (float *)ex->scratch;
    int64_t ci = cv->ci, co = cv->co, So = cv->So, P = cv->S + 2, n_w = 3 * ci * co;
    float *part = pad + cv->n * P * ci;
    framed x = {(const float *)xv, cv->S, ci};
    cells(cv->n * P, ci, ex,
          [=] __device__(int64_t i, int64_t j) { pad[i * ci + j] = x.at(i, j); });
    mr_gemm_batch frames = {cv->n > 0 ? So : 0, n_w, co, cv->stride * ci};
    gemm_batch_cuda(part, dy, pad, &frames, co, 3 * ci, cv->n, 1, 0, So * co, P * ci, 3 * ci, 1.0,
                    0.0, ex);
    int64_t count = frames.count;
    each(n_w, ex, [=] __device__(int64_t i) {
        float s = 0;
        for (int64_t u = 0; u < count; u++) s += part[u * n_w + i];
        put(&dw[i], s, acc);
    });
}

enum { ADD_BLOCK = 8 }; /* samples of a block: enough blocks to fill a GPU */

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
    cells(n, wa + wb, ex, [=] __device__(int64_t i, int64_t j) {
        float g = dy[i * (wa + wb) + j];
        if (j < wa && da) put(&da[i * wa + j], g, acc_a);
        if (j >= wa && db) put(&db[i * wb + j - wa], g, acc_b);
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
