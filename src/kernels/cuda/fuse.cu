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

enum { MOST_WARPS = MOST_THREADS / WARP };
/* Floats of shared memory in which a block adds up `count` numbers for each of `positions`. */
static int64_t sums_reals(int64_t count, int64_t positions)
{
    return count * positions * (MOST_WARPS + 1);
}

/* Sums over the block of COUNT numbers of each of some positions. All threads take part in all. */
template <int COUNT> struct position_sums {
    float *part, *total; /* [positions, COUNT, MOST_WARPS], [positions, COUNT] */

    __device__ position_sums(float *shared, int64_t positions)
        : part(shared), total(shared + positions * COUNT * MOST_WARPS)
    {
    }
    __device__ void add(int64_t n, float (&v)[COUNT])
    {
        for (int k = 0; k < COUNT; k++) {
            v[k] = warp_sum(v[k]);
            if (threadIdx.x % WARP == 0)
                part[(n * COUNT + k) * MOST_WARPS + threadIdx.x / WARP] = v[k];
        }
    }
    /* Afterwards total is the same for all. Until all have read it nobody comes here again. */
    __device__ void finish(int64_t positions)
    {
        __syncthreads();
        for (int64_t i = threadIdx.x; i < positions * COUNT; i += blockDim.x) {
            float s = 0;
            for (unsigned k = 0; k < blockDim.x / WARP; k++) s += part[i * MOST_WARPS + k];
            total[i] = s;
        }
        __syncthreads();
    }
};

/* Positions first .. first + most - 1 of a row of the batch a block. */
__global__ static void fuse_fwd_kernel(act_t *h, fuse_args q, int64_t N, int64_t most)
{
    SHARED_REST(float, shared); /* sums; p[most,d], f[most,d] */
    int64_t chunks = (q.L + most - 1) / most, b = blockIdx.x / chunks;
    int64_t first = blockIdx.x % chunks * most, len = q.start[b + 1] - q.start[b];
    int64_t count = len - first < most ? len - first : most;
    position_sums<2> z(shared, most);
    float *p = shared + 2 * most * (MOST_WARPS + 1), *f = p + most * q.d;
    zero_rows(h, q.start[q.B], N, q.d, q.d);
    if (count <= 0) return; /* the whole block alike */
    for (int64_t n = 0; n < count; n++) {
        float v[2] = {0, 0};
        for (int64_t c = threadIdx.x; c < q.d; c += blockDim.x) {
            int64_t e = n * q.d + c;
            convolve(&p[e], &f[e], q, b, first + n, c);
            v[0] += p[e] * q.wp[c];
            v[1] += f[e] * q.wf[c];
        }
        z.add(n, v);
    }
    z.finish(count);
    for (int64_t n = 0; n < count; n++) {
        float gp = 2 * mr_sigmoidf(z.total[2 * n] + *q.bp);
        float gf = 2 * mr_sigmoidf(z.total[2 * n + 1] + *q.bf);
        act_t *y = h + (q.start[b] + first + n) * q.d;
        for (int64_t c = threadIdx.x; c < q.d; c += blockDim.x)
            y[c] = gp * p[n * q.d + c] + gf * f[n * q.d + c];
    }
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
    int64_t one = (sums_reals(2, 1) + 2 * d) * (int64_t)sizeof(float), most = SHARED_BYTES / one;
    most = most < 1 ? 1 : most < L ? most : L;
    if (B * L > 0)
        LAUNCH(fuse_fwd_kernel, (unsigned)(B * pieces(L, most)), threads_for(d),
               (size_t)(most * one), ex, (act_t *)h,
               make_args(a, u, k, wp, bp, wf, bf, start, B, L, d), N, most);
}

enum { POSITIONS = 32 }; /* of a row that are added up at once */

/* What a block of rows works in. */
struct fuse_work {
    float *dk, *dwp, *dwf, *db; /* sums: [L,d], [d], [d], [2] */
    float *dp, *df;             /* [L,d] of the row at hand; p and f before */
    float *shared;              /* of position_sums */
};

/* Fills p and f of positions first .. end - 1 of row b, and z with what their gates need. */
__device__ static void gates_again(position_sums<4> &z, const fuse_work &t, const fuse_args &q,
                                   const act_t *g, int64_t b, int64_t first, int64_t end)
{
    for (int64_t n = first; n < end; n++) {
        float v[4] = {0, 0, 0, 0};
        for (int64_t c = threadIdx.x; c < q.d; c += blockDim.x) {
            int64_t e = n * q.d + c;
            float p, f, y = g[e];
            convolve(&p, &f, q, b, n, c);
            t.dp[e] = p;
            t.df[e] = f;
            v[0] += p * q.wp[c];
            v[1] += f * q.wf[c];
            v[2] += p * y;
            v[3] += f * y;
        }
        z.add(n - first, v);
    }
    z.finish(end - first);
}

