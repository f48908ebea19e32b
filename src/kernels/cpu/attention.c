/* Attention core for short rows: a few keys, any head width, one query at a time.
 * What it is not: projections (linear.c) or long sequences (scores of one query live on the stack).
 * Every mode runs the same two functions per query, so that a pruned query gives the numbers of the
 * full one bit for bit. */
#include "kernels/cpu/mask.h"
#include "kernels/shared/act.h"

/* Keys (and, d elements further, values) of one batch row, or their gradients: an optional first
 * one, then a matrix. As gradients either part may be NULL (not wanted). */
typedef struct att_keys {
    REAL *first, *rest;
    int64_t pitch;
    bool has_first;
} att_keys;

static inline REAL *key_at(const att_keys *k, int64_t j)
{
    if (k->has_first && j == 0) return k->first;
    return k->rest ? k->rest + (j - k->has_first) * k->pitch : NULL;
}

/* Head h of batch row b; base pointers may be NULL. The inputs are only read. */
static att_keys keys_of(const void *first, const void *rest, bool has_first, int64_t b, int64_t kv0,
                        int64_t h, int64_t dh, int64_t d)
{
    REAL *f = (REAL *)first, *r = (REAL *)rest;
    return (att_keys){.first = f ? f + b * 2 * d + h * dh : NULL,
                      .rest = r ? r + kv0 * 2 * d + h * dh : NULL,
                      .pitch = 2 * d,
                      .has_first = has_first};
}

/* Dropout bits of the probabilities of one batch row. `all` when the bits of every query are made
 * at once, which fills the vector registers better than one query at a time. */
typedef struct att_bits {
    mask_gen m;
    bool all;
    int64_t S, stride; /* stride: elements between queries */
    uint32_t rid;
    uint16_t bit[4096];
} att_bits;

static void bits_row(att_bits *a, int64_t b, const mr_att_shape *s)
{
    if (!a->m.is_on) return;
    a->S = s->S;
    a->stride = (s->S + 7) / 8 * 8;
    a->rid = a->m.rid[b];
    int64_t n = s->heads * s->S * a->stride;
    a->all = n <= 4096 && (s->mode == MR_ATT_CAUSAL || s->mode == MR_ATT_FULL);
    if (a->all) mr_drop_bits(a->bit, n, a->m.seed, a->m.purpose, a->m.step, a->rid, 0);
}

/* Bits of query i of head h, or NULL without dropout. */
static const uint16_t *bits_query(att_bits *a, int64_t h, int64_t i)
{
    if (!a->m.is_on) return NULL;
    if (a->all) return a->bit + (h * a->S + i) * a->stride;
    mr_drop_bits(a->bit, a->S, a->m.seed, a->m.purpose, a->m.step, a->rid,
                 mr_drop_att_block(h, i, a->S));
    return a->bit;
}

static inline REAL dot(const REAL *a, const REAL *b, int64_t n)
{
    REAL s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t c = 0; c < n; c++) s += a[c] * b[c];
    return s;
}

/* p[n] = softmax of the scaled scores; out[dh] = sum_j m_j p_j v_j. */
static __attribute__((noinline)) void query_fwd(REAL *out, REAL *p, const REAL *q,
                                                const att_keys *keys, int64_t n, int64_t dh,
                                                int64_t d, const uint16_t *bits, const mask_gen *m)
{
    REAL scale = 1 / mr_sqrt((REAL)dh), top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++) {
        p[j] = dot(q, key_at(keys, j), dh) * scale;
        top = p[j] > top ? p[j] : top;
    }
    for (int64_t j = 0; j < n; j++) {
        p[j] = mr_exp(p[j] - top);
        sum += p[j];
    }
    REAL inverse = 1 / sum;
    for (int64_t c = 0; c < dh; c++) out[c] = 0;
    for (int64_t j = 0; j < n; j++) {
        p[j] *= inverse;
        if (bits && bits[j] < m->threshold) continue;
        REAL a = bits ? p[j] * m->scale : p[j];
        const REAL *v = key_at(keys, j) + d;
        for (int64_t c = 0; c < dh; c++) out[c] += a * v[c];
    }
}

/* Gradients of one query: dq[dh] (+)=, dk and dv of every key +=. dq may be NULL. */
static __attribute__((noinline)) void query_bwd(REAL *dq, const att_keys *dkeys, const REAL *dout,
                                                const REAL *p, const REAL *q, const att_keys *keys,
                                                int64_t n, int64_t dh, int64_t d, int acc_q,
                                                const uint16_t *bits, const mask_gen *m)
{
    REAL t[MR_ATT_MAX_KEYS], scale = 1 / mr_sqrt((REAL)dh), mean = 0;
    for (int64_t j = 0; j < n; j++) {
        t[j] = 0;
        if (bits && bits[j] < m->threshold) continue;
        t[j] = dot(dout, key_at(keys, j) + d, dh) * (bits ? m->scale : 1);
        mean += p[j] * t[j];
    }
    if (dq && !acc_q) memset(dq, 0, (size_t)dh * sizeof *dq);
    for (int64_t j = 0; j < n; j++) {
        REAL ds = p[j] * (t[j] - mean) * scale, a = bits ? p[j] * m->scale : p[j];
        const REAL *k = key_at(keys, j);
        if (dq)
            for (int64_t c = 0; c < dh; c++) dq[c] += ds * k[c];
        REAL *dk = key_at(dkeys, j);
        if (!dk) continue;
        for (int64_t c = 0; c < dh; c++) dk[c] += ds * q[c];
        if (bits && bits[j] < m->threshold) continue;
        for (int64_t c = 0; c < dh; c++) dk[d + c] += a * dout[c];
    }
}

