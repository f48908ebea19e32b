/* A batch on its way to the device: copies of its integer arrays and of the lists of the row
 * exchange, where kernels cannot read host memory.
 * Invariants: kernels read r->in, r->lists and r->abar; ops read r->host and r->xch. A copy keeps
 * its address as long as it does not have to grow; with capacities as given it never does. */
#include "graph/red_zone.h"

/* Copy `bytes` of src to the device, into copy number *i of the run (counted up), which has room
 * for at least cap bytes. *out_p = its address. */
static mr_status copy(mr_run *r, int *i, void *out_p, const void *src, int64_t bytes, int64_t cap)
{
    mr_device_copy *c = &r->copy[(*i)++];
    mr_device *dev = r->dev;
    if (cap < bytes) cap = bytes;
    if (cap < 4) cap = 4;
    if (c->bytes < bytes || !c->ptr) {
        dev->free(dev, c->ptr);
        *c = (mr_device_copy){0};
        MR_TRY(dev->alloc(dev, &c->ptr, (size_t)cap, "batch"));
        c->bytes = cap;
    }
    *(void **)out_p = c->ptr;
    return bytes > 0 ? dev->to_device(dev, c->ptr, src, (size_t)bytes) : MR_OK;
}

#define COPY(out, src, n, cap)                                                                     \
    MR_TRY(copy(r, i, (void *)&(out), (src), (n) * (int64_t)sizeof *(src),                         \
                (cap) * (int64_t)sizeof *(src)))

static mr_status copy_seq(mr_run *r, int *i, mr_seq *d, const mr_seq *q, int64_t rows,
                          int64_t rows_cap, int64_t L)
{
    int64_t tokens = q->tokens, cap = rows_cap * L;
    COPY(d->ids, q->ids, rows * L, cap);
    COPY(d->len, q->len, rows, rows_cap);
    COPY(d->start, q->start, rows + 1, rows_cap + 1);
    COPY(d->tok_id, q->tok_id, tokens, cap);
    COPY(d->tok_pos, q->tok_pos, tokens, cap);
    COPY(d->tok_row, q->tok_row, tokens, cap);
    COPY(d->tok_rid, q->tok_rid, tokens, cap);
    return MR_OK;
}

static mr_status copy_lists(mr_run *r, int *i, mr_exchange_lists *d, const mr_exchange *x)
{
    COPY(d->unique_id, x->unique_id, x->n_unique, x->cap);
    COPY(d->inv, x->inv, x->n, x->cap);
    COPY(d->csr_start, x->csr_start, x->n_unique + 1, x->cap + 1);
    COPY(d->csr_pos, x->csr_pos, x->n, x->cap);
    if (x->size == 1) return MR_OK;
    COPY(d->give_row, x->give_row, x->n_give, x->give_cap);
    COPY(d->own_row, x->own_row, x->n_own, x->give_cap);
    COPY(d->own_start, x->own_start, x->n_own + 1, x->give_cap + 1);
    COPY(d->own_pos, x->own_pos, x->n_give, x->give_cap);
    return MR_OK;
}

static mr_status copy_all(mr_run *r, const mr_batch *b)
{
    mr_batch *d = &r->in;
    int at = 0, *i = &at;
    int64_t rows = b->rows, cap = b->rows_cap;
    COPY(d->rid, b->rid, rows, cap);
    COPY(d->zero_pos, b->zero_pos, rows, cap);
    COPY(d->user, b->user, rows, cap);
    COPY(d->target, b->target, rows, cap);
    COPY(d->last, b->last, rows, cap);
    for (int s = 0; s < b->n_seq; s++) {
        MR_TRY(copy_seq(r, i, &d->seq[s], &b->seq[s], rows, cap, b->L));
        if (r->xch[s]) MR_TRY(copy_lists(r, i, &r->lists[s], r->xch[s]));
    }
    if (r->abar_host) COPY(r->abar, r->abar_host, r->t_max + 1, r->t_max + 1);
    return MR_OK;
}

/* Where kernels read host memory there is nothing to copy. */
static void use_host(mr_run *r)
{
    r->abar = r->abar_host;
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
                                          .own_pos = x->own_pos};
    }
}

mr_status mr_run_set_batch(mr_run *r, const mr_batch *b, const mr_step_state *state)
{
    MR_CHECK(b->rows <= r->g->dims.rows_cap, MR_ERR_INTERNAL,
             "batch of %lld rows in a plan for %lld", (long long)b->rows,
             (long long)r->g->dims.rows_cap);
    r->host = b;
    r->in = *b;
    if (r->dev->host_memory)
        use_host(r);
    else
        MR_TRY(copy_all(r, b));
    r->count[MR_SPACE_FIXED] = 1;
    r->count[MR_SPACE_ROWS] = b->rows;
    for (int s = 0; s < b->n_seq; s++) r->count[MR_SPACE_TOK0 + s] = b->seq[s].tokens;
    if (r->plan->is_private) MR_TRY(mr_red_zones_fill(r));
    r->state_host = *state;
    r->state_host.step = b->step;
    r->state_host.rows = b->rows;
    r->state_host.rows_global = b->rows_global;
    return r->dev->to_device(r->dev, r->state_dev, &r->state_host, sizeof r->state_host);
}
