/* TedRec's frequency fusion: circular convolutions with gates, forward and backward.
 * Invariants: a thread owns its columns in every pass; sums over rows are kept per block of rows,
 * as many blocks as the scratch of the contract has room for, and added in order. */
#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{

/* Weight of bin k in irfft, times the cosine and sine of position m. */
__device__ static void bin(float *c, float *s, int64_t k, int64_t m, int64_t L)
{
    bool is_real = k == 0 || 2 * k == L;
    double w = 6.283185307179586476925 * (double)((k * m) % L) / (double)L;
    double f = (is_real ? 1.0 : 2.0) / (double)L;
    *c = (float)(f * cos(w));
    *s = is_real ? 0.0f : (float)(f * sin(w));
}

void fuse_filter_fwd(void *kv, const void *filterv, int64_t L, int64_t d, const mr_exec *ex)
{
    float *k = (float *)kv;
    const float *filter = (const float *)filterv;
    cells(L, d, ex, [=] __device__(int64_t m, int64_t c) {
        float sum = 0;
        for (int64_t b = 0; b <= L / 2; b++) {
            float co, si;
            bin(&co, &si, b, m, L);
            const float *f = filter + (b * d + c) * 2;
            sum += co * f[0] - si * f[1];
        }
        k[m * d + c] = sum;
    });
}

void fuse_params_bwd(void *dfilterv, void *dwpv, void *dwfv, void *dbpv, void *dbfv,
                     const void *sums, int64_t L, int64_t d, unsigned acc, const mr_exec *ex)
{
    float *dfilter = (float *)dfilterv, *dwp = (float *)dwpv, *dwf = (float *)dwfv;
    float *dbp = (float *)dbpv, *dbf = (float *)dbfv;
    const float *dk = (const float *)sums, *gates = dk + L * d;
    cells(L / 2 + 2, d, ex, [=] __device__(int64_t b, int64_t c) {
        if (b > L / 2) { /* the row behind the filter's: the gates */
            put(&dwp[c], gates[c], acc & 2);
            put(&dwf[c], gates[d + c], acc & 4);
            if (c == 0) put(dbp, gates[2 * d], acc & 8);
            if (c == 0) put(dbf, gates[2 * d + 1], acc & 16);
            return;
        }
        float re = 0, im = 0;
        for (int64_t m = 0; m < L; m++) {
            float co, si;
            bin(&co, &si, b, m, L);
            re += co * dk[m * d + c];
            im -= si * dk[m * d + c];
        }
        put(&dfilter[(b * d + c) * 2], re, acc & 1);
        put(&dfilter[(b * d + c) * 2 + 1], im, acc & 1);
    });
}

struct fuse_args {
    const act_t *a, *u;
    const float *k, *wp, *bp, *wf, *bf;
    const int32_t *start;
    int64_t B, L, d;
};

/* p and f of row b at position n, column c. */
__device__ static inline void convolve(float *p, float *f, const fuse_args &q, int64_t b, int64_t n,
                                       int64_t c)
{
    const act_t *a = q.a + b * q.L * q.d + c, *u = q.u + b * q.L * q.d + c;
    const float *k = q.k + c;
    float sp = 0, sf = 0;
    for (int64_t m = 0; m < q.L; m++) {
        int64_t o = n >= m ? n - m : n - m + q.L;
        sp += a[m * q.d] * k[o * q.d];
        sf += a[m * q.d] * u[o * q.d];
    }
    *p = sp;
    *f = sf * rsqrtf((float)q.L);
}

/* One position a block. */
__global__ static void fuse_fwd_kernel(act_t *h, fuse_args q, int64_t N)
{
    SHARED_REST(float, row); /* p[d], f[d] */
    int64_t b = blockIdx.x / q.L, n = blockIdx.x % q.L;
    zero_rows(h, q.start[q.B], N, q.d);
    if (n >= q.start[b + 1] - q.start[b]) return; /* the whole block alike */
    float *p = row, *f = row + q.d, zp = 0, zf = 0;
    for (int64_t c = threadIdx.x; c < q.d; c += blockDim.x) {
        convolve(&p[c], &f[c], q, b, n, c);
        zp += p[c] * q.wp[c];
        zf += f[c] * q.wf[c];
    }
    float gp = 2 * mr_sigmoidf(block_sum(zp) + *q.bp), gf = 2 * mr_sigmoidf(block_sum(zf) + *q.bf);
    for (int64_t c = threadIdx.x; c < q.d; c += blockDim.x)
        h[(q.start[b] + n) * q.d + c] = gp * p[c] + gf * f[c];
}

