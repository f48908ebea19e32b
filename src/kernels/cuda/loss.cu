/* Losses and the parts of the sharded softmax cross-entropy.
 * What it is not: the matrix products between them, nor the exchange between ranks
 * (graph/op_softmax.c). Sums have a fixed order, those over many numbers are taken in double. */
#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{

#define NORM_MIN 1e-12

void zero(void *y, int64_t n, const mr_exec *ex)
{
    float *p = (float *)y;
    each(n, ex, [=] __device__(int64_t i) { p[i] = 0; });
}

enum { MSE_BLOCKS = 512 }; /* at most; fixed: the order depends on n w alone, others would add 0 */

struct mse_args {
    float *loss;
    act_t *dpred, *dtarget;
    const act_t *pred, *target;
    int64_t n, w, count; /* elements; columns, those that count */
    double weight;
    int acc_pred, acc_target;
};

template <class V>
__global__ void mse_kernel(mse_args a, double *part, unsigned *counter, const mr_step_state *state)
{
    double s = 0, size = (double)state->rows_global * (double)a.count;
    int64_t of_batch = state->rows * a.w; /* elements behind belong to no batch */
    float c = (float)(2.0 * a.weight / size);
    for (int64_t q = (int64_t)blockIdx.x * BLOCK + threadIdx.x; q < a.n / V::COUNT;
         q += (int64_t)MSE_BLOCKS * BLOCK) {
        int64_t i = q * V::COUNT;
        V p = at_once<V>(a.pred + i), t = at_once<V>(a.target + i);
        float d[V::COUNT];
        for (int k = 0; k < V::COUNT; k++) {
            d[k] = i + k < of_batch ? p.v[k] - t.v[k] : 0.0f;
            s += (double)d[k] * (double)d[k];
        }
        if (a.dpred) {
            if (a.acc_pred) p = at_once<V>(a.dpred + i);
            for (int k = 0; k < V::COUNT; k++) put(&p.v[k], c * d[k], a.acc_pred);
            *(V *)(a.dpred + i) = p;
        }
        if (a.dtarget) {
            if (a.acc_target) t = at_once<V>(a.dtarget + i);
            for (int k = 0; k < V::COUNT; k++) put(&t.v[k], -(c * d[k]), a.acc_target);
            *(V *)(a.dtarget + i) = t;
        }
    }
    if (!a.loss) return;
    s = block_sum(s);
    if (threadIdx.x == 0) part[blockIdx.x] = s;
    if (!is_last_block(counter, gridDim.x)) return;
    s = 0;
    for (int64_t i = threadIdx.x; i < gridDim.x; i += BLOCK) s += part[i];
    s = block_sum(s);
    if (threadIdx.x == 0) *a.loss = (float)(s / size);
}

template <class V> static void start_mse(const mse_args &a, const mr_exec *ex)
{
    mr_cuda_queue *q = queue_of(ex);
    unsigned blocks = blocks_of_strides(a.n / V::COUNT, MSE_BLOCKS);
    LAUNCH(mse_kernel<V>, blocks, BLOCK, 0, ex, a, q->partials, q->counters, ex->state);
}

/* loss = factor * sum of v[n] / (rows_global * w) */
__global__ static void sum_kernel(float *loss, const double *v, int64_t n, double factor, int64_t w,
                                  const mr_step_state *state)
{
    double s = 0;
    for (int64_t i = threadIdx.x; i < n; i += BLOCK) s += v[i];
    s = block_sum(s);
    if (threadIdx.x == 0) *loss = (float)(factor * s / ((double)state->rows_global * (double)w));
}

void mse(void *loss, void *dpred, void *dtarget, const void *pred, const void *target, int64_t n,
         int64_t w, int64_t count, double weight, int acc_pred, int acc_target, const mr_exec *ex)
{
    mse_args a = {(float *)loss,
                  (act_t *)dpred,
                  (act_t *)dtarget,
                  (const act_t *)pred,
                  (const act_t *)target,
                  n * w,
                  w,
                  count,
                  weight,
                  acc_pred,
                  acc_target};
    typedef wide<act_t> V;
    if (splits<V>(dpred, a.n) && splits<V>(dtarget, a.n) && splits<V>(pred, a.n) &&
        splits<V>(target, a.n))
        start_mse<V>(a, ex);
    else
        start_mse<several<act_t, 1>>(a, ex);
}

