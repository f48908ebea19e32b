/* The surroundings of an op under test, for one rank. */
#include "op_world.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"

#define NEW(ptr, count) assert_int_equal(MR_ALLOC(&(ptr), (count), #ptr), MR_OK)

double op_random(uint32_t stream, int64_t i)
{
    mr_u32x4 r = mr_philox(stream, 9, 0, (uint32_t)(i >> 2), 0);
    return (double)r.v[i & 3] / 2147483648.0 - 1.0;
}

static int32_t below(uint32_t stream, int64_t i, int64_t n)
{
    return (int32_t)((op_random(stream, i) + 1.0) * 0.5 * (double)n);
}

static uint16_t half_of(double x) /* x in (-1, 1), multiples of 1/256: exact */
{
    if (x == 0) return 0;
    int e;
    double m = frexp(fabs(x), &e); /* m in [0.5, 1) */
    return (uint16_t)((x < 0 ? 0x8000 : 0) | (e + 14) << 10 | (int)((2 * m - 1) * 1024));
}

static void make_feature(mr_feature *f, mr_dtype t, int64_t items, int64_t count, int64_t width,
                         uint32_t stream)
{
    if (!width || !count) return;
    int64_t n = items * count * width;
    *f = (mr_feature){.dtype = t, .width = width, .count = count};
    assert_int_equal(mr_alloc(&f->data, n, mr_dtype_bytes(t), "feature"), MR_OK);
    for (int64_t i = 0; i < n; i++) {
        double x = floor(op_random(stream, i) * 256.0) / 256.0;
        if (t == MR_F16)
            ((uint16_t *)f->data)[i] = half_of(x);
        else
            ((float *)f->data)[i] = (float)x;
    }
}

static void make_seq(op_world *w, mr_seq *q, int k)
{
    const op_sizes *s = &w->s;
    int64_t cap = w->batch.rows_cap, L = s->L;
    NEW(q->ids, cap * L);
    NEW(q->len, cap);
    NEW(q->start, cap + 1);
    NEW(q->tok_id, cap * L + 1); /* one more: PAD, for the exchange */
    NEW(q->tok_pos, cap * L);
    NEW(q->tok_row, cap * L);
    NEW(q->tok_rid, cap * L);
    int64_t t = 0;
    for (int64_t b = 0; b < s->rows; b++) {
        q->len[b] = s->len ? s->len[b] : 1 + below(20 + (uint32_t)k, b, L);
        q->start[b] = (int32_t)t;
        for (int32_t l = 0; l < q->len[b]; l++, t++) {
            q->ids[b * L + l] = q->tok_id[t] = 1 + below(30 + (uint32_t)k, b * L + l, s->n_items);
            q->tok_pos[t] = l;
            q->tok_row[t] = (int32_t)b;
            q->tok_rid[t] = w->batch.rid[b];
        }
    }
    q->start[s->rows] = (int32_t)t;
    q->tokens = t;
}

static void make_batch(op_world *w)
{
    mr_batch *b = &w->batch;
    const op_sizes *s = &w->s;
    b->rows_cap = s->rows + 1;
    b->L = s->L;
    b->rows = b->rows_global = s->rows;
    b->n_ranks = 1;
    b->step = 7;
    b->n_seq = s->n_seq;
    NEW(b->rank_rows, 1);
    NEW(b->rid, b->rows_cap);
    NEW(b->zero_pos, b->rows_cap);
    NEW(b->user, b->rows_cap);
    NEW(b->target, b->rows_cap);
    NEW(b->last, b->rows_cap);
    NEW(b->last_id, b->rows_cap);
    NEW(b->last_slot, b->rows_cap);
    NEW(b->last_start, b->rows_cap + 1);
    NEW(b->last_row, b->rows_cap);
    for (b->hash_cap = 1; b->hash_cap <= 2 * b->rows_cap;) b->hash_cap *= 2;
    NEW(b->last_hash, b->hash_cap);
    b->rank_rows[0] = (int32_t)s->rows;
    for (int64_t i = 0; i < s->rows; i++) {
        b->rid[i] = (uint32_t)(1000 + 7 * i);
        b->user[i] = (int32_t)i;
        b->target[i] = 1 + below(10, i, s->n_items);
    }
    for (int k = 0; k < s->n_seq; k++) make_seq(w, &b->seq[k], k);
    for (int64_t i = 0; i < s->rows; i++) b->last[i] = b->seq[0].tok_id[b->seq[0].start[i + 1] - 1];
    mr_batch_distinct(b);
}

/* The exchange of one rank: distinct ids ascending and where they occur; the list ends with PAD. */
static void plan_exchange(mr_exchange *x, const mr_seq *q, int64_t n_rows)
{
    x->n = q->tokens + 1;
    x->n_unique = 0;
    int64_t at = 0;
    for (int32_t id = 0; id < n_rows; id++) {
        int64_t before = at;
        for (int64_t i = 0; i < x->n; i++)
            if ((i < q->tokens ? q->tok_id[i] : 0) == id) {
                x->inv[i] = (int32_t)x->n_unique;
                x->csr_pos[at++] = (int32_t)i;
            }
        if (at == before) continue;
        x->unique_id[x->n_unique] = id;
        x->csr_start[x->n_unique++] = (int32_t)before;
    }
    x->csr_start[x->n_unique] = (int32_t)at;
}

