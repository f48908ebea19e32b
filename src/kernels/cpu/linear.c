/* Matrix products (OpenBLAS), bias, activation, column sums. */
#include <cblas.h>

#include "kernels/cpu/real.h"
#include "kernels/shared/act.h"

enum { ACT_BLOCK = 4096 }; /* elements of a thread's piece */

void MR_FN(gemm)(void *c, const void *a, const void *b, int64_t m, int64_t n, int64_t k, int ta,
                 int tb, int64_t lda, int64_t ldb, int64_t ldc, double alpha, double beta,
                 mr_sides sides, const mr_exec *ex)
{
    (void)ex;
    (void)sides;
    if (m == 0 || n == 0) return;
    MR_GEMM(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (int)m,
            (int)n, (int)k, (REAL)alpha, a, (int)lda, b, (int)ldb, (REAL)beta, c, (int)ldc);
}

void MR_FN(gemm_batch)(void *c, const void *a, const void *b, const mr_gemm_batch *batch, int64_t m,
                       int64_t n, int64_t k, int ta, int tb, int64_t lda, int64_t ldb, int64_t ldc,
                       double alpha, double beta, mr_sides sides, const mr_exec *ex)
{
    for (int64_t q = 0; q < batch->count; q++) MR_FN(gemm)
    ((REAL *)c + q * batch->stride_c, (const REAL *)a + q * batch->stride_a,
     (const REAL *)b + q * batch->stride_b, m, n, k, ta, tb, lda, ldb, ldc, alpha, beta, sides, ex);
}

void MR_FN(linear_fwd)(void *y, void *pre, const void *x, const void *w, const void *b, int64_t n,
                       int64_t o, int64_t i, int act, const mr_exec *ex)
{
    MR_FN(gemm)(y, x, w, n, o, i, 0, 1, i, i, o, 1.0, 0.0, MR_ACT_ACT, ex);
    if (b || act != MR_ACT_NONE) MR_FN(bias_act_fwd)(y, pre, b, n, o, act, ex);
}

void MR_FN(linear_bwd_w)(void *dw, void *db, const void *dy, const void *x, int64_t n, int64_t o,
                         int64_t i, int acc_w, int acc_b, const mr_exec *ex)
{
    MR_FN(gemm)(dw, dy, x, o, i, n, 1, 0, o, i, i, 1.0, acc_w ? 1.0 : 0.0, MR_ACT_ACT, ex);
    if (db) MR_FN(col_sum)(db, dy, n, o, acc_b, ex);
}

void MR_FN(bias_act_fwd)(void *yv, void *prev, const void *biasv, int64_t n, int64_t w, int act,
                         const mr_exec *ex)
{
    (void)ex;
    REAL *y = yv, *pre = prev;
    const REAL *bias = biasv;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        REAL *r = y + i * w;
        if (bias)
            for (int64_t j = 0; j < w; j++) r[j] += bias[j];
        if (act != MR_ACT_NONE && pre) memcpy(pre + i * w, r, (size_t)w * sizeof *r);
        if (act == MR_ACT_GELU)
            for (int64_t j = 0; j < w; j++) r[j] = mr_gelu(r[j]);
        else if (act == MR_ACT_SILU)
            for (int64_t j = 0; j < w; j++) r[j] = mr_silu(r[j]);
    }
}

void MR_FN(act_fwd)(void *yv, const void *xv, int64_t n, int act, const mr_exec *ex)
{
    (void)ex;
    REAL *y = yv;
    const REAL *x = xv;
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < n; at += ACT_BLOCK) {
        int64_t end = at + ACT_BLOCK < n ? at + ACT_BLOCK : n;
        if (act == MR_ACT_GELU)
            for (int64_t i = at; i < end; i++) y[i] = mr_gelu(x[i]);
        else if (act == MR_ACT_SILU)
            for (int64_t i = at; i < end; i++) y[i] = mr_silu(x[i]);
        else if (y != x)
            memcpy(y + at, x + at, (size_t)(end - at) * sizeof *y);
    }
}