/* Dot product of two rows by a block; the same in every thread. */
__device__ static inline float row_product(const float *a, const float *b, int64_t w)
{
    float s = 0;
    for (int64_t j = threadIdx.x; j < w; j += blockDim.x) s += a[j] * b[j];
    return block_sum(s);
}

__global__ static void inv_norm_kernel(float *inv, const float *x, int64_t w)
{
    const float *r = x + blockIdx.x * w;
    double norm = sqrt((double)row_product(r, r, w));
    if (threadIdx.x == 0) inv[blockIdx.x] = (float)(1.0 / (norm > NORM_MIN ? norm : NORM_MIN));
}

void row_inv_norm(void *inv, const void *x, int64_t n, int64_t w, const mr_exec *ex)
{
    if (n > 0)
        LAUNCH(inv_norm_kernel, (unsigned)n, threads_for(w), 0, ex, (float *)inv, (const float *)x,
               w);
}

void row_scale(void *yv, const void *xv, const void *sv, int64_t n, int64_t w, const mr_exec *ex)
{
    float *y = (float *)yv;
    const float *x = (const float *)xv, *s = (const float *)sv;
    cells(n, w, ex, [=] __device__(int64_t i, int64_t j) { y[i * w + j] = s[i] * x[i * w + j]; });
}

__global__ static void row_dot_kernel(float *s, const float *a, const float *b, int64_t w)
{
    float v = row_product(a + blockIdx.x * w, b + blockIdx.x * w, w);
    if (threadIdx.x == 0) s[blockIdx.x] = v;
}

void row_dot(void *s, const void *a, const void *b, int64_t n, int64_t w, const mr_exec *ex)
{
    if (n > 0)
        LAUNCH(row_dot_kernel, (unsigned)n, threads_for(w), 0, ex, (float *)s, (const float *)a,
               (const float *)b, w);
}

__global__ static void norm_project_kernel(float *y, const float *h, const float *x,
                                           const float *inv, const float *s0, int64_t w, int acc)
{
    int64_t i = blockIdx.x;
    double v = (double)inv[i];
    float c = 0;
    if (v * NORM_MIN < 1.0) { /* the whole block alike */
        double d = (double)row_product(x + i * w, h + i * w, w) - (s0 ? (double)s0[i] : 0.0);
        c = (float)(v * v * d);
    }
    for (int64_t j = i * w + threadIdx.x; j < (i + 1) * w; j += blockDim.x)
        put(&y[j], h[j] - c * x[j], acc);
}

void norm_project(void *y, const void *h, const void *x, const void *inv, const void *s0, int64_t n,
                  int64_t w, int acc, const mr_exec *ex)
{
    if (n > 0)
        LAUNCH(norm_project_kernel, (unsigned)n, threads_for(w), 0, ex, (float *)y,
               (const float *)h, (const float *)x, (const float *)inv, (const float *)s0, w, acc);
}

/* One row a block: largest l, then q in place and the sum of exponentials. */
__global__ static void ce_rows_kernel(float *rawv, double *stats, const int32_t *target,
                                      const int32_t *skip, const float *cs, int64_t v, int64_t lo,
                                      float scale, float known_max)
{
    int64_t b = blockIdx.x, t = target[b] - lo, k = skip ? skip[b] - lo : -1;
    bool is_known = known_max < INFINITY && v > 0;
    float *raw = rawv + b * v, m = is_known ? known_max : -INFINITY;
    double sum = 0, l_target = 0;
    if (threadIdx.x == 0 && t >= 0 && t < v)
        l_target = (double)(raw[t] * (cs ? cs[t] * scale : scale));
    for (int64_t c = threadIdx.x; c < v && !is_known; c += blockDim.x) {
        if (c == k) continue;
        float l = raw[c] * (cs ? cs[c] * scale : scale);
        m = l > m ? l : m;
    }
    m = block_max(m); /* its barrier: the target's logit is read before it is overwritten */
    for (int64_t c = threadIdx.x; c < v; c += blockDim.x) {
        float f = cs ? cs[c] * scale : scale;
        float e = c == k ? 0.0f : mr_expf(raw[c] * f - m);
        sum += (double)e;
        raw[c] = f * e;
    }
    sum = block_sum(sum);
    if (threadIdx.x) return;
    stats[3 * b] = (double)m;
    stats[3 * b + 1] = sum;
    stats[3 * b + 2] = l_target;
}

