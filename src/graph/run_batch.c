/* A batch on its way to the device: copies of its integer arrays and of the lists of the row
 * exchange, where kernels cannot read host memory.
 * Invariants: kernels read r->in, r->lists and r->abar; ops read r->host and r->xch. Everything is
 * one block with places by capacity, so addresses stay as long as nothing has to grow. What is sent
 * is not written again before the host has waited for the device. */
#include "graph/run.h"

#include <string.h>

#include "base/mem.h"
#include "graph/red_zone.h"

/* src[bytes] goes to a place on the device with room for cap bytes; *out = its address. */
typedef struct piece {
    const void *src;
    void **out;
    int64_t bytes, cap;
} piece;

typedef struct pieces {
    int n;
    piece list[10 + 3 * MR_FEATURE_COUNT + MR_MAX_SEQ * 16];
} pieces;

static void add(pieces *p, void *out, const void *src, int64_t bytes, int64_t cap)
{
    p->list[p->n++] = (piece){src, out, bytes, cap < bytes ? bytes : cap};
}

#define ADD(out, src, n, cap)                                                                      \
    add(p, (void *)&(out), (src), (n) * (int64_t)sizeof *(src), (cap) * (int64_t)sizeof *(src))

static int64_t padded(int64_t bytes) { return (bytes + 255) / 256 * 256; }

/* Before writing to what was sent. A step waits anyway, for its losses; a run that does not is made
 * to. */
static mr_status may_write(mr_run *r, int what)
{
    bool has_waited = r->sent[what] != r->dev->counts.waits;
    return has_waited ? MR_OK : r->dev->sync(r->dev);
}

static mr_status send_state(mr_run *r, int slot)
{
    MR_TRY(may_write(r, 1 + slot));
    *r->state_out[slot] = r->state_host;
    r->sent[1 + slot] = r->dev->counts.waits;
    return r->dev->send(r->dev, r->state_dev, r->state_out[slot], sizeof *r->state_out[slot]);
}

mr_status mr_run_send_state(mr_run *r) { return send_state(r, 1); }

/* All pieces in one block and one copy. */
static mr_status send(mr_run *r, const pieces *p)
{
    int64_t total = 0, at = 0;
    for (int i = 0; i < p->n; i++) total += padded(p->list[i].cap);
    MR_TRY(may_write(r, 0));
    if (total > r->block_bytes) {
        r->dev->free(r->dev, r->block);
        r->dev->free_host(r->dev, r->block_host);
        r->block = r->block_host = NULL;
        r->block_bytes = 0;
        MR_TRY(r->dev->alloc_host(r->dev, &r->block_host, (size_t)total, "batch to send"));
        MR_TRY(r->dev->alloc(r->dev, &r->block, (size_t)total, "batch"));
        r->block_bytes = total;
    }
    for (int i = 0; i < p->n; i++) {
        const piece *q = &p->list[i];
        if (q->src && q->bytes > 0) /* views alone come without rows (train/contrast.c) */
            memcpy((char *)r->block_host + at, q->src, (size_t)q->bytes);
        *q->out = (char *)r->block + at;
        at += padded(q->cap);
    }
    r->sent[0] = r->dev->counts.waits;
    return r->dev->send(r->dev, r->block, r->block_host, (size_t)total);
}

static void add_seq(pieces *p, mr_seq *d, const mr_seq *q, int64_t rows, int64_t rows_cap,
                    int64_t L)
{
    int64_t tokens = q->tokens, cap = rows_cap * L;
    ADD(d->ids, q->ids, rows * L, cap);
    ADD(d->len, q->len, rows, rows_cap);
    ADD(d->start, q->start, rows + 1, rows_cap + 1);
    ADD(d->tok_id, q->tok_id, tokens, cap);
    ADD(d->tok_pos, q->tok_pos, tokens, cap);
    ADD(d->tok_row, q->tok_row, tokens, cap);
    ADD(d->tok_rid, q->tok_rid, tokens, cap);
}

static void add_lists(pieces *p, mr_exchange_lists *d, const mr_exchange *x)
{
    ADD(d->unique_id, x->unique_id, x->n_unique, x->cap);
    ADD(d->inv, x->inv, x->n, x->cap);
    ADD(d->csr_start, x->csr_start, x->n_unique + 1, x->cap + 1);
    ADD(d->csr_pos, x->csr_pos, x->n, x->cap);
    if (x->size == 1) return;
    ADD(d->give_row, x->give_row, x->n_send, x->give_cap);
    ADD(d->own_row, x->own_row, x->n_own, x->give_cap);
    ADD(d->own_start, x->own_start, x->n_own + 1, x->give_cap + 1);
    ADD(d->own_pos, x->own_pos, x->n_give, x->give_cap);
    if (x->fixed) ADD(d->slot, x->slot, x->n_unique, x->cap);
}

