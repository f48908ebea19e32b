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

/* y[V] = x[V] */
template <int V> __device__ static inline void copy(act_t *y, const act_t *x)
{
    *(several<act_t, V> *)y = at_once<several<act_t, V>>(x);
}

/* conv3_fwd: a row is a frame of y, which gets the terms that the products are added to, or behind
 * those a frame of the copy of x[n,S,ci], with zeros around samples. */
struct conv_prepare {
    act_t *pad;
    const act_t *x;
    conv_terms terms;
    int64_t n, S, ci, n_y;

    template <int V> __device__ void at(int64_t i, int64_t j) const
    {
        if (i >= n_y) {
            if (j < ci) frame<V>(i - n_y, j);
        } else if (j < terms.co) {
            terms.put_at<V>(i / terms.So, i, j);
        }
    }
    template <int V> __device__ void frame(int64_t i, int64_t j) const
    {
        const float none[V] = {};
        int64_t P = mr_framed_period(S), b = i / P, f = i % P - 1;
        if (b < n && f >= 0 && f < S)
            copy<V>(pad + i * ci + j, x + (b * S + f) * ci + j);
        else
            store<V>(pad + i * ci + j, none, 0);
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
        pad, (const act_t *)x, make_conv_terms(y, bias, res, ctx, cv), cv->n, cv->S, ci, n_y};
    bool in_pieces =
        p.terms.splits<PIECE>() && splits_by<PIECE>(p.x, ci) && splits_by<PIECE>(pad, ci);
    cells_by(in_pieces, n_y + (cv->x_framed ? 0 : mr_framed_rows(cv->n, cv->S)), ci > co ? ci : co,
             ex, p);
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

/* Whoever writes dy in the same pass: nobody. */
struct written {
    template <int V> __device__ void at(int64_t, int64_t) const {}
};

enum { BEGIN_V = 4 }; /* channels of a thread, all frames of which it keeps */

/* MR_CONV_BLOCK samples a block, `at_once` of them at a time: a thread does V channels of one.
 * write.at<V>(row, j): those of dy. */
template <int V, class F>
__global__ void conv_begin_kernel(conv_begin c, const act_t *dy, F write, int at_once)
{
    SHARED_REST(float, sums); /* [at_once,co] where that is more than one */
    int threads = (int)blockDim.x / at_once, own = (int)threadIdx.x / threads;
    int64_t k = blockIdx.x, first = k * MR_CONV_BLOCK;
    int64_t end = first + MR_CONV_BLOCK < c.n ? first + MR_CONV_BLOCK : c.n;
    for (int64_t j = (int)threadIdx.x % threads * V; j < c.co; j += threads * V) {
        float s[V] = {};
        for (int64_t b = first + own; b < end; b += at_once) {
            for (int64_t u = 0; u < c.So; u++) write.template at<V>(b * c.So + u, j);
            c.channels<V>(s, dy, b, j);
        }
        float *to = at_once > 1 ? sums + own * c.co : c.sums.part + k * c.co;
        if (c.dbias) store<V>(to + j, s, 0);
    }
    if (!c.dbias) return;
    __syncthreads();
    for (int64_t j = threadIdx.x; at_once > 1 && j < c.co; j += blockDim.x) {
        float s = 0;
        for (int r = 0; r < at_once; r++) s += sums[r * c.co + j];
        c.sums.part[k * c.co + j] = s;
    }
    add_parts(c.sums, (int)k, [&](int64_t j, float s) { put(&c.dbias[j], s, c.acc_bias); });
}

template <int V, class F>
static void begin_by(const conv_begin &c, const void *dy, F write, const mr_exec *ex)
{
    unsigned threads = threads_for(c.co / V);
    int at_once = MR_CONV_BLOCK * threads <= MOST_THREADS ? MR_CONV_BLOCK : 1;
    size_t shared = c.dbias && at_once > 1 ? (size_t)(at_once * c.co) * sizeof(float) : 0;
    LAUNCH((conv_begin_kernel<V, F>), (unsigned)c.sums.count, threads * (unsigned)at_once, shared,
           ex, c, (const act_t *)dy, write, at_once);
}

/* in_pieces: what `write` touches falls into pieces of BEGIN_V. */
template <class F>
static void begin(const mr_conv_begin *q, const void *dy, bool in_pieces, F write,
                  const mr_exec *ex)
{
    if (q->cv.n == 0 && !q->dbias) return;
    conv_begin c = make_conv_begin(q, ex);
    if (in_pieces && splits_by<BEGIN_V>((const act_t *)dy, c.co) && c.splits<BEGIN_V>())
        begin_by<BEGIN_V>(c, dy, write, ex);
    else
        begin_by<1>(c, dy, write, ex);
}

void conv3_bwd_begin(const mr_conv_begin *q, const void *dy, const mr_exec *ex)
{
    if (q->unfolded || q->dbias || q->dres || q->dctx) begin(q, dy, true, written(), ex);
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

/* frame_add */
struct adder {
    act_t *y;
    const act_t *x, *v;
    int64_t S, c;

    template <int V> __device__ void at(int64_t i, int64_t j) const
    {
        float a[V], b[V];
        load<V>(a, x + i * c + j);
        load<V>(b, v + i / S * c + j);
        add<V>(a, b);
        store<V>(y + i * c + j, a, 0);
    }
};

void frame_add(void *y, const void *x, const void *v, int64_t n, int64_t S, int64_t c,
               const mr_exec *ex)
{
    adder f = {(act_t *)y, (const act_t *)x, (const act_t *)v, S, c};
    cells_by(splits_by<PIECE>(f.y, c) && splits_by<PIECE>(f.x, c) && splits_by<PIECE>(f.v, c),
             n * S, c, ex, f);
}

/* Frame u of S2 copies frame floor(u S / S2) of S. */
struct upsample {
    act_t *y;
    const act_t *x;
    int64_t S, S2, c;

    template <int V> __device__ void at(int64_t i, int64_t j) const
    {
        copy<V>(y + i * c + j, x + (i / S2 * S + i % S2 * S / S2) * c + j);
    }
};

void upsample_fwd(void *y, const void *x, int64_t n, int64_t S, int64_t S2, int64_t c,
                  const mr_exec *ex)
{
    upsample f = {(act_t *)y, (const act_t *)x, S, S2, c};
    cells_by(splits_by<PIECE>(f.y, c) && splits_by<PIECE>(f.x, c), n * S2, c, ex, f);
}

struct upsample_back {
    act_t *dx;
    const act_t *dy;
    int64_t S, S2, c;
    int acc;

    template <int V> __device__ void at(int64_t i, int64_t j) const
    {
        int64_t b = i / S, s = i % S;
        float v[V] = {}, more[V];
        if (acc) load<V>(v, dx + i * c + j);
        /* the frames that copy frame s */
        for (int64_t u = (s * S2 + S - 1) / S; u < S2 && u * S / S2 == s; u++) {
            load<V>(more, dy + (b * S2 + u) * c + j);
            add<V>(v, more);
        }
        store<V>(dx + i * c + j, v, 0);
    }
};

void upsample_bwd(void *dx, const void *dy, int64_t n, int64_t S, int64_t S2, int64_t c, int acc,
                  const mr_conv_begin *next, const mr_exec *ex)
{
    upsample_back f = {(act_t *)dx, (const act_t *)dy, S, S2, c, acc};
    bool in_pieces = splits_by<PIECE>(f.dx, c) && splits_by<PIECE>(f.dy, c);
    if (next)
        begin(next, dx, in_pieces, f, ex);
    else
        cells_by(in_pieces, n * S, c, ex, f);
}

struct concat {
    act_t *y;
    const act_t *a, *b;
    const float *bias;
    int64_t wa, wb;

    template <int V> __device__ void at(int64_t i, int64_t j) const
    {
        float v[V], more[V];
        load<V>(v, j < wa ? a + i * wa + j : b + i * wb + j - wa);
        if (bias) {
            load<V>(more, bias + j);
            add<V>(v, more);
        }
        store<V>(y + i * (wa + wb) + j, v, 0);
    }
};

void concat_fwd(void *y, const void *a, const void *b, const void *bias, int64_t n, int64_t wa,
                int64_t wb, const mr_exec *ex)
{
    concat f = {(act_t *)y, (const act_t *)a, (const act_t *)b, (const float *)bias, wa, wb};
    bool in_pieces = splits_by<PIECE>(f.y, wa + wb) && splits_by<PIECE>(f.a, wa) &&
                     splits_by<PIECE>(f.b, wb) && splits_by<PIECE>(f.bias, wa + wb);
    cells_by(in_pieces, n, wa + wb, ex, f);
}

/* One thread does columns j of both: they may be one tensor, which then gets two terms. */
struct concat_back {
    act_t *da, *db;
    const act_t *dy;
    int64_t wa, wb, step; /* step: columns that threads go through; wb may be more */
    int acc_a, acc_b;

    template <int V> __device__ void at(int64_t i, int64_t first) const
    {
        for (int64_t j = first; j < wa || j < wb; j += step) {
            const act_t *g = dy + i * (wa + wb) + j;
            float v[V];
            if (j < wa && da) {
                load<V>(v, g);
                store<V>(da + i * wa + j, v, acc_a);
            }
            if (j < wb && db) {
                load<V>(v, g + wa);
                store<V>(db + i * wb + j, v, acc_b);
            }
        }
    }
};

void concat_bwd(void *da, void *db, const void *dy, int64_t n, int64_t wa, int64_t wb, int acc_a,
                int acc_b, const mr_conv_begin *next, const mr_exec *ex)
{
    int64_t step = next || wa > wb ? wa : wb;
    concat_back f = {(act_t *)da, (act_t *)db, (const act_t *)dy, wa, wb, step, acc_a, acc_b};
    bool in_pieces = splits_by<PIECE>(f.da, wa) && splits_by<PIECE>(f.db, wb) &&
                     splits_by<PIECE>(f.dy, wa + wb) && wa % PIECE == 0 && wb % PIECE == 0;
    if (next)
        begin(next, da, in_pieces, f, ex);
    else
        cells_by(in_pieces, n, step, ex, f);
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
