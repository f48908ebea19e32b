/* Attention core for short rows: one block does one head of one row of the batch.
 * What it is not: projections (linear.cu) or a kernel for long sequences; those of more than 71
 * positions work as well (attention_bwd_long_kernel), with every product made twice.
 * Invariants: every mode runs the same code per query, so a pruned query gives the bits of the full
 * one; sums over queries and keys are in their order. */
#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{

enum { THREADS = 128, WARPS = THREADS / WARP, SHARED_FLOATS = SHARED_BYTES / (int)sizeof(float) };

/* What a call needs; the shape's arrays are device memory. */
struct att_args {
    mr_att_shape s;
    int64_t dh, q_w, kv_w; /* of a head; of rows */
    float scale;
    mask m;
    const act_t *q, *kv, *first;
};

static att_args make_args(const void *q, const void *kv, const void *first, const mr_att_shape *s,
                          const mr_drop *drop, const mr_exec *ex)
{
    att_args a = {};
    a.s = *s;
    a.dh = s->d / s->heads;
    a.q_w = mr_att_q_w(s);
    a.kv_w = mr_att_kv_w(s);
    a.scale = 1 / sqrtf((float)a.dh);
    a.m = mask_of(drop, ex);
    a.q = (const act_t *)q;
    a.kv = (const act_t *)kv;
    a.first = (const act_t *)first;
    return a;
}

/* One head of one batch row: which rows of q and kv it covers. */
struct att_row {
    int64_t b, h, q0, n_q, i0, kv0, n_keys;
    bool causal;

    __device__ explicit att_row(const att_args &a)
    {
        const mr_att_shape &s = a.s;
        b = blockIdx.x / s.heads;
        h = blockIdx.x % s.heads;
        causal = s.mode == MR_ATT_CAUSAL;
        if (s.mode == MR_ATT_CAUSAL || s.mode == MR_ATT_LAST) {
            bool is_last = s.mode == MR_ATT_LAST;
            kv0 = s.start[b];
            n_keys = s.len[b];
            n_q = is_last ? 1 : n_keys;
            q0 = is_last ? b : kv0;
            i0 = is_last ? n_keys - 1 : 0;
        } else {
            n_keys = s.S;
            kv0 = b * (s.S - (a.first ? 1 : 0));
            n_q = s.mode == MR_ATT_FULL ? s.S : 1;
            q0 = b * n_q;
            i0 = 0;
        }
    }
    __device__ int64_t seen(int64_t i) const { return causal ? i + 1 : n_keys; }

    /* Element of this head's key j in memory shaped like kv and kv_first; the value is d further.
     */
    template <class T> __device__ T *key(T *kv, T *first, const att_args &a, int64_t j) const
    {
        bool has_first = a.first != NULL;
        if (has_first && j == 0) return first ? first + b * a.kv_w + h * a.dh : NULL;
        return kv ? kv + (kv0 + j - (has_first ? 1 : 0)) * a.kv_w + h * a.dh : NULL;
    }
    /* Dropout factor of query i (position i0 + i) and key j. */
    __device__ float factor(const att_args &a, int64_t i, int64_t j) const
    {
        if (!a.m.is_on) return 1.0f;
        uint32_t bits = mr_drop_bits_at(a.m.seed, a.m.purpose, a.m.state->step, a.m.rid[b],
                                        mr_drop_att_block(h, i0 + i, a.s.S), j);
        return bits >= a.m.threshold ? a.m.scale : 0.0f;
    }
};

/* out[j] = scale * x . row(j), a warp per key; off = 0 keys, d values. */
__device__ static void dots(float *out, const act_t *x, const att_args &a, const att_row &r,
                            int64_t off, int64_t n, float scale)
{
    int lane = (int)threadIdx.x % WARP;
    for (int64_t j = threadIdx.x / WARP; j < n; j += WARPS) {
        const act_t *k = r.key(a.kv, a.first, a, j) + off;
        float s = 0;
        for (int64_t c = lane; c < a.dh; c += WARP) s += x[c] * k[c];
        s = warp_sum(s);
        if (lane == 0) out[j] = scale * s;
    }
}

/* Columns behind the first d of n rows of x from row `from` on, by the block of the first head. */
__device__ static void zero_ends(act_t *x, int64_t from, int64_t n, int64_t d, int64_t w, int64_t h)
{
    if (!x || w == d || h) return;
    for (int64_t i = from + threadIdx.x; i < from + n; i += THREADS)
        for (int64_t c = d; c < w; c++) x[i * w + c] = 0;
}

