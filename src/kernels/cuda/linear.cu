/* Matrix products (cuBLAS, cuBLASLt), bias, activation, column sums. */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/lt.h"

namespace MR_ACT_SPACE
{

/* Sums are made in float32, whatever the arithmetic. Operands in bf16 need no rounding. */
static cublasComputeType_t arithmetic(const mr_exec *ex, cudaDataType operands)
{
    if (operands == CUDA_R_16BF) return CUBLAS_COMPUTE_32F;
    switch (ex->precision) {
    case MR_TF32: return CUBLAS_COMPUTE_32F_FAST_TF32;
    case MR_BF16_PRODUCTS: return CUBLAS_COMPUTE_32F_FAST_16BF;
    default: return CUBLAS_COMPUTE_32F_PEDANTIC;
    }
}

struct product_size {
    int64_t m, n, k, lda, ldb, ldc;
    int ta, tb;
};

/* What a product of no terms leaves. cuBLAS has left the result as it was for some sizes. */
template <class T>
static void scale_result(T *c, const mr_gemm_batch *batch, const product_size &s, float beta,
                         const mr_exec *ex)
{
    int64_t m = s.m, ld = s.ldc, stride = batch->stride_c;
    if (beta == 1.0f) return;
    cells(batch->count * m, s.n, ex, [=] __device__(int64_t i, int64_t j) {
        T *at = c + i / m * stride + i % m * ld + j;
        *at = beta == 0 ? 0.0f : beta * (float)*at;
    });
}

/* cuBLAS is column-major: the transpose of a row-major matrix. c^T = op(b)^T op(a)^T. A sum that is
 * made in parts stays float32 until it is whole. */
static void product(void *c, cudaDataType to, const void *a, const void *b, cudaDataType from,
                    const mr_gemm_batch *batch, const product_size &s, double alpha, double beta,
                    const mr_exec *ex)
{
    mr_cuda_queue *q = queue_of(ex);
    float al = (float)alpha, be = (float)beta;
    cublasOperation_t op_b = s.tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t op_a = s.ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    if (s.m == 0 || s.n == 0 || batch->count == 0) return;
    if (s.k == 0) {
        if (to == CUDA_R_16BF)
            scale_result((bf16_t *)c, batch, s, be, ex);
        else
            scale_result((float *)c, batch, s, be, ex);
        return;
    }
    q->counts->launches++;
    cublasStatus_t st =
        cublasSetMathMode(q->blas, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    if (st == CUBLAS_STATUS_SUCCESS && batch->count == 1)
        st = cublasGemmEx_64(q->blas, op_b, op_a, s.n, s.m, s.k, &al, b, from, s.ldb, a, from,
                             s.lda, &be, c, to, s.ldc, arithmetic(ex, from), CUBLAS_GEMM_DEFAULT);
    else if (st == CUBLAS_STATUS_SUCCESS)
        st = cublasGemmStridedBatchedEx_64(q->blas, op_b, op_a, s.n, s.m, s.k, &al, b, from, s.ldb,
                                           batch->stride_b, a, from, s.lda, batch->stride_a, &be, c,
                                           to, s.ldc, batch->stride_c, batch->count,
                                           arithmetic(ex, from), CUBLAS_GEMM_DEFAULT);
    if (q->blas_status == CUBLAS_STATUS_SUCCESS) q->blas_status = st;
}

static const mr_gemm_batch ONE = {1, 0, 0, 0};

void gemm(void *c, const void *a, const void *b, int64_t m, int64_t n, int64_t k, int ta, int tb,
          int64_t lda, int64_t ldb, int64_t ldc, double alpha, double beta, mr_sides sides,
          const mr_exec *ex)
{
    gemm_batch(c, a, b, &ONE, m, n, k, ta, tb, lda, ldb, ldc, alpha, beta, sides, ex);
}

void gemm_batch(void *c, const void *a, const void *b, const mr_gemm_batch *batch, int64_t m,
                int64_t n, int64_t k, int ta, int tb, int64_t lda, int64_t ldb, int64_t ldc,
                double alpha, double beta, mr_sides sides, const mr_exec *ex)
{
    bool to_act = sides == MR_ACT_ACT || sides == MR_ACT_REAL;
    bool of_act = sides == MR_ACT_ACT || sides == MR_REAL_ACT;
    product(c, to_act ? ACT_BLAS_TYPE : CUDA_R_32F, a, b, of_act ? ACT_BLAS_TYPE : CUDA_R_32F,
            batch, {m, n, k, lda, ldb, ldc, ta, tb}, alpha, beta, ex);
}

void gemm_bf16(void *c, int c_is_bf16, const uint16_t *a, const uint16_t *b, int64_t m, int64_t n,
               int64_t k, int ta, int tb, int64_t lda, int64_t ldb, int64_t ldc, double alpha,
               double beta, const mr_exec *ex)
{
    product(c, c_is_bf16 ? CUDA_R_16BF : CUDA_R_32F, a, b, CUDA_R_16BF, &ONE,
            {m, n, k, lda, ldb, ldc, ta, tb}, alpha, beta, ex);
}

static mr_lt_layer layer(mr_lt_way way, void *out, void *bias, const void *x, const void *m,
                         int64_t n, int64_t o, int64_t i, const mr_exec *ex)
{
    mr_lt_layer l = {way,          out, bias, x, m, n, o, i, 0.0f, arithmetic(ex, ACT_BLAS_TYPE),
                     ACT_BLAS_TYPE};
    return l;
}

__device__ static inline float activate(float x, int act)
{
    return act == MR_ACT_GELU ? mr_geluf(x) : act == MR_ACT_SILU ? mr_siluf(x) : x;
}

__device__ static inline float activate_grad(float x, int act)
{
    return act == MR_ACT_GELU ? mr_gelu_gradf(x) : mr_silu_gradf(x);
}

/* The bias of a layer of its own, mr_mat, or another's, mr_real. V: elements of a thread. */
template <class V, class T>
static void add_bias_by(act_t *y, act_t *pre, const T *bias, int64_t n, int64_t w, int act,
                        const mr_exec *ex)
{
    cells(n, w / V::COUNT, ex, [=] __device__(int64_t i, int64_t q) {
        int64_t j = q * V::COUNT, e = i * w + j;
        V v = at_once<V>(y + e), p;
        for (int k = 0; k < V::COUNT; k++) {
            float x = (float)v.v[k] + (bias ? (float)bias[j + k] : 0.0f);
            p.v[k] = x;
            v.v[k] = activate(x, act);
        }
        if (pre) *(V *)(pre + e) = p;
        *(V *)(y + e) = v;
    });
}

template <class T>
static void add_bias(act_t *y, act_t *pre, const T *bias, int64_t n, int64_t w, int act,
                     const mr_exec *ex)
{
    if (splits<wide<act_t>>(y, w) && splits<wide<act_t>>(pre, w))
        add_bias_by<wide<act_t>>(y, pre, bias, n, w, act, ex);
    else
        add_bias_by<several<act_t, 1>>(y, pre, bias, n, w, act, ex);
}

void bias_act_fwd(void *y, void *pre, const void *bias, int64_t n, int64_t w, int act,
                  const mr_exec *ex)
{
    add_bias((act_t *)y, act != MR_ACT_NONE ? (act_t *)pre : NULL, (const float *)bias, n, w, act,
             ex);
}

void linear_fwd(void *y, void *pre, const void *x, const void *w, const void *b, int64_t n,
                int64_t o, int64_t i, int act, const mr_exec *ex)
{
    mr_lt_layer l = layer(MR_LT_FORWARD, y, (void *)b, x, w, n, o, i, ex);
    if (b && n > 0 && mr_lt_run(queue_of(ex), &l))
        b = NULL;
    else
        gemm(y, x, w, n, o, i, 0, 1, i, i, o, 1.0, 0.0, MR_ACT_ACT, ex);
    if (b || act != MR_ACT_NONE)
        add_bias((act_t *)y, act != MR_ACT_NONE ? (act_t *)pre : NULL, (const act_t *)b, n, o, act,
                 ex);
}

void linear_bwd_w(void *dw, void *db, const void *dy, const void *x, int64_t n, int64_t o,
                  int64_t i, int acc_w, int acc_b, const mr_exec *ex)
{
    mr_lt_layer l = layer(MR_LT_BACKWARD, dw, db, x, dy, n, o, i, ex);
    l.beta = acc_w ? 1.0f : 0.0f;
    if (db && !acc_b && n > 0 && mr_lt_run(queue_of(ex), &l)) return;
    gemm(dw, dy, x, o, i, n, 1, 0, o, i, i, 1.0, acc_w ? 1.0 : 0.0, MR_REAL_ACT, ex);
    if (db) col_sum(db, dy, n, o, acc_b, ex);
}

void act_fwd(void *yv, const void *xv, int64_t n, int act, const mr_exec *ex)
{
    act_t *y = (act_t *)yv;
    const act_t *x = (const act_t *)xv;
    each(n, ex, [=] __device__(int64_t i) { y[i] = activate(x[i], act); });
}

template <class V>
static void act_bwd_by(act_t *d, act_t *y, const act_t *g, const act_t *p, int64_t n, int act,
                       const mr_exec *ex)
{
    each(n / V::COUNT, ex, [=] __device__(int64_t q) {
        V dy = at_once<V>(g + q * V::COUNT), x = dy, a;
        if (act != MR_ACT_NONE || y) x = at_once<V>(p + q * V::COUNT);
        for (int k = 0; k < V::COUNT; k++) {
            if (act != MR_ACT_NONE) dy.v[k] = dy.v[k] * activate_grad(x.v[k], act);
            a.v[k] = y ? activate(x.v[k], act) : 0.0f;
        }
        *(V *)(d + q * V::COUNT) = dy;
        if (y) *(V *)(y + q * V::COUNT) = a;
    });
}

void act_bwd(void *dprev, void *yv, const void *dyv, const void *prev, int64_t n, int64_t w,
             int act, const mr_exec *ex)
{
    act_t *d = (act_t *)dprev, *y = (act_t *)yv;
    const act_t *g = (const act_t *)dyv, *p = (const act_t *)prev;
    typedef wide<act_t> V;
    if (splits<V>(d, n * w) && splits<V>(y, n * w) && splits<V>(g, n * w) && splits<V>(p, n * w))
        act_bwd_by<V>(d, y, g, p, n * w, act, ex);
    else
        act_bwd_by<several<act_t, 1>>(d, y, g, p, n * w, act, ex);
}

/* Sums over n rows, by columns: a block has some of the rows, a thread its columns. */
struct row_sums {
    int64_t n, rows; /* of a block */
    mr_parts parts;
};

enum { SUM_BLOCKS = 512, LEAST_ROWS = 8 };

static row_sums make_row_sums(int64_t n, int64_t w, const mr_exec *ex)
{
    mr_cuda_queue *q = queue_of(ex);
    int64_t most = MR_CUDA_SUMS / w < SUM_BLOCKS ? MR_CUDA_SUMS / w : SUM_BLOCKS;
    int64_t rows = pieces(n, most > 0 ? most : 1);
    rows = rows > LEAST_ROWS ? rows : LEAST_ROWS;
    return {n, rows, {q->sums, w, w, (int)(n > 0 ? pieces(n, rows) : 1), q->counters}};
}

/* take(i, j): element j of row i; done(j, sum). */
template <class F, class G> __global__ void row_sums_kernel(row_sums a, F take, G done)
{
    int64_t p = blockIdx.x, first = p * a.rows;
    int64_t end = first + a.rows < a.n ? first + a.rows : a.n;
    for (int64_t j = threadIdx.x; j < a.parts.w; j += blockDim.x) {
        float s = 0;
        for (int64_t i = first; i < end; i++) s += take(i, j);
        a.parts.part[p * a.parts.ld + j] = s;
    }
    add_parts(a.parts, (int)p, done);
}

template <class F, class G>
static void sum_rows(int64_t n, int64_t w, const mr_exec *ex, F take, G done)
{
    row_sums a = make_row_sums(n, w, ex);
    LAUNCH((row_sums_kernel<F, G>), (unsigned)a.parts.count, threads_for(w), 0, ex, a, take, done);
}

void col_sum(void *outv, const void *xv, int64_t n, int64_t w, int acc, const mr_exec *ex)
{
    float *out = (float *)outv;
    const act_t *x = (const act_t *)xv;
    if (w <= 0) return;
    sum_rows(
        n, w, ex, [=] __device__(int64_t i, int64_t j) { return (float)x[i * w + j]; },
        [=] __device__(int64_t j, float s) { put(&out[j], s, acc); });
}

/* Every element of dy is met once. The thread that ends column j of the sums also sets what of
 * the table lies a multiple of w before and behind it. */
void add_row_bwd(void *dxv, void *dtable, const void *dyv, int64_t n, int64_t w, int64_t first,
                 int64_t total, int acc_x, int acc_table, const mr_exec *ex)
{
    act_t *dx = (act_t *)dxv;
    float *table = (float *)dtable;
    const act_t *dy = (const act_t *)dyv;
    if (w <= 0) return;
    sum_rows(
        n, w, ex,
        [=] __device__(int64_t i, int64_t j) {
            float g = dy[i * w + j];
            if (dx) put(&dx[i * w + j], g, acc_x);
            return g;
        },
        [=] __device__(int64_t j, float s) {
            put(&table[first + j], s, acc_table);
            for (int64_t k = (first + j) % w; k < total && !acc_table; k += w)
                if (k != first + j) table[k] = 0;
        });
}

template <class Y, class X>
static void add_scaled(Y *y, const X *x, int64_t n, float a, int acc, const mr_exec *ex)
{
    each(n, ex, [=] __device__(int64_t i) { put(&y[i], a * (float)x[i], acc); });
}

void axpy(void *y, const void *x, int64_t n, double alpha, int acc, mr_sides sides,
          const mr_exec *ex)
{
    OF_SIDES(sides, add_scaled, y, x, n, (float)alpha, acc, ex);
}

/* Factor of element e of rows of w, of which cols count. */
__device__ static inline double probe_factor(int64_t e, int64_t cols, int64_t w)
{
    return e % w < cols ? cos(0.37 * (double)(e / w * cols + e % w) + 1.0) : 0.0;
}

__global__ static void probe_kernel(float *out, const act_t *x, int64_t n, int64_t cols, int64_t w)
{
    double s = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        s += (double)x[i] * probe_factor(i, cols, w);
    s = block_sum(s);
    if (threadIdx.x == 0) *out = (float)s;
}

void probe_fwd(void *out, const void *x, int64_t n, int64_t cols, int64_t w, const mr_exec *ex)
{
    LAUNCH(probe_kernel, 1, BLOCK, 0, ex, (float *)out, (const act_t *)x, n, cols, w);
}

void probe_bwd(void *dxv, int64_t n, int64_t cols, int64_t w, double weight, int acc,
               const mr_exec *ex)
{
    act_t *dx = (act_t *)dxv;
    each(n, ex, [=] __device__(int64_t i) {
        put(&dx[i], (float)(weight * probe_factor(i, cols, w)), acc);
    });
}
} // namespace MR_ACT_SPACE
