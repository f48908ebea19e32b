/* Attention core for short rows: a warp does one head of one row of the batch, lanes on its
 * columns. What it is not: projections (linear.cu) or a kernel for long sequences; those whose
 * scores do not fit shared memory work as well (attention_bwd_long_kernel), with some products made
 * twice. Invariants: every mode runs the same code per query, so a pruned query gives the bits of
 * the full one; sums over queries and keys are in their order, sums over columns by the tree of
 * warp_sum. */
#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{

/* A warp takes several queries and keys at a time, so that what it loads is used more than once. */
enum { WARPS = 4, KEYS = 4, SHARED_FLOATS = SHARED_BYTES / (int)sizeof(float) };
/* Seven blocks are to fit a multiprocessor, five where a lane takes eight columns: left alone, the
 * compiler unrolls until fewer do. In float32 it would spill. */
#ifdef MR_ACT_BF16
#define FWD_BOUNDS(V) __launch_bounds__(WARPS *WARP, (V) == 8 ? 5 : 7)
#else
#define FWD_BOUNDS(V)
#endif

/* What a call needs; the shape's arrays are device memory. */
struct att_args {
    mr_att_shape s;
    int64_t dh; /* columns of a head */
    float scale;
    mask m;
    const act_t *q, *kv, *first;
};

static att_args make_args(const void *q, const void *kv, const void *first, const mr_att_shape *s,
                          const mr_drop *drop, const mr_exec *ex)
{
    att_args a = {};
    a.s = mr_att_full_shape(s);
    a.dh = s->d / s->heads;
    a.scale = 1 / sqrtf((float)a.dh);
    a.m = mask_of(drop, ex);
    a.q = (const act_t *)q;
    a.kv = (const act_t *)kv;
    a.first = (const act_t *)first;
    return a;
}

/* One head of one batch row: which rows of q and kv it covers. The warp's own. */
struct att_row {
    int64_t b, h, q0, n_q, i0, kv0, n_keys;
    bool causal, has_first;

