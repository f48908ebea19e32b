/* Diffusion kernels: forward noise, its gradient, the posterior step, pooled condition.
 * A thread makes the normals of a piece of a row, four of each Philox block, and uses them at once.
 * Invariant: what a row gets depends on its global row index alone. */
#include "kernels/cuda/common.cuh"
#include "kernels/shared/draw.h"

namespace MR_ACT_SPACE
{

/* How the t of a row is drawn; by value, the list is host memory otherwise. */
struct t_draw {
    uint64_t seed;
    const mr_step_state *state;
    uint32_t purpose;
    int64_t t, t_max;
    mr_int_list set;
    const double *abar; /* NULL: noise alone */

    __device__ double abar_of(uint32_t rid) const
    {
        if (!abar) return 0;
        return abar[t ? t : mr_draw_t(seed, purpose, state->step, rid, t_max, &set)];
    }
};

static t_draw t_draw_of(const mr_noise *nz, const double *abar, const mr_exec *ex)
{
    t_draw d = {};
    d.seed = ex->seed;
    d.state = ex->state;
    d.purpose = nz->purpose_t;
    d.t = nz->t;
    d.t_max = nz->t_max;
    if (nz->t_set) d.set = *nz->t_set;
    d.abar = nz->pure ? NULL : abar;
    return d;
}

template <class F>
__global__ void noise_kernel(t_draw draw, const uint32_t *rid, int64_t count, F f)
{
    SHARED(float, root, [2]);
    if (threadIdx.x == 0) {
        double ab = draw.abar_of(rid[blockIdx.x]);
        root[0] = (float)sqrt(ab);
        root[1] = (float)sqrt(1.0 - ab);
    }
    __syncthreads();
    for (int64_t q = threadIdx.x; q < count; q += blockDim.x)
        f((int64_t)blockIdx.x, q, root[0], root[1]);
}

/* f(i, q, sqrt(abar), sqrt(1 - abar)) of row i's t for pieces q of n rows of w elements. A block
 * is a row and draws its t once: that is as much work as a piece's noise. */
template <class F>
static void noisy_pieces(const t_draw &draw, const uint32_t *rid, int64_t n, int64_t w,
                         const mr_exec *ex, F f)
{
    int64_t q = pieces(w, PIECE);
    if (n > 0 && q > 0)
        LAUNCH(noise_kernel<F>, (unsigned)n, threads_for(q), 0, ex, draw, rid, q, f);
}

/* Elements j .. j + PIECE - 1 of a row of w, at once where rows fall into pieces; 0 behind its end.
 */
__device__ static inline void load_piece(float x[PIECE], const act_t *row, int64_t j, int64_t w)
{
    if (w % PIECE == 0) {
        load<PIECE>(x, row + j);
        return;
    }
    UNROLL
    for (int k = 0; k < PIECE; k++) x[k] = j + k < w ? (float)row[j + k] : 0.0f;
}
__device__ static inline void store_piece(act_t *row, const float x[PIECE], int64_t j, int64_t w,
                                          int acc)
{
    if (w % PIECE == 0) {
        store<PIECE>(row + j, x, acc);
        return;
    }
    UNROLL
    for (int k = 0; k < PIECE; k++)
        if (j + k < w) put(&row[j + k], x[k], acc);
}

/* The columns of a sample: rows of ld, of which cols count. Where there is a gap, rows are rounded
 * up to 16 bytes, so a piece lies in one of them. */
struct span {
    uint32_t ld, cols;

