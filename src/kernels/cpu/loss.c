/* Losses and the parts of the sharded softmax cross-entropy.
 * What it is not: the matrix products between them, nor the exchange between ranks
 * (graph/op_softmax.c). Invariant: sums are taken in an order that does not depend on the number of
 * threads. */
#include "kernels/cpu/real.h"
#include "kernels/shared/act.h"

#define NORM_MIN 1e-12

void MR_FN(zero)(void *y, int64_t n, const mr_exec *ex)
{
    (void)ex;
    if (n > 0) memset(y, 0, (size_t)n * sizeof(REAL));
}

static void mse_loss(REAL *loss, const REAL *pred, const REAL *target, int64_t n, int64_t w,
                     double div)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t j = 0; j < w; j++) {
            double d = (double)(target[i * w + j] - pred[i * w + j]);
            part += d * d;
        }
        sum += part;
    }
    *loss = (REAL)(sum / div);
}

/* Those of n rows that belong to the batch. */
static int64_t rows_of_batch(int64_t n, const mr_exec *ex)
{
    return n < ex->state->rows ? n : ex->state->rows;
}

void MR_FN(mse)(void *loss, void *dpredv, void *dtargetv, const void *predv, const void *targetv,
                int64_t n, int64_t w, int64_t count, double weight, int acc_pred, int acc_target,
                const mr_exec *ex)
{
    REAL *dp = dpredv, *dt = dtargetv;
    const REAL *pred = predv, *target = targetv;
    double div = (double)ex->state->rows_global * (double)count;
    int64_t rows = rows_of_batch(n, ex);
    if (loss) mse_loss(loss, pred, target, rows, w, div);
    if (!dp && !dt) return;
    REAL c = (REAL)(2.0 * weight / div);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i * w; j < (i + 1) * w; j++) {
            REAL g = i < rows ? c * (pred[j] - target[j]) : 0;
            if (dp) dp[j] = acc_pred ? dp[j] + g : g;
            if (dt) dt[j] = acc_target ? dt[j] - g : -g;
        }
}

/* Dot product of two vectors; one order for all callers in this file. */
static inline double dot(const REAL *a, const REAL *b, int64_t w)
{
    REAL s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t j = 0; j < w; j++) s += a[j] * b[j];
    return (double)s;
}

void MR_FN(row_inv_norm)(void *invv, const void *xv, int64_t n, int64_t w, const mr_exec *ex)
{
    (void)ex;
    REAL *inv = invv;
    const REAL *x = xv;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        double norm = sqrt(dot(x + i * w, x + i * w, w));
        inv[i] = (REAL)(1.0 / (norm > NORM_MIN ? norm : NORM_MIN));
    }
}

void MR_FN(row_scale)(void *yv, const void *xv, const void *sv, int64_t n, int64_t w,
                      const mr_exec *ex)
{
    (void)ex;
    REAL *y = yv;
    const REAL *x = xv, *s = sv;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i * w; j < (i + 1) * w; j++) y[j] = s[i] * x[j];
}

void MR_FN(row_dot)(void *sv, const void *av, const void *bv, int64_t n, int64_t w,
                    const mr_exec *ex)
{
    (void)ex;
    REAL *s = sv;
    const REAL *a = av, *b = bv;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) s[i] = (REAL)dot(a + i * w, b + i * w, w);
}

void MR_FN(norm_project)(void *yv, const void *hv, const void *xv, const void *invv,
                         const void *s0v, int64_t n, int64_t w, int acc, const mr_exec *ex)
{
    (void)ex;
    REAL *y = yv;
    const REAL *h = hv, *x = xv, *inv = invv, *s0 = s0v;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const REAL *hi = h + i * w, *xi = x + i * w;
        REAL *yi = y + i * w, c = 0;
        if ((double)inv[i] * NORM_MIN < 1.0) {
            double d = dot(xi, hi, w) - (s0 ? (double)s0[i] : 0.0);
            c = (REAL)((double)inv[i] * (double)inv[i] * d);
        }
        if (acc)
            for (int64_t j = 0; j < w; j++) yi[j] += hi[j] - c * xi[j];
        else
            for (int64_t j = 0; j < w; j++) yi[j] = hi[j] - c * xi[j];
    }
}

/* One row: largest l, then q in place and the sum of exponentials. Partial sums of SUM_BLOCK
 * elements go into a double, so that 100,000 items cost no accuracy in float. */
enum { SUM_BLOCK = 1024 };

static REAL row_max(const REAL *raw, const REAL *cs, int64_t v, REAL scale)
{
    REAL m = -(REAL)HUGE_VAL;
    if (cs) {
#pragma omp simd reduction(max : m)
        for (int64_t c = 0; c < v; c++) {
            REAL l = raw[c] * (cs[c] * scale);
            m = l > m ? l : m;
        }
        return m;
    }
#pragma omp simd reduction(max : m)
    for (int64_t c = 0; c < v; c++) m = raw[c] > m ? raw[c] : m;
    return m * scale;
}