/* What row b of the batch covers. */
typedef struct att_row {
    int64_t q0, n_q;   /* first query row, queries */
    int64_t i0;        /* position of the first query */
    int64_t kv0, n_kv; /* rows of kv */
    bool causal;
} att_row;

static att_row row_of(const mr_att_shape *s, int64_t b, bool has_first)
{
    att_row r = {.causal = s->mode == MR_ATT_CAUSAL};
    if (s->mode == MR_ATT_CAUSAL || s->mode == MR_ATT_LAST) {
        bool is_last = s->mode == MR_ATT_LAST;
        r.kv0 = s->start[b];
        r.n_kv = s->len[b];
        r.q0 = is_last ? b : r.kv0;
        r.n_q = is_last ? 1 : r.n_kv;
        r.i0 = is_last ? r.n_kv - 1 : 0;
    } else {
        r.n_kv = s->S - has_first;
        r.kv0 = b * r.n_kv;
        r.n_q = s->mode == MR_ATT_FULL ? s->S : 1;
        r.q0 = b * r.n_q;
    }
    return r;
}

void MR_FN(attention_fwd)(void *outv, void *probv, const void *qv, const void *kvv,
                          const void *kv_firstv, const mr_att_shape *s, const mr_drop *drop,
                          const mr_exec *ex)
{
    REAL *out = outv, *prob = probv;
    const REAL *q = qv, *kv = kvv, *first = kv_firstv;
    int64_t d = s->d, H = s->heads, dh = d / H;
    mask_gen m = mask_make(drop, ex);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < s->B; b++) {
        att_bits bits;
        bits.m = m;
        bits_row(&bits, b, s);
        att_row r = row_of(s, b, first != NULL);
        REAL local[MR_ATT_MAX_KEYS];
        for (int64_t h = 0; h < H; h++) {
            att_keys keys = keys_of(first, kv, first != NULL, b, r.kv0, h, dh, d);
            for (int64_t i = 0; i < r.n_q; i++) {
                int64_t row = r.q0 + i, n = r.causal ? i + 1 : r.n_kv + (first != NULL);
                query_fwd(out + row * d + h * dh, prob ? prob + (row * H + h) * s->S : local,
                          q + row * d + h * dh, &keys, n, dh, d, bits_query(&bits, h, r.i0 + i),
                          &m);
            }
        }
    }
}

void MR_FN(attention_bwd)(void *dqv, void *dkvv, void *dkv_firstv, const void *doutv,
                          const void *probv, const void *qv, const void *kvv, const void *kv_firstv,
                          const mr_att_shape *s, int acc_q, int acc_kv, int acc_first,
                          const mr_drop *drop, const mr_exec *ex)
{
    REAL *dq = dqv, *dkv = dkvv, *dfirst = dkv_firstv;
    const REAL *dout = doutv, *prob = probv, *q = qv, *kv = kvv, *first = kv_firstv;
    int64_t d = s->d, H = s->heads, dh = d / H;
    mask_gen m = mask_make(drop, ex);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < s->B; b++) {
        att_bits bits;
        bits.m = m;
        bits_row(&bits, b, s);
        att_row r = row_of(s, b, first != NULL);
        if (dkv && !acc_kv) memset(dkv + r.kv0 * 2 * d, 0, (size_t)(r.n_kv * 2 * d) * sizeof *dkv);
        if (dfirst && !acc_first) memset(dfirst + b * 2 * d, 0, 2 * (size_t)d * sizeof *dfirst);
        for (int64_t h = 0; h < H; h++) {
            att_keys keys = keys_of(first, kv, first != NULL, b, r.kv0, h, dh, d);
            att_keys dkeys = keys_of(dfirst, dkv, first != NULL, b, r.kv0, h, dh, d);
            for (int64_t i = 0; i < r.n_q; i++) {
                int64_t row = r.q0 + i, n = r.causal ? i + 1 : r.n_kv + (first != NULL);
                query_bwd(dq ? dq + row * d + h * dh : NULL, &dkeys, dout + row * d + h * dh,
                          prob + (row * H + h) * s->S, q + row * d + h * dh, &keys, n, dh, d, acc_q,
                          bits_query(&bits, h, r.i0 + i), &m);
            }
        }
    }
}
