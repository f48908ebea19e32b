/* Attention core for short rows: a few keys, any head width.
 * What it is not: projections (linear.c) or long sequences (scores of a query live on the stack).
 * Invariants: every mode runs the same functions per query, so that a pruned query gives the
 * numbers of the full one bit for bit; rows of the batch are independent, sums over queries are in
 * their order. The two loops that matter (dot products and weighted sums of rows) use the
 * compiler's vector types: head widths such as 150 leave tails that automatic vectorisation does
 * one element at a time. */
#include "kernels/cpu/mask.h"
#include "kernels/shared/act.h"

enum {
    QUERIES = 16, /* queries of one backward tile */
    LANES = 64 / sizeof(REAL)
};
typedef REAL vec64 __attribute__((vector_size(64), aligned(sizeof(REAL)), may_alias));
typedef REAL vec32 __attribute__((vector_size(32), aligned(sizeof(REAL)), may_alias));
typedef REAL vec16 __attribute__((vector_size(16), aligned(sizeof(REAL)), may_alias));
#define LOAD64(p) (*(const vec64 *)(p))
#define LOAD32(p) (*(const vec32 *)(p))
#define LOAD16(p) (*(const vec16 *)(p))

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

/* Sum of the lanes of s plus the products of elements c..n-1, narrower vectors for the tail. */
static inline __attribute__((always_inline)) REAL dot_rest(const vec64 *s, const REAL *a,
                                                           const REAL *b, int64_t c, int64_t n)
{
    union {
        vec64 v;
        vec32 h[2];
    } u = {.v = *s};
    union {
        vec32 v;
        vec16 h[2];
    } w = {.v = u.h[0] + u.h[1]};
    if (c + LANES / 2 <= n) {
        w.v += LOAD32(a + c) * LOAD32(b + c);
        c += LANES / 2;
    }
    vec16 x = w.h[0] + w.h[1];
    if (c + LANES / 4 <= n) {
        x += LOAD16(a + c) * LOAD16(b + c);
        c += LANES / 4;
    }
    REAL sum = x[0] + x[1];
    for (int i = 2; i < LANES / 4; i++) sum += x[i];
    for (; c < n; c++) sum += a[c] * b[c];
    return sum;
}

/* out[j] = scale * q . (row[j] + off), j < n; four rows at a time share the loads of q. */
static __attribute__((noinline)) void dots(REAL *out, const REAL *q, REAL *const *row, int64_t off,
                                           int64_t n, int64_t dh, REAL scale)
{
    int64_t j = 0, full = dh / LANES * LANES;
    for (; j + 4 <= n; j += 4) {
        const REAL *r0 = row[j] + off, *r1 = row[j + 1] + off, *r2 = row[j + 2] + off,
                   *r3 = row[j + 3] + off;
        vec64 s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        for (int64_t c = 0; c < full; c += LANES) {
            vec64 x = LOAD64(q + c);
            s0 += x * LOAD64(r0 + c);
            s1 += x * LOAD64(r1 + c);
            s2 += x * LOAD64(r2 + c);
            s3 += x * LOAD64(r3 + c);
        }
        out[j] = scale * dot_rest(&s0, q, r0, full, dh);
        out[j + 1] = scale * dot_rest(&s1, q, r1, full, dh);
        out[j + 2] = scale * dot_rest(&s2, q, r2, full, dh);
        out[j + 3] = scale * dot_rest(&s3, q, r3, full, dh);
    }
    for (; j < n; j++) {
        const REAL *r = row[j] + off;
        vec64 s = {0};
        for (int64_t c = 0; c < full; c += LANES) s += LOAD64(q + c) * LOAD64(r + c);
        out[j] = scale * dot_rest(&s, q, r, full, dh);
    }
}

/* One column block of weighted(): sums stay in a register over all rows. */
#define WEIGHTED_BLOCK(type)                                                                       \
    do {                                                                                           \
        type s = {0}, *o = (type *)(out + c);                                                      \
        if (acc) s = *o;                                                                           \
        for (int64_t i = 0; i < n; i++) s += w[i * ws] * *(const type *)(row[i] + off + c);        \
        *o = s;                                                                                    \
    } while (0)

