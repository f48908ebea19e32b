/* Attention core for short rows: one block does one head of one row of the batch.
 * What it is not: projections (linear.cu) or a kernel for long sequences.
 * Invariants: every mode runs the same code per query, so a pruned query gives the bits of the full
 * one; sums over queries and keys are in their order. */
#include "kernels/cuda/common.cuh"

enum {
    THREADS = 128,
    WARPS = THREADS / WARP,
    TILE_FLOATS = SHARED_BYTES / (2 * (int)sizeof(float)), /* of ds and w each */
    TILE_QUERIES = 16
};

/* What a call needs; the shape's arrays are device memory. */
struct att_args {
    mr_att_shape s;
    int64_t dh;
    float scale;
    mask m;
    const float *q, *kv, *first;
};

static att_args make_args(const void *q, const void *kv, const void *first, const mr_att_shape *s,
                          const mr_drop *drop, const mr_exec *ex)
{
    att_args a = {};
    a.s = *s;
    a.dh = s->d / s->heads;
    a.scale = 1 / sqrtf((float)a.dh);
    a.m = mask_of(drop, ex);
    a.q = (const float *)q;
    a.kv = (const float *)kv;
    a.first = (const float *)first;
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
    template <class T>
    __device__ T *key(T *kv, T *first, bool has_first, int64_t d, int64_t dh, int64_t j) const
    {
        if (has_first && j == 0) return first ? first + b * 2 * d + h * dh : NULL;
        return kv ? kv + (kv0 + j - (has_first ? 1 : 0)) * 2 * d + h * dh : NULL;
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
__device__ static void dots(float *out, const float *x, const att_args &a, const att_row &r,
                            int64_t off, int64_t n, float scale)
{
    int lane = (int)threadIdx.x % WARP;
    for (int64_t j = threadIdx.x / WARP; j < n; j += WARPS) {
        const float *k = r.key(a.kv, a.first, a.first != NULL, a.s.d, a.dh, j) + off;
        float s = 0;
        for (int64_t c = lane; c < a.dh; c += WARP) s += x[c] * k[c];
        s = warp_sum(s);
        if (lane == 0) out[j] = scale * s;
    }
}

__global__ static void attention_fwd_kernel(float *out, float *prob, att_args a)
{
    SHARED_REST(float, p); /* [S] */
    att_row r(a);
    int64_t d = a.s.d, H = a.s.heads;
    for (int64_t i = 0; i < r.n_q; i++) {
        int64_t row = r.q0 + i, n = r.seen(i);
        dots(p, a.q + row * d + r.h * a.dh, a, r, 0, n, a.scale);
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
            for (int64_t j = 0; j < n; j++)
                s += p[j] * r.key(a.kv, a.first, a.first != NULL, d, a.dh, j)[d + c];
            out[row * d + r.h * a.dh + c] = s;
        }
        __syncthreads();
    }
    if (r.causal && a.s.N > 0) zero_rows(out, a.s.start[a.s.B], a.s.N, d);
}

void attention_fwd_cuda(void *out, void *prob, const void *q, const void *kv, const void *kv_first,
                        const mr_att_shape *s, const mr_drop *drop, const mr_exec *ex)
{
    if (s->B > 0)
        LAUNCH(attention_fwd_kernel, (unsigned)(s->B * s->heads), THREADS,
               (size_t)s->S * sizeof(float), ex, (float *)out, (float *)prob,
               make_args(q, kv, kv_first, s, drop, ex));
}

struct att_grads {
    float *dq, *dkv, *dfirst;
    const float *dout, *prob;
    int acc_q, acc_kv, acc_first;
};

/* ds[n] = gradient of the scores of query i; w[n] = m_j p_j. */
__device__ static void query_bwd(float *ds, float *w, const att_args &a, const att_grads &g,
                                 const att_row &r, int64_t i)
{
    int64_t row = r.q0 + i, n = r.seen(i);
    const float *p = g.prob + (row * a.s.heads + r.h) * a.s.S;
    dots(ds, g.dout + row * a.s.d + r.h * a.dh, a, r, a.s.d, n, 1);
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
    if (!g.dq) return;
    for (int64_t c = threadIdx.x; c < a.dh; c += THREADS) {
        float s = 0;
        for (int64_t j = 0; j < n; j++)
            s += ds[j] * r.key(a.kv, a.first, a.first != NULL, a.s.d, a.dh, j)[c];
        put(&g.dq[row * a.s.d + r.h * a.dh + c], s, g.acc_q);
    }
}

/* dk_j (+)= sum_i ds_ij q_i, dv_j (+)= sum_i w_ij dout_i over the tile's queries t0 .. t0 + n; a
 * warp per key. Later tiles add to the first. */
__device__ static void keys_bwd(const float *ds, const float *w, const att_args &a,
                                const att_grads &g, const att_row &r, int64_t t0, int64_t n)
{
    int64_t d = a.s.d, S = a.s.S;
    bool has_first = a.first != NULL;
    for (int64_t j = threadIdx.x / WARP; j < r.n_keys; j += WARPS) {
        float *dk = r.key(g.dkv, g.dfirst, has_first, d, a.dh, j);
        if (!dk) continue;
        int acc = t0 > 0 || (has_first && j == 0 ? g.acc_first : g.acc_kv);
        int64_t from = r.causal && j > t0 ? j - t0 : 0; /* earlier queries do not see key j */
        for (int64_t c = threadIdx.x % WARP; c < a.dh; c += WARP) {
            float sk = 0, sv = 0;
            for (int64_t i = from; i < n; i++) {
                int64_t at = (r.q0 + t0 + i) * d + r.h * a.dh + c;
                sk += ds[i * S + j] * a.q[at];
                sv += w[i * S + j] * g.dout[at];
            }
            put(&dk[c], sk, acc);
            put(&dk[d + c], sv, acc);
        }
    }
}

__global__ static void attention_bwd_kernel(att_args a, att_grads g, int64_t tile)
{
    SHARED_REST(float, shared); /* ds[tile,S], w[tile,S] */
    float *ds = shared, *w = shared + tile * a.s.S;
    att_row r(a);
    for (int64_t t0 = 0; t0 < r.n_q; t0 += tile) {
        int64_t n = r.n_q - t0 < tile ? r.n_q - t0 : tile;
        for (int64_t i = 0; i < n; i++) query_bwd(ds + i * a.s.S, w + i * a.s.S, a, g, r, t0 + i);
        keys_bwd(ds, w, a, g, r, t0, n);
        __syncthreads();
    }
    if (a.s.N == 0) return;
    int64_t behind = a.s.start[a.s.B];
    if (r.causal && g.dq && !g.acc_q) zero_rows(g.dq, behind, a.s.N, a.s.d);
    if (g.dkv && !g.acc_kv) zero_rows(g.dkv, behind, a.s.N, 2 * a.s.d);
}

void attention_bwd_cuda(void *dq, void *dkv, void *dkv_first, const void *dout, const void *prob,
                        const void *q, const void *kv, const void *kv_first, const mr_att_shape *s,
                        int acc_q, int acc_kv, int acc_first, const mr_drop *drop,
                        const mr_exec *ex)
{
    att_grads g = {
        (float *)dq, (float *)dkv, (float *)dkv_first, (const float *)dout, (const float *)prob,
        acc_q,       acc_kv,       acc_first};
    if (s->B == 0) return;
    /* As many queries as shared memory holds beside that of the sums over a block; S is at most
     * MR_ATT_MAX_KEYS. */
    int64_t tile = TILE_FLOATS / s->S < TILE_QUERIES ? TILE_FLOATS / s->S : TILE_QUERIES;
    LAUNCH(attention_bwd_kernel, (unsigned)(s->B * s->heads), THREADS,
           (size_t)(2 * tile * s->S) * sizeof(float), ex, make_args(q, kv, kv_first, s, drop, ex),
           g, tile);
}
