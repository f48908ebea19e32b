/* TedRec: gates, dropout and mixing of the experts; circular convolutions with gates.
 * What it is not: the experts' matrix products (graph/op_moe.c calls gemm).
 * Invariant: sums over rows are kept per block of MR_FUSE_BLOCK rows and added in order, so the
 * result does not depend on the number of threads. */
#include "kernels/cpu/real.h"
#include "kernels/shared/act.h"
#include "kernels/shared/dropout.h"

void MR_FN(moe_drop)(void *yv, const void *xv, mr_rows_of rows, int64_t n, int64_t w, int j,
                     int count, int E, double p, uint32_t purpose, const mr_exec *ex)
{
    REAL *y = yv;
    const REAL *x = xv;
    REAL scale = (REAL)mr_drop_scale(p);
    uint32_t limit = mr_drop_threshold(p), step = ex->state->step;
#pragma omp parallel for schedule(static)
    for (int64_t q = 0; q < count * n; q++) {
        int64_t i = q % n;
        uint32_t first = mr_drop_first_block((int64_t)rows.pos[i] * E + j + q / n, w);
        for (int64_t c0 = 0; c0 < w; c0 += MR_DROP_CHUNK) {
            uint16_t bits[MR_DROP_CHUNK];
            int64_t m = w - c0 < MR_DROP_CHUNK ? w - c0 : MR_DROP_CHUNK;
            mr_drop_chunk(bits, ex->seed, purpose, step, rows.rid[i], first + (uint32_t)(c0 / 8));
            const REAL *xi = x + i * w + c0;
            REAL *yi = y + q * w + c0;
            for (int64_t c = 0; c < m; c++) yi[c] = bits[c] >= limit ? xi[c] * scale : 0;
        }
    }
}

static inline double softplus(double x) { return x > 30.0 ? x : log1p(exp(x)); }

/* Standard normals of all experts at one position. */
static void gate_noise(double *eps, int E, int64_t pos, uint32_t rid, uint32_t purpose,
                       const mr_exec *ex)
{
    uint32_t base = MR_MOE_NOISE + (uint32_t)(pos * ((E + 3) / 4));
    for (int j = 0; j < E; j += 4) {
        mr_u32x4 r = mr_philox(ex->seed, purpose, ex->state->step, rid, base + (uint32_t)(j / 4));
        double n[4];
        mr_normal2(r.v[0], r.v[1], &n[0], &n[1]);
        mr_normal2(r.v[2], r.v[3], &n[2], &n[3]);
        for (int i = 0; i < 4 && j + i < E; i++) eps[j + i] = n[i];
    }
}

void MR_FN(moe_gate_fwd)(void *pv, void *factorv, const void *cleanv, const void *noisyv,
                         const int32_t *start, const uint32_t *rid, int64_t B, int64_t L, int E,
                         int use_noise, uint32_t purpose, const mr_exec *ex)
{
    REAL *p = pv, *factor = factorv;
    const REAL *clean = cleanv, *noisy = noisyv;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < B; b++)
        for (int64_t l = 0; l < L; l++) {
            bool is_token = l < start[b + 1] - start[b];
            int64_t n = start[b] - start[0] + l;
            double g[MR_MOE_MAX_EXPERTS], eps[MR_MOE_MAX_EXPERTS], m = -HUGE_VAL, sum = 0;
            if (use_noise) gate_noise(eps, E, l, rid[b], purpose, ex);
            for (int j = 0; j < E; j++) {
                g[j] = is_token ? (double)clean[n * E + j] : 0.0;
                if (use_noise) {
                    double z = is_token ? (double)noisy[n * E + j] : 0.0;
                    g[j] += eps[j] * (softplus(z) + 0.01);
                    if (is_token) factor[n * E + j] = (REAL)(eps[j] * mr_sigmoid_f64(z));
                }
                m = g[j] > m ? g[j] : m;
            }
            for (int j = 0; j < E; j++) sum += g[j] = exp(g[j] - m);
            for (int j = 0; j < E; j++) p[(b * L + l) * E + j] = (REAL)(g[j] / sum);
        }
}