/* out[dh] (+)= sum_i w[i * ws] * (row[i] + off), i < n. */
static __attribute__((noinline)) void weighted(REAL *out, const REAL *w, int64_t ws,
                                               REAL *const *row, int64_t off, int64_t n, int64_t dh,
                                               int acc)
{
    int64_t c = 0;
    for (; c + 4 * LANES <= dh; c += 4 * LANES) {
        vec64 s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, *o = (vec64 *)(out + c);
        if (acc) {
            s0 = o[0];
            s1 = o[1];
            s2 = o[2];
            s3 = o[3];
        }
        for (int64_t i = 0; i < n; i++) {
            const REAL *r = row[i] + off + c, a = w[i * ws];
            s0 += a * LOAD64(r);
            s1 += a * LOAD64(r + LANES);
            s2 += a * LOAD64(r + 2 * LANES);
            s3 += a * LOAD64(r + 3 * LANES);
        }
        o[0] = s0;
        o[1] = s1;
        o[2] = s2;
        o[3] = s3;
    }
    for (; c + LANES <= dh; c += LANES) WEIGHTED_BLOCK(vec64);
    if (c + LANES / 2 <= dh) {
        WEIGHTED_BLOCK(vec32);
        c += LANES / 2;
    }
    if (c + LANES / 4 <= dh) {
        WEIGHTED_BLOCK(vec16);
        c += LANES / 4;
    }
    for (; c < dh; c++) {
        REAL s = 0;
        for (int64_t i = 0; i < n; i++) s += w[i * ws] * row[i][off + c];
        out[c] = acc ? out[c] + s : s;
    }
}

/* out[n] = p[n] * dropout factors. */
static inline void masked(REAL *out, const REAL *p, int64_t n, const uint16_t *bits,
                          const mask_gen *m)
{
    for (int64_t j = 0; j < n; j++)
        out[j] = !bits ? p[j] : bits[j] >= m->threshold ? p[j] * m->scale : 0;
}

/* p[n] = softmax of the scaled scores; out[dh] = sum_j m_j p_j v_j. */
static __attribute__((noinline)) void query_fwd(REAL *out, REAL *p, const REAL *q, REAL *const *key,
                                                int64_t n, int64_t dh, int64_t d,
                                                const uint16_t *bits, const mask_gen *m)
{
    REAL a[MR_ATT_MAX_KEYS], top = -INFINITY, sum = 0;
    dots(p, q, key, 0, n, dh, 1 / mr_sqrt((REAL)dh));
    for (int64_t j = 0; j < n; j++) top = p[j] > top ? p[j] : top;
    for (int64_t j = 0; j < n; j++) p[j] = mr_exp(p[j] - top);
    for (int64_t j = 0; j < n; j++) sum += p[j];
    REAL inverse = 1 / sum;
    for (int64_t j = 0; j < n; j++) p[j] *= inverse;
    masked(a, p, n, bits, m);
    weighted(out, a, 1, key, d, n, dh, 0);
}

/* ds[n] = gradient of the scores q . k_j, a[n] = m_j p_j of one query. */
static void query_bwd(REAL *ds, REAL *a, const REAL *dout, const REAL *p, REAL *const *key,
                      int64_t n, int64_t dh, int64_t d, const uint16_t *bits, const mask_gen *m)
{
    REAL mean = 0, scale = 1 / mr_sqrt((REAL)dh);
    dots(ds, dout, key, d, n, dh, 1);
    masked(ds, ds, n, bits, m);
    masked(a, p, n, bits, m);
    for (int64_t j = 0; j < n; j++) mean += p[j] * ds[j];
    for (int64_t j = 0; j < n; j++) ds[j] = p[j] * (ds[j] - mean) * scale;
}

/* What row b of the batch covers. */
typedef struct att_row {
    int64_t q0, n_q;   /* first query row, queries */
    int64_t i0;        /* position of the first query */
    int64_t kv0, n_kv; /* rows of kv */
    bool causal, has_first;
} att_row;

