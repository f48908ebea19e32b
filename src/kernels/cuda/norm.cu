/* Layer normalisation with its residual and dropouts; dropout alone.
 * What it is not: group normalisation (groupnorm.cu).
 * Forward: a block owns a row; backward: a block owns a range of rows and a warp one of them. A
 * thread has the same columns in every pass, four neighbours at a time, so that outputs may alias
 * inputs as the contract allows and one random block serves four elements.
 * Masks are drawn again in every pass instead of being kept. */
#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{

/* Everything the passes share; passed by value. */
struct norm_args {
    const act_t *x, *res, *dy;
    const float *gamma, *beta, *mean, *rstd;
    int64_t n, w, cols;
    mask in, out;

    /* u = in(x) + res of columns j .. j + 3; those behind the last are 0. */
    __device__ void input4(float u[4], int64_t i, int64_t j) const
    {
        in.factor4(u, i, w, j);
        for (int k = 0; k < 4; k++) {
            if (j + k >= w) {
                u[k] = 0;
                continue;
            }
            u[k] *= x[i * w + j + k];
            if (res) u[k] += res[i * w + j + k];
        }
    }
    /* dy through the outer dropout, the same columns. */
    __device__ void outer4(float g[4], int64_t i, int64_t j) const
    {
        out.factor4(g, i, w, j);
        for (int k = 0; k < 4; k++) g[k] = j + k < w ? g[k] * dy[i * w + j + k] : 0.0f;
    }
};

