/* Layer normalisation with its residual and dropouts.
 * What it is not: group normalisation (unet.c).
 * A row fits the first cache, so the passes over it are separate simple loops. Parameter gradients
 * are summed by MR_NORM_PARTS fixed parts of the rows, then part by part: no dependence on threads.
 */
#include "kernels/cpu/mask.h"

/* u[w] = m_in * x + residual of row i; u may be x. */
static inline void row_input(REAL *u, const REAL *x, const REAL *res, int64_t w, const mask_gen *in,
                             int64_t i)
{
    if (in->is_on) {
        mask_apply(u, x, w, in, i);
        x = u;
    }
    if (res) {
        for (int64_t j = 0; j < w; j++) u[j] = x[j] + res[j];
    } else if (u != x) {
        memcpy(u, x, (size_t)w * sizeof *u);
    }
}

/* The w columns of a row that count; those behind are 0 and stay so. */
static inline void row_norm(REAL *y, const REAL *gamma, const REAL *beta, int64_t w, REAL eps,
                            REAL *mean_p, REAL *rstd_p)
{
    REAL sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < w; j++) sum += y[j];
    REAL mean = sum / (REAL)w;
#pragma omp simd reduction(+ : square)
    for (int64_t j = 0; j < w; j++) square += (y[j] - mean) * (y[j] - mean);
    REAL rstd = 1 / mr_sqrt(square / (REAL)w + eps);
    if (gamma && beta)
        for (int64_t j = 0; j < w; j++) y[j] = (y[j] - mean) * rstd * gamma[j] + beta[j];
    else
        for (int64_t j = 0; j < w; j++)
            y[j] = (y[j] - mean) * rstd * (gamma ? gamma[j] : 1) + (beta ? beta[j] : 0);
    *mean_p = mean;
    *rstd_p = rstd;
}

void MR_FN(layer_norm_fwd)(void *yv, void *meanv, void *rstdv, const void *xv, const void *resv,
                           const void *gammav, const void *betav, int64_t n, int64_t w,
                           int64_t cols, double eps, const mr_drop *din, const mr_drop *dout,
                           const mr_exec *ex)
{
    REAL *y = yv, *mean = meanv, *rstd = rstdv;
    const REAL *x = xv, *res = resv, *gamma = gammav, *beta = betav;
    mask_gen in = mask_make(din, ex), out = mask_make(dout, ex);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        REAL *r = y + i * w, mu, rs;
        row_input(r, x + i * w, res ? res + i * w : NULL, w, &in, i);
        row_norm(r, gamma, beta, cols, (REAL)eps, &mu, &rs);
        if (out.is_on) mask_apply(r, r, w, &out, i);
        if (mean) mean[i] = mu;
        if (rstd) rstd[i] = rs;
    }
}

/* In: xh = u, g = m_out * dy of one row. Out: g = du, xh is overwritten by the normalised row; the
 * parts of the parameter gradients are added to. */
static inline void row_backward(REAL *g, REAL *xh, REAL *part_gamma, REAL *part_beta,
                                const REAL *gamma, int64_t w, REAL mean, REAL rstd)
{
    REAL s1 = 0, s2 = 0;
    for (int64_t j = 0; j < w; j++) {
        xh[j] = (xh[j] - mean) * rstd;
        part_gamma[j] += g[j] * xh[j];
        part_beta[j] += g[j];
    }
    if (gamma)
        for (int64_t j = 0; j < w; j++) g[j] *= gamma[j];
#pragma omp simd reduction(+ : s1, s2)
    for (int64_t j = 0; j < w; j++) {
        s1 += g[j];
        s2 += g[j] * xh[j];
    }
    s1 /= (REAL)w;
    s2 /= (REAL)w;
    for (int64_t j = 0; j < w; j++) g[j] = rstd * (g[j] - s1 - xh[j] * s2);
}

static inline void row_store(REAL *d, const REAL *s, int64_t w, int acc)
{
    if (acc)
        for (int64_t j = 0; j < w; j++) d[j] += s[j];
    else
        memcpy(d, s, (size_t)w * sizeof *d);
}

/* out[w] (+)= sum over parts of part[p * stride + j], in order. */
static void sum_parts(REAL *out, const REAL *part, int64_t parts, int64_t stride, int64_t w,
                      int acc)
{
    if (!out) return;
    if (!acc) memset(out, 0, (size_t)w * sizeof *out);
    for (int64_t p = 0; p < parts; p++)
        for (int64_t j = 0; j < w; j++) out[j] += part[p * stride + j];
}

void MR_FN(layer_norm_bwd)(void *dxv, void *dresv, void *dgamma, void *dbeta, const void *dyv,
                           const void *xv, const void *resv, const void *gammav, const void *meanv,
                           const void *rstdv, int64_t n, int64_t w, int64_t cols, int acc_x,
                           int acc_res, int acc_gamma, int acc_beta, const mr_drop *din,
                           const mr_drop *dout, const mr_exec *ex)
{
    REAL *dx = dxv, *dres = dresv, *scratch = ex->scratch;
    const REAL *dy = dyv, *x = xv, *res = resv, *gamma = gammav, *mean = meanv, *rstd = rstdv;
    mask_gen in = mask_make(din, ex), out = mask_make(dout, ex);
    int64_t per_part = (n + MR_NORM_PARTS - 1) / MR_NORM_PARTS;
    int64_t parts = per_part ? (n + per_part - 1) / per_part : 0;
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < parts; p++) {
        REAL *pg = scratch + p * 4 * w, *pb = pg + w, *xh = pb + w, *g = xh + w;
        int64_t end = (p + 1) * per_part < n ? (p + 1) * per_part : n;
        memset(pg, 0, 2 * (size_t)w * sizeof *pg);
        for (int64_t i = p * per_part; i < end; i++) {
            row_input(xh, x + i * w, res ? res + i * w : NULL, w, &in, i);
            if (out.is_on)
                mask_apply(g, dy + i * w, w, &out, i);
            else
                memcpy(g, dy + i * w, (size_t)w * sizeof *g);
            row_backward(g, xh, pg, pb, gamma, cols, mean[i], rstd[i]);
            if (dx && in.is_on) {
                mask_apply(xh, g, w, &in, i);
                row_store(dx + i * w, xh, w, acc_x);
            } else if (dx) {
                row_store(dx + i * w, g, w, acc_x);
            }
            if (dres) row_store(dres + i * w, g, w, acc_res);
        }
    }
    sum_parts(dgamma, scratch, parts, 4 * w, w, acc_gamma);
    sum_parts(dbeta, scratch + w, parts, 4 * w, w, acc_beta);
}