    /* How many elements from stored element `at` on count, as far as a piece goes. */
    __device__ int counted(int64_t at) const
    {
        return ld == cols ? PIECE : (int)cols - (int)((uint32_t)at % ld);
    }
    /* The normals of stored elements at .. at + PIECE - 1, a Philox block for four; one more where
     * the elements that count do not begin with a block. */
    __device__ void normals(float eps[PIECE], uint64_t seed, uint32_t purpose, uint32_t step,
                            uint32_t rid, int64_t at) const
    {
        uint32_t e = (uint32_t)at;
        if (ld != cols) e = e / ld * cols + e % ld;
        UNROLL
        for (int k = 0; k < PIECE; k += 4)
            mr_draw_normal4f(eps + k, seed, purpose, step, rid, e / 4 + (uint32_t)(k / 4));
        if (e % 4 == 0) return;
        float next[4];
        mr_draw_normal4f(next, seed, purpose, step, rid, e / 4 + PIECE / 4);
        for (uint32_t k = 0; k < e % 4; k++) { /* one further, so often */
            UNROLL
            for (int i = 0; i < PIECE - 1; i++) eps[i] = eps[i + 1];
            eps[PIECE - 1] = next[0];
            UNROLL
            for (int i = 0; i < 3; i++) next[i] = next[i + 1];
        }
    }
};

static span span_of(int64_t w, int64_t ld, int64_t cols)
{
    span s = {(uint32_t)(ld ? ld : w), (uint32_t)(ld ? cols : w)};
    return s;
}

void noise_fwd(void *xtv, const void *x0v, const double *abar, const uint32_t *rid, int64_t n,
               int64_t w, const mr_noise *nz, const mr_exec *ex)
{
    act_t *xt = (act_t *)xtv;
    const act_t *x0 = (const act_t *)x0v;
    t_draw draw = t_draw_of(nz, abar, ex);
    uint32_t purpose = nz->purpose_eps;
    bool pure = nz->pure;
    span sp = span_of(w, nz->ld, nz->cols);
    noisy_pieces(draw, rid, n, w, ex, [=] __device__(int64_t i, int64_t q, float a, float s) {
        int64_t j = PIECE * q;
        int counted = sp.counted(j);
        float eps[PIECE], x[PIECE] = {};
        sp.normals(eps, draw.seed, purpose, draw.state->step, rid[i], j);
        if (!pure) load_piece(x, x0 + i * w, j, w);
        UNROLL
        for (int k = 0; k < PIECE; k++) x[k] = k < counted ? a * x[k] + s * eps[k] : 0.0f;
        store_piece(xt + i * w, x, j, w, 0);
    });
}

void noise_bwd(void *dx0v, const void *dxtv, const double *abar, const uint32_t *rid, int64_t n,
               int64_t w, const mr_noise *nz, int acc, const mr_exec *ex)
{
    act_t *dx0 = (act_t *)dx0v;
    const act_t *dxt = (const act_t *)dxtv;
    t_draw draw = t_draw_of(nz, abar, ex);
    noisy_pieces(draw, rid, n, w, ex, [=] __device__(int64_t i, int64_t q, float a, float) {
        float d[PIECE];
        load_piece(d, dxt + i * w, PIECE * q, w);
        UNROLL
        for (int k = 0; k < PIECE; k++) d[k] *= a;
        store_piece(dx0 + i * w, d, PIECE * q, w, acc);
    });
}

void posterior(void *outv, const void *xhatv, const void *xtv, const uint32_t *rid, int64_t n,
               int64_t w, int64_t ld, int64_t cols, double c1, double c2, double sd,
               uint32_t purpose, const mr_exec *ex)
{
    act_t *out = (act_t *)outv;
    float a = (float)c1, b = (float)c2, s = (float)sd;
    const act_t *xhat = (const act_t *)xhatv, *xt = (const act_t *)xtv;
    uint64_t seed = ex->seed;
    const mr_step_state *state = ex->state;
    bool noisy = sd != 0.0;
    span sp = span_of(w, ld, cols);
    cells(n, pieces(w, PIECE), ex, [=] __device__(int64_t i, int64_t q) {
        int64_t j = PIECE * q;
        int counted = sp.counted(j);
        float eps[PIECE] = {}, x[PIECE], y[PIECE];
        if (noisy) sp.normals(eps, seed, purpose, state->step, rid[i], j);
        load_piece(x, xhat + i * w, j, w);
        load_piece(y, xt + i * w, j, w);
        UNROLL
        for (int k = 0; k < PIECE; k++)
            x[k] = k < counted ? a * x[k] + b * y[k] + s * eps[k] : 0.0f;
        store_piece(out + i * w, x, j, w, 0);
    });
}

/* V columns a thread, where the parts of a row can be cut so. */
template <int V>
static void pool_by(act_t *out, const act_t *x0, const act_t *frames, const act_t *text, int64_t n,
                    int64_t K, int64_t cols, int64_t d, int64_t w, const mr_exec *ex)
{
    float inv = (float)(1.0 / (double)K);
    cells(n, cols / V, ex, [=] __device__(int64_t i, int64_t q) {
        int64_t j = V * q;
        float s[V] = {}, v[V];
        for (int64_t k = 0; k < K; k++) {
            load<V>(v, frames + (i * K + k) * d + j);
            UNROLL
            for (int c = 0; c < V; c++) s[c] += v[c];
        }
        UNROLL
        for (int c = 0; c < V; c++) s[c] *= inv;
        act_t *o = out + i * w + j;
        load<V>(v, x0 + i * d + j);
        store<V>(o, v, 0);
        store<V>(o + cols, s, 0);
        load<V>(v, text + i * d + j);
        store<V>(o + 2 * cols, v, 0);
        for (int64_t c = 3 * cols; j == 0 && c < w; c++) o[c] = 0;
    });
}

template <int V>
static void pool_bwd_by(act_t *dx0, act_t *dframes, act_t *dtext, const act_t *dout, int64_t n,
                        int64_t K, int64_t cols, int64_t d, int64_t w, int acc_x0, int acc_frames,
                        int acc_text, const mr_exec *ex)
{
    float inv = (float)(1.0 / (double)K);
    cells(n, d / V, ex, [=] __device__(int64_t i, int64_t q) {
        int64_t j = V * q;
        const act_t *g = dout + i * w + j;
        bool counts = j < cols;
        float a[V] = {}, b[V] = {}, c[V] = {};
        if (counts) load<V>(a, g);
        if (counts) load<V>(b, g + cols);
        if (counts) load<V>(c, g + 2 * cols);
        UNROLL
        for (int k = 0; k < V; k++) b[k] *= inv;
        if (dx0) store<V>(dx0 + i * d + j, a, acc_x0);
        for (int64_t k = 0; dframes && k < K; k++)
            store<V>(dframes + (i * K + k) * d + j, b, acc_frames);
        if (dtext) store<V>(dtext + i * d + j, c, acc_text);
    });
}

enum { POOLED = 4 }; /* 300 columns and the parts that they begin are no multiple of eight */
static bool is_cut(int64_t cols, int64_t d, int64_t w)
{
    return cols % POOLED == 0 && d % POOLED == 0 && w % POOLED == 0;
}

void pool_concat_fwd(void *outv, const void *x0v, const void *framesv, const void *textv, int64_t n,
                     int64_t K, int64_t cols, int64_t d, int64_t w, const mr_exec *ex)
{
    act_t *out = (act_t *)outv;
    const act_t *x0 = (const act_t *)x0v, *frames = (const act_t *)framesv;
    const act_t *text = (const act_t *)textv;
    if (is_cut(cols, d, w))
        pool_by<POOLED>(out, x0, frames, text, n, K, cols, d, w, ex);
    else
        pool_by<1>(out, x0, frames, text, n, K, cols, d, w, ex);
}

void pool_concat_bwd(void *dx0v, void *dframesv, void *dtextv, const void *doutv, int64_t n,
                     int64_t K, int64_t cols, int64_t d, int64_t w, int acc_x0, int acc_frames,
                     int acc_text, const mr_exec *ex)
{
    act_t *dx0 = (act_t *)dx0v, *dframes = (act_t *)dframesv, *dtext = (act_t *)dtextv;
    const act_t *dout = (const act_t *)doutv;
    if (is_cut(cols, d, w))
        pool_bwd_by<POOLED>(dx0, dframes, dtext, dout, n, K, cols, d, w, acc_x0, acc_frames,
                            acc_text, ex);
    else
        pool_bwd_by<1>(dx0, dframes, dtext, dout, n, K, cols, d, w, acc_x0, acc_frames, acc_text,
                       ex);
}
} // namespace MR_ACT_SPACE
