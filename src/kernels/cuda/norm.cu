/* Layer normalisation with its residual and dropouts; dropout alone.
 * What it is not: group normalisation (groupnorm.cu).
 * A warp does a row, a lane every 32nd piece of it: 16 bytes. Between the passes a lane keeps its
 * columns in registers, up to LONGEST columns a row; those of longer rows are read again, and so
 * are rows that cannot be cut so, element by element, which no graph for a GPU has. Outputs may
 * alias inputs as the contract allows, since a lane writes what it has read. Masks are drawn again
 * in every pass instead of being kept. */
#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{

enum { FWD_WARPS = 4, BWD_WARPS = 4, LONGEST = 32 * WARP };

/* Everything the passes share; passed by value. */
struct norm_args {
    const act_t *x, *res, *dy;
    const float *gamma, *beta, *mean, *rstd;
    int64_t n, w, cols;
    mask in, out;
};

/* A row, as one of its lanes sees it. */
struct norm_row {
    const norm_args &a;
    int64_t i;
    mask_row in, out;

    __device__ norm_row(const norm_args &args, int64_t row)
        : a(args), i(row), in(a.in.row(row, a.w)), out(a.out.row(row, a.w))
    {
    }
    /* u = in(x) + res of columns c .. c + V - 1 */
    template <int V> __device__ void input(float u[V], int64_t c) const
    {
        float f[V], r[V] = {};
        load<V>(u, a.x + i * a.w + c);
        a.in.factors<V>(f, in, c);
        if (a.res) load<V>(r, a.res + i * a.w + c);
        UNROLL
        for (int k = 0; k < V; k++) u[k] = u[k] * f[k] + r[k];
    }
    /* dy through the outer dropout, the same columns. */
    template <int V> __device__ void outer(float g[V], int64_t c) const
    {
        float f[V];
        load<V>(g, a.dy + i * a.w + c);
        a.out.factors<V>(f, out, c);
        UNROLL
        for (int k = 0; k < V; k++) g[k] *= f[k];
    }
};

/* f(p, c) for the columns c .. c + V - 1 of the lane, which are its p-th; N: how many it has at
 * most and keeps, 0: it keeps none, and p is 0. */
template <int V, int N, class F> __device__ static inline void each_piece(int64_t w, F f)
{
    if (N == 0)
        for (int64_t c = V * lane(); c < w; c += V * WARP) f(0, c);
    UNROLL
    for (int p = 0; p < N; p++) {
        int64_t c = V * (p * WARP + lane());
        if (c < w) f(p, c);
    }
}

template <int V> __device__ static inline void load_or(float x[V], const float *p, float absent)
{
    UNROLL
    for (int k = 0; k < V; k++) x[k] = absent;
    if (p) load<V>(x, p);
}

template <int V, int N>
__global__ static void norm_fwd_kernel(act_t *y, float *mean, float *rstd, norm_args a, float eps)
{
    int64_t i = (int64_t)blockIdx.x * FWD_WARPS + threadIdx.x / WARP, w = a.w;
    if (i >= a.n) return;
    norm_row r(a, i);
    float u[N ? N : 1][V], sum = 0, square = 0;
    each_piece<V, N>(w, [&](int p, int64_t c) {
        r.input<V>(u[p], c);
        UNROLL
        for (int k = 0; k < V; k++) sum += u[p][k];
    });
    float mu = warp_sum(sum) / (float)a.cols;
    each_piece<V, N>(w, [&](int p, int64_t c) {
        if (N == 0) r.input<V>(u[p], c);
        UNROLL
        for (int k = 0; k < V; k++) {
            float d = c + k < a.cols ? u[p][k] - mu : 0.0f;
            square += d * d;
        }
    });
    float rs = 1 / sqrtf(warp_sum(square) / (float)a.cols + eps);
    each_piece<V, N>(w, [&](int p, int64_t c) {
        float gamma[V], beta[V], m[V];
        if (N == 0) r.input<V>(u[p], c);
        load_or<V>(gamma, a.gamma ? a.gamma + c : NULL, 1);
        load_or<V>(beta, a.beta ? a.beta + c : NULL, 0);
        a.out.factors<V>(m, r.out, c);
        UNROLL
        for (int k = 0; k < V; k++) {
            float v = (u[p][k] - mu) * rs * gamma[k] + beta[k];
            m[k] = c + k < a.cols ? v * m[k] : 0.0f;
        }
        store<V>(y + i * w + c, m, 0);
    });
    if (lane()) return;
    if (mean) mean[i] = mu;
    if (rstd) rstd[i] = rs;
}

static norm_args make_args(const void *x, const void *res, const void *gamma, int64_t n, int64_t w,
                           int64_t cols, const mr_drop *in, const mr_drop *out, const mr_exec *ex)
{
    norm_args a = {};
    a.x = (const act_t *)x;
    a.res = (const act_t *)res;
    a.gamma = (const float *)gamma;
    a.n = n;
    a.w = w;
    a.cols = cols;
    a.in = mask_of(in, ex);
    a.out = mask_of(out, ex);
    return a;
}