__global__ static void attention_fwd_kernel(act_t *out, float *prob, att_args a)
{
    SHARED_REST(float, p); /* [S] */
    att_row r(a);
    int64_t d = a.s.d, H = a.s.heads;
    for (int64_t i = 0; i < r.n_q; i++) {
        int64_t row = r.q0 + i, n = r.seen(i);
        dots(p, a.q + row * a.q_w + r.h * a.dh, a, r, 0, n, a.scale);
        __syncthreads();
        float top = -INFINITY, sum = 0;
        for (int64_t j = threadIdx.x; j < n; j += THREADS) top = p[j] > top ? p[j] : top;
        top = block_max(top);
        for (int64_t j = threadIdx.x; j < n; j += THREADS) sum += p[j] = mr_expf(p[j] - top);
        float inverse = 1 / block_sum(sum);
        for (int64_t j = threadIdx.x; j < n; j += THREADS) {
            float v = p[j] * inverse;
            if (prob) prob[(row * H + r.h) * a.s.S + j] = v;
            p[j] = v * r.factor(a, i, j);
        }
        __syncthreads();
        for (int64_t c = threadIdx.x; c < a.dh; c += THREADS) {
            float s = 0;
            for (int64_t j = 0; j < n; j++) s += p[j] * r.key(a.kv, a.first, a, j)[d + c];
            out[row * a.q_w + r.h * a.dh + c] = s;
        }
        __syncthreads();
    }
    zero_ends(out, r.q0, r.n_q, d, a.q_w, r.h);
    if (r.causal && a.s.N > 0) zero_rows(out, a.s.start[a.s.B], a.s.N, a.q_w);
}

void attention_fwd(void *out, void *prob, const void *q, const void *kv, const void *kv_first,
                   const mr_att_shape *s, const mr_drop *drop, const mr_exec *ex)
{
    if (s->B > 0)
        LAUNCH(attention_fwd_kernel, (unsigned)(s->B * s->heads), THREADS,
               (size_t)s->S * sizeof(float), ex, (act_t *)out, (float *)prob,
               make_args(q, kv, kv_first, s, drop, ex));
}

struct att_grads {
    act_t *dq, *dkv, *dfirst;
    const act_t *dout;
    const float *prob;
    int acc_q, acc_kv, acc_first;
};

/* ds[n] = gradient of the scores of query i; w[n] = m_j p_j. Returns sum_j p_j m_j (dout . v_j),
 * the same in every thread. */
__device__ static float query_bwd(float *ds, float *w, const att_args &a, const att_grads &g,
                                  const att_row &r, int64_t i)
{
    int64_t row = r.q0 + i, n = r.seen(i);
    const float *p = g.prob + (row * a.s.heads + r.h) * a.s.S;
    dots(ds, g.dout + row * a.q_w + r.h * a.dh, a, r, a.s.d, n, 1);
    __syncthreads();
    float mean = 0;
    for (int64_t j = threadIdx.x; j < n; j += THREADS) {
        float f = r.factor(a, i, j);
        ds[j] *= f;
        w[j] = p[j] * f;
        mean += p[j] * ds[j];
    }
    mean = block_sum(mean);
    for (int64_t j = threadIdx.x; j < n; j += THREADS) ds[j] = p[j] * (ds[j] - mean) * a.scale;
    __syncthreads();
    for (int64_t c = threadIdx.x; g.dq && c < a.dh; c += THREADS) {
        float s = 0;
        for (int64_t j = 0; j < n; j++) s += ds[j] * r.key(a.kv, a.first, a, j)[c];
        put(&g.dq[row * a.q_w + r.h * a.dh + c], s, g.acc_q);
    }
    return mean;
}

/* dk_j (+)= sum_i ds_ij q_i, dv_j (+)= sum_i w_ij dout_i over all queries; a warp per key. */
__device__ static void keys_bwd(const float *ds, const float *w, const att_args &a,
                                const att_grads &g, const att_row &r)
{
    int64_t d = a.s.d, S = a.s.S;
    bool has_first = a.first != NULL;
    for (int64_t j = threadIdx.x / WARP; j < r.n_keys; j += WARPS) {
        act_t *dk = r.key(g.dkv, g.dfirst, a, j);
        if (!dk) continue;
        int acc = has_first && j == 0 ? g.acc_first : g.acc_kv;
        for (int64_t c = threadIdx.x % WARP; c < a.dh; c += WARP) {
            float sk = 0, sv = 0;
            for (int64_t i = r.causal ? j : 0; i < r.n_q; i++) { /* who sees key j */
                int64_t at = (r.q0 + i) * a.q_w + r.h * a.dh + c;
                sk += ds[i * S + j] * a.q[at];
                sv += w[i * S + j] * g.dout[at];
            }
            put(&dk[c], sk, acc);
            put(&dk[d + c], sv, acc);
        }
    }
}

/* Gradients of packed rows behind those of the batch, and of columns that count for nothing. */
__device__ static void behind_bwd(const att_args &a, const att_grads &g, const att_row &r)
{
    bool has_first = a.first != NULL;
    zero_ends(g.dq, r.q0, r.n_q, a.s.d, a.q_w, r.h);
    zero_ends(g.dkv, r.kv0, r.n_keys - (has_first ? 1 : 0), 2 * a.s.d, a.kv_w, r.h);
    if (has_first) zero_ends(g.dfirst, r.b, 1, 2 * a.s.d, a.kv_w, r.h);
    if (a.s.N == 0) return;
    int64_t from = a.s.start[a.s.B];
    if (r.causal && g.dq && !g.acc_q) zero_rows(g.dq, from, a.s.N, a.q_w);
    if (g.dkv && !g.acc_kv) zero_rows(g.dkv, from, a.s.N, a.kv_w);
}

