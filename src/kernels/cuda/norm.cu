/* Layer normalisation with its residual and dropouts; dropout alone.
 * What it is not: group normalisation (groupnorm.cu).
 * A block owns a row and a thread the same columns in every pass, four neighbours at a time, so
 * that outputs may alias inputs as the contract allows and one random block serves four elements.
 * Masks are drawn again in every pass instead of being kept. */
#include "kernels/cuda/common.cuh"

/* Everything the passes share; passed by value. */
struct norm_args {
    const float *x, *res, *gamma, *beta, *mean, *rstd, *dy;
    int64_t n, w;
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

__global__ static void norm_fwd_kernel(float *y, float *mean, float *rstd, norm_args a, float eps)
{
    int64_t i = blockIdx.x, w = a.w;
    float sum = 0, square = 0, u[4];
    for (int64_t j = 4 * threadIdx.x; j < w; j += 4 * blockDim.x) {
        a.input4(u, i, j);
        for (int k = 0; k < 4 && j + k < w; k++) {
            y[i * w + j + k] = u[k];
            sum += u[k];
        }
    }
    float mu = block_sum(sum) / (float)w;
    for (int64_t j = 4 * threadIdx.x; j < w; j += 4 * blockDim.x)
        for (int k = 0; k < 4 && j + k < w; k++) {
            float d = y[i * w + j + k] - mu;
            square += d * d;
        }
    float rs = 1 / sqrtf(block_sum(square) / (float)w + eps);
    for (int64_t j = 4 * threadIdx.x; j < w; j += 4 * blockDim.x) {
        a.out.factor4(u, i, w, j);
        for (int k = 0; k < 4 && j + k < w; k++) {
            int64_t c = j + k;
            float v = (y[i * w + c] - mu) * rs;
            v = v * (a.gamma ? a.gamma[c] : 1) + (a.beta ? a.beta[c] : 0);
            y[i * w + c] = v * u[k];
        }
    }
    if (threadIdx.x) return;
    if (mean) mean[i] = mu;
    if (rstd) rstd[i] = rs;
}

static norm_args make_args(const void *x, const void *res, const void *gamma, int64_t n, int64_t w,
                           const mr_drop *in, const mr_drop *out, const mr_exec *ex)
{
    norm_args a = {};
    a.x = (const float *)x;
    a.res = (const float *)res;
    a.gamma = (const float *)gamma;
    a.n = n;
    a.w = w;
    a.in = mask_of(in, ex);
    a.out = mask_of(out, ex);
    return a;
}

void layer_norm_fwd_cuda(void *y, void *mean, void *rstd, const void *x, const void *residual,
                         const void *gamma, const void *beta, int64_t n, int64_t w, double eps,
                         const mr_drop *in, const mr_drop *out, const mr_exec *ex)
{
    norm_args a = make_args(x, residual, gamma, n, w, in, out, ex);
    a.beta = (const float *)beta;
    if (n > 0)
        LAUNCH(norm_fwd_kernel, (unsigned)n, threads_for4(w), 0, ex, (float *)y, (float *)mean,
               (float *)rstd, a, (float)eps);
}

/* part[p][0][w], part[p][1][w]: sums of g xhat and of g over the rows of part p; four columns a
 * thread. */
__global__ static void norm_parts_kernel(float *part, norm_args a, int64_t per_part)
{
    int64_t j = 4 * ((int64_t)blockIdx.y * blockDim.x + threadIdx.x), p = blockIdx.x, w = a.w;
    int64_t end = (p + 1) * per_part < a.n ? (p + 1) * per_part : a.n;
    if (j >= w) return;
    float sum_gamma[4] = {0, 0, 0, 0}, sum_beta[4] = {0, 0, 0, 0}, g[4], u[4];
    for (int64_t i = p * per_part; i < end; i++) {
        float mu = a.mean[i], rs = a.rstd[i];
        a.outer4(g, i, j);
        a.input4(u, i, j);
        for (int k = 0; k < 4; k++) {
            sum_gamma[k] += g[k] * ((u[k] - mu) * rs);
            sum_beta[k] += g[k];
        }
    }
    for (int k = 0; k < 4 && j + k < w; k++) {
        part[(2 * p) * w + j + k] = sum_gamma[k];
        part[(2 * p + 1) * w + j + k] = sum_beta[k];
    }
}

__global__ static void norm_bwd_kernel(float *dx, float *dres, norm_args a, int acc_x, int acc_res)
{
    int64_t i = blockIdx.x, w = a.w;
    float mu = a.mean[i], rs = a.rstd[i], s1 = 0, s2 = 0, g[4], u[4], m[4];
    for (int64_t j = 4 * threadIdx.x; j < w; j += 4 * blockDim.x) {
        a.outer4(g, i, j);
        a.input4(u, i, j);
        for (int k = 0; k < 4 && j + k < w; k++) {
            float t = g[k] * (a.gamma ? a.gamma[j + k] : 1);
            s1 += t;
            s2 += t * ((u[k] - mu) * rs);
        }
    }
    s1 = block_sum(s1) / (float)w;
    s2 = block_sum(s2) / (float)w;
    for (int64_t j = 4 * threadIdx.x; j < w; j += 4 * blockDim.x) {
        a.outer4(g, i, j);
        a.input4(u, i, j);
        a.in.factor4(m, i, w, j);
        for (int k = 0; k < 4 && j + k < w; k++) {
            int64_t e = i * w + j + k;
            float t = g[k] * (a.gamma ? a.gamma[j + k] : 1);
            float du = rs * (t - s1 - (u[k] - mu) * rs * s2);
            if (dx) put(&dx[e], du * m[k], acc_x);
            if (dres) put(&dres[e], du, acc_res);
        }
    }
}

void layer_norm_bwd_cuda(void *dxv, void *dresv, void *dgammav, void *dbetav, const void *dy,
                         const void *x, const void *residual, const void *gamma, const void *mean,
                         const void *rstd, int64_t n, int64_t w, int acc_x, int acc_res,
                         int acc_gamma, int acc_beta, const mr_drop *in, const mr_drop *out,
                         const mr_exec *ex)
{
    float *dgamma = (float *)dgammav, *dbeta = (float *)dbetav, *part = (float *)ex->scratch;
    norm_args a = make_args(x, residual, gamma, n, w, in, out, ex);
    a.mean = (const float *)mean;
    a.rstd = (const float *)rstd;
    a.dy = (const float *)dy;
    int64_t per_part = pieces(n, MR_NORM_PARTS), parts = n > 0 ? pieces(n, per_part) : 0;
    /* The sums first: dx and dres may be where x or dy was. */
    if (parts && (dgamma || dbeta)) {
        dim3 grid((unsigned)parts, (unsigned)pieces(w, 4 * threads_for4(w)));
        LAUNCH(norm_parts_kernel, grid, threads_for4(w), 0, ex, part, a, per_part);
    }
    if (dgamma || dbeta)
        each(w, ex, [=] __device__(int64_t j) {
            float s = 0, t = 0;
            for (int64_t p = 0; p < parts; p++) {
                s += part[(2 * p) * w + j];
                t += part[(2 * p + 1) * w + j];
            }
            if (dgamma) put(&dgamma[j], s, acc_gamma);
            if (dbeta) put(&dbeta[j], t, acc_beta);
        });
    if (n > 0 && (dxv || dresv))
        LAUNCH(norm_bwd_kernel, (unsigned)n, threads_for4(w), 0, ex, (float *)dxv, (float *)dresv,
               a, acc_x, acc_res);
}

void dropout_cuda(void *yv, const void *xv, int64_t n, int64_t w, int acc, const mr_drop *drop,
                  const mr_exec *ex)
{
    float *y = (float *)yv;
    const float *x = (const float *)xv;
    mask m = mask_of(drop, ex);
    cells(n, pieces(w, 4), ex, [=] __device__(int64_t i, int64_t q) {
        float f[4];
        m.factor4(f, i, w, 4 * q);
        for (int64_t j = 4 * q; j < 4 * q + 4 && j < w; j++)
            put(&y[i * w + j], x[i * w + j] * f[j - 4 * q], acc);
    });
}