/* Do all of these fall into pieces of 16 bytes in rows of w acts? NULL does. */
static bool is_wide(int64_t w, const void *x, const void *res, const void *y, const void *z)
{
    typedef wide<act_t> piece;
    return splits<piece>(x, w) && splits<piece>(res, w) && splits<piece>(y, w) &&
           splits<piece>(z, w);
}

void layer_norm_fwd(void *y, void *mean, void *rstd, const void *x, const void *residual,
                    const void *gamma, const void *beta, int64_t n, int64_t w, int64_t cols,
                    double eps, const mr_drop *in, const mr_drop *out, const mr_exec *ex)
{
    norm_args a = make_args(x, residual, gamma, n, w, cols, in, out, ex);
    a.beta = (const float *)beta;
    unsigned blocks = (unsigned)pieces(n, FWD_WARPS), threads = FWD_WARPS * WARP;
    bool in_pieces = is_wide(w, x, residual, y, NULL);
    enum { V = PIECE };
#define FWD(v, keeps)                                                                              \
    LAUNCH((norm_fwd_kernel<v, keeps>), blocks, threads, 0, ex, (act_t *)y, (float *)mean,         \
           (float *)rstd, a, (float)eps)
    if (n == 0) return;
    if (in_pieces && w <= 16 * WARP)
        FWD(V, 16 / V);
    else if (in_pieces && w <= LONGEST)
        FWD(V, 32 / V);
    else if (in_pieces)
        FWD(V, 0);
    else
        FWD(1, 0);
#undef FWD
}

/* What backward writes. */
struct norm_grads {
    act_t *dx, *dres;
    float *dgamma, *dbeta;
    float *part; /* [blocks,2,w] sums of g xhat and of g over the rows of a block */
    unsigned *counters;
    bool is_sum; /* the sums are wanted */
    int acc_x, acc_res, acc_gamma, acc_beta;
};

/* Sums over the rows of a warp, of a lane's columns: in registers, or where rows are too long for
 * that in the block's part, and then a block is one warp. */
template <int V, int N> struct column_sums {
    float gamma[N ? N : 1][V] = {}, beta[N ? N : 1][V] = {};

    __device__ void add(int p, int64_t c, const float g[V], const float xhat[V], float *part,
                        int64_t w)
    {
        UNROLL
        for (int k = 0; k < V; k++)
            if (N) {
                gamma[p][k] += g[k] * xhat[k];
                beta[p][k] += g[k];
            } else {
                part[c + k] += g[k] * xhat[k];
                part[w + c + k] += g[k];
            }
    }
};

/* One row: sums, dx and dres. */
template <int V, int N>
__device__ static void row_back(const norm_args &a, const norm_grads &d, int64_t i,
                                column_sums<V, N> &sums, float *part)
{
    norm_row r(a, i);
    float xhat[N ? N : 1][V], g[N ? N : 1][V], s1 = 0, s2 = 0, mu = a.mean[i], rs = a.rstd[i];
    auto read = [&](int p, int64_t c) {
        r.outer<V>(g[p], c);
        r.input<V>(xhat[p], c);
        UNROLL
        for (int k = 0; k < V; k++) xhat[p][k] = (xhat[p][k] - mu) * rs;
    };
    each_piece<V, N>(a.w, [&](int p, int64_t c) {
        float gamma[V];
        read(p, c);
        load_or<V>(gamma, a.gamma ? a.gamma + c : NULL, 1);
        UNROLL
        for (int k = 0; k < V; k++) {
            s1 += g[p][k] * gamma[k];
            s2 += g[p][k] * gamma[k] * xhat[p][k];
        }
        if (d.is_sum) sums.add(p, c, g[p], xhat[p], part, a.w);
    });
    if (!d.dx && !d.dres) return;
    s1 = warp_sum(s1) / (float)a.cols;
    s2 = warp_sum(s2) / (float)a.cols;
    each_piece<V, N>(a.w, [&](int p, int64_t c) {
        float gamma[V], m[V], du[V];
        if (N == 0) read(p, c);
        load_or<V>(gamma, a.gamma ? a.gamma + c : NULL, 1);
        a.in.factors<V>(m, r.in, c);
        UNROLL
        for (int k = 0; k < V; k++) {
            float t = rs * (g[p][k] * gamma[k] - s1 - xhat[p][k] * s2);
            du[k] = c + k < a.cols ? t : 0.0f;
            m[k] *= du[k];
        }
        if (d.dx) store<V>(d.dx + i * a.w + c, m, d.acc_x);
        if (d.dres) store<V>(d.dres + i * a.w + c, du, d.acc_res);
    });
}