__global__ static void attention_bwd_kernel(att_args a, att_grads g)
{
    SHARED_REST(float, shared); /* ds[n_q,S], w[n_q,S] */
    att_row r(a);
    float *ds = shared, *w = shared + r.n_q * a.s.S;
    for (int64_t i = 0; i < r.n_q; i++) query_bwd(ds + i * a.s.S, w + i * a.s.S, a, g, r, i);
    keys_bwd(ds, w, a, g, r);
    behind_bwd(a, g, r);
}

enum { LANE_COLUMNS = 8 }; /* of a key, in registers */

/* The same for columns c0 .. of key j where ds and w of all queries do not fit: they are made once
 * more for each key, from the mean of each query. By a warp. */
__device__ static void long_key_bwd(const float *mean, const att_args &a, const att_grads &g,
                                    const att_row &r, int64_t j, int64_t c0)
{
    int64_t d = a.s.d, lane = threadIdx.x % WARP;
    bool has_first = a.first != NULL;
    act_t *dk = r.key(g.dkv, g.dfirst, a, j);
    const act_t *v = r.key(a.kv, a.first, a, j) + d;
    float sk[LANE_COLUMNS] = {}, sv[LANE_COLUMNS] = {};
    for (int64_t i = r.causal ? j : 0; i < r.n_q; i++) {
        int64_t row = r.q0 + i, at = row * a.q_w + r.h * a.dh;
        float p = g.prob[(row * a.s.heads + r.h) * a.s.S + j], f = r.factor(a, i, j), dp = 0;
        for (int64_t c = lane; c < a.dh; c += WARP) dp += g.dout[at + c] * v[c];
        float ds = p * (warp_sum(dp) * f - mean[i]) * a.scale;
        for (int k = 0; k < LANE_COLUMNS; k++) {
            int64_t c = c0 + lane + k * WARP;
            if (c >= a.dh) break;
            sk[k] += ds * a.q[at + c];
            sv[k] += p * f * g.dout[at + c];
        }
    }
    int acc = has_first && j == 0 ? g.acc_first : g.acc_kv;
    for (int k = 0; k < LANE_COLUMNS; k++) {
        int64_t c = c0 + lane + k * WARP;
        if (c >= a.dh) break;
        put(&dk[c], sk[k], acc);
        put(&dk[d + c], sv[k], acc);
    }
}

__global__ static void attention_bwd_long_kernel(att_args a, att_grads g)
{
    SHARED_REST(float, shared); /* ds[S], w[S] of a query, mean[n_q] */
    att_row r(a);
    float *mean = shared + 2 * a.s.S;
    for (int64_t i = 0; i < r.n_q; i++) {
        float m = query_bwd(shared, shared + a.s.S, a, g, r, i);
        if (threadIdx.x == 0) mean[i] = m;
        __syncthreads(); /* the next query's are made in the same place */
    }
    for (int64_t j = threadIdx.x / WARP; j < r.n_keys; j += WARPS)
        for (int64_t c0 = 0; c0 < a.dh && r.key(g.dkv, g.dfirst, a, j); c0 += WARP * LANE_COLUMNS)
            long_key_bwd(mean, a, g, r, j, c0);
    behind_bwd(a, g, r);
}

void attention_bwd(void *dq, void *dkv, void *dkv_first, const void *dout, const void *prob,
                   const void *q, const void *kv, const void *kv_first, const mr_att_shape *s,
                   int acc_q, int acc_kv, int acc_first, const mr_drop *drop, const mr_exec *ex)
{
    att_grads g = {
        (act_t *)dq, (act_t *)dkv, (act_t *)dkv_first, (const act_t *)dout, (const float *)prob,
        acc_q,       acc_kv,       acc_first};
    if (s->B == 0) return;
    /* Most queries of a row; S is at most MR_ATT_MAX_KEYS. */
    bool is_one = s->mode == MR_ATT_LAST || s->mode == MR_ATT_ONE;
    int64_t n_q = is_one ? 1 : s->S, all = 2 * n_q * s->S;
    unsigned blocks = (unsigned)(s->B * s->heads);
    att_args a = make_args(q, kv, kv_first, s, drop, ex);
    if (all <= SHARED_FLOATS)
        LAUNCH(attention_bwd_kernel, blocks, THREADS, (size_t)all * sizeof(float), ex, a, g);
    else
        LAUNCH(attention_bwd_long_kernel, blocks, THREADS, (size_t)(2 * s->S + n_q) * sizeof(float),
               ex, a, g);
}
} // namespace MR_ACT_SPACE