static mr_status copy_batch(mr_run *r, const mr_batch *b)
{
    mr_batch *d = &r->in;
    pieces all = {0}, *p = &all;
    int64_t rows = b->rows, cap = b->rows_cap;
    ADD(d->rid, b->rid, rows, cap);
    ADD(d->zero_pos, b->zero_pos, rows, cap);
    ADD(d->user, b->user, rows, cap);
    ADD(d->target, b->target, rows, cap);
    ADD(d->last, b->last, rows, cap);
    ADD(d->last_id, b->last_id, b->n_last, cap);
    ADD(d->last_slot, b->last_slot, rows, cap);
    ADD(d->last_start, b->last_start, b->n_last + 1, cap + 1);
    ADD(d->last_row, b->last_row, rows, cap);
    for (int s = 0; s < b->n_seq; s++) {
        add_seq(p, &d->seq[s], &b->seq[s], rows, cap, b->L);
        if (r->xch[s]) add_lists(p, &r->lists[s], r->xch[s]);
    }
    for (int i = 0; r->fetched && i < MR_FEATURE_COUNT; i++) {
        const mr_feature_ids *f = &r->fetched[i];
        r->ids[i] = (mr_feature_ids){.n = f->n};
        if (f->last) ADD(r->ids[i].last, f->last, rows, cap);
        if (f->distinct) ADD(r->ids[i].distinct, f->distinct, b->n_last, cap);
        if (f->tok) ADD(r->ids[i].tok, f->tok, b->seq[0].tokens, cap * b->L);
    }
    if (r->abar_host) ADD(r->abar, r->abar_host, r->t_max + 1, r->t_max + 1);
    return send(r, p);
}

/* Where kernels read host memory there is nothing to copy. */
static void use_host(mr_run *r)
{
    r->abar = r->abar_host;
    for (int i = 0; r->fetched && i < MR_FEATURE_COUNT; i++) r->ids[i] = r->fetched[i];
    for (int s = 0; s < r->host->n_seq; s++) {
        const mr_exchange *x = r->xch[s];
        if (!x) continue;
        r->lists[s] = (mr_exchange_lists){.unique_id = x->unique_id,
                                          .inv = x->inv,
                                          .csr_start = x->csr_start,
                                          .csr_pos = x->csr_pos,
                                          .give_row = x->give_row,
                                          .own_row = x->own_row,
                                          .own_start = x->own_start,
                                          .own_pos = x->own_pos,
                                          .slot = x->slot};
    }
}

/* The parameters in bf16 follow those that somebody else than Adam has written. */
static void round_params(mr_run *r)
{
    enum { ROW = 16 }; /* n_dense is a multiple */
    mr_params *ps = r->params;
    if (!ps->value16 || !ps->is_value16_old) return;
    r->dev->enter(r->dev);
    mr_k(r)->rows_to_bf16(ps->value16, NULL, ps->value, NULL, ps->n_dense / ROW, ROW, &r->ex);
    r->dev->leave(r->dev);
    ps->is_value16_old = false;
}

mr_status mr_run_set_batch(mr_run *r, const mr_batch *b, const mr_step_state *state)
{
    MR_CHECK(b->rows <= r->g->dims.rows_cap, MR_ERR_INTERNAL,
             "batch of %lld rows in a plan for %lld", (long long)b->rows,
             (long long)r->g->dims.rows_cap);
    round_params(r);
    r->host = b;
    r->in = *b;
    if (r->dev->host_memory)
        use_host(r);
    else
        MR_TRY(copy_batch(r, b));
    for (int i = 0; !r->fetched && i < MR_FEATURE_COUNT; i++)
        r->ids[i] = (mr_feature_ids){.last = r->in.last,
                                     .distinct = r->in.last_id,
                                     .tok = r->in.seq[0].tok_id,
                                     .n = r->g->dims.n_items};
    r->count[MR_SPACE_FIXED] = 1;
    r->count[MR_SPACE_ROWS] = b->rows;
    r->count[MR_SPACE_LAST] = b->n_last;
    for (int s = 0; s < b->n_seq; s++) r->count[MR_SPACE_TOK0 + s] = b->seq[s].tokens;
    if (r->plan->is_private) MR_TRY(mr_red_zones_fill(r));
    r->state_host = *state;
    r->state_host.step = b->step;
    r->state_host.rows = b->rows;
    r->state_host.rows_global = b->rows_global;
    return send_state(r, 0);
}