/* The gates of a position backward. */
struct gate {
    float sp, sf, ep, ef;

    __device__ gate(const float *s, const fuse_args &q)
    {
        sp = mr_sigmoidf(s[0] + *q.bp);
        sf = mr_sigmoidf(s[1] + *q.bf);
        ep = 2 * s[2] * sp * (1 - sp);
        ef = 2 * s[3] * sf * (1 - sf);
    }
};

/* Gates of row b backward: fills dp and df (with f's 1/sqrt(L)) and adds to dwp, dwf, db. */
__device__ static void gates_back(const fuse_work &t, const fuse_args &q, const act_t *dh,
                                  int64_t b, int64_t len, float *dbp, float *dbf)
{
    const act_t *g = dh + q.start[b] * q.d;
    position_sums<4> z(t.shared, q.L < POSITIONS ? q.L : POSITIONS);
    float root = rsqrtf((float)q.L);
    for (int64_t first = 0; first < len; first += POSITIONS) {
        int64_t end = first + POSITIONS < len ? first + POSITIONS : len;
        gates_again(z, t, q, g, b, first, end);
        for (int64_t n = first; n < end; n++) {
            gate s(z.total + 4 * (n - first), q);
            *dbp += s.ep;
            *dbf += s.ef;
        }
        for (int64_t c = threadIdx.x; c < q.d; c += blockDim.x) {
            float to_wp = 0, to_wf = 0;
            for (int64_t n = first; n < end; n++) {
                gate s(z.total + 4 * (n - first), q);
                int64_t e = n * q.d + c;
                float y = g[e];
                to_wp += s.ep * t.dp[e];
                to_wf += s.ef * t.df[e];
                t.dp[e] = 2 * s.sp * y + s.ep * q.wp[c];
                t.df[e] = (2 * s.sf * y + s.ef * q.wf[c]) * root;
            }
            t.dwp[c] += to_wp;
            t.dwf[c] += to_wf;
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
    int64_t rows, stride, sums; /* sums: floats of position_sums */
    bool is_shared; /* dk and dp, df of a row lie in shared memory, else in the block's scratch */
};

__global__ static void fuse_bwd_kernel(act_t *da, act_t *du, float *sums, mr_parts parts,
                                       const act_t *dh, fuse_args q, fuse_blocks s, int acc_a,
                                       int acc_u)
{
    SHARED_REST(float, own); /* of position_sums; dk, dp, df */
    int64_t Ld = q.L * q.d, first = (int64_t)blockIdx.x * s.rows;
    int64_t end = first + s.rows < q.B ? first + s.rows : q.B;
    float *part = parts.part + blockIdx.x * parts.ld, dbp = 0, dbf = 0; /* the same in all */
    fuse_work t;
    t.shared = own;
    t.dwp = part + Ld;
    t.dwf = t.dwp + q.d;
    t.db = t.dwf + q.d;
    t.dk = s.is_shared ? own + s.sums : part;
    t.dp = s.is_shared ? t.dk + Ld : t.db + 2;
    t.df = t.dp + Ld;
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
    for (int64_t c = threadIdx.x; s.is_shared && c < q.d; c += blockDim.x)
        for (int64_t m = 0; m < q.L; m++) part[m * q.d + c] = t.dk[m * q.d + c];
    if (threadIdx.x == 0) {
        t.db[0] = dbp;
        t.db[1] = dbf;
    }
    add_parts(parts, (int)blockIdx.x, [&](int64_t j, float v) { sums[j] = v; });
}

/* The fewest rows a block whose sums fit the scratch; MR_FUSE_BLOCK as the scratch is laid out when
 * a row is too large for shared memory. */
static fuse_blocks blocks_of(int64_t B, int64_t L, int64_t d)
{
    int64_t sums = sums_reals(4, L < POSITIONS ? L : POSITIONS);
    fuse_blocks s = {MR_FUSE_BLOCK, mr_fuse_block_reals(L, d), sums, false};
    if ((sums + 3 * L * d) * (int64_t)sizeof(float) > SHARED_BYTES) return s;
    s = {1, (L + 2) * d + 2, sums, true};
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
    int64_t shared = s.sums + (s.is_shared ? 3 * L * d : 0);
    mr_parts parts = {(float *)ex->scratch, (L + 2) * d + 2, s.stride, (int)blocks,
                      queue_of(ex)->counters};
    LAUNCH(fuse_bwd_kernel, (unsigned)blocks, threads_for(d), (size_t)shared * sizeof(float), ex,
           (act_t *)da, (act_t *)du, (float *)sums, parts, (const act_t *)dh,
           make_args(a, u, k, wp, bp, wf, bf, start, B, L, d), s, acc_a, acc_u);
}
} // namespace MR_ACT_SPACE
