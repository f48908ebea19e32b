/* Matrix products (cuBLAS, cuBLASLt), bias, activation, column sums. */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/lt.h"

/* Operands and result are float32 in memory and sums are made in float32, whatever the arithmetic.
 */
static cublasComputeType_t arithmetic(const mr_exec *ex)
{
    switch (ex->precision) {
    case MR_TF32: return CUBLAS_COMPUTE_32F_FAST_TF32;
    case MR_BF16_PRODUCTS: return CUBLAS_COMPUTE_32F_FAST_16BF;
    default: return CUBLAS_COMPUTE_32F_PEDANTIC;
    }
}

/* cuBLAS is column-major: the transpose of a row-major matrix. c^T = op(b)^T op(a)^T. */
void gemm_cuda(void *c, const void *a, const void *b, int64_t m, int64_t n, int64_t k, int ta,
               int tb, int64_t lda, int64_t ldb, int64_t ldc, double alpha, double beta,
               const mr_exec *ex)
{
    mr_cuda_queue *q = queue_of(ex);
    float al = (float)alpha, be = (float)beta;
    if (m == 0 || n == 0) return;
    q->counts->launches++;
    cublasStatus_t st =
        cublasGemmEx_64(q->blas, tb ? CUBLAS_OP_T : CUBLAS_OP_N, ta ? CUBLAS_OP_T : CUBLAS_OP_N, n,
                        m, k, &al, b, CUDA_R_32F, ldb, a, CUDA_R_32F, lda, &be, c, CUDA_R_32F, ldc,
                        arithmetic(ex), CUBLAS_GEMM_DEFAULT);
    if (q->blas_status == CUBLAS_STATUS_SUCCESS) q->blas_status = st;
}

void gemm_batch_cuda(void *c, const void *a, const void *b, const mr_gemm_batch *batch, int64_t m,
                     int64_t n, int64_t k, int ta, int tb, int64_t lda, int64_t ldb, int64_t ldc,
                     double alpha, double beta, const mr_exec *ex)
{
    mr_cuda_queue *q = queue_of(ex);
    float al = (float)alpha, be = (float)beta;
    if (m == 0 || n == 0 || batch->count == 0) return;
    q->counts->launches++;
    cublasStatus_t st = cublasGemmStridedBatchedEx_64(
        q->blas, tb ? CUBLAS_OP_T : CUBLAS_OP_N, ta ? CUBLAS_OP_T : CUBLAS_OP_N, n, m, k, &al, b,
        CUDA_R_32F, ldb, batch->stride_b, a, CUDA_R_32F, lda, batch->stride_a, &be, c, CUDA_R_32F,
        ldc, batch->stride_c, batch->count, arithmetic(ex), CUBLAS_GEMM_DEFAULT);
    if (q->blas_status == CUBLAS_STATUS_SUCCESS) q->blas_status = st;
}

void linear_fwd_cuda(void *y, void *pre, const void *x, const void *w, const void *b, int64_t n,
                     int64_t o, int64_t i, int act, const mr_exec *ex)
{
    mr_lt_layer l = {MR_LT_FORWARD, y, (void *)b, x, w, n, o, i, 0.0f, arithmetic(ex)};
    if (b && n > 0 && mr_lt_run(queue_of(ex), &l))
        b = NULL;
    else
        gemm_cuda(y, x, w, n, o, i, 0, 1, i, i, o, 1.0, 0.0, ex);
    if (b || act != MR_ACT_NONE) bias_act_fwd_cuda(y, pre, b, n, o, act, ex);
}

void linear_bwd_w_cuda(void *dw, void *db, const void *dy, const void *x, int64_t n, int64_t o,
                       int64_t i, int acc_w, int acc_b, const mr_exec *ex)
{
    mr_lt_layer l = {MR_LT_BACKWARD, dw, db, x, dy, n, o, i, acc_w ? 1.0f : 0.0f, arithmetic(ex)};
    if (db && !acc_b && n > 0 && mr_lt_run(queue_of(ex), &l)) return;
    gemm_cuda(dw, dy, x, o, i, n, 1, 0, o, i, i, 1.0, acc_w ? 1.0 : 0.0, ex);
    if (db) col_sum_cuda(db, dy, n, o, acc_b, ex);
}

__device__ static inline float activate(float x, int act)
{
    return act == MR_ACT_GELU ? mr_geluf(x) : act == MR_ACT_SILU ? mr_siluf(x) : x;
}

__device__ static inline float activate_grad(float x, int act)
{
    return act == MR_ACT_GELU ? mr_gelu_gradf(x) : mr_silu_gradf(x);
}

