/* Diffusion kernels: forward noise, its gradient, the posterior step, pooled condition.
 * A thread makes the four normals of one Philox block and uses them at once.
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

    __device__ int64_t of(uint32_t rid) const
    {
        return t ? t : mr_draw_t(seed, purpose, state->step, rid, t_max, &set);
    }
};

static t_draw t_draw_of(const mr_noise *nz, const mr_exec *ex)
{
    t_draw d = {};
    d.seed = ex->seed;
    d.state = ex->state;
    d.purpose = nz->purpose_t;
    d.t = nz->t;
    d.t_max = nz->t_max;
    if (nz->t_set) d.set = *nz->t_set;
    return d;
}

/* Elements j .. j + 3 of a row of w, at once where rows are multiples of four; 0 behind its end. */
__device__ static inline void load4(float x[4], const act_t *row, int64_t j, int64_t w)
{
    if (w % 4 == 0) {
        load<4>(x, row + j);
        return;
    }
    for (int k = 0; k < 4; k++) x[k] = j + k < w ? (float)row[j + k] : 0.0f;
}
__device__ static inline void store4(act_t *row, const float x[4], int64_t j, int64_t w, int acc)
{
    if (w % 4 == 0) {
        store<4>(row + j, x, acc);
        return;
    }
    for (int k = 0; k < 4 && j + k < w; k++) put(&row[j + k], x[k], acc);
}

/* The columns of a sample: rows of ld, of which cols count. */
struct span {
    int64_t ld, cols;

    /* The normals of stored elements 4 q .. 4 q + 3, which lie in one row where there is a gap: of
     * one Philox block or two. */
    __device__ void normals(float eps[4], uint64_t seed, uint32_t purpose, uint32_t step,
                            uint32_t rid, int64_t q) const
    {
        int64_t e = ld == cols ? 4 * q : element(4 * q), from = e % 4;
        mr_draw_normal4f(eps, seed, purpose, step, rid, (uint32_t)(e / 4));
        if (from == 0) return;
        float next[4];
        mr_draw_normal4f(next, seed, purpose, step, rid, (uint32_t)(e / 4 + 1));
        for (int k = 0; k < from; k++) { /* one further, from times */
            for (int i = 0; i < 3; i++) eps[i] = eps[i + 1];
            eps[3] = next[0];
            for (int i = 0; i < 3; i++) next[i] = next[i + 1];
        }
    }
    /* Its number among the elements that count. */
    __device__ int64_t element(int64_t at) const { return at / ld * cols + at % ld; }
    __device__ bool counts(int64_t at) const { return ld == cols || at % ld < cols; }
};

static span span_of(int64_t w, int64_t ld, int64_t cols)
{
    span s = {ld ? ld : w, ld ? cols : w};
    return s;
}

void noise_fwd(void *xtv, const void *x0v, const double *abar, const uint32_t *rid, int64_t n,
               int64_t w, const mr_noise *nz, const mr_exec *ex)
{
    act_t *xt = (act_t *)xtv;
    const act_t *x0 = (const act_t *)x0v;
    t_draw draw = t_draw_of(nz, ex);
    uint32_t purpose = nz->purpose_eps;
    bool pure = nz->pure;
    span sp = span_of(w, nz->ld, nz->cols);
    cells(n, pieces(w, 4), ex, [=] __device__(int64_t i, int64_t q) {
        float eps[4], a = 0, s = 1;
        sp.normals(eps, draw.seed, purpose, draw.state->step, rid[i], q);
        if (!pure) {
            double ab = abar[draw.of(rid[i])];
            a = (float)sqrt(ab);
            s = (float)sqrt(1.0 - ab);
        }
        float x[4] = {};
        if (!pure) load4(x, x0 + i * w, 4 * q, w);
        for (int k = 0; k < 4; k++) x[k] = sp.counts(4 * q + k) ? a * x[k] + s * eps[k] : 0.0f;
        store4(xt + i * w, x, 4 * q, w, 0);
    });
}

void noise_bwd(void *dx0v, const void *dxtv, const double *abar, const uint32_t *rid, int64_t n,
               int64_t w, const mr_noise *nz, int acc, const mr_exec *ex)
{
    act_t *dx0 = (act_t *)dx0v;
    const act_t *dxt = (const act_t *)dxtv;
    t_draw draw = t_draw_of(nz, ex);
    cells(n, pieces(w, 4), ex, [=] __device__(int64_t i, int64_t q) {
        float a = (float)sqrt(abar[draw.of(rid[i])]), d[4];
        load4(d, dxt + i * w, 4 * q, w);
        for (int k = 0; k < 4; k++) d[k] *= a;
        store4(dx0 + i * w, d, 4 * q, w, acc);
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
    cells(n, pieces(w, 4), ex, [=] __device__(int64_t i, int64_t q) {
        float eps[4] = {0, 0, 0, 0};
        if (noisy) sp.normals(eps, seed, purpose, state->step, rid[i], q);
        float x[4], y[4];
        load4(x, xhat + i * w, 4 * q, w);
        load4(y, xt + i * w, 4 * q, w);
        for (int k = 0; k < 4; k++)
            x[k] = sp.counts(4 * q + k) ? a * x[k] + b * y[k] + s * eps[k] : 0.0f;
        store4(out + i * w, x, 4 * q, w, 0);
    });
}

void pool_concat_fwd(void *outv, const void *x0v, const void *framesv, const void *textv, int64_t n,
                     int64_t K, int64_t cols, int64_t d, int64_t w, const mr_exec *ex)
{
    act_t *out = (act_t *)outv;
    float inv = (float)(1.0 / (double)K);
    const act_t *x0 = (const act_t *)x0v, *frames = (const act_t *)framesv;
    const act_t *text = (const act_t *)textv;
    cells(n, cols, ex, [=] __device__(int64_t i, int64_t j) {
        float s = 0;
        for (int64_t k = 0; k < K; k++) s += frames[(i * K + k) * d + j];
        act_t *o = out + i * w + j;
        o[0] = x0[i * d + j];
        o[cols] = s * inv;
        o[2 * cols] = text[i * d + j];
        for (int64_t c = 3 * cols; j == 0 && c < w; c++) o[c] = 0;
    });
}

void pool_concat_bwd(void *dx0v, void *dframesv, void *dtextv, const void *doutv, int64_t n,
                     int64_t K, int64_t cols, int64_t d, int64_t w, int acc_x0, int acc_frames,
                     int acc_text, const mr_exec *ex)
{
    act_t *dx0 = (act_t *)dx0v, *dframes = (act_t *)dframesv, *dtext = (act_t *)dtextv;
    float inv = (float)(1.0 / (double)K);
    const act_t *dout = (const act_t *)doutv;
    cells(n, d, ex, [=] __device__(int64_t i, int64_t j) {
        const act_t *g = dout + i * w + j;
        bool counts = j < cols;
        if (dx0) put(&dx0[i * d + j], counts ? (float)g[0] : 0.0f, acc_x0);
        for (int64_t k = 0; dframes && k < K; k++)
            put(&dframes[(i * K + k) * d + j], counts ? inv * g[cols] : 0.0f, acc_frames);
        if (dtext) put(&dtext[i * d + j], counts ? (float)g[2 * cols] : 0.0f, acc_text);
    });
}
} // namespace MR_ACT_SPACE