void ce_rows(void *raw, double *stats, const int32_t *target, const int32_t *skip,
             const void *col_scale, int64_t n, int64_t v, int64_t lo, double scale,
             double known_max, const mr_exec *ex)
{
    if (n > 0)
        LAUNCH(ce_rows_kernel, (unsigned)n, BLOCK, 0, ex, (float *)raw, stats, target, skip,
               (const float *)col_scale, v, lo, (float)scale, (float)known_max);
}

void leave_out(void *rawv, const int32_t *rank_rows, int64_t n, int64_t v, int64_t B, int size,
               double x, const mr_exec *ex)
{
    float *raw = (float *)rawv, y = (float)x;
    cells(n, v, ex, [=] __device__(int64_t b, int64_t c) {
        if (c % B >= rank_rows[c / B % size]) raw[b * v + c] = y;
    });
}

/* Row b of [size,n,3]. */
struct combine_args {
    float *coef, *xs;
    double *ce;
    const double *stats;
    const int32_t *target;
    const float *x;
    int64_t n, w;
    int size, rank;
    double weight;

    __device__ float row(int64_t b, const mr_step_state *state) const
    {
        double m = -INFINITY, z = 0, t = 0;
        for (int r = 0; r < size; r++) {
            double mr = stats[(r * n + b) * 3];
            m = mr <= m ? m : mr; /* written so that a NaN is kept */
        }
        for (int r = 0; r < size; r++) {
            const double *s = stats + (r * n + b) * 3;
            z += s[1] * exp(s[0] - m);
            t += s[2];
        }
        double share = weight / (double)state->rows_global;
        bool is_row = target[b] >= 0;
        float c = is_row ? (float)(share * exp(stats[(rank * n + b) * 3] - m) / z) : 0.0f;
        ce[b] = is_row ? m + log(z) - t : 0;
        coef[b] = c;
        return c;
    }
};

/* With xs: a block a row, whose first thread does the sums. */
__global__ static void combine_kernel(combine_args a, const mr_step_state *state)
{
    SHARED(float, c, [1]);
    int64_t b = blockIdx.x;
    if (threadIdx.x == 0) c[0] = a.row(b, state);
    __syncthreads();
    for (int64_t j = threadIdx.x; j < a.w; j += blockDim.x)
        a.xs[b * a.w + j] = c[0] * a.x[b * a.w + j];
}

void ce_combine(void *coef, double *ce, void *xs, const double *stats, const int32_t *target,
                const void *x, int64_t n, int64_t w, int size, int rank, double weight,
                const mr_exec *ex)
{
    const mr_step_state *state = ex->state;
    combine_args a = {(float *)coef, (float *)xs, ce,    stats, target, (const float *)x, n, w,
                      size,          rank,        weight};
    if (!xs)
        each(n, ex, [=] __device__(int64_t b) { a.row(b, state); });
    else if (n > 0)
        LAUNCH(combine_kernel, (unsigned)n, threads_for(w), 0, ex, a, state);
}

enum { AT_ONCE = 128 }; /* words of 32 rows that are compared before any of them is added */

/* What rows share the target of row b, and lie behind it. */
struct same_target {
    const int32_t *target;
    int64_t b, n;