void MR_FN(moe_mix_fwd)(void *uv, const void *yv, const void *pv, const void *tv,
                        const int32_t *start, int64_t B, int64_t L, int E, int64_t d,
                        const mr_exec *ex)
{
    (void)ex;
    REAL *u = uv;
    const REAL *y = yv, *p = pv, *t = tv;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < B; b++)
        for (int64_t l = 0; l < L; l++) {
            bool is_token = l < start[b + 1] - start[b];
            REAL *ul = u + (b * L + l) * d;
            const REAL *yn = y + (start[b] - start[0] + l) * E * d, *q = p + (b * L + l) * E;
            memset(ul, 0, (size_t)d * sizeof *ul);
            for (int j = 0; j < E; j++) {
                const REAL *tj = t + ((int64_t)j * L + l) * d, *yj = yn + (int64_t)j * d;
                if (is_token)
                    for (int64_t c = 0; c < d; c++) ul[c] += q[j] * (yj[c] - tj[c]);
                else
                    for (int64_t c = 0; c < d; c++) ul[c] -= q[j] * tj[c];
            }
        }
}

void MR_FN(moe_gate_bwd)(void *dcleanv, void *dnoisyv, const void *duv, const void *yv,
                         const void *pv, const void *tv, const void *factorv, const int32_t *start,
                         int64_t B, int64_t N, int64_t L, int E, int64_t d, const mr_exec *ex)
{
    (void)ex;
    REAL *dclean = dcleanv, *dnoisy = dnoisyv;
    const REAL *du = duv, *y = yv, *p = pv, *t = tv, *factor = factorv;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < B; b++)
        for (int64_t l = 0; l < start[b + 1] - start[b]; l++) {
            int64_t n = start[b] - start[0] + l;
            const REAL *g = du + (b * L + l) * d, *q = p + (b * L + l) * E;
            double a[MR_MOE_MAX_EXPERTS], mean = 0;
            for (int j = 0; j < E; j++) {
                const REAL *yj = y + (n * E + j) * d, *tj = t + ((int64_t)j * L + l) * d;
                REAL s = 0;
#pragma omp simd reduction(+ : s)
                for (int64_t c = 0; c < d; c++) s += g[c] * (yj[c] - tj[c]);
                a[j] = (double)s;
                mean += (double)q[j] * a[j];
            }
            for (int j = 0; j < E; j++) {
                double v = (double)q[j] * (a[j] - mean);
                dclean[n * E + j] = (REAL)v;
                if (dnoisy) dnoisy[n * E + j] = (REAL)(v * (double)factor[n * E + j]);
            }
        }
    for (int64_t i = (int64_t)(start[B] - start[0]) * E; i < N * E; i++) {
        dclean[i] = 0;
        if (dnoisy) dnoisy[i] = 0;
    }
}

void MR_FN(moe_weigh)(void *zv, const void *duv, const void *pv, const int32_t *row,
                      const int32_t *pos, int64_t n, int64_t L, int E, int j, int count, int64_t d,
                      const mr_exec *ex)
{
    (void)ex;
    REAL *z = zv;
    const REAL *du = duv, *p = pv;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        REAL *zn = z + i * count * d;
        int64_t at = row[i] * L + pos[i];
        if (row[i] < 0) {
            memset(zn, 0, (size_t)(count * d) * sizeof *zn);
            continue;
        }
        const REAL *q = p + at * E + j, *g = du + at * d;
        for (int k = 0; k < count; k++)
            for (int64_t c = 0; c < d; c++) zn[k * d + c] = q[k] * g[c];
    }
}

/* Weight of bin k in irfft, and the cosine and sine of position m. */
static void bin(double *c, double *s, int64_t k, int64_t m, int64_t L)
{
    bool is_real = k == 0 || 2 * k == L;
    double w = 6.283185307179586476925 * (double)((k * m) % L) / (double)L;
    double f = (is_real ? 1.0 : 2.0) / (double)L;
    *c = f * cos(w);
    *s = is_real ? 0.0 : f * sin(w);
}

void MR_FN(fuse_filter_fwd)(void *kv, const void *filterv, int64_t L, int64_t d, const mr_exec *ex)
{
    (void)ex;
    REAL *k = kv;
    const REAL *f = filterv;
    for (int64_t m = 0; m < L; m++) {
        REAL *km = k + m * d;
        memset(km, 0, (size_t)d * sizeof *km);
        for (int64_t b = 0; b <= L / 2; b++) {
            double co, si;
            bin(&co, &si, b, m, L);
            const REAL *fb = f + b * d * 2;
            for (int64_t c = 0; c < d; c++)
                km[c] += (REAL)co * fb[2 * c] - (REAL)si * fb[2 * c + 1];
        }
    }
}

