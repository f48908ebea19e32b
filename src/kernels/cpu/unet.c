/* U-Net kernels on the CPU: convolutions over the frame axis, resizing, concatenation, time
 * embedding. What it is not: an unfolding convolution. In [n,S,ci] the window of an output frame is
 * contiguous memory, so every frame is one matrix product read in place with a row stride of S *
 * ci; frames at the border simply have shorter windows. No copy of x is made and no zero is
 * multiplied. Invariant: sums over samples go through fixed blocks, never through the thread count.
 */
#include "kernels/cpu/real.h"
#include "kernels/shared/act.h"
#include "kernels/shared/draw.h"

/* Input frames lo..hi-1 of output frame u; tap of the first one. */
typedef struct window {
    int64_t lo, hi, tap;
} window;

static window window_of(const mr_conv *cv, int64_t u)
{
    int64_t mid = u * cv->stride;
    window w = {mid > 0 ? mid - 1 : 0, mid + 2 < cv->S ? mid + 2 : cv->S, mid > 0 ? 0 : 1};
    return w;
}

/* Elements between samples of x, and its first one. */
static int64_t x_ld(const mr_conv *cv)
{
    return (cv->x_framed ? mr_framed_period(cv->S) : cv->S) * cv->ci;
}
static const REAL *first_x(const void *x, const mr_conv *cv)
{
    return (const REAL *)x + (cv->x_framed ? cv->ci : 0);
}

static void conv_init(REAL *y, const REAL *bias, const REAL *res, const REAL *ctx,
                      const mr_conv *cv)
{
    int64_t w = cv->co, So = cv->So;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < cv->n; b++)
        for (int64_t u = 0; u < So; u++) {
            REAL *r = y + (b * So + u) * w;
            const REAL *q = res ? res + (b * So + u) * w : NULL,
                       *v = ctx ? ctx + b * cv->ctx_ld : NULL;
            if (bias && q && v)
                for (int64_t j = 0; j < w; j++) r[j] = bias[j] + q[j] + v[j];
            else {
                if (bias)
                    memcpy(r, bias, (size_t)w * sizeof *r);
                else
                    memset(r, 0, (size_t)w * sizeof *r);
                if (q)
                    for (int64_t j = 0; j < w; j++) r[j] += q[j];
                if (v)
                    for (int64_t j = 0; j < w; j++) r[j] += v[j];
            }
        }
}

void MR_FN(conv3_fwd)(void *y, const void *x, const void *w, const void *bias, const void *residual,
                      const void *context, const mr_conv *cv, const mr_exec *ex)
{
    /* The added terms are written first and the products accumulate onto them: OpenBLAS would
     * otherwise spend the same pass on zeroing y. */
    conv_init(y, bias, residual, context, cv);
    int64_t ci = cv->ci, co = cv->co;
    for (int64_t u = 0; u < cv->So; u++) {
        window q = window_of(cv, u);
        MR_FN(gemm)
        ((REAL *)y + u * co, first_x(x, cv) + q.lo * ci, (const REAL *)w + q.tap * ci, cv->n, co,
         (q.hi - q.lo) * ci, 0, 1, x_ld(cv), 3 * ci, cv->So * co, 1.0, 1.0, MR_ACT_ACT, ex);
    }
}

/* Weights for the gradient of x: flip[slot, o, i] = w[o, tap(slot), i]. Output frames u ascending
 * see an input frame through descending taps: 2,1,0 with stride 1; with stride 2 odd frames through
 * 2,0 and even frames through 1, so the order is 2,0,1. */
static void flip_weights(REAL *flip, const REAL *w, const mr_conv *cv)
{
    const int tap[2][3] = {{2, 1, 0}, {2, 0, 1}};
    int64_t ci = cv->ci, co = cv->co;
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < co; o++)
        for (int s = 0; s < 3; s++)
            memcpy(flip + (s * co + o) * ci, w + (o * 3 + tap[cv->stride - 1][s]) * ci,
                   (size_t)ci * sizeof *flip);
}