static void make_exchange(op_world *w, int k)
{
    mr_exchange *x = &w->xch[k];
    x->cap = w->batch.rows_cap * w->s.L + 1;
    x->size = 1;
    NEW(x->unique_id, x->cap);
    NEW(x->inv, x->cap);
    NEW(x->csr_start, x->cap + 1);
    NEW(x->csr_pos, x->cap);
    plan_exchange(x, &w->batch.seq[k], w->s.n_items + 2);
}

/* A coarse linear schedule: every coefficient is far from 0 and 1. */
static void make_schedule(op_world *w)
{
    int64_t T = w->s.T;
    NEW(w->abar, T + 1);
    NEW(w->c1, T + 1);
    NEW(w->c2, T + 1);
    NEW(w->s2, T + 1);
    w->abar[0] = 1.0;
    for (int64_t t = 1; t <= T; t++) {
        double beta = 0.05 + 0.3 * (double)t / (double)T, prev = w->abar[t - 1];
        double now = w->abar[t] = prev * (1.0 - beta);
        w->c1[t] = beta * sqrt(prev) / (1.0 - now);
        w->c2[t] = (1.0 - prev) * sqrt(1.0 - beta) / (1.0 - now);
        w->s2[t] = beta * (1.0 - prev) / (1.0 - now);
    }
}

/* Collectives of one rank. */
static mr_status same(mr_comm *c, void *buf, int64_t n, mr_dtype t, mr_reduce op)
{
    (void)c, (void)buf, (void)n, (void)t, (void)op;
    return MR_OK;
}
static mr_status same_start(mr_comm *c, void *buf, int64_t n, mr_dtype t)
{
    return same(c, buf, n, t, MR_SUM);
}
static mr_status same_done(mr_comm *c)
{
    (void)c;
    return MR_OK;
}
static mr_status copy_counts(mr_comm *c, const void *send, void *recv, const int64_t *counts,
                             mr_dtype t)
{
    (void)c;
    if (recv != send) memmove(recv, send, (size_t)counts[0] * mr_dtype_bytes(t));
    return MR_OK;
}
static mr_status copy_all(mr_comm *c, const void *send, const int64_t *sc, void *recv,
                          const int64_t *rc, mr_dtype t)
{
    assert_int_equal(sc[0], rc[0]);
    return copy_counts(c, send, recv, rc, t);
}
static mr_status same_bcast(mr_comm *c, void *buf, int64_t n, mr_dtype t, int root)
{
    assert_int_equal(root, 0);
    return same(c, buf, n, t, MR_SUM);
}

void op_world_make(op_world *w, const op_sizes *s)
{
    memset(w, 0, sizeof *w);
    w->s = *s;
    if (!w->s.n_seq) w->s.n_seq = 1;
    if (!w->s.T) w->s.T = 5;
    make_batch(w);
    for (int k = 0; k < w->s.n_seq; k++) make_exchange(w, k);
    make_schedule(w);
    make_feature(&w->feat.visual, s->feature, s->n_items, 1, s->D, 40);
    make_feature(&w->feat.frames, s->feature, s->n_items, s->K, s->D, 41);
    make_feature(&w->feat.text, s->feature, s->n_items, 1, s->dh, 42);
    w->dims = (mr_graph_dims){.rows_cap = w->batch.rows_cap,
                              .L = s->L,
                              .n_items = s->n_items,
                              .D = s->D,
                              .K = s->K,
                              .dh = s->dh,
                              .n_ranks = 1,
                              .rows_global_cap = w->batch.rows_cap,
                              .whole_products = s->whole_products,
                              .precision = s->precision};
    w->comm = (mr_comm){.kind = "self",
                        .size = 1,
                        .allreduce = same,
                        .iallreduce = same_start,
                        .wait_all = same_done,
                        .allgatherv = copy_counts,
                        .reduce_scatterv = copy_counts,
                        .alltoallv = copy_all,
                        .bcast = same_bcast,
                        .barrier = same_done};
    w->state = (mr_step_state){.lr = 1e-3, .bias1 = 1, .bias2 = 1, .grad_scale = 1};
}

void op_world_empty(op_world *w, bool is_empty)
{
    mr_batch *b = &w->batch;
    b->rows = is_empty ? 0 : w->s.rows;
    b->rank_rows[0] = (int32_t)b->rows;
    mr_batch_distinct(b);
    for (int k = 0; k < w->s.n_seq; k++) {
        mr_seq *q = &b->seq[k];
        q->start[0] = 0; /* start[rows] is the end, and rows = 0 */
        q->tokens = is_empty ? 0 : q->start[w->s.rows];
        plan_exchange(&w->xch[k], q, w->s.n_items + 2);
    }
}