/* out[n] (+)= x[n] */
static void take(REAL *out, const REAL *x, int64_t n, bool acc)
{
    for (int64_t i = 0; i < n; i++) out[i] = acc ? out[i] + x[i] : x[i];
}

void MR_FN(fuse_params_bwd)(void *dfilterv, void *dwp, void *dwf, void *dbp, void *dbf,
                            const void *sums, int64_t L, int64_t d, unsigned acc, const mr_exec *ex)
{
    (void)ex;
    REAL *df = dfilterv;
    const REAL *dk = sums, *gates = dk + L * d;
    take(dwp, gates, d, acc & 2);
    take(dwf, gates + d, d, acc & 4);
    take(dbp, gates + 2 * d, 1, acc & 8);
    take(dbf, gates + 2 * d + 1, 1, acc & 16);
    for (int64_t b = 0; b <= L / 2; b++) {
        REAL *fb = df + b * d * 2;
        if (!(acc & 1)) memset(fb, 0, (size_t)d * 2 * sizeof *fb);
        for (int64_t m = 0; m < L; m++) {
            double co, si;
            bin(&co, &si, b, m, L);
            const REAL *km = dk + m * d;
            for (int64_t c = 0; c < d; c++) {
                fb[2 * c] += (REAL)co * km[c];
                fb[2 * c + 1] -= (REAL)si * km[c];
            }
        }
    }
}

/* p[len,d], f[len,d] of one row. */
static void convolve(REAL *p, REAL *f, const REAL *a, const REAL *u, const REAL *k, int64_t len,
                     int64_t L, int64_t d)
{
    REAL r = (REAL)(1.0 / sqrt((double)L));
    for (int64_t n = 0; n < len; n++) {
        REAL *pn = p + n * d, *fn = f + n * d;
        memset(pn, 0, (size_t)d * sizeof *pn);
        memset(fn, 0, (size_t)d * sizeof *fn);
        for (int64_t m = 0; m < L; m++) {
            int64_t o = (n - m + L) % L;
            const REAL *am = a + m * d, *ko = k + o * d, *uo = u + o * d;
            for (int64_t c = 0; c < d; c++) {
                pn[c] += am[c] * ko[c];
                fn[c] += am[c] * uo[c];
            }
        }
        for (int64_t c = 0; c < d; c++) fn[c] *= r;
    }
}

static REAL dot(const REAL *a, const REAL *b, int64_t d)
{
    REAL s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t c = 0; c < d; c++) s += a[c] * b[c];
    return s;
}

void MR_FN(fuse_fwd)(void *hv, const void *av, const void *uv, const void *kv, const void *wp,
                     const void *bp, const void *wf, const void *bf, const int32_t *start,
                     int64_t B, int64_t N, int64_t L, int64_t d, const mr_exec *ex)
{
    REAL *h = hv;
    const REAL *a = av, *u = uv, *k = kv;
    int64_t blocks = (B + MR_FUSE_BLOCK - 1) / MR_FUSE_BLOCK;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < blocks; i++) {
        REAL *p = (REAL *)ex->scratch + i * mr_fuse_block_reals(L, d), *f = p + L * d;
        for (int64_t b = i * MR_FUSE_BLOCK; b < B && b < (i + 1) * MR_FUSE_BLOCK; b++) {
            int64_t len = start[b + 1] - start[b];
            convolve(p, f, a + b * L * d, u + b * L * d, k, len, L, d);
            for (int64_t n = 0; n < len; n++) {
                const REAL *pn = p + n * d, *fn = f + n * d;
                REAL gp = 2 * mr_sigmoid(dot(pn, wp, d) + *(const REAL *)bp);
                REAL gf = 2 * mr_sigmoid(dot(fn, wf, d) + *(const REAL *)bf);
                REAL *hn = h + (start[b] + n) * d;
                for (int64_t c = 0; c < d; c++) hn[c] = gp * pn[c] + gf * fn[c];
            }
        }
    }
    if (N > start[B]) memset(h + start[B] * d, 0, (size_t)((N - start[B]) * d) * sizeof *h);
}