    __device__ explicit att_row(const att_args &a)
    {
        const mr_att_shape &s = a.s;
        unsigned heads = (unsigned)s.heads;
        unsigned task = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
        b = task / heads;
        h = task % heads;
        n_q = 0;
        if (b >= s.B) return; /* the last block has more warps than there is work */
        has_first = a.first != NULL;
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
            kv0 = b * (s.S - (has_first ? 1 : 0));
            n_q = s.mode == MR_ATT_FULL ? s.S : 1;
            q0 = b * n_q;
            i0 = 0;
        }
    }
    __device__ int64_t seen(int64_t i) const { return causal ? i + 1 : n_keys; }
    /* Query i, or the last one: a group of queries need not be full. */
    __device__ int64_t query(int64_t i) const { return i < n_q ? i : n_q - 1; }

    /* Element of this head in query i's row where rows are ld apart: q_ld or out_w. */
    __device__ int64_t at_query(const att_args &a, int64_t i, int64_t ld) const
    {
        return (q0 + i) * ld + h * a.dh;
    }
    /* Element of this head's key j in memory that lies as kv and kv_first; the value is d further.
     */
    template <class T> __device__ T *key(T *kv, T *first, const att_args &a, int64_t j) const
    {
        if (has_first && j == 0) return first ? first + b * a.s.kv_w + h * a.dh : NULL;
        return kv ? kv + (kv0 + j - (has_first ? 1 : 0)) * a.s.kv_ld + h * a.dh : NULL;
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

/* The same factors for queries in order, drawn by the whole warp: a Philox block has the bits of
 * eight keys, the blocks of a query and of the next one follow each other, and each lane draws one
 * of WARP neighbours. So one draw serves several queries. */
struct att_factors {
    unsigned kept; /* bit k: key k of block from + lane() is kept */
    int from;      /* counted from the first block of query 0; none is drawn yet: -WARP */

    __device__ att_factors() : kept(0), from(-WARP) {}
    /* Of query i and key j0 + lane(), j0 a multiple of WARP; all lanes come. */
    __device__ float of(const att_args &a, const att_row &r, int64_t i, int j0)
    {
        if (!a.m.is_on) return 1.0f;
        int blocks = (int)(a.s.S + 7) / 8, first = (int)i * blocks + j0 / 8;
        int end = j0 / 8 + WARP / 8 < blocks ? first + WARP / 8 : ((int)i + 1) * blocks;
        if (end > from + WARP) draw(a, r, first);
        unsigned keys = __shfl_sync(ALL_LANES, kept, (first + lane() / 8 - from) % WARP);
        return keys >> lane() % 8 & 1 ? a.m.scale : 0.0f;
    }
    __device__ void draw(const att_args &a, const att_row &r, int first)
    {
        from = first;
        uint32_t block = mr_drop_att_block(r.h, r.i0, a.s.S) + (uint32_t)(from + lane());
        mr_u32x4 b = mr_philox(a.m.seed, a.m.purpose, a.m.state->step, a.m.rid[r.b], block);
        kept = 0;
        UNROLL
        for (int k = 0; k < 8; k++) {
            uint32_t bits = k % 2 ? b.v[k / 2] >> 16 : b.v[k / 2] & 0xffffu;
            kept |= (unsigned)(bits >= a.m.threshold) << k;
        }
    }
};

/* Sums of N values over the warp, N a power of two: lane l gets that of value l / (32 / N), added
 * up as warp_sum does. Lanes exchange halves of what they still have, so that 8 values take 9
 * shuffles. */
template <int N> __device__ static inline float warp_sums(float v[N])
{
    int o = WARP / 2;
    UNROLL
    for (int half = N / 2; half > 0; half /= 2, o /= 2) {
        bool is_high = lane() & o;
        UNROLL
        for (int i = 0; i < half; i++) {
            float give = is_high ? v[i] : v[i + half], keep = is_high ? v[i + half] : v[i];
            v[i] = keep + __shfl_xor_sync(ALL_LANES, give, o);
        }
    }
    for (; o > 0; o /= 2) v[0] += __shfl_xor_sync(ALL_LANES, v[0], o);
    return v[0];
}

/* out[t * S + j] = scale * x_t . row(j) for j < n; off = 0 keys, d values. x_t: this head's columns
 * of query i + t in rows that are ld apart. */
template <int V, int Q>
__device__ static void dots(float *out, const act_t *rows, int64_t ld, const att_args &a,
                            const att_row &r, int64_t i, int64_t off, int64_t n, float scale)
{
    enum { EACH = WARP / (Q * KEYS) }; /* lanes that have the same sum */
    for (int64_t j0 = 0; j0 < n; j0 += KEYS) {
        float sum[Q * KEYS] = {}, x[Q][V], k[V];
        for (int64_t c = V * lane(); c < a.dh; c += V * WARP) {
            UNROLL
            for (int t = 0; t < Q; t++) load<V>(x[t], rows + r.at_query(a, r.query(i + t), ld) + c);
            UNROLL
            for (int q = 0; q < KEYS; q++) {
                int64_t j = j0 + q < n ? j0 + q : n - 1;
                load<V>(k, r.key(a.kv, a.first, a, j) + off + c);
                UNROLL
                for (int e = 0; e < Q * V; e++) sum[e / V * KEYS + q] += x[e / V][e % V] * k[e % V];
            }
        }
        float s = warp_sums<Q * KEYS>(sum);
        int t = lane() / EACH / KEYS;
        int64_t j = j0 + lane() / EACH % KEYS;
        if (lane() % EACH == 0 && j < n) out[t * a.s.S + j] = scale * s;
    }
}

/* rows, ld apart, (+)= sum over j < n of coef[t * S + j] row(j), for queries i + t. */
template <int V, int Q>
__device__ static void weighted(act_t *rows, int64_t ld, const float *coef, const att_args &a,
                                const att_row &r, int64_t i, int64_t off, int64_t n, int acc)
{
    for (int64_t c = V * lane(); c < a.dh; c += V * WARP) {
        float sum[Q][V] = {}, k[V];
        for (int64_t j = 0; j < n; j++) {
            load<V>(k, r.key(a.kv, a.first, a, j) + off + c);
            UNROLL
            for (int e = 0; e < Q * V; e++) sum[e / V][e % V] += coef[e / V * a.s.S + j] * k[e % V];
        }
        UNROLL
        for (int t = 0; t < Q; t++)
            if (i + t < r.n_q) store<V>(rows + r.at_query(a, i + t, ld) + c, sum[t], acc);
    }
}

/* Columns behind the first d of n rows of x [.,w], ld apart, from row `from` on; by the warp of the
 * first head. */
__device__ static void zero_ends(act_t *x, int64_t from, int64_t n, int64_t d, int64_t w,
                                 int64_t ld, int64_t h)
{
    if (!x || w == d || h) return;
    for (int64_t i = from + lane(); i < from + n; i += WARP)
        for (int64_t c = d; c < w; c++) x[i * ld + c] = 0;
}

/* p[n] = softmax of the scores p of query i, also to prob; then times its dropout factors. */
__device__ static void softmax(float *p, float *prob, att_factors &drop, const att_args &a,
                               const att_row &r, int64_t i, int64_t most)
{
    int64_t n = r.seen(i);
    float top = -INFINITY, sum = 0;
    for (int64_t j = lane(); j < n; j += WARP) top = p[j] > top ? p[j] : top;
    top = warp_max(top);
    for (int64_t j = lane(); j < n; j += WARP) sum += p[j] = mr_expf(p[j] - top);
    float inverse = 1 / warp_sum(sum);
    for (int j0 = 0; j0 < most; j0 += WARP) {
        int j = j0 + lane();
        float f = drop.of(a, r, i, j0), v = j < n ? p[j] * inverse : 0.0f;
        if (prob && j < n) prob[((r.q0 + i) * a.s.heads + r.h) * a.s.S + j] = v;
        if (j < most) p[j] = v * f;
    }
}

template <int V, int Q>
__global__ static void FWD_BOUNDS(V) attention_fwd_kernel(act_t *out, float *prob, att_args a)
{
    SHARED_REST(float, shared); /* [warps,Q,S] */
    att_row r(a);
    int64_t S = a.s.S;
    float *p = shared + threadIdx.x / WARP * Q * S;
    att_factors drop;
    for (int64_t i = 0; i < r.n_q; i += Q) {
        int64_t most = r.seen(r.query(i + Q - 1));
        dots<V, Q>(p, a.q, a.s.q_ld, a, r, i, 0, most, a.scale);
        __syncwarp();
        for (int t = 0; t < Q && i + t < r.n_q; t++)
            softmax(p + t * S, prob, drop, a, r, i + t, most);
        __syncwarp();
        weighted<V, Q>(out, a.s.out_w, p, a, r, i, a.s.d, most, 0);
        __syncwarp(); /* the next ones' scores come to the same place */
    }
    int64_t w = a.s.out_w;
    if (r.n_q > 0) zero_ends(out, r.q0, r.n_q, a.s.d, w, w, r.h);
    if (a.s.mode == MR_ATT_CAUSAL && a.s.N > 0) zero_rows(out, a.s.start[a.s.B], a.s.N, w, w);
}

/* Blocks of `warps` for all heads of all rows. */
static unsigned blocks_for(const mr_att_shape *s, int64_t warps)
{
    return (unsigned)pieces(s->B * s->heads, warps);
}

/* Queries of a row, at most. */
static int64_t most_queries(const mr_att_shape *s)
{
    return s->mode == MR_ATT_LAST || s->mode == MR_ATT_ONE ? 1 : s->S;
}

/* Can rows ld apart from p be cut into pieces of v? NULL can. */
static bool can_cut(const act_t *p, int64_t ld, int v)
{
    return ld % v == 0 && (uintptr_t)p % (v * sizeof *p) == 0;
}

/* Columns that a lane takes at once: the fewest with which a warp has all of a head in one turn, or
 * as many as rows and heads can be cut into; gradients lie as what they are of. More would leave
 * lanes idle. */
static int columns_at_once(const att_args &a)
{
    int v = 1;
    while (v < PIECE && v * WARP < a.dh && a.dh % (2 * v) == 0 && a.s.out_w % (2 * v) == 0 &&
           can_cut(a.q, a.s.q_ld, 2 * v) && can_cut(a.kv, a.s.kv_ld, 2 * v) &&
           can_cut(a.first, a.s.kv_w, 2 * v))
        v *= 2;
    return v;
}

/* Start kernel<V, Q>: V columns a lane, two queries a warp where there are. */
#define START_FOR_QUERIES(kernel, V, blocks, warps, bytes, ...)                                    \
    do {                                                                                           \
        if (most_queries(&a.s) > 1)                                                                \
            LAUNCH((kernel<V, 2>), blocks, warps *WARP, bytes, ex, __VA_ARGS__);                   \
        else                                                                                       \
            LAUNCH((kernel<V, 1>), blocks, warps *WARP, bytes, ex, __VA_ARGS__);                   \
    } while (0)
#define START_ATTENTION(kernel, ...)                                                               \
    do {                                                                                           \
        int columns_ = columns_at_once(a);                                                         \
        if (columns_ == PIECE)                                                                     \
            START_FOR_QUERIES(kernel, PIECE, __VA_ARGS__);                                         \
        else if (columns_ == 4)                                                                    \
            START_FOR_QUERIES(kernel, 4, __VA_ARGS__);                                             \
        else if (columns_ == 2)                                                                    \
            START_FOR_QUERIES(kernel, 2, __VA_ARGS__);                                             \
        else                                                                                       \
            START_FOR_QUERIES(kernel, 1, __VA_ARGS__);                                             \
    } while (0)

void attention_fwd(void *out, void *prob, const void *q, const void *kv, const void *kv_first,
                   const mr_att_shape *s, const mr_drop *drop, const mr_exec *ex)
{
    att_args a = make_args(q, kv, kv_first, s, drop, ex);
    size_t bytes = WARPS * 2 * (size_t)s->S * sizeof(float);
    if (s->B > 0)
        START_ATTENTION(attention_fwd_kernel, blocks_for(s, WARPS), WARPS, bytes, (act_t *)out,
                        (float *)prob, a);
}

struct att_grads {
    act_t *dq, *dkv, *dfirst;
    const act_t *dout;
    const float *prob;
    int acc_q, acc_kv, acc_first;
};

/* Query i: d[n] = dout . v_j becomes ds[n], the gradient of its scores, w[n] = m_j p_j; 0 behind
 * the keys that it sees. Returns sum_j p_j m_j d_j. */
__device__ static float scores_bwd(float *ds, float *w, att_factors &drop, const att_args &a,
                                   const att_grads &g, const att_row &r, int64_t i)
{
    int n = (int)r.seen(i);
    const float *p = g.prob + ((r.q0 + i) * a.s.heads + r.h) * a.s.S;
    float mean = 0;
    for (int j0 = 0; j0 < n; j0 += WARP) {
        int j = j0 + lane();
        float f = drop.of(a, r, i, j0);
        if (j >= n) break;
        ds[j] *= f;
        w[j] = p[j] * f;
        mean += p[j] * ds[j];
    }
    mean = warp_sum(mean);
    for (int j = lane(); j < r.n_keys; j += WARP) {
        ds[j] = j < n ? p[j] * (ds[j] - mean) * a.scale : 0.0f;
        if (j >= n) w[j] = 0;
    }
    return mean;
}

/* The same for queries i .. i + Q - 1 in ds and w [Q,S], and their dq. mean[Q]: of each. */
template <int V, int Q>
__device__ static void queries_bwd(float *ds, float *w, float *mean, att_factors &drop,
                                   const att_args &a, const att_grads &g, const att_row &r,
                                   int64_t i)
{
    int64_t most = r.seen(r.query(i + Q - 1));
    dots<V, Q>(ds, g.dout, a.s.out_w, a, r, i, a.s.d, most, 1);
    __syncwarp();
    for (int t = 0; t < Q && i + t < r.n_q; t++) {
        float m = scores_bwd(ds + t * a.s.S, w + t * a.s.S, drop, a, g, r, i + t);
        if (mean && lane() == 0) mean[t] = m;
    }
    __syncwarp();
    if (g.dq) weighted<V, Q>(g.dq, a.s.q_ld, ds, a, r, i, 0, most, g.acc_q);
}

/* dk_j (+)= sum_i ds_ij q_i, dv_j (+)= sum_i w_ij dout_i over all queries, for keys j and j + 1. */
template <int V>
__device__ static void keys_bwd(const float *ds, const float *w, const att_args &a,
                                const att_grads &g, const att_row &r, int64_t j)
{
    int64_t S = a.s.S, d = a.s.d;
    for (int64_t c = V * lane(); c < a.dh; c += V * WARP) {
        float sk[2][V] = {}, sv[2][V] = {}, x[V], y[V];
        for (int64_t i = r.causal ? j : 0; i < r.n_q; i++) { /* who sees key j */
            load<V>(x, a.q + r.at_query(a, i, a.s.q_ld) + c);
            load<V>(y, g.dout + r.at_query(a, i, a.s.out_w) + c);
            UNROLL
            for (int e = 0; e < 2 * V; e++) {
                int64_t at = i * S + (j + e / V < r.n_keys ? j + e / V : j);
                sk[e / V][e % V] += ds[at] * x[e % V];
                sv[e / V][e % V] += w[at] * y[e % V];
            }
        }
        UNROLL
        for (int t = 0; t < 2; t++) {
            act_t *dk = j + t < r.n_keys ? r.key(g.dkv, g.dfirst, a, j + t) : NULL;
            int acc = r.has_first && j + t == 0 ? g.acc_first : g.acc_kv;
            if (dk) store<V>(dk + c, sk[t], acc);
            if (dk) store<V>(dk + d + c, sv[t], acc);
        }
    }
}

/* Gradients of packed rows behind those of the batch, and of columns that count for nothing. */
__device__ static void behind_bwd(const att_args &a, const att_grads &g, const att_row &r)
{
    if (r.n_q > 0) {
        int64_t n_first = r.has_first ? 1 : 0;
        zero_ends(g.dq, r.q0, r.n_q, a.s.d, a.s.q_w, a.s.q_ld, r.h);
        zero_ends(g.dkv, r.kv0, r.n_keys - n_first, 2 * a.s.d, a.s.kv_w, a.s.kv_ld, r.h);
        zero_ends(g.dfirst, r.b, n_first, 2 * a.s.d, a.s.kv_w, a.s.kv_w, r.h);
    }
    if (a.s.N == 0) return;
    int64_t from = a.s.start[a.s.B];
    bool is_causal = a.s.mode == MR_ATT_CAUSAL;
    if (is_causal && g.dq && !g.acc_q) zero_rows(g.dq, from, a.s.N, a.s.q_w, a.s.q_ld);
    if (g.dkv && !g.acc_kv) zero_rows(g.dkv, from, a.s.N, a.s.kv_w, a.s.kv_ld);
}

/* Reals that a warp keeps of its scores: two of [queries,S], queries by groups of Q. */
__host__ __device__ static inline int64_t kept_reals(int64_t queries, int64_t S)
{
    return 2 * (queries + queries % 2) * S;
}

template <int V, int Q> __global__ static void attention_bwd_kernel(att_args a, att_grads g)
{
    SHARED_REST(float, shared); /* [warps]: ds and w of all queries */
    att_row r(a);
    int64_t S = a.s.S, queries = Q == 1 ? 1 : S;
    float *ds = shared + threadIdx.x / WARP * kept_reals(queries, S);
    float *w = ds + kept_reals(queries, S) / 2;
    att_factors drop;
    for (int64_t i = 0; i < r.n_q; i += Q)
        queries_bwd<V, Q>(ds + i * S, w + i * S, NULL, drop, a, g, r, i);
    if (r.n_q > 0)
        for (int64_t j = 0; j < r.n_keys; j += 2) keys_bwd<V>(ds, w, a, g, r, j);
    behind_bwd(a, g, r);
}

/* dk_j and dv_j where ds and w of all queries do not fit: made once more for each key, from the
 * mean of each query. Columns c0 .. of them stay in registers. */
enum { LANE_COLUMNS = 8 };
__device__ static void long_key_bwd(const float *mean, const att_args &a, const att_grads &g,
                                    const att_row &r, int64_t j, int64_t c0)
{
    int64_t d = a.s.d;
    act_t *dk = r.key(g.dkv, g.dfirst, a, j);
    const act_t *v = r.key(a.kv, a.first, a, j) + d;
    float sk[LANE_COLUMNS] = {}, sv[LANE_COLUMNS] = {};
    for (int64_t i = r.causal ? j : 0; i < r.n_q; i++) {
        const act_t *q = a.q + r.at_query(a, i, a.s.q_ld);
        const act_t *dout = g.dout + r.at_query(a, i, a.s.out_w);
        float p = g.prob[((r.q0 + i) * a.s.heads + r.h) * a.s.S + j], f = r.factor(a, i, j);
        float dp = 0;
        for (int64_t c = lane(); c < a.dh; c += WARP) dp += dout[c] * v[c];
        float ds = p * (warp_sum(dp) * f - mean[i]) * a.scale;
        for (int k = 0; k < LANE_COLUMNS; k++) {
            int64_t c = c0 + lane() + k * WARP;
            if (c >= a.dh) break;
            sk[k] += ds * q[c];
            sv[k] += p * f * dout[c];
        }
    }
    int acc = r.has_first && j == 0 ? g.acc_first : g.acc_kv;
    for (int k = 0; k < LANE_COLUMNS; k++) {
        int64_t c = c0 + lane() + k * WARP;
        if (c >= a.dh) break;
        put(&dk[c], sk[k], acc);
        put(&dk[d + c], sv[k], acc);
    }
}

__global__ static void attention_bwd_long_kernel(att_args a, att_grads g)
{
    SHARED_REST(float, shared); /* of the one warp: ds[S], w[S] of a query, mean[n_q] */
    att_row r(a);
    int64_t S = a.s.S;
    float *mean = shared + 2 * S;
    att_factors drop;
    for (int64_t i = 0; i < r.n_q; i++) {
        queries_bwd<1, 1>(shared, shared + S, mean + i, drop, a, g, r, i);
        __syncwarp(); /* the next query's are made in the same place */
    }
    for (int64_t j = 0; r.n_q > 0 && j < r.n_keys; j++)
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
    att_args a = make_args(q, kv, kv_first, s, drop, ex);
    int64_t n_q = most_queries(s), reals = kept_reals(n_q, s->S); /* S <= MR_ATT_MAX_KEYS */
    int64_t warps = SHARED_FLOATS / reals < WARPS ? SHARED_FLOATS / reals : WARPS;
    if (warps > 0)
        START_ATTENTION(attention_bwd_kernel, blocks_for(s, warps), (unsigned)warps,
                        (size_t)(warps * reals) * sizeof(float), a, g);
    else
        LAUNCH(attention_bwd_long_kernel, blocks_for(s, 1), WARP,
               (size_t)(2 * s->S + n_q) * sizeof(float), ex, a, g);
}
} // namespace MR_ACT_SPACE