static att_row row_of(const mr_att_shape *s, int64_t b, bool has_first)
{
    att_row r = {.causal = s->mode == MR_ATT_CAUSAL, .has_first = has_first};
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

/* Addresses of head h's keys (values are d elements further) of row b; NULL bases give NULLs. */
static void key_rows(REAL **row, const void *kv, const void *first, const att_row *r, int64_t b,
                     int64_t h, const mr_att_shape *s)
{
    REAL *f = (REAL *)first, *k = (REAL *)kv;
    int64_t at = h * (s->d / s->heads);
    if (r->has_first) *row++ = f ? f + b * s->kv_w + at : NULL;
    for (int64_t j = 0; j < r->n_kv; j++) row[j] = k ? k + (r->kv0 + j) * s->kv_ld + at : NULL;
}

/* Columns from `cols` on of n rows of x [.,w], ld apart, from row `first` on. */
static void zero_ends(void *xv, int64_t first, int64_t n, int64_t cols, int64_t w, int64_t ld)
{
    REAL *x = xv;
    for (int64_t i = first; x && cols < w && i < first + n; i++)
        memset(x + i * ld + cols, 0, (size_t)(w - cols) * sizeof *x);
}

static inline int64_t keys_seen(const att_row *r, int64_t i)
{
    return r->causal ? i + 1 : r->n_kv + r->has_first;
}

/* Ask for n rows [.,w], ld apart, ahead of their use. A row of the batch is read head by head, in
 * pieces too short for the hardware to see the stream. */
static inline void prefetch(const void *base, int64_t first, int64_t n, int64_t w, int64_t ld)
{
    for (int64_t i = first; i < first + n; i++) {
        const REAL *p = (const REAL *)base + i * ld;
        for (int64_t c = 0; c < w; c += LANES) __builtin_prefetch(p + c, 0, 2);
    }
}

/* Packed rows [.,w], ld apart, behind those of the batch. */
static void zero_behind(void *xv, const mr_att_shape *s, int64_t w, int64_t ld)
{
    int64_t from = s->N > 0 ? s->start[s->B] : 0;
    zero_ends(xv, from, s->N - from, 0, w, ld);
}

void MR_FN(attention_fwd)(void *outv, void *probv, const void *qv, const void *kv,
                          const void *first, const mr_att_shape *shape, const mr_drop *drop,
                          const mr_exec *ex)
{
    REAL *out = outv, *prob = probv;
    const REAL *q = qv;
    const mr_att_shape full = mr_att_full_shape(shape), *s = &full;
    int64_t d = s->d, out_w = s->out_w, H = s->heads, dh = d / H;
    mask_gen m = mask_make(drop, ex);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < s->B; b++) {
        att_bits bits;
        bits.m = m;
        bits_row(&bits, b, s);
        att_row r = row_of(s, b, first != NULL);
        REAL local[MR_ATT_MAX_KEYS], *key[MR_ATT_MAX_KEYS];
        if (b + 1 < s->B) {
            att_row next = row_of(s, b + 1, first != NULL);
            prefetch(kv, next.kv0, next.n_kv, s->kv_w, s->kv_ld);
            prefetch(q, next.q0, next.n_q, s->q_w, s->q_ld);
        }
        for (int64_t h = 0; h < H; h++) {
            key_rows(key, kv, first, &r, b, h, s);
            for (int64_t i = 0; i < r.n_q; i++) {
                int64_t row = r.q0 + i;
                query_fwd(out + row * out_w + h * dh, prob ? prob + (row * H + h) * s->S : local,
                          q + row * s->q_ld + h * dh, key, keys_seen(&r, i), dh, d,
                          bits_query(&bits, h, r.i0 + i), &m);
            }
        }
        zero_ends(out, r.q0, r.n_q, d, out_w, out_w);
    }
    if (s->mode == MR_ATT_CAUSAL) zero_behind(out, s, out_w, out_w);
}

/* Everything one head of one batch row needs in backward. */
typedef struct att_head {
    int64_t n_keys, dh, d;
    REAL *key[MR_ATT_MAX_KEYS], *dkey[MR_ATT_MAX_KEYS];
    REAL ds[QUERIES * MR_ATT_MAX_KEYS], a[QUERIES * MR_ATT_MAX_KEYS]; /* [queries, n_keys] */
} att_head;