static fuse_args make_args(const void *a, const void *u, const void *k, const void *wp,
                           const void *bp, const void *wf, const void *bf, const int32_t *start,
                           int64_t B, int64_t L, int64_t d)
{
    fuse_args q = {(const act_t *)a,
                   (const act_t *)u,
                   (const float *)k,
                   (const float *)wp,
                   (const float *)bp,
                   (const float *)wf,
                   (const float *)bf,
                   start,
                   B,
                   L,
                   d};
    return q;
}

void fuse_fwd(void *h, const void *a, const void *u, const void *k, const void *wp, const void *bp,
              const void *wf, const void *bf, const int32_t *start, int64_t B, int64_t N, int64_t L,
              int64_t d, const mr_exec *ex)
{
    if (B * L > 0)
        LAUNCH(fuse_fwd_kernel, (unsigned)(B * L), threads_for(d), (size_t)(2 * d) * sizeof(float),
               ex, (act_t *)h, make_args(a, u, k, wp, bp, wf, bf, start, B, L, d), N);
}

/* Scratch of one block of rows. */
struct fuse_work {
    float *dk, *dwp, *dwf, *db; /* sums: [L,d], [d], [d], [2] */
    float *p, *f, *dp, *df;     /* [L,d] of the row at hand */
};

/* Gates of row b backward: fills dp and df (with f's 1/sqrt(L)) and adds to dwp, dwf, db. */
__device__ static void gates_back(const fuse_work &t, const fuse_args &q, const act_t *dh,
                                  int64_t b, int64_t len, float *dbp, float *dbf)
{
    for (int64_t n = 0; n < len; n++) {
        const act_t *g = dh + (q.start[b] + n) * q.d;
        float zp = 0, zf = 0, hp = 0, hf = 0;
        for (int64_t c = threadIdx.x; c < q.d; c += blockDim.x) {
            float p, f;
            convolve(&p, &f, q, b, n, c);
            t.p[c] = p;
            t.f[c] = f;
            zp += p * q.wp[c];
            zf += f * q.wf[c];
            hp += p * g[c];
            hf += f * g[c];
        }
        float sp = mr_sigmoidf(block_sum(zp) + *q.bp), sf = mr_sigmoidf(block_sum(zf) + *q.bf);
        float ep = 2 * block_sum(hp) * sp * (1 - sp), ef = 2 * block_sum(hf) * sf * (1 - sf);
        *dbp += ep;
        *dbf += ef;
        for (int64_t c = threadIdx.x; c < q.d; c += blockDim.x) {
            int64_t e = n * q.d + c;
            t.dp[e] = 2 * sp * g[c] + ep * q.wp[c];
            t.df[e] = (2 * sf * g[c] + ef * q.wf[c]) * rsqrtf((float)q.L);
            t.dwp[c] += ep * t.p[c];
            t.dwf[c] += ef * t.f[c];
        }
    }
}

/* Convolutions of row b backward, column c. da, du may be NULL. */
__device__ static void convolve_back(act_t *da, act_t *du, const fuse_work &t, const fuse_args &q,
                                     int64_t b, int64_t len, int64_t c, int acc_a, int acc_u)
{
    int64_t at = b * q.L * q.d + c;
    const act_t *a = q.a + at, *u = q.u + at;
    const float *k = q.k + c, *dp = t.dp + c, *df = t.df + c;
    for (int64_t m = 0; m < q.L; m++) {
        float sa = 0, su = 0, sk = 0;
        for (int64_t n = 0; n < len; n++) {
            int64_t o = (n >= m ? n - m : n - m + q.L) * q.d;
            sa += dp[n * q.d] * k[o] + df[n * q.d] * u[o];
            /* n - m and m change places: what position m of u and k gets */
            su += df[n * q.d] * a[o];
            sk += dp[n * q.d] * a[o];
        }
        if (da) put(&da[at + m * q.d], sa, acc_a);
        if (du) put(&du[at + m * q.d], su, acc_u);
        t.dk[m * q.d + c] += sk;
    }
}