static void backward_x(void *dx, const void *dy, const void *w, const mr_conv *cv, int acc,
                       const mr_exec *ex)
{
    REAL *flip = ex->scratch;
    int64_t ci = cv->ci, co = cv->co;
    flip_weights(flip, w, cv);
    for (int64_t s = 0; s < cv->S; s++) {
        int64_t lo, hi, slot; /* output frames that see frame s; slot of the first one's tap */
        if (cv->stride == 1) {
            lo = s > 0 ? s - 1 : 0;
            hi = s + 2 < cv->So ? s + 2 : cv->So;
            slot = s > 0 ? 0 : 1;
        } else {
            lo = s / 2;
            hi = s % 2 ? (lo + 2 < cv->So ? lo + 2 : cv->So) : lo + 1;
            slot = s % 2 ? 0 : 2;
        }
        MR_FN(gemm)
        ((REAL *)dx + s * ci, (const REAL *)dy + lo * co, flip + slot * co * ci, cv->n, ci,
         (hi - lo) * co, 0, 0, cv->So * co, ci, cv->S * ci, 1.0, acc ? 1.0 : 0.0, MR_ACT_ACT, ex);
    }
}

static void backward_w(void *dw, const void *dy, const void *x, const mr_conv *cv, int acc,
                       const mr_exec *ex)
{
    int64_t ci = cv->ci, co = cv->co;
    /* A frame with a full window, if there is one, goes first and writes all taps. */
    int64_t first = -1;
    for (int64_t u = 0; u < cv->So && first < 0; u++) {
        window q = window_of(cv, u);
        if (q.hi - q.lo == 3) first = u;
    }
    if (!acc && (first < 0 || cv->n == 0)) {
        memset(dw, 0, (size_t)(3 * ci * co) * sizeof(REAL));
        acc = 1;
    }
    for (int64_t i = 0; i < cv->So; i++) {
        int64_t u = first < 0 ? i : (i + first) % cv->So;
        window q = window_of(cv, u);
        MR_FN(gemm)
        ((REAL *)dw + q.tap * ci, (const REAL *)dy + u * co, first_x(x, cv) + q.lo * ci, co,
         (q.hi - q.lo) * ci, cv->n, 1, 0, cv->So * co, x_ld(cv), 3 * ci, 1.0, acc || i ? 1.0 : 0.0,
         MR_ACT_ACT, ex);
    }
}

/* One block of samples: the copies and the block's column sums into part (may be NULL). */
static void add_block(REAL *part, REAL *dres, REAL *dctx, const REAL *dy, int64_t rows, int64_t S,
                      int64_t w, int64_t ctx_ld, int acc_res, int acc_ctx)
{
    if (part) memset(part, 0, (size_t)w * sizeof *part);
    for (int64_t b = 0; b < rows; b++)
        for (int64_t s = 0; s < S; s++) {
            const REAL *g = dy + (b * S + s) * w;
            if (part)
                for (int64_t j = 0; j < w; j++) part[j] += g[j];
            if (dres) {
                REAL *d = dres + (b * S + s) * w;
                if (acc_res)
                    for (int64_t j = 0; j < w; j++) d[j] += g[j];
                else if (d != g)
                    memcpy(d, g, (size_t)w * sizeof *d);
            }
            if (dctx) {
                REAL *d = dctx + b * ctx_ld;
                if (acc_ctx || s)
                    for (int64_t j = 0; j < w; j++) d[j] += g[j];
                else
                    memcpy(d, g, (size_t)w * sizeof *d);
            }
        }
}

void MR_FN(conv3_bwd_add)(void *dbias, void *dresv, void *dctxv, const void *dyv, int64_t n,
                          int64_t S, int64_t w, int64_t ctx_ld, int acc_bias, int acc_res,
                          int acc_ctx, const mr_exec *ex)
{
    REAL *part = ex->scratch, *dres = dresv, *dctx = dctxv, *out = dbias;
    const REAL *dy = dyv;
    int64_t n_blocks = (n + MR_SUM_BLOCK - 1) / MR_SUM_BLOCK;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < n_blocks; k++) {
        int64_t b = k * MR_SUM_BLOCK, rows = n - b < MR_SUM_BLOCK ? n - b : MR_SUM_BLOCK;
        add_block(dbias ? part + k * w : NULL, dres ? dres + b * S * w : NULL,
                  dctx ? dctx + b * ctx_ld : NULL, dy + b * S * w, rows, S, w, ctx_ld, acc_res,
                  acc_ctx);
    }
    if (out) MR_FN(col_sum)(out, part, n_blocks, w, acc_bias, ex);
}