/* Bytes of a feature table. */
static size_t feature_bytes(const op_world *w, const mr_feature *f)
{
    return (size_t)(w->s.n_items * f->count * f->width) * mr_dtype_bytes(f->dtype);
}

static void feature_to_device(op_world *w, mr_feature *out, const mr_feature *f)
{
    void *old = out->data;
    *out = *f;
    out->data = old;
    if (!f->data) return;
    size_t bytes = feature_bytes(w, f);
    if (!old) assert_int_equal(w->dev->alloc(w->dev, &out->data, bytes, "features"), MR_OK);
    assert_int_equal(w->dev->to_device(w->dev, out->data, f->data, bytes), MR_OK);
}

static const mr_features *features_for(op_world *w, mr_device *dev)
{
    if (dev->host_memory) return &w->feat;
    w->dev = dev;
    feature_to_device(w, &w->dev_feat.visual, &w->feat.visual);
    feature_to_device(w, &w->dev_feat.frames, &w->feat.frames);
    feature_to_device(w, &w->dev_feat.text, &w->feat.text);
    return &w->dev_feat;
}

static void spoil(void *p, int64_t bytes)
{
    if (p && bytes > 0) memset(p, 0x5A, (size_t)bytes);
}

static void spoil_seq(const op_world *w, mr_seq *q)
{
    int64_t rows = w->batch.rows_cap, cap = rows * w->s.L;
    void *tokens[] = {q->ids, q->tok_id, q->tok_pos, q->tok_row, q->tok_rid};
    for (int i = 0; i < 5; i++) spoil(tokens[i], cap * 4);
    spoil(q->len, rows * 4);
}

void op_world_spoil(op_world *w)
{
    mr_batch *b = &w->batch;
    void *rows[] = {b->rid,     b->zero_pos,  b->user,       b->target,  b->last,
                    b->last_id, b->last_slot, b->last_start, b->last_row};
    for (int i = 0; i < 9; i++) spoil(rows[i], b->rows_cap * 4);
    for (int k = 0; k < w->s.n_seq; k++) {
        spoil_seq(w, &b->seq[k]);
        void *lists[] = {w->xch[k].unique_id, w->xch[k].inv, w->xch[k].csr_start,
                         w->xch[k].csr_pos};
        for (int i = 0; i < 4; i++) spoil(lists[i], w->xch[k].cap * 4);
    }
    spoil(w->abar, (w->s.T + 1) * 8);
    spoil(w->feat.visual.data, (int64_t)feature_bytes(w, &w->feat.visual));
    spoil(w->feat.frames.data, (int64_t)feature_bytes(w, &w->feat.frames));
    spoil(w->feat.text.data, (int64_t)feature_bytes(w, &w->feat.text));
}

void op_world_attach(op_world *w, mr_run *r)
{
    r->feat = features_for(w, r->dev);
    r->items = &w->comm;
    for (int k = 0; k < w->s.n_seq; k++) r->xch[k] = &w->xch[k];
    r->abar_host = w->abar;
    r->c1 = w->c1;
    r->c2 = w->c2;
    r->s2 = w->s2;
    r->t_max = w->s.T;
    r->t_set = &w->t_set;
    assert_int_equal(mr_run_set_batch(r, &w->batch, &w->state), MR_OK);
}

void op_world_free(op_world *w)
{
    mr_batch *b = &w->batch;
    if (w->dev) {
        w->dev->free(w->dev, w->dev_feat.visual.data);
        w->dev->free(w->dev, w->dev_feat.frames.data);
        w->dev->free(w->dev, w->dev_feat.text.data);
    }
    MR_FREE(b->rank_rows);
    MR_FREE(b->rid);
    MR_FREE(b->zero_pos);
    MR_FREE(b->user);
    MR_FREE(b->target);
    MR_FREE(b->last);
    MR_FREE(b->last_id);
    MR_FREE(b->last_slot);
    MR_FREE(b->last_start);
    MR_FREE(b->last_row);
    MR_FREE(b->last_hash);
    for (int k = 0; k < w->s.n_seq; k++) {
        mr_seq *q = &b->seq[k];
        MR_FREE(q->ids);
        MR_FREE(q->len);
        MR_FREE(q->start);
        MR_FREE(q->tok_id);
        MR_FREE(q->tok_pos);
        MR_FREE(q->tok_row);
        MR_FREE(q->tok_rid);
        MR_FREE(w->xch[k].unique_id);
        MR_FREE(w->xch[k].inv);
        MR_FREE(w->xch[k].csr_start);
        MR_FREE(w->xch[k].csr_pos);
    }
    MR_FREE(w->feat.visual.data);
    MR_FREE(w->feat.frames.data);
    MR_FREE(w->feat.text.data);
    MR_FREE(w->abar);
    MR_FREE(w->c1);
    MR_FREE(w->c2);
    MR_FREE(w->s2);
}
