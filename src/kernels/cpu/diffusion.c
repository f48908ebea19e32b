/* Diffusion kernels on the CPU: forward noise, its gradient, the posterior step, pooled condition.
 * Rows are independent; the normals of a row are made 64 at a time, in vectors, and used at once.
 * Invariant: what a row gets depends on its global row index alone. */
#include "kernels/cpu/real.h"
#include "kernels/shared/draw.h"

/* The columns of a sample. */
typedef struct span {
    int64_t w, ld, cols;
} span;

#if MR_REAL_BITS == 64
#define normals64 mr_normals64_f64
#else
#define normals64 mr_normals64_f32
#endif

/* A sample in rows of ld, of which cols count: as noisy_row, element by element. */
static void noisy_padded(REAL *out, const REAL *x, const REAL *y, REAL a, REAL b, REAL s,
                         const span *sp, uint32_t purpose, uint32_t rid, const mr_exec *ex)
{
    REAL eps[MR_NORMALS];
    int64_t n = sp->w / sp->ld * sp->cols;
    for (int64_t e = 0; e < n; e++) {
        int64_t at = e / sp->cols * sp->ld + e % sp->cols;
        if (e % MR_NORMALS == 0)
            normals64(eps, ex->seed, purpose, ex->state->step, rid, (uint32_t)(e / 4));
        out[at] = (x ? a * x[at] : 0) + (y ? b * y[at] : 0) + s * eps[e % MR_NORMALS];
    }
    for (int64_t r = 0; r < sp->w; r += sp->ld)
        for (int64_t j = sp->cols; j < sp->ld; j++) out[r + j] = 0;
}

/* out[w] = a x[w] + b y[w] + s eps[w]; y may be NULL (b = 0), x may be NULL (a = 0). */
static void noisy_row(REAL *out, const REAL *x, const REAL *y, REAL a, REAL b, REAL s,
                      const span *sp, uint32_t purpose, uint32_t rid, const mr_exec *ex)
{
    REAL eps[MR_NORMALS];
    int64_t w = sp->w;
    if (sp->cols != sp->ld) {
        noisy_padded(out, x, y, a, b, s, sp, purpose, rid, ex);
        return;
    }
    for (int64_t e = 0; e < w; e += MR_NORMALS) {
        int64_t m = w - e < MR_NORMALS ? w - e : MR_NORMALS;
        normals64(eps, ex->seed, purpose, ex->state->step, rid, (uint32_t)(e / 4));
        if (x && y)
            for (int64_t j = 0; j < m; j++) out[e + j] = a * x[e + j] + b * y[e + j] + s * eps[j];
        else if (x)
            for (int64_t j = 0; j < m; j++) out[e + j] = a * x[e + j] + s * eps[j];
        else
            for (int64_t j = 0; j < m; j++) out[e + j] = s * eps[j];
    }
}

static double row_abar(const double *abar, uint32_t rid, const mr_noise *nz, const mr_exec *ex)
{
    int64_t t =
        nz->t ? nz->t
              : mr_draw_t(ex->seed, nz->purpose_t, ex->state->step, rid, nz->t_max, nz->t_set);
    return abar[t];
}

void MR_FN(noise_fwd)(void *xtv, const void *x0v, const double *abar, const uint32_t *rid,
                      int64_t n, int64_t w, const mr_noise *nz, const mr_exec *ex)
{
    REAL *xt = xtv;
    const REAL *x0 = x0v;
    span sp = {w, nz->ld ? nz->ld : w, nz->ld ? nz->cols : w};
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        if (nz->pure) {
            noisy_row(xt + i * w, NULL, NULL, 0, 0, 1, &sp, nz->purpose_eps, rid[i], ex);
            continue;
        }
        double ab = row_abar(abar, rid[i], nz, ex);
        noisy_row(xt + i * w, x0 + i * w, NULL, (REAL)sqrt(ab), 0, (REAL)sqrt(1.0 - ab), &sp,
                  nz->purpose_eps, rid[i], ex);
    }
}