void MR_FN(conv3_bwd_begin)(const mr_conv_begin *q, const void *dyv, const mr_exec *ex)
{
    const mr_conv *cv = &q->cv;
    const REAL *dy = dyv;
    REAL *to = q->unfolded;
    int64_t co = cv->co, P = x_ld(cv) / cv->ci;
    mr_exec own = *ex;
    own.scratch = q->scratch;
    if (q->dbias || q->dres || q->dctx) MR_FN(conv3_bwd_add)
    (q->dbias, q->dres, q->dctx, dy, cv->n, cv->So, co, cv->ctx_ld, q->acc.bias, q->acc.res,
     q->acc.ctx, &own);
    if (!to) return;
    memset(to, 0, (size_t)(mr_conv_rows(cv) * 3 * co) * sizeof *to);
    if (cv->x_framed) to += 3 * co;
    for (int64_t b = 0; b < cv->n; b++)
        for (int64_t s = 0; s < cv->S; s++)
            for (int64_t tap = 0; tap < 3; tap++) {
                int64_t u = s + 1 - tap;
                if (u < 0 || u % cv->stride || u / cv->stride >= cv->So) continue;
                const REAL *g = dy + (b * cv->So + u / cv->stride) * co;
                for (int64_t o = 0; o < co; o++) to[((b * P + s) * co + o) * 3 + tap] = g[o];
            }
}

/* Both gradients from unfolded dy. */
static void products(void *dx, void *dw, const void *unfolded, const void *x, const void *w,
                     const mr_conv *cv, const mr_conv_acc *acc, bool adds_x, const mr_exec *ex)
{
    int64_t ci = cv->ci, co3 = 3 * cv->co, S = cv->S, ld = x_ld(cv);
    const REAL *from = (const REAL *)unfolded + (cv->x_framed ? co3 : 0);
    mr_gemm_batch frames = {S, ci, co3, 0};
    if (dw) MR_FN(gemm)
    (dw, unfolded, x, co3, ci, mr_conv_rows(cv), 1, 0, co3, ci, ci, 1.0, acc->w ? 1.0 : 0.0,
     MR_REAL_ACT, ex);
    if (dx) MR_FN(gemm_batch)
    (dx, from, w, &frames, cv->n, ci, co3, 0, 0, ld / ci * co3, ci, S * ci, 1.0, adds_x ? 1.0 : 0.0,
     MR_ACT_ACT, ex);
}

void MR_FN(conv3_bwd)(void *dx, void *dw, void *dbias, void *dres, void *dctx, const void *dy,
                      const void *x, const void *w, const mr_conv *cv, const mr_conv_acc *acc,
                      const mr_exec *ex)
{
    if (cv->is_begun) {
        products(dx, dw, dy, x, w, cv, acc, acc->x || (dx && dres == dx), ex);
        return;
    }
    if (dw) backward_w(dw, dy, x, cv, acc->w, ex);
    if (dx) backward_x(dx, dy, w, cv, acc->x, ex);
    if (dbias || dres || dctx) MR_FN(conv3_bwd_add)
    (dbias, dres, dctx, dy, cv->n, cv->So, cv->co, cv->ctx_ld, acc->bias, acc->res, acc->ctx, ex);
}

void MR_FN(frame_add)(void *yv, const void *xv, const void *vv, int64_t n, int64_t S, int64_t c,
                      const mr_exec *ex)
{
    (void)ex;
    REAL *y = yv;
    const REAL *x = xv, *v = vv;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < n; b++)
        for (int64_t s = 0; s < S; s++) {
            int64_t o = (b * S + s) * c;
            for (int64_t j = 0; j < c; j++) y[o + j] = x[o + j] + v[b * c + j];
        }
}