    /* Bit i of word q: row first + 32 q + i does. All threads take part. */
    __device__ void find(unsigned *same, int64_t first) const
    {
        int32_t own = target[b];
        int64_t end = n - first < AT_ONCE * WARP ? pieces_of(n - first) * WARP : AT_ONCE * WARP;
        __syncthreads(); /* the words before may still be read */
        for (int64_t q = threadIdx.x; q < end; q += blockDim.x) { /* whole warps */
            int64_t i = first + q;
            unsigned bit = i >= b && i < n && target[i] == own ? 1u << threadIdx.x % WARP : 0u;
            bit = warp_sum(bit);
            if (threadIdx.x % WARP == 0) same[q / WARP] = bit;
        }
        __syncthreads();
    }
    __device__ static int64_t pieces_of(int64_t rows) { return (rows + WARP - 1) / WARP; }
};

/* Rows may share a target. The block of the first such row does them all, in order. */
__global__ static void ce_target_kernel(float *dtable, float *dx, const float *table,
                                        const float *x, const int32_t *target, const float *cs,
                                        const double *ce, const float *coef, int64_t n, int64_t v,
                                        int64_t w, int64_t lo, double g0,
                                        const mr_step_state *state)
{
    SHARED(unsigned, same, [AT_ONCE]);
    same_target rows = {target, blockIdx.x, n};
    int64_t b = rows.b, t = target[b] - lo;
    /* A thread has the same columns below. */
    for (int64_t j = threadIdx.x; dx && coef && j < w; j += blockDim.x) dx[b * w + j] *= coef[b];
    if (t < 0 || t >= v) return;
    double scaled = g0 / (double)state->rows_global;
    double whole = cs ? scaled * (double)cs[t] : scaled;
    float g = (float)(ce ? whole * -expm1(-ce[b]) : whole);
    for (int64_t j = threadIdx.x; dx && j < w; j += blockDim.x)
        dx[b * w + j] -= g * table[t * w + j];
    int earlier = 0;
    for (int64_t i = threadIdx.x; i < b; i += blockDim.x) earlier |= target[i] == target[b];
    if (__syncthreads_or(earlier) || !dtable) return;
    for (int64_t first = b; first < n; first += AT_ONCE * WARP) {
        int64_t words = n - first < AT_ONCE * WARP ? rows.pieces_of(n - first) : AT_ONCE;
        rows.find(same, first);
        for (int64_t j = threadIdx.x; j < w; j += blockDim.x) {
            float s = dtable[t * w + j];
            for (int64_t q = 0; q < words; q++)
                for (unsigned bits = same[q]; bits; bits &= bits - 1) {
                    int64_t i = first + q * WARP + lowest_bit(bits);
                    float gi = ce ? (float)(whole * -expm1(-ce[i])) : g;
                    s -= gi * x[i * w + j];
                }
            dtable[t * w + j] = s;
        }
    }
}

void ce_target(void *dtable, void *dx, const void *table, const void *x, const int32_t *target,
               const void *col_scale, const double *ce, const void *coef, int64_t n, int64_t v,
               int64_t w, int64_t lo, double scale, double weight, const mr_exec *ex)
{
    if (n > 0)
        LAUNCH(ce_target_kernel, (unsigned)n, threads_for(w), 0, ex, (float *)dtable, (float *)dx,
               (const float *)table, (const float *)x, target, (const float *)col_scale, ce,
               (const float *)coef, n, v, w, lo, weight * scale, ex->state);
}

void ce_sum(void *loss, const double *ce, int64_t n, double alpha, const mr_exec *ex)
{
    LAUNCH(sum_kernel, 1, BLOCK, 0, ex, (float *)loss, ce, n, alpha, 1, ex->state);
}

void pair_ids(int32_t *target, int32_t *skip, int64_t B, int64_t first, int64_t G,
              const mr_exec *ex)
{
    const mr_step_state *state = ex->state;
    each(2 * B, ex, [=] __device__(int64_t r) {
        int64_t s = r / B, i = r % B;
        bool is_row = i < state->rows;
        skip[r] = is_row ? (int32_t)(s * G + first + i) : -1;
        target[r] = is_row ? (int32_t)((1 - s) * G + first + i) : -1;
    });
}
} // namespace MR_ACT_SPACE