/* act_bwd of one row with y: what act and its derivative share is computed once. */
static void act_both(REAL *restrict d, REAL *restrict y, const REAL *restrict p, int64_t w, int act)
{
    for (int64_t j = 0; j < w && act == MR_ACT_GELU; j++) {
        d[j] *= mr_gelu_grad(p[j]);
        y[j] = mr_gelu(p[j]);
    }
    for (int64_t j = 0; j < w && act == MR_ACT_SILU; j++) {
        d[j] *= mr_silu_grad(p[j]);
        y[j] = mr_silu(p[j]);
    }
    if (act == MR_ACT_NONE) memcpy(y, p, (size_t)w * sizeof *y);
}

void MR_FN(act_bwd)(void *dprev, void *yv, const void *dyv, const void *prev, int64_t n, int64_t w,
                    int act, const mr_exec *ex)
{
    (void)ex;
    REAL *dpre = dprev, *y = yv;
    const REAL *dy = dyv, *pre = prev;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        REAL *d = dpre + i * w;
        const REAL *g = dy + i * w, *p = pre + i * w;
        if (y) {
            if (d != g) memcpy(d, g, (size_t)w * sizeof *d);
            act_both(d, y + i * w, p, w, act);
        } else if (act == MR_ACT_GELU)
            for (int64_t j = 0; j < w; j++) d[j] = g[j] * mr_gelu_grad(p[j]);
        else if (act == MR_ACT_SILU)
            for (int64_t j = 0; j < w; j++) d[j] = g[j] * mr_silu_grad(p[j]);
        else if (d != g)
            memcpy(d, g, (size_t)w * sizeof *d);
    }
}

void MR_FN(col_sum)(void *outv, const void *xv, int64_t n, int64_t w, int acc, const mr_exec *ex)
{
    (void)ex;
    REAL *out = outv;
    const REAL *x = xv;
    /* Column blocks in parallel, rows in order: the order of additions is fixed. */
#pragma omp parallel for schedule(static)
    for (int64_t j0 = 0; j0 < w; j0 += MR_CHUNK) {
        int64_t jn = w - j0 < MR_CHUNK ? w - j0 : MR_CHUNK;
        REAL s[MR_CHUNK] = {0};
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < jn; j++) s[j] += x[i * w + j0 + j];
        for (int64_t j = 0; j < jn; j++) out[j0 + j] = acc ? out[j0 + j] + s[j] : s[j];
    }
}

void MR_FN(add_row_bwd)(void *dx, void *dtable, const void *dy, int64_t n, int64_t w, int64_t first,
                        int64_t total, int acc_x, int acc_table, const mr_exec *ex)
{
    REAL *dt = dtable;
    if (!acc_table) {
        memset(dt, 0, (size_t)first * sizeof *dt);
        memset(dt + first + w, 0, (size_t)(total - first - w) * sizeof *dt);
    }
    MR_FN(col_sum)(dt + first, dy, n, w, acc_table, ex);
    if (dx) MR_FN(axpy)(dx, dy, n * w, 1.0, acc_x, MR_ACT_ACT, ex);
}

void MR_FN(axpy)(void *yv, const void *xv, int64_t n, double alpha, int acc, mr_sides sides,
                 const mr_exec *ex)
{
    (void)ex;
    (void)sides;
    REAL *y = yv, a = (REAL)alpha;
    const REAL *x = xv;
    if (acc) {
#pragma omp parallel for simd schedule(static)
        for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
    } else {
#pragma omp parallel for simd schedule(static)
        for (int64_t i = 0; i < n; i++) y[i] = a * x[i];
    }
}

/* Factor of element e of rows of w, of which cols count. */
static double probe_factor(int64_t e, int64_t cols, int64_t w)
{
    return e % w < cols ? cos(0.37 * (double)(e / w * cols + e % w) + 1.0) : 0.0;
}

void MR_FN(probe_fwd)(void *outv, const void *xv, int64_t n, int64_t cols, int64_t w,
                      const mr_exec *ex)
{
    (void)ex;
    const REAL *x = xv;
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += (double)x[i] * probe_factor(i, cols, w);
    *(REAL *)outv = (REAL)s;
}

void MR_FN(probe_bwd)(void *dxv, int64_t n, int64_t cols, int64_t w, double weight, int acc,
                      const mr_exec *ex)
{
    (void)ex;
    REAL *dx = dxv;
    for (int64_t i = 0; i < n; i++) {
        REAL d = (REAL)(weight * probe_factor(i, cols, w));
        dx[i] = acc ? dx[i] + d : d;
    }
}