void MR_FN(upsample_fwd)(void *yv, const void *xv, int64_t n, int64_t S, int64_t S2, int64_t c,
                         const mr_exec *ex)
{
    (void)ex;
    REAL *y = yv;
    const REAL *x = xv;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < n; b++)
        for (int64_t i = 0; i < S2; i++)
            memcpy(y + (b * S2 + i) * c, x + (b * S + i * S / S2) * c, (size_t)c * sizeof *y);
}

void MR_FN(upsample_bwd)(void *dxv, const void *dyv, int64_t n, int64_t S, int64_t S2, int64_t c,
                         int acc, const mr_conv_begin *next, const mr_exec *ex)
{
    REAL *dx = dxv;
    const REAL *dy = dyv;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < n; b++) {
        if (!acc) memset(dx + b * S * c, 0, (size_t)(S * c) * sizeof *dx);
        for (int64_t i = 0; i < S2; i++) {
            REAL *d = dx + (b * S + i * S / S2) * c;
            const REAL *g = dy + (b * S2 + i) * c;
            for (int64_t j = 0; j < c; j++) d[j] += g[j];
        }
    }
    if (next) MR_FN(conv3_bwd_begin)(next, dx, ex);
}

void MR_FN(concat_fwd)(void *yv, const void *av, const void *bv, const void *biasv, int64_t n,
                       int64_t wa, int64_t wb, const mr_exec *ex)
{
    (void)ex;
    REAL *y = yv;
    const REAL *a = av, *b = bv, *bias = biasv;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        REAL *r = y + i * (wa + wb);
        memcpy(r, a + i * wa, (size_t)wa * sizeof *r);
        if (wb) memcpy(r + wa, b + i * wb, (size_t)wb * sizeof *r);
        if (bias)
            for (int64_t j = 0; j < wa + wb; j++) r[j] += bias[j];
    }
}

static void copy_or_add(REAL *d, const REAL *g, int64_t w, int acc)
{
    if (acc)
        for (int64_t j = 0; j < w; j++) d[j] += g[j];
    else
        memcpy(d, g, (size_t)w * sizeof *d);
}

void MR_FN(concat_bwd)(void *dav, void *dbv, const void *dyv, int64_t n, int64_t wa, int64_t wb,
                       int acc_a, int acc_b, const mr_conv_begin *next, const mr_exec *ex)
{
    REAL *da = dav, *db = dbv;
    const REAL *dy = dyv;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const REAL *g = dy + i * (wa + wb);
        if (da) copy_or_add(da + i * wa, g, wa, acc_a);
        if (db) copy_or_add(db + i * wb, g + wa, wb, acc_b);
    }
    if (next) MR_FN(conv3_bwd_begin)(next, da, ex);
}

void MR_FN(time_embed)(void *outv, const uint32_t *rid, int64_t n, int64_t C, uint32_t purpose,
                       int64_t t_max, const mr_int_list *t_set, const mr_exec *ex)
{
    REAL *out = outv;
    int64_t half = C / 2;
    /* Computed in double: t w_i reaches hundreds of radians, and there are few of them. */
    double rate = half > 1 ? log(10000.0) / (double)(half - 1) : 0.0;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < n; b++) {
        double t =
            (double)(rid ? mr_draw_t(ex->seed, purpose, ex->state->step, rid[b], t_max, t_set)
                         : b + 1);
        for (int64_t i = 0; i < half; i++) {
            double a = t * exp(-rate * (double)i);
            out[b * C + i] = (REAL)sin(a);
            out[b * C + half + i] = (REAL)cos(a);
        }
    }
}

void MR_FN(silu_fwd)(void *yv, const void *xv, int64_t n, const mr_exec *ex)
{
    (void)ex;
    REAL *y = yv;
    const REAL *x = xv;
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) y[i] = mr_silu(x[i]);
}

void MR_FN(silu_bwd)(void *dxv, const void *dyv, const void *xv, int64_t n, int acc,
                     const mr_exec *ex)
{
    (void)ex;
    REAL *dx = dxv;
    const REAL *dy = dyv, *x = xv;
    if (acc) {
#pragma omp parallel for simd schedule(static)
        for (int64_t i = 0; i < n; i++) dx[i] += dy[i] * mr_silu_grad(x[i]);
    } else {
#pragma omp parallel for simd schedule(static)
        for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * mr_silu_grad(x[i]);
    }
}
