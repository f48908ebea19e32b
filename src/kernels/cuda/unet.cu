/* U-Net kernels: convolutions over the frame axis, resizing, concatenation, time embedding.
 * A convolution is one product for all frames: in a copy of x with a frame of zeros in front of
 * every sample and behind the last, [mr_framed_rows, ci], the window of output frame u is the 3 ci
 * elements from frame u * stride on, so the frames are a batch of equal products with a fixed
 * distance. Backward unfolds dy instead (mr_conv_begin), in one pass that the writer of dy may take
 * along; its products are those of a linear layer. Copies are in ex->scratch (mr_conv_scratch). */
#include "kernels/cuda/conv.cuh"
#include "kernels/shared/draw.h"

namespace MR_ACT_SPACE
{

/* Row i of the copy of x[n,S,c]: frames of a sample, and zeros around them. */
struct framed {
    const act_t *x;
    int64_t n, S, c;

    __device__ float at(int64_t i, int64_t j) const
    {
        int64_t P = mr_framed_period(S), b = i / P, f = i % P - 1;
        return b < n && f >= 0 && f < S ? (float)x[(b * S + f) * c + j] : 0.0f;
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
            terms.put_at(i / terms.So, i, j);
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
        pad, make_conv_terms(y, bias, res, ctx, cv), {(const act_t *)x, cv->n, cv->S, ci}, n_y};
    cells(n_y + (cv->x_framed ? 0 : mr_framed_rows(cv->n, cv->S)), ci > co ? ci : co, ex, p);
    conv_product(y, pad, w, cv, ex);
}

conv_begin make_conv_begin(const mr_conv_begin *q, const mr_exec *ex)
{
    const mr_conv *cv = &q->cv;
    conv_begin c = {};
    c.unfolded = (act_t *)q->unfolded;
    c.dbias = (float *)q->dbias;
    c.dres = (act_t *)q->dres;
    c.dctx = (act_t *)q->dctx;
    /* no samples: sums of nothing */
    c.sums = {(float *)q->scratch, cv->co, cv->co,
              (int)(cv->n > 0 ? pieces(cv->n, MR_CONV_BLOCK) : 1), queue_of(ex)->counters};
    c.n = cv->n;
    c.S = cv->S;
    c.So = cv->So;
    c.co = cv->co;
    c.P = cv->x_framed ? mr_framed_period(cv->S) : cv->S;
    c.ctx_ld = cv->ctx_ld;
    c.stride = cv->stride;
    c.acc_bias = q->acc.bias;
    c.acc_res = q->acc.res;
    c.acc_ctx = q->acc.ctx;
    return c;
}

/* A few samples a block. write(row, j): the thread's element of dy, which may be there already. */
template <class F> __global__ void conv_begin_kernel(conv_begin c, const act_t *dy, F write)
{
    int64_t k = blockIdx.x, first = k * MR_CONV_BLOCK;
    int64_t end = first + MR_CONV_BLOCK < c.n ? first + MR_CONV_BLOCK : c.n;
    for (int64_t j = threadIdx.x; j < c.co; j += blockDim.x) {
        float s = 0;
        for (int64_t b = first; b < end; b++) {
            for (int64_t u = 0; u < c.So; u++) write(b * c.So + u, j);
            s += c.channel(dy, b, j);
        }
        if (c.dbias) c.sums.part[k * c.co + j] = s;
    }
    if (c.dbias)
        add_parts(c.sums, (int)k, [&](int64_t j, float s) { put(&c.dbias[j], s, c.acc_bias); });
}

template <class F>
static void begin(const mr_conv_begin *q, const void *dy, F write, const mr_exec *ex)
{
    if (q->cv.n == 0 && !q->dbias) return;
    conv_begin c = make_conv_begin(q, ex);
    LAUNCH(conv_begin_kernel<F>, (unsigned)c.sums.count, threads_for(c.co), 0, ex, c,
           (const act_t *)dy, write);
}

void conv3_bwd_begin(const mr_conv_begin *q, const void *dy, const mr_exec *ex)
{
    if (q->unfolded || q->dbias || q->dres || q->dctx)
        begin(
            q, dy, [] __device__(int64_t, int64_t) {}, ex);
}

void conv3_bwd_add(void *dbias, void *dres, void *dctx, const void *dy, int64_t n, int64_t S,
                   int64_t w, int64_t ctx_ld, int acc_bias, int acc_res, int acc_ctx,
                   const mr_exec *ex)
{
    mr_conv_begin q = {};
    q.cv.n = n;
    q.cv.So = S;
    q.cv.co = w;
    q.cv.ctx_ld = ctx_ld;
    q.acc.bias = acc_bias;
    q.acc.res = acc_res;
    q.acc.ctx = acc_ctx;
    q.dbias = dbias;
    q.dres = dres;
    q.dctx = dctx;
    q.scratch = ex->scratch;
    conv3_bwd_begin(&q, dy, ex);
}

/* Unfolded dy makes backward that of a linear layer. dw is a long sum for few numbers, which the
 * library splits between blocks as it finds best. */
void conv3_bwd(void *dx, void *dw, void *dbias, void *dres, void *dctx, const void *dy,
               const void *x, const void *w, const mr_conv *cv, const mr_conv_acc *acc,
               const mr_exec *ex)
{
    int64_t n = cv->n, ci = cv->ci, co3 = 3 * cv->co, S = cv->S, rows = mr_conv_rows(cv);
    int64_t ld = cv->x_framed ? mr_framed_period(S) : S;
    /* The residual is written first, so where it is x the product adds to it. */
    bool is_same = dx && dres == dx;
    double beta_x = is_same || acc->x ? 1.0 : 0.0;
    const act_t *unfolded = (const act_t *)dy;
    if (!cv->is_begun) {
        float *sums = (float *)ex->scratch;
        act_t *space = (act_t *)(sums + mr_conv_sums(cv));
        mr_conv_begin q = {*cv, *acc, dx || dw ? space : NULL, dbias, dres, dctx, sums};
        if (is_same) q.acc.res = acc->x;
        conv3_bwd_begin(&q, dy, ex);
        unfolded = space;
    }
    if (dw)
        gemm(dw, unfolded, x, co3, ci, rows, 1, 0, co3, ci, ci, 1.0, acc->w ? 1.0 : 0.0,
             MR_REAL_ACT, ex);
    if (!dx) return;
    if (!cv->x_framed) {
        gemm(dx, unfolded, w, rows, ci, co3, 0, 0, co3, ci, ci, 1.0, beta_x, MR_ACT_ACT, ex);
        return;
    }
    mr_gemm_batch frames = {S, ci, co3, 0};
    gemm_batch(dx, unfolded + co3, w, &frames, n, ci, co3, 0, 0, ld * co3, ci, S * ci, 1.0, beta_x,
               MR_ACT_ACT, ex);
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
                  const mr_conv_begin *next, const mr_exec *ex)
{
    act_t *dx = (act_t *)dxv;
    const act_t *dy = (const act_t *)dyv;
    auto write = [=] __device__(int64_t i, int64_t j) {
        int64_t b = i / S, s = i % S;
        float v = acc ? (float)dx[i * c + j] : 0.0f;
        /* the frames that copy frame s: floor(u S / S2) = s */
        for (int64_t u = (s * S2 + S - 1) / S; u < S2 && u * S / S2 == s; u++)
            v += dy[(b * S2 + u) * c + j];
        dx[i * c + j] = v;
    };
    if (next)
        begin(next, dx, write, ex);
    else
        cells(n * S, c, ex, write);
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
                int acc_b, const mr_conv_begin *next, const mr_exec *ex)
{
    act_t *da = (act_t *)dav, *db = (act_t *)dbv;
    const act_t *dy = (const act_t *)dyv;
    /* One thread does column j of both: they may be one tensor, which then gets two terms. */
    auto write = [=] __device__(int64_t i, int64_t j) {
        const act_t *g = dy + i * (wa + wb) + j;
        if (j < wa && da) put(&da[i * wa + j], g[0], acc_a);
        if (j < wb && db) put(&db[i * wb + j], g[wa], acc_b);
    };
    if (!next) {
        cells(n, wa > wb ? wa : wb, ex, write);
        return;
    }
    /* The kernel goes through wa columns. */
    begin(
        next, da,
        [=] __device__(int64_t i, int64_t j) {
            for (int64_t k = j; k < wa || k < wb; k += wa) write(i, k);
        },
        ex);
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