void bias_act_fwd_cuda(void *yv, void *prev, const void *biasv, int64_t n, int64_t w, int act,
                       const mr_exec *ex)
{
    float *y = (float *)yv, *pre = act != MR_ACT_NONE ? (float *)prev : NULL;
    const float *bias = (const float *)biasv;
    cells(n, w, ex, [=] __device__(int64_t i, int64_t j) {
        float v = y[i * w + j] + (bias ? bias[j] : 0.0f);
        if (pre) pre[i * w + j] = v;
        y[i * w + j] = activate(v, act);
    });
}

void act_fwd_cuda(void *yv, const void *xv, int64_t n, int act, const mr_exec *ex)
{
    float *y = (float *)yv;
    const float *x = (const float *)xv;
    each(n, ex, [=] __device__(int64_t i) { y[i] = activate(x[i], act); });
}

void act_bwd_cuda(void *dprev, const void *dyv, const void *prev, int64_t n, int64_t w, int act,
                  const mr_exec *ex)
{
    float *d = (float *)dprev;
    const float *g = (const float *)dyv, *p = (const float *)prev;
    if (act == MR_ACT_NONE)
        each(n * w, ex, [=] __device__(int64_t i) { d[i] = g[i]; });
    else
        each(n * w, ex, [=] __device__(int64_t i) { d[i] = g[i] * activate_grad(p[i], act); });
}

/* 32 columns a block; thread row y sums rows y, y + 32, ..; the 32 partial sums are added in order.
 */
__global__ static void col_sum_kernel(float *out, const float *x, int64_t n, int64_t w, int acc)
{
    SHARED(float, part, [WARP][WARP]);
    int64_t j = (int64_t)blockIdx.x * WARP + threadIdx.x;
    float s = 0;
    if (j < w)
        for (int64_t i = threadIdx.y; i < n; i += WARP) s += x[i * w + j];
    part[threadIdx.y][threadIdx.x] = s;
    __syncthreads();
    if (threadIdx.y || j >= w) return;
    for (int i = 1; i < WARP; i++) s += part[i][threadIdx.x];
    put(&out[j], s, acc);
}

void col_sum_cuda(void *out, const void *x, int64_t n, int64_t w, int acc, const mr_exec *ex)
{
    if (w > 0)
        LAUNCH(col_sum_kernel, (unsigned)pieces(w, WARP), dim3(WARP, WARP), 0, ex, (float *)out,
               (const float *)x, n, w, acc);
}

/* As col_sum_kernel over the columns of table; every element of dy is met once. */
__global__ static void add_row_bwd_kernel(float *dx, float *dtable, const float *dy, int64_t n,
                                          int64_t w, int64_t first, int64_t total, int acc_x,
                                          int acc_table)
{
    SHARED(float, part, [WARP][WARP]);
    int64_t to = (int64_t)blockIdx.x * WARP + threadIdx.x, j = to - first;
    bool is_own = j >= 0 && j < w;
    float s = 0;
    for (int64_t i = threadIdx.y; is_own && i < n; i += WARP) {
        float g = dy[i * w + j];
        s += g;
        if (dx) put(&dx[i * w + j], g, acc_x);
    }
    part[threadIdx.y][threadIdx.x] = s;
    __syncthreads();
    if (threadIdx.y || to >= total) return;
    for (int i = 1; i < WARP; i++) s += part[i][threadIdx.x];
    if (is_own || !acc_table) put(&dtable[to], s, acc_table);
}

void add_row_bwd_cuda(void *dx, void *dtable, const void *dy, int64_t n, int64_t w, int64_t first,
                      int64_t total, int acc_x, int acc_table, const mr_exec *ex)
{
    if (total > 0)
        LAUNCH(add_row_bwd_kernel, (unsigned)pieces(total, WARP), dim3(WARP, WARP), 0, ex,
               (float *)dx, (float *)dtable, (const float *)dy, n, w, first, total, acc_x,
               acc_table);
}

void axpy_cuda(void *yv, const void *xv, int64_t n, double alpha, int acc, const mr_exec *ex)
{
    float *y = (float *)yv, a = (float)alpha;
    const float *x = (const float *)xv;
    each(n, ex, [=] __device__(int64_t i) { put(&y[i], a * x[i], acc); });
}

__global__ static void probe_kernel(float *out, const float *x, int64_t n)
{
    double s = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        s += (double)x[i] * cos(0.37 * (double)i + 1.0);
    s = block_sum(s);
    if (threadIdx.x == 0) *out = (float)s;
}

void probe_fwd_cuda(void *out, const void *x, int64_t n, const mr_exec *ex)
{
    LAUNCH(probe_kernel, 1, BLOCK, 0, ex, (float *)out, (const float *)x, n);
}

void probe_bwd_cuda(void *dxv, int64_t n, double weight, int acc, const mr_exec *ex)
{
    float *dx = (float *)dxv;
    each(n, ex, [=] __device__(int64_t i) {
        put(&dx[i], (float)(weight * cos(0.37 * (double)i + 1.0)), acc);
    });
}