/* dk_j (+)= sum_i ds_ij q_i and dv_j (+)= sum_i a_ij dout_i over the queries i0..i0+n-1 of a tile.
 * Later tiles accumulate on the first. */
static void keys_bwd(const att_head *t, const att_row *r, REAL *const *q, REAL *const *dout,
                     int64_t i0, int64_t n, int acc_kv, int acc_first)
{
    for (int64_t j = 0; j < t->n_keys; j++) {
        if (!t->dkey[j]) continue;
        int acc = i0 > 0 || (r->has_first && j == 0 ? acc_first : acc_kv);
        int64_t from = r->causal && j > i0 ? j - i0 : 0; /* earlier queries do not see key j */
        int64_t count = from < n ? n - from : 0;
        if (count == 0 && acc) continue;
        int64_t at = from < n ? from : 0;
        weighted(t->dkey[j], t->ds + at * t->n_keys + j, t->n_keys, q + at, 0, count, t->dh, acc);
        weighted(t->dkey[j] + t->d, t->a + at * t->n_keys + j, t->n_keys, dout + at, 0, count,
                 t->dh, acc);
    }
}

void MR_FN(attention_bwd)(void *dqv, void *dkv, void *dfirst, const void *dout, const void *probv,
                          const void *q, const void *kv, const void *first,
                          const mr_att_shape *shape, int acc_q, int acc_kv, int acc_first,
                          const mr_drop *drop, const mr_exec *ex)
{
    REAL *dq = dqv;
    const REAL *prob = probv;
    const mr_att_shape full = mr_att_full_shape(shape), *s = &full;
    int64_t d = s->d, out_w = s->out_w, H = s->heads, dh = d / H;
    mask_gen m = mask_make(drop, ex);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < s->B; b++) {
        att_bits bits;
        bits.m = m;
        bits_row(&bits, b, s);
        att_row r = row_of(s, b, first != NULL);
        if (b + 1 < s->B) {
            att_row next = row_of(s, b + 1, first != NULL);
            prefetch(kv, next.kv0, next.n_kv, s->kv_w, s->kv_ld);
            prefetch(q, next.q0, next.n_q, s->q_w, s->q_ld);
            prefetch(dout, next.q0, next.n_q, out_w, out_w);
        }
        att_head t;
        t.n_keys = r.n_kv + r.has_first;
        t.dh = dh;
        t.d = d;
        for (int64_t h = 0; h < H; h++) {
            key_rows(t.key, kv, first, &r, b, h, s);
            key_rows(t.dkey, dkv, dfirst, &r, b, h, s);
            for (int64_t i0 = 0; i0 < r.n_q; i0 += QUERIES) {
                int64_t n = r.n_q - i0 < QUERIES ? r.n_q - i0 : QUERIES;
                REAL *q_row[QUERIES], *dout_row[QUERIES];
                for (int64_t i = 0; i < n; i++) {
                    int64_t row = r.q0 + i0 + i, seen = keys_seen(&r, i0 + i);
                    REAL *ds = t.ds + i * t.n_keys;
                    q_row[i] = (REAL *)q + row * s->q_ld + h * dh;
                    dout_row[i] = (REAL *)dout + row * out_w + h * dh;
                    query_bwd(ds, t.a + i * t.n_keys, dout_row[i], prob + (row * H + h) * s->S,
                              t.key, seen, dh, d, bits_query(&bits, h, r.i0 + i0 + i), &m);
                    if (dq) weighted(dq + row * s->q_ld + h * dh, ds, 1, t.key, 0, seen, dh, acc_q);
                }
                keys_bwd(&t, &r, q_row, dout_row, i0, n, acc_kv, acc_first);
            }
        }
        zero_ends(dq, r.q0, r.n_q, d, s->q_w, s->q_ld);
        zero_ends(dkv, r.kv0, r.n_kv, 2 * d, s->kv_w, s->kv_ld);
        if (r.has_first) zero_ends(dfirst, b, 1, 2 * d, s->kv_w, s->kv_w);
    }
    if (s->mode == MR_ATT_CAUSAL && !acc_q) zero_behind(dq, s, s->q_w, s->q_ld);
    if (!acc_kv) zero_behind(dkv, s, s->kv_w, s->kv_ld);
}