static double row_exp(REAL *raw, const REAL *cs, int64_t v, REAL scale, REAL m)
{
    double sum = 0;
    for (int64_t c0 = 0; c0 < v; c0 += SUM_BLOCK) {
        int64_t c1 = c0 + SUM_BLOCK < v ? c0 + SUM_BLOCK : v;
        REAL part = 0;
        if (cs) {
#pragma omp simd reduction(+ : part)
            for (int64_t c = c0; c < c1; c++) {
                REAL f = cs[c] * scale, e = mr_exp(raw[c] * f - m);
                part += e;
                raw[c] = f * e;
            }
        } else {
#pragma omp simd reduction(+ : part)
            for (int64_t c = c0; c < c1; c++) {
                REAL e = mr_exp(raw[c] * scale - m);
                part += e;
                raw[c] = scale * e;
            }
        }
        sum += (double)part;
    }
    return sum;
}

void MR_FN(ce_rows)(void *rawv, double *stats, const int32_t *target, const int32_t *skip,
                    const void *col_scale, int64_t n, int64_t v, int64_t lo, double scale,
                    double known_max, const mr_exec *ex)
{
    (void)ex;
    const REAL *cs = col_scale;
    REAL sc = (REAL)scale;
    bool is_known = known_max < (double)INFINITY;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < n; b++) {
        REAL *raw = (REAL *)rawv + b * v;
        double *st = stats + 3 * b;
        int64_t t = target[b] - lo, k = skip ? skip[b] - lo : -1;
        st[0] = -HUGE_VAL;
        st[1] = st[2] = 0.0;
        if (v == 0) continue;
        if (t >= 0 && t < v) st[2] = (double)(raw[t] * (cs ? cs[t] * sc : sc));
        /* Far below every logit, yet finite: its exponential vanishes in the sum. */
        if (k >= 0 && k < v) raw[k] = (REAL)-1e30;
        REAL m = is_known ? (REAL)known_max : row_max(raw, cs, v, sc);
        st[0] = (double)m;
        st[1] = row_exp(raw, cs, v, sc, m);
        if (k >= 0 && k < v) raw[k] = 0;
    }
}

void MR_FN(leave_out)(void *rawv, const int32_t *rank_rows, int64_t n, int64_t v, int64_t B,
                      int size, double x, const mr_exec *ex)
{
    (void)ex;
    REAL *raw = rawv;
    for (int64_t c = 0; c < v; c++) {
        if (c % B < rank_rows[c / B % size]) continue;
        for (int64_t b = 0; b < n; b++) raw[b * v + c] = (REAL)x;
    }
}

void MR_FN(ce_combine)(void *coefv, double *ce, void *xs, const double *stats,
                       const int32_t *target, const void *x, int64_t n, int64_t w, int size,
                       int rank, double weight, const mr_exec *ex)
{
    REAL *coef = coefv;
    double share = weight / (double)ex->state->rows_global;
    for (int64_t b = 0; b < n; b++) {
        double m = -HUGE_VAL, z = 0, t = 0;
        for (int r = 0; r < size; r++) {
            double mr = stats[(r * n + b) * 3];
            /* written so that a NaN is kept */
            m = mr <= m ? m : mr;
        }
        for (int r = 0; r < size; r++) {
            const double *s = stats + (r * n + b) * 3;
            z += s[1] * exp(s[0] - m);
            t += s[2];
        }
        bool is_row = target[b] >= 0;
        ce[b] = is_row ? m + log(z) - t : 0;
        coef[b] = is_row ? (REAL)(share * exp(stats[(rank * n + b) * 3] - m) / z) : 0;
    }
    if (xs) MR_FN(row_scale)(xs, x, coef, n, w, ex);
}

void MR_FN(ce_target)(void *dtablev, void *dxv, const void *tablev, const void *xv,
                      const int32_t *target, const void *col_scale, const double *ce,
                      const void *coef, int64_t n, int64_t v, int64_t w, int64_t lo, double scale,
                      double weight, const mr_exec *ex)
{
    REAL *dtable = dtablev, *dx = dxv;
    const REAL *table = tablev, *x = xv, *cs = col_scale;
    double g0 = weight / (double)ex->state->rows_global * scale;
    if (dx && coef) MR_FN(row_scale)(dx, dx, coef, n, w, ex);
    for (int64_t b = 0; b < n; b++) { /* rows may share a target: in order */
        int64_t t = target[b] - lo;
        if (t < 0 || t >= v) continue;
        double g1 = cs ? g0 * (double)cs[t] : g0;
        REAL g = (REAL)(ce ? g1 * -expm1(-ce[b]) : g1);
        if (dtable)
            for (int64_t j = 0; j < w; j++) dtable[t * w + j] -= g * x[b * w + j];
        if (dx)
            for (int64_t j = 0; j < w; j++) dx[b * w + j] -= g * table[t * w + j];
    }
}

void MR_FN(ce_sum)(void *loss, const double *ce, int64_t n, double alpha, const mr_exec *ex)
{
    double s = 0;
    for (int64_t b = 0; b < n; b++) s += ce[b];
    *(REAL *)loss = (REAL)(alpha * s / (double)ex->state->rows_global);
}

void MR_FN(pair_ids)(int32_t *target, int32_t *skip, int64_t B, int64_t first, int64_t G,
                     const mr_exec *ex)
{
    int64_t rows = rows_of_batch(B, ex);
    for (int64_t s = 0; s < 2; s++)
        for (int64_t i = 0; i < B; i++) {
            skip[s * B + i] = i < rows ? (int32_t)(s * G + first + i) : -1;
            target[s * B + i] = i < rows ? (int32_t)((1 - s) * G + first + i) : -1;
        }
}
