/* U-Net kernels: convolutions over the frame axis, resizing, concatenation, time embedding.
 * As on the CPU, every frame of a convolution is one matrix product read in place: in [n,S,ci] the
 * window of an output frame is contiguous. */
#include "kernels/cuda/common.cuh"
#include "kernels/shared/draw.h"

/* Input frames lo..hi-1 of output frame u; tap of the first one. */
struct window {
    int64_t lo, hi, tap;
};

static window window_of(const mr_conv *cv, int64_t u)
{
    int64_t mid = u * cv->stride;
    window w = {mid > 0 ? mid - 1 : 0, mid + 2 < cv->S ? mid + 2 : cv->S, mid > 0 ? 0 : 1};
    return w;
}

void conv3_fwd_cuda(void *yv, const void *xv, const void *wv, const void *biasv, const void *resv,
                    const void *ctxv, const mr_conv *cv, const mr_exec *ex)
{
    float *y = (float *)yv;
    const float *x = (const float *)xv, *w = (const float *)wv, *bias = (const float *)biasv;
    const float *res = (const float *)resv, *ctx = (const float *)ctxv;
    int64_t ci = cv->ci, co = cv->co, So = cv->So;
    /* The added terms first, the products accumulate onto them. */
    cells(cv->n * So, co, ex, [=] __device__(int64_t i, int64_t j) {
        float v = bias ? bias[j] : 0.0f;
        if (res) v += res[i * co + j];
        if (ctx) v += ctx[i / So * co + j];
        y[i * co + j] = v;
    });
    for (int64_t u = 0; u < So; u++) {
        window q = window_of(cv, u);
        gemm_cuda(y + u * co, x + q.lo * ci, w + q.tap * ci, cv->n, co, (q.hi - q.lo) * ci, 0, 1,
                  cv->S * ci, 3 * ci, So * co, 1.0, 1.0, ex);
    }
}

/* flip[slot, o, i] = w[o, tap(slot), i]: output frames u ascending see an input frame through taps
 * 2,1,0 with stride 1; with stride 2 odd frames through 2,0 and even frames through 1. */
static void flip_weights(float *flip, const float *w, const mr_conv *cv, const mr_exec *ex)
{
    int64_t ci = cv->ci, co = cv->co;
    bool strided = cv->stride == 2;
    cells(3 * co, ci, ex, [=] __device__(int64_t so, int64_t i) {
        int64_t slot = so / co, o = so % co;
        int64_t tap = !strided ? 2 - slot : slot == 0 ? 2 : slot == 1 ? 0 : 1;
        flip[so * ci + i] = w[(o * 3 + tap) * ci + i];
    });
}

void conv3_bwd_x_cuda(void *dx, const void *dy, const void *w, const mr_conv *cv, int acc,
                      const mr_exec *ex)
{
    float *flip = (float *)ex->scratch;
    int64_t ci = cv->ci, co = cv->co;
    flip_weights(flip, (const float *)w, cv, ex);
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
        gemm_cuda((float *)dx + s * ci, (const float *)dy + lo * co, flip + slot * co * ci, cv->n,
                  ci, (hi - lo) * co, 0, 0, cv->So * co, ci, cv->S * ci, 1.0, acc ? 1.0 : 0.0, ex);
    }
}

void conv3_bwd_w_cuda(void *dwv, const void *dy, const void *x, const mr_conv *cv, int acc,
                      const mr_exec *ex)
{
    float *dw = (float *)dwv;
    int64_t ci = cv->ci, co = cv->co, first = -1;
    /* A frame with a full window, if there is one, goes first and writes all taps. */
    for (int64_t u = 0; u < cv->So && first < 0; u++) {
        window q = window_of(cv, u);
        if (q.hi - q.lo == 3) first = u;
    }
    if (!acc && (first < 0 || cv->n == 0)) {
        each(3 * ci * co, ex, [=] __device__(int64_t i) { dw[i] = 0; });
        acc = 1;
    }
    if (cv->n == 0) return;
    for (int64_t i = 0; i < cv->So; i++) {
        int64_t u = first < 0 ? i : (i + first) % cv->So;
        window q = window_of(cv, u);
        gemm_cuda(dw + q.tap * ci, (const float *)dy + u * co, (const float *)x + q.lo * ci, co,
                  (q.hi - q.lo) * ci, cv->n, 1, 0, cv->So * co, cv->S * ci, 3 * ci, 1.0,
                  acc || i ? 1.0 : 0.0, ex);
    }
}

void conv3_bwd_add_cuda(void *dbias, void *dresv, void *dctxv, const void *dyv, int64_t n,
                        int64_t S, int64_t w, int acc_bias, int acc_res, int acc_ctx,
                        const mr_exec *ex)
{
    float *part = (float *)ex->scratch, *dres = (float *)dresv, *dctx = (float *)dctxv;
    const float *dy = (const float *)dyv;
    if (dbias) {
        int64_t blocks = pieces(n, MR_SUM_BLOCK), rows = MR_SUM_BLOCK * S;
        cells(blocks, w, ex, [=] __device__(int64_t k, int64_t j) {
            int64_t end = (k + 1) * rows < n * S ? (k + 1) * rows : n * S;
            float s = 0;
            for (int64_t i = k * rows; i < end; i++) s += dy[i * w + j];
            part[k * w + j] = s;
        });
        col_sum_cuda(dbias, part, blocks, w, acc_bias, ex);
    }
    if (dctx)
        cells(n, w, ex, [=] __device__(int64_t b, int64_t j) {
            float s = 0;
            for (int64_t f = 0; f < S; f++) s += dy[(b * S + f) * w + j];
            put(&dctx[b * w + j], s, acc_ctx);
        });
    if (dres) each(n * S * w, ex, [=] __device__(int64_t i) { put(&dres[i], dy[i], acc_res); });
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