/* Backward through 2 z sigmoid(z.w + b) at one position: dz = .., dw +=, db +=. */
static void gate_back(REAL *dz, REAL *dw, REAL *db, const REAL *dh, const REAL *z, const REAL *w,
                      REAL bias, int64_t d)
{
    REAL s = mr_sigmoid(dot(z, w, d) + bias);
    REAL e = 2 * dot(dh, z, d) * s * (1 - s);
    for (int64_t c = 0; c < d; c++) {
        dz[c] = 2 * s * dh[c] + e * w[c];
        dw[c] += e * z[c];
    }
    *db += e;
}

/* Backward through the two convolutions of one row, from dp, df [len,d]; f's 1/sqrt(L) is in df. */
static void convolve_back(REAL *da, REAL *du, REAL *dk, const REAL *dp, const REAL *df,
                          const REAL *a, const REAL *u, const REAL *k, int64_t len, int64_t L,
                          int64_t d)
{
    for (int64_t n = 0; n < len; n++)
        for (int64_t m = 0; m < L; m++) {
            int64_t o = (n - m + L) % L;
            const REAL *pn = dp + n * d, *fn = df + n * d, *am = a + m * d;
            REAL *dko = dk + o * d;
            for (int64_t c = 0; c < d; c++) dko[c] += pn[c] * am[c];
            if (da) {
                REAL *dam = da + m * d;
                const REAL *ko = k + o * d, *uo = u + o * d;
                for (int64_t c = 0; c < d; c++) dam[c] += pn[c] * ko[c] + fn[c] * uo[c];
            }
            if (du) {
                REAL *duo = du + o * d;
                for (int64_t c = 0; c < d; c++) duo[c] += fn[c] * am[c];
            }
        }
}

void MR_FN(fuse_bwd)(void *dav, void *duv, void *sumsv, const void *dhv, const void *av,
                     const void *uv, const void *kv, const void *wp, const void *bp, const void *wf,
                     const void *bf, const int32_t *start, int64_t B, int64_t L, int64_t d,
                     int acc_a, int acc_u, const mr_exec *ex)
{
    REAL *sums = sumsv;
    const REAL *dh = dhv, *a = av, *u = uv;
    int64_t blocks = (B + MR_FUSE_BLOCK - 1) / MR_FUSE_BLOCK, n_sums = (L + 2) * d + 2;
    REAL r = (REAL)(1.0 / sqrt((double)L));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < blocks; i++) {
        REAL *dk = (REAL *)ex->scratch + i * mr_fuse_block_reals(L, d);
        REAL *dwp = dk + L * d, *dwf = dwp + d, *dbp = dwf + d, *dbf = dbp + 1;
        REAL *p = dk + n_sums, *f = p + L * d, *dp = f + L * d, *df = dp + L * d;
        memset(dk, 0, (size_t)n_sums * sizeof *dk);
        for (int64_t b = i * MR_FUSE_BLOCK; b < B && b < (i + 1) * MR_FUSE_BLOCK; b++) {
            int64_t len = start[b + 1] - start[b], at = b * L * d;
            REAL *da = dav ? (REAL *)dav + at : NULL, *du = duv ? (REAL *)duv + at : NULL;
            if (da && !acc_a) memset(da, 0, (size_t)(L * d) * sizeof *da);
            if (du && !acc_u) memset(du, 0, (size_t)(L * d) * sizeof *du);
            convolve(p, f, a + at, u + at, kv, len, L, d);
            for (int64_t n = 0; n < len; n++) {
                const REAL *g = dh + (start[b] + n) * d;
                gate_back(dp + n * d, dwp, dbp, g, p + n * d, wp, *(const REAL *)bp, d);
                gate_back(df + n * d, dwf, dbf, g, f + n * d, wf, *(const REAL *)bf, d);
                for (int64_t c = 0; c < d; c++) df[n * d + c] *= r;
            }
            convolve_back(da, du, dk, dp, df, a + at, u + at, kv, len, L, d);
        }
    }
    memset(sums, 0, (size_t)n_sums * sizeof *sums);
    for (int64_t i = 0; i < blocks; i++) {
        const REAL *part = (const REAL *)ex->scratch + i * mr_fuse_block_reals(L, d);
        for (int64_t c = 0; c < n_sums; c++) sums[c] += part[c];
    }
}
