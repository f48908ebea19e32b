/* The CPU's side of the item head in bf16: what its CUDA kernels are compared with. Numbers are
 * widened to the real type, sums are real, results are rounded (kernels/shared/bf16.h).
 * What it is not: a way to train; a CPU has no bf16 arithmetic and refuses run.precision=bf16. */
#include <cblas.h>

#include "kernels/cpu/real.h"
#include "kernels/shared/act.h"
#include "kernels/shared/bf16.h"

#define NORM_MIN 1e-12

enum { TILE = 64, SUM_BLOCK = 1024 };

static inline REAL open(uint16_t h) { return (REAL)mr_bf16_to_float(h); }
static inline uint16_t rounded(REAL x) { return mr_float_to_bf16((float)x); }

void MR_FN(rows_to_bf16)(uint16_t *y, void *invv, const void *xv, const void *sv, int64_t n,
                         int64_t w, const mr_exec *ex)
{
    (void)ex;
    REAL *inv = invv;
    const REAL *x = xv, *s = sv;
    int64_t pitch = mr_bf16_pitch(w);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < mr_bf16_pitch(n); i++) {
        uint16_t *to = y + i * pitch;
        memset(to, 0, (size_t)pitch * sizeof *to);
        if (i >= n) continue;
        REAL f = s ? s[i] : 1, square = 0;
        for (int64_t j = 0; j < w; j++) {
            REAL v = x[i * w + j];
            square += v * v;
            to[j] = rounded(f * v);
        }
        double norm = sqrt((double)square);
        if (inv) inv[i] = (REAL)(1.0 / (norm > NORM_MIN ? norm : NORM_MIN));
    }
}

/* Up to TILE x TILE elements of op(a), from row i0 and column k0. */
static void open_tile(REAL *out, const uint16_t *a, int64_t i0, int64_t rows, int64_t k0,
                      int64_t cols, int t, int64_t ld)
{
    for (int64_t i = i0; i < i0 + rows; i++)
        for (int64_t k = k0; k < k0 + cols; k++)
            out[(i - i0) * TILE + k - k0] = open(t ? a[k * ld + i] : a[i * ld + k]);
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

void MR_FN(gemm_bf16)(void *cv, int c_is_bf16, const uint16_t *a, const uint16_t *b, int64_t m,
                      int64_t n, int64_t k, int ta, int tb, int64_t lda, int64_t ldb, int64_t ldc,
                      double alpha, double beta, const mr_exec *ex)
{
    (void)ex;
#pragma omp parallel for schedule(static)
    for (int64_t i0 = 0; i0 < m; i0 += TILE)
        for (int64_t j0 = 0; j0 < n; j0 += TILE) {
            REAL sum[TILE * TILE] = {0}, ra[TILE * TILE], rb[TILE * TILE];
            int64_t rows = least(m - i0, TILE), cols = least(n - j0, TILE);
            for (int64_t k0 = 0; k0 < k; k0 += TILE) {
                int64_t deep = least(k - k0, TILE);
                open_tile(ra, a, i0, rows, k0, deep, ta, lda);
                open_tile(rb, b, k0, deep, j0, cols, tb, ldb);
                MR_GEMM(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)cols, (int)deep,
                        (REAL)alpha, ra, TILE, rb, TILE, 1, sum, TILE);
            }
            for (int64_t e = 0; e < rows * cols; e++) {
                int64_t at = (i0 + e / cols) * ldc + j0 + e % cols;
                REAL *real = (REAL *)cv + at, v = sum[e / cols * TILE + e % cols];
                uint16_t *half = (uint16_t *)cv + at;
                if (beta != 0) v += (REAL)beta * (c_is_bf16 ? open(*half) : *real);
                if (c_is_bf16)
                    *half = rounded(v);
                else
                    *real = v;
            }
        }
}

/* One row: the sum of exponentials, and q in place. f_c = scale * col_scale. */
static double row_exp(uint16_t *raw, const REAL *cs, int64_t v, int64_t t, REAL scale, REAL m)
{
    double sum = 0;
    for (int64_t c0 = 0; c0 < v; c0 += SUM_BLOCK) {
        REAL part = 0;
        for (int64_t c = c0; c < v && c < c0 + SUM_BLOCK; c++) {
            REAL f = cs ? cs[c] * scale : scale, e = mr_exp(open(raw[c]) * f - m);
            part += e;
            raw[c] = c == t ? 0 : rounded(f * e);
        }
        sum += (double)part;
    }
    return sum;
}

void MR_FN(ce_rows_bf16)(uint16_t *rawv, double *stats, const int32_t *target,
                         const void *col_scale, int64_t n, int64_t v, int64_t lo, double scale,
                         double known_max, const mr_exec *ex)
{
    (void)ex;
    const REAL *cs = col_scale;
    REAL sc = (REAL)scale;
    bool is_known = known_max < (double)INFINITY;
    int64_t pitch = mr_bf16_pitch(v);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < n; b++) {
        uint16_t *raw = rawv + b * pitch;
        double *st = stats + 3 * b;
        int64_t t = target[b] - lo;
        REAL m = is_known && v > 0 ? (REAL)known_max : -(REAL)HUGE_VAL;
        st[2] = t >= 0 && t < v ? (double)(open(raw[t]) * (cs ? cs[t] * sc : sc)) : 0.0;
        for (int64_t c = 0; c < v && !is_known; c++) {
            REAL l = open(raw[c]) * (cs ? cs[c] * sc : sc);
            m = l > m ? l : m;
        }
        st[0] = (double)m;
        st[1] = row_exp(raw, cs, v, t, sc, m);
        memset(raw + v, 0, (size_t)(pitch - v) * sizeof *raw);
    }
}