/* u is made once and kept in shared memory where a row fits (is_kept), else made in every pass. */
__global__ static void norm_fwd_kernel(act_t *y, float *mean, float *rstd, norm_args a, float eps,
                                       bool is_kept)
{
    SHARED_REST(float, row); /* [w] */
    int64_t i = blockIdx.x, w = a.w;
    float sum = 0, square = 0, u[4], m[4];
    for (int64_t j = 4 * threadIdx.x; j < w; j += 4 * blockDim.x) {
        a.input4(u, i, j);
        for (int k = 0; k < 4 && j + k < w; k++) {
            if (is_kept) row[j + k] = u[k];
            sum += u[k];
        }
    }
    float mu = block_sum(sum) / (float)a.cols;
    for (int64_t j = 4 * threadIdx.x; j < w; j += 4 * blockDim.x) {
        if (!is_kept) a.input4(u, i, j);
        for (int k = 0; k < 4 && j + k < a.cols; k++) {
            float d = (is_kept ? row[j + k] : u[k]) - mu;
            square += d * d;
        }
    }
    float rs = 1 / sqrtf(block_sum(square) / (float)a.cols + eps);
    for (int64_t j = 4 * threadIdx.x; j < w; j += 4 * blockDim.x) {
        if (!is_kept) a.input4(u, i, j);
        a.out.factor4(m, i, w, j);
        for (int k = 0; k < 4 && j + k < w; k++) {
            int64_t c = j + k;
            float v = ((is_kept ? row[c] : u[k]) - mu) * rs;
            v = v * (a.gamma ? a.gamma[c] : 1) + (a.beta ? a.beta[c] : 0);
            y[i * w + c] = c < a.cols ? v * m[k] : 0.0f;
        }
    }
    if (threadIdx.x) return;
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

void layer_norm_fwd(void *y, void *mean, void *rstd, const void *x, const void *residual,
                    const void *gamma, const void *beta, int64_t n, int64_t w, int64_t cols,
                    double eps, const mr_drop *in, const mr_drop *out, const mr_exec *ex)
{
    norm_args a = make_args(x, residual, gamma, n, w, cols, in, out, ex);
    a.beta = (const float *)beta;
    size_t bytes = (size_t)w * sizeof(float);
    bool is_kept = bytes <= SHARED_BYTES;
    if (n > 0)
        LAUNCH(norm_fwd_kernel, (unsigned)n, threads_for4(w), is_kept ? bytes : 0, ex, (act_t *)y,
               (float *)mean, (float *)rstd, a, (float)eps, is_kept);
}

enum { ROWS = BLOCK / WARP }; /* rows of a tile: a warp each for dx */

/* What backward writes, and how a block works through its rows. */
struct norm_grads {
    act_t *dx, *dres;
    float *dgamma, *dbeta;
    float *part; /* [parts,2,w] sums of g xhat and of g over the rows of a part */
    unsigned *counters;
    int64_t rows;           /* of a part */
    int w4, slices;         /* columns by fours; threads that share them take every slices-th row */
    bool is_shared, is_sum; /* the sums fit shared memory; are wanted */
    int acc_x, acc_res, acc_gamma, acc_beta;
};

/* Adds rows [i, end) to sum[slices][2][w], a thread its columns. */
__device__ static void tile_sums(float *sum, const norm_args &a, const norm_grads &d, int64_t i,
                                 int64_t end)
{
    int64_t w = a.w;
    float g[4], u[4];
    for (int q = (int)threadIdx.x; q < d.slices * d.w4; q += BLOCK) {
        int64_t j = 4 * (int64_t)(q % d.w4);
        float *own = sum + q / d.w4 * 2 * w + j, to_gamma[4] = {0, 0, 0, 0},
              to_beta[4] = {0, 0, 0, 0};
        for (int64_t r = i + q / d.w4; r < end; r += d.slices) {
            float mu = a.mean[r], rs = a.rstd[r];
            a.outer4(g, r, j);
            a.input4(u, r, j);
            for (int k = 0; k < 4; k++) {
                to_gamma[k] += g[k] * ((u[k] - mu) * rs);
                to_beta[k] += g[k];
            }
        }
        for (int k = 0; k < 4 && j + k < w; k++) {
            own[k] += to_gamma[k];
            own[w + k] += to_beta[k];
        }
    }
}

/* dx and dres of row i, by a warp. */
__device__ static void row_back(const norm_args &a, const norm_grads &d, int64_t i)
{
    int64_t w = a.w, lane = threadIdx.x % WARP;
    float mu = a.mean[i], rs = a.rstd[i], s1 = 0, s2 = 0, g[4], u[4], m[4];
    for (int64_t j = 4 * lane; j < w; j += 4 * WARP) {
        a.outer4(g, i, j);
        a.input4(u, i, j);
        for (int k = 0; k < 4 && j + k < w; k++) {
            float t = g[k] * (a.gamma ? a.gamma[j + k] : 1);
            s1 += t;
            s2 += t * ((u[k] - mu) * rs);
        }
    }
    s1 = warp_sum(s1) / (float)a.cols;
    s2 = warp_sum(s2) / (float)a.cols;
    for (int64_t j = 4 * lane; j < w; j += 4 * WARP) {
        a.outer4(g, i, j);
        a.input4(u, i, j);
        a.in.factor4(m, i, w, j);
        for (int k = 0; k < 4 && j + k < w; k++) {
            int64_t e = i * w + j + k;
            float t = g[k] * (a.gamma ? a.gamma[j + k] : 1);
            float du = j + k < a.cols ? rs * (t - s1 - (u[k] - mu) * rs * s2) : 0.0f;
            if (d.dx) put(&d.dx[e], du * m[k], d.acc_x);
            if (d.dres) put(&d.dres[e], du, d.acc_res);
        }
    }
}

/* A block owns a range of rows. A tile of them is summed by columns, then each of its rows gets its
 * dx, which may be where x or dy was. */
__global__ static void norm_bwd_kernel(norm_args a, norm_grads d)
{
    SHARED_REST(float, shared); /* [slices,2,w] */
    int64_t p = blockIdx.x, w = a.w, first = p * d.rows;
    int64_t end = first + d.rows < a.n ? first + d.rows : a.n;
    float *row = d.part + 2 * p * w, *sum = d.is_shared ? shared : row;
    if (d.is_sum)
        for (int64_t j = threadIdx.x; j < d.slices * 2 * w; j += BLOCK) sum[j] = 0;
    __syncthreads();
    for (int64_t i = first; i < end; i += ROWS) {
        int64_t mine = i + threadIdx.x / WARP, tile_end = i + ROWS < end ? i + ROWS : end;
        if (d.is_sum) tile_sums(sum, a, d, i, tile_end);
        __syncthreads();
        if (mine < tile_end && (d.dx || d.dres)) row_back(a, d, mine);
    }
    if (!d.is_sum) return;
    __syncthreads();
    for (int64_t j = threadIdx.x; j < 2 * w && d.is_shared; j += BLOCK) {
        float s = 0;
        for (int k = 0; k < d.slices; k++) s += sum[k * 2 * w + j];
        row[j] = s;
    }
    mr_parts parts = {d.part, 2 * w, 2 * w, (int)gridDim.x, d.counters};
    add_parts(parts, (int)p, [&](int64_t j, float s) {
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
    norm_grads d = {};
    d.dx = (act_t *)dx;
    d.dres = (act_t *)dres;
    d.dgamma = (float *)dgamma;
    d.dbeta = (float *)dbeta;
    d.part = (float *)ex->scratch;
    d.counters = queue_of(ex)->counters;
    d.rows = ROWS * pieces(n, ROWS * (MR_NORM_SCRATCH(w) / (2 * w)));
    d.w4 = (int)pieces(w, 4);
    d.slices = d.w4 >= BLOCK ? 1 : BLOCK / d.w4 < ROWS ? BLOCK / d.w4 : ROWS;
    d.is_sum = dgamma || dbeta;
    size_t bytes = d.is_sum ? (size_t)(d.slices * 2 * w) * sizeof(float) : 0;
    d.is_shared = bytes <= SHARED_BYTES;
    d.acc_x = acc_x;
    d.acc_res = acc_res;
    d.acc_gamma = acc_gamma;
    d.acc_beta = acc_beta;
    int64_t parts = n > 0 ? pieces(n, d.rows) : 1; /* no rows: sums of nothing */
    if (n > 0 || d.is_sum)
        LAUNCH(norm_bwd_kernel, (unsigned)parts, BLOCK, d.is_shared ? bytes : 0, ex, a, d);
}

void dropout(void *yv, const void *xv, int64_t n, int64_t w, int acc, const mr_drop *drop,
             const mr_exec *ex)
{
    act_t *y = (act_t *)yv;
    const act_t *x = (const act_t *)xv;
    mask m = mask_of(drop, ex);
    cells(n, pieces(w, 4), ex, [=] __device__(int64_t i, int64_t q) {
        float f[4];
        m.factor4(f, i, w, 4 * q);
        for (int64_t j = 4 * q; j < 4 * q + 4 && j < w; j++)
            put(&y[i * w + j], x[i * w + j] * f[j - 4 * q], acc);
    });
}
} // namespace MR_ACT_SPACE