void MR_FN(noise_bwd)(void *dx0v, const void *dxtv, const double *abar, const uint32_t *rid,
                      int64_t n, int64_t w, const mr_noise *nz, int acc, const mr_exec *ex)
{
    REAL *dx0 = dx0v;
    const REAL *dxt = dxtv;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        REAL a = (REAL)sqrt(row_abar(abar, rid[i], nz, ex));
        REAL *d = dx0 + i * w;
        const REAL *g = dxt + i * w;
        if (acc)
            for (int64_t j = 0; j < w; j++) d[j] += a * g[j];
        else
            for (int64_t j = 0; j < w; j++) d[j] = a * g[j];
    }
}

void MR_FN(posterior)(void *outv, const void *xhatv, const void *xtv, const uint32_t *rid,
                      int64_t n, int64_t w, int64_t ld, int64_t cols, double c1, double c2,
                      double sd, uint32_t purpose, const mr_exec *ex)
{
    span sp = {w, ld, cols};
    REAL *out = outv, a = (REAL)c1, b = (REAL)c2, s = (REAL)sd;
    const REAL *xhat = xhatv, *xt = xtv;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        REAL *o = out + i * w;
        const REAL *p = xhat + i * w, *q = xt + i * w;
        if (sd != 0.0)
            noisy_row(o, p, q, a, b, s, &sp, purpose, rid[i], ex);
        else
            for (int64_t j = 0; j < w; j++) o[j] = a * p[j] + b * q[j];
    }
}

void MR_FN(pool_concat_fwd)(void *outv, const void *x0v, const void *framesv, const void *textv,
                            int64_t n, int64_t K, int64_t cols, int64_t d, int64_t w,
                            const mr_exec *ex)
{
    (void)ex;
    REAL *out = outv, inv = (REAL)(1.0 / (double)K);
    const REAL *x0 = x0v, *frames = framesv, *text = textv;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        REAL *o = out + i * w, *mid = o + cols;
        const REAL *f = frames + i * K * d;
        memcpy(o, x0 + i * d, (size_t)cols * sizeof *o);
        memcpy(mid, f, (size_t)cols * sizeof *o);
        for (int64_t k = 1; k < K; k++)
            for (int64_t j = 0; j < cols; j++) mid[j] += f[k * d + j];
        for (int64_t j = 0; j < cols; j++) mid[j] *= inv;
        memcpy(o + 2 * cols, text + i * d, (size_t)cols * sizeof *o);
        for (int64_t j = 3 * cols; j < w; j++) o[j] = 0;
    }
}

/* d[w] (+)= a g[cols], 0 behind. */
static void scaled_into(REAL *d, const REAL *g, int64_t cols, int64_t w, REAL a, int acc)
{
    if (acc)
        for (int64_t j = 0; j < cols; j++) d[j] += a * g[j];
    else
        for (int64_t j = 0; j < cols; j++) d[j] = a * g[j];
    for (int64_t j = cols; j < w; j++) d[j] = 0;
}

void MR_FN(pool_concat_bwd)(void *dx0v, void *dframesv, void *dtextv, const void *doutv, int64_t n,
                            int64_t K, int64_t cols, int64_t d, int64_t w, int acc_x0,
                            int acc_frames, int acc_text, const mr_exec *ex)
{
    (void)ex;
    REAL *dx0 = dx0v, *dframes = dframesv, *dtext = dtextv, inv = (REAL)(1.0 / (double)K);
    const REAL *dout = doutv;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const REAL *g = dout + i * w;
        if (dx0) scaled_into(dx0 + i * d, g, cols, d, 1, acc_x0);
        for (int64_t k = 0; dframes && k < K; k++)
            scaled_into(dframes + (i * K + k) * d, g + cols, cols, d, inv, acc_frames);
        if (dtext) scaled_into(dtext + i * d, g + 2 * cols, cols, d, 1, acc_text);
    }
}