/* A block's warps take rows by turns; what they have summed is added up in their order. */
template <int V, int N> __global__ static void norm_bwd_kernel(norm_args a, norm_grads d)
{
    SHARED_REST(float, total); /* [2,w] */
    int64_t w = a.w;
    int warps = (int)(blockDim.x / WARP), warp = (int)(threadIdx.x / WARP);
    float *part = d.part + 2 * w * blockIdx.x;
    column_sums<V, N> sums;
    if (N == 0 && d.is_sum)
        for (int64_t j = threadIdx.x; j < 2 * w; j += blockDim.x) part[j] = 0;
    __syncthreads();
    for (int64_t i = (int64_t)blockIdx.x * warps + warp; i < a.n; i += (int64_t)gridDim.x * warps)
        row_back<V, N>(a, d, i, sums, part);
    if (!d.is_sum) return;
    for (int turn = 0; N && turn < warps; turn++) {
        if (turn == warp)
            each_piece<V, N>(w, [&](int p, int64_t c) {
                store<V>(total + c, sums.gamma[p], turn);
                store<V>(total + w + c, sums.beta[p], turn);
            });
        __syncthreads();
    }
    for (int64_t j = threadIdx.x; N && j < 2 * w; j += blockDim.x) part[j] = total[j];
    mr_parts parts = {d.part, 2 * w, 2 * w, (int)gridDim.x, d.counters};
    add_parts(parts, (int)blockIdx.x, [&](int64_t j, float s) {
        if (j < w && d.dgamma) put(&d.dgamma[j], s, d.acc_gamma);
        if (j >= w && d.dbeta) put(&d.dbeta[j - w], s, d.acc_beta);
    });
}

void layer_norm_bwd(void *dx, void *dres, void *dgamma, void *dbeta, const void *dy, const void *x,
                    const void *residual, const void *gamma, const void *mean, const void *rstd,
                    int64_t n, int64_t w, int64_t cols, int acc_x, int acc_res, int acc_gamma,
                    int acc_beta, const mr_drop *in, const mr_drop *out, const mr_exec *ex)
{
    norm_args a = make_args(x, residual, gamma, n, w, cols, in, out, ex);
    a.mean = (const float *)mean;
    a.rstd = (const float *)rstd;
    a.dy = (const act_t *)dy;
    norm_grads d = {(act_t *)dx,
                    (act_t *)dres,
                    (float *)dgamma,
                    (float *)dbeta,
                    (float *)ex->scratch,
                    queue_of(ex)->counters,
                    dgamma || dbeta,
                    acc_x,
                    acc_res,
                    acc_gamma,
                    acc_beta};
    bool in_pieces = is_wide(w, x, residual, dy, dx) && is_wide(w, dres, NULL, NULL, NULL);
    bool keeps = in_pieces && w <= LONGEST;
    int64_t warps = keeps ? BWD_WARPS : 1, blocks = n > 0 ? pieces(n, warps) : 1;
    int64_t most = w <= 16 * WARP ? 512 : 384; /* what a GPU has room for at once, about */
    int64_t room = (int64_t)(ex->scratch_bytes / (2 * (size_t)w * sizeof(float)));
    if (d.is_sum && blocks > most) blocks = most;
    if (d.is_sum && blocks > room) blocks = room;
    size_t bytes = d.is_sum && keeps ? 2 * (size_t)w * sizeof(float) : 0;
    enum { V = PIECE };
#define BWD(v, keeps)                                                                              \
    LAUNCH((norm_bwd_kernel<v, keeps>), (unsigned)blocks, (unsigned)(warps * WARP), bytes, ex, a, d)
    if (n == 0 && !d.is_sum) return;
    if (keeps && w <= 16 * WARP)
        BWD(V, 16 / V);
    else if (keeps && w <= 24 * WARP)
        BWD(V, 24 / V);
    else if (keeps)
        BWD(V, 32 / V);
    else if (in_pieces)
        BWD(V, 0);
    else
        BWD(1, 0);
#undef BWD
}

template <int V>
static void drop_pieces(act_t *y, const act_t *x, int64_t n, int64_t w, int acc, const mask &m,
                        const mr_exec *ex)
{
    cells(n, pieces(w, V), ex, [=] __device__(int64_t i, int64_t q) {
        float f[V], v[V];
        m.factors<V>(f, m.row(i, w), V * q);
        load<V>(v, x + i * w + V * q);
        UNROLL
        for (int k = 0; k < V; k++) v[k] *= f[k];
        store<V>(y + i * w + V * q, v, acc);
    });
}

void dropout(void *y, const void *x, int64_t n, int64_t w, int acc, const mr_drop *drop,
             const mr_exec *ex)
{
    mask m = mask_of(drop, ex);
    if (is_wide(w, x, y, NULL, NULL))
        drop_pieces<PIECE>((act_t *)y, (const act_t *)x, n, w, acc, m, ex);
    else
        drop_pieces<1>((act_t *)y, (const act_t *)x, n, w, acc, m, ex);
}
} // namespace MR_ACT_SPACE