/* Rows and scratch of a block. */
struct fuse_blocks {
    int64_t rows, stride;
    bool is_shared; /* p, f, dp, df of a row lie in shared memory, else behind the block's sums */
};

__global__ static void fuse_bwd_kernel(act_t *da, act_t *du, float *sums, mr_parts parts,
                                       const act_t *dh, fuse_args q, fuse_blocks s, int acc_a,
                                       int acc_u)
{
    SHARED_REST(float, own);
    int64_t Ld = q.L * q.d, first = (int64_t)blockIdx.x * s.rows;
    int64_t end = first + s.rows < q.B ? first + s.rows : q.B;
    fuse_work t;
    t.dk = parts.part + blockIdx.x * parts.ld;
    t.dwp = t.dk + Ld;
    t.dwf = t.dwp + q.d;
    t.db = t.dwf + q.d;
    t.p = s.is_shared ? own : t.db + 2;
    t.f = t.p + q.d;
    t.dp = t.f + q.d;
    t.df = t.dp + Ld;
    float dbp = 0, dbf = 0; /* the same in every thread */
    for (int64_t c = threadIdx.x; c < q.d; c += blockDim.x) {
        for (int64_t m = 0; m < q.L; m++) t.dk[m * q.d + c] = 0;
        t.dwp[c] = t.dwf[c] = 0;
    }
    for (int64_t b = first; b < end; b++) {
        int64_t len = q.start[b + 1] - q.start[b];
        gates_back(t, q, dh, b, len, &dbp, &dbf);
        for (int64_t c = threadIdx.x; c < q.d; c += blockDim.x)
            convolve_back(da, du, t, q, b, len, c, acc_a, acc_u);
    }
    if (threadIdx.x == 0) {
        t.db[0] = dbp;
        t.db[1] = dbf;
    }
    add_parts(parts, (int)blockIdx.x, [&](int64_t j, float v) { sums[j] = v; });
}

static int64_t row_reals(int64_t L, int64_t d) { return 2 * (L + 1) * d; }

/* The fewest rows a block whose sums fit the scratch; MR_FUSE_BLOCK as the scratch is laid out when
 * a row is too large for shared memory. */
static fuse_blocks blocks_of(int64_t B, int64_t L, int64_t d)
{
    fuse_blocks s = {MR_FUSE_BLOCK, mr_fuse_block_reals(L, d), false};
    if (row_reals(L, d) * (int64_t)sizeof(float) > SHARED_BYTES) return s;
    s = {1, (L + 2) * d + 2, true};
    while (pieces(B, s.rows) * s.stride > mr_fuse_scratch(B, L, d)) s.rows++;
    return s;
}

void fuse_bwd(void *da, void *du, void *sums, const void *dh, const void *a, const void *u,
              const void *k, const void *wp, const void *bp, const void *wf, const void *bf,
              const int32_t *start, int64_t B, int64_t L, int64_t d, int acc_a, int acc_u,
              const mr_exec *ex)
{
    fuse_blocks s = blocks_of(B, L, d);
    int64_t blocks = B > 0 ? pieces(B, s.rows) : 1; /* no rows: sums of nothing */
    size_t shared = s.is_shared ? (size_t)row_reals(L, d) * sizeof(float) : 0;
    mr_parts parts = {(float *)ex->scratch, (L + 2) * d + 2, s.stride, (int)blocks,
                      queue_of(ex)->counters};
    LAUNCH(fuse_bwd_kernel, (unsigned)blocks, threads_for(d), shared, ex, (act_t *)da, (act_t *)du,
           (float *)sums, parts, (const act_t *)dh,
           make_args(a, u, k, wp, bp, wf, bf, start, B, L, d), s, acc_a, acc_u);
}
} // namespace MR_ACT_SPACE
