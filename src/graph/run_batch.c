/* A batch on its way to the device: copies of its integer arrays and of the lists of the row
 * exchange, where kernels cannot read host memory.
 * Invariants: kernels read r->in, r->lists and r->abar; ops read r->host and r->xch. Everything is
 * one block with places by capacity, so addresses stay as long as nothing has to grow. What is sent
 * is not written again before the host has waited for the device.
 *
 * Counts that are rounded up. Behind the batch's tokens lie tokens of PAD at position 0 that belong
 * to no row: they are looked up and computed with, because a product has one size, but nobody reads
 * what becomes of them. What turns tokens into rows (attention, last, the fusion, the experts) goes
 * by start and len of the rows; what makes tokens of rows leaves zeros behind them (N in its
 * kernels). So values there are finite, gradients are exactly 0, and sums over tokens (of weights,
 * biases, norms) add zeros. Lists of what is added up where (the exchange's, last_start) do not
 * have them; entries that rounding adds to such a list are empty.
 *
 * One rank never rounds rows. Several ranks compute with the largest counts of any of them (most),
 * rounded up, so that all start the same work: behind a rank's rows lie rows with one token of PAD
 * each, the first of those behind its tokens. They have no target and are no rows of the step
 * state, so losses leave them out and give them gradients of exactly 0. */
#include "graph/run.h"

#include <string.h>

#include "base/mem.h"
#include "graph/red_zone.h"

/* src[bytes] goes to a place on the device with room for cap bytes, with `more` words behind it:
 * word, word + step and so on; *out = its address. */
typedef struct piece {
    const void *src;
    void **out;
    int64_t bytes, cap;
    int64_t more;
    int32_t word, step;
} piece;

typedef struct pieces {
    int n;
    piece list[11 + 3 * MR_FEATURE_COUNT + MR_MAX_SEQ * 16];
} pieces;

static void add(pieces *p, void *out, const void *src, int64_t bytes, int64_t cap)
{
    p->list[p->n++] = (piece){.src = src, .out = out, .bytes = bytes, .cap = cap};
    if (cap < bytes) p->list[p->n - 1].cap = bytes;
}

/* Behind the piece that was added last, of 4-byte elements: `more` times `word`. */
static void then(pieces *p, int64_t more, int32_t word)
{
    p->list[p->n - 1].more = more;
    p->list[p->n - 1].word = word;
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
    MR_TRY(may_write(r, 2 + slot));
    *r->state_out[slot] = r->state_host;
    r->sent[2 + slot] = r->dev->counts.waits;
    return r->dev->send(r->dev, r->state_dev, r->state_out[slot], sizeof *r->state_out[slot]);
}

mr_status mr_run_send_state(mr_run *r) { return send_state(r, 1); }

static int64_t bytes_of(const pieces *p)
{
    int64_t total = 0;
    for (int i = 0; i < p->n; i++) total += padded(p->list[i].cap);
    return total;
}

static void write_pieces(char *at, const pieces *p)
{
    for (int i = 0; i < p->n; at += padded(p->list[i++].cap)) {
        const piece *q = &p->list[i];
        if (q->src && q->bytes > 0) /* views alone come without rows (train/contrast.c) */
            memcpy(at, q->src, (size_t)q->bytes);
        int32_t *behind = (int32_t *)(void *)(at + q->bytes);
        for (int64_t k = 0; k < q->more; k++) behind[k] = q->word + (int32_t)k * q->step;
    }
}

static mr_status make_block(mr_run *r, int64_t total)
{
    r->dev->free(r->dev, r->block);
    r->block = NULL;
    r->block_bytes = 0;
    r->staged = NULL;
    for (int i = 0; i < 2; i++) {
        r->dev->free_host(r->dev, r->block_host[i]);
        r->block_host[i] = NULL;
        r->sent[i] = -1;
    }
    for (int i = 0; i < 2; i++)
        MR_TRY(r->dev->alloc_host(r->dev, &r->block_host[i], (size_t)total, "batch to send"));
    MR_TRY(r->dev->alloc(r->dev, &r->block, (size_t)total, "batch"));
    r->block_bytes = total;
    return MR_OK;
}

/* All pieces in one block and one copy. */
static mr_status send(mr_run *r, const mr_batch *b, const pieces *p)
{
    int64_t total = bytes_of(p), at = 0;
    if (total > r->block_bytes) MR_TRY(make_block(r, total));
    int turn = r->turn;
    if (r->staged != b->rid) {
        MR_TRY(may_write(r, turn));
        write_pieces(r->block_host[turn], p);
    }
    for (int i = 0; i < p->n; at += padded(p->list[i++].cap))
        *p->list[i].out = (char *)r->block + at;
    r->staged = NULL;
    r->turn = 1 - turn;
    r->sent[turn] = r->dev->counts.waits;
    return r->dev->send(r->dev, r->block, r->block_host[turn], (size_t)total);
}

/* more, behind: tokens and rows of no batch. Those that are of no row, or of such a row, say -1. */
static void add_seq(pieces *p, mr_seq *d, const mr_seq *q, int64_t more, int64_t rows,
                    int64_t behind, int64_t rows_cap, int64_t L)
{
    int64_t tokens = q->tokens, cap = rows_cap * L;
    ADD(d->ids, q->ids, rows * L, cap);
    then(p, behind * L, 0);
    ADD(d->len, q->len, rows, rows_cap);
    then(p, behind, 1);
    ADD(d->start, q->start, rows + 1, rows_cap + 1);
    then(p, behind, (int32_t)tokens + 1);
    p->list[p->n - 1].step = 1;
    ADD(d->tok_id, q->tok_id, tokens, cap);
    then(p, more, 0);
    ADD(d->tok_pos, q->tok_pos, tokens, cap);
    then(p, more, 0);
    ADD(d->tok_row, q->tok_row, tokens, cap);
    then(p, more, -1);
    ADD(d->tok_rid, q->tok_rid, tokens, cap);
    then(p, more, 0);
    d->tokens = tokens + more;
}

static void add_lists(pieces *p, mr_exchange_lists *d, const mr_exchange *x, int64_t more)
{
    int64_t empty = d->n_unique - x->n_unique, none = d->n_own - x->n_own;
    int64_t cap = x->is_fixed ? x->n_send : x->give_cap; /* places that stay */
    ADD(d->unique_id, x->unique_id, x->n_unique, x->cap);
    then(p, empty, 0);
    ADD(d->inv, x->inv, x->n, x->cap);
    then(p, more, x->inv[x->n - 1]); /* where PAD is */
    ADD(d->csr_start, x->csr_start, x->n_unique + 1, x->cap + 1);
    then(p, empty, x->csr_start[x->n_unique]);
    ADD(d->csr_pos, x->csr_pos, x->n, x->cap);
    if (x->size == 1) return;
    ADD(d->give_row, x->give_row, x->n_send, cap);
    ADD(d->own_row, x->own_row, x->n_own, cap);
    then(p, none, -1);
    ADD(d->own_start, x->own_start, x->n_own + 1, cap + 1);
    then(p, none, x->own_start[x->n_own]);
    ADD(d->own_pos, x->own_pos, x->n_give, cap);
    if (!x->fixed) return;
    ADD(d->slot, x->slot, x->n_unique, x->cap); /* not filled in when it is not fixed */
    then(p, empty, 0);                          /* PAD's, to which nothing is added */
}

/* Everything of a batch, into r->in, r->lists, r->ids. */
static void list_pieces(pieces *p, mr_run *r, const mr_batch *b)
{
    mr_batch *d = &r->in;
    int64_t rows = b->rows, cap = b->rows_cap, more = r->count[MR_SPACE_LAST] - b->n_last;
    int64_t behind = r->count[MR_SPACE_ROWS] - rows;
    ADD(d->rank_rows, b->rank_rows, b->n_ranks, b->n_ranks);
    ADD(d->rid, b->rid, rows, cap);
    then(p, behind, 0);
    ADD(d->zero_pos, b->zero_pos, rows, cap);
    then(p, behind, 0);
    ADD(d->user, b->user, rows, cap);
    then(p, behind, 0);
    ADD(d->target, b->target, rows, cap);
    then(p, behind, -1);
    ADD(d->last, b->last, rows, cap);
    then(p, behind, 0);
    ADD(d->last_id, b->last_id, b->n_last, cap);
    then(p, more, 0);
    ADD(d->last_slot, b->last_slot, rows, cap);
    then(p, behind, 0);
    ADD(d->last_start, b->last_start, b->n_last + 1, cap + 1);
    then(p, more, (int32_t)rows);
    ADD(d->last_row, b->last_row, rows, cap);
    d->n_last = b->n_last + more;
    for (int s = 0; s < b->n_seq; s++) {
        int64_t tokens = r->count[MR_SPACE_TOK0 + s] - b->seq[s].tokens;
        add_seq(p, &d->seq[s], &b->seq[s], tokens, rows, behind, cap, b->L);
        if (r->xch[s]) add_lists(p, &r->lists[s], r->xch[s], tokens);
    }
    for (int i = 0; r->fetched && i < MR_FEATURE_COUNT; i++) {
        const mr_feature_ids *f = &r->fetched[i];
        r->ids[i] = (mr_feature_ids){.n = f->n};
        if (f->last) {
            ADD(r->ids[i].last, f->last, rows, cap);
            then(p, behind, 0);
        }
        if (f->distinct) {
            ADD(r->ids[i].distinct, f->distinct, b->n_last, cap);
            then(p, more, 0);
        }
        if (f->tok) {
            ADD(r->ids[i].tok, f->tok, b->seq[0].tokens, cap * b->L);
            then(p, r->count[MR_SPACE_TOK0] - b->seq[0].tokens, 0);
        }
    }
    if (r->abar_host) ADD(r->abar, r->abar_host, r->t_max + 1, r->t_max + 1);
}

static mr_status copy_batch(mr_run *r, const mr_batch *b)
{
    pieces all = {0};
    list_pieces(&all, r, b);
    return send(r, b, &all);
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
                                          .slot = x->slot,
                                          .n_unique = x->n_unique,
                                          .n_own = x->size > 1 ? x->n_own : 0};
    }
}

/* Up to a multiple of 1/32 of the capacity: full batches of one stream have few such counts. */
int64_t mr_run_rounded(int64_t n, int64_t cap)
{
    enum { PARTS = 32, LEAST = 8 };
    int64_t step = (cap + PARTS * LEAST - 1) / (PARTS * LEAST) * LEAST;
    int64_t up = (n + step - 1) / step * step;
    return up < cap ? up : cap;
}

/* Capacity of rows in both the plan and the batch. */
static int64_t rows_cap_of(const mr_run *r, const mr_batch *b)
{
    int64_t of_plan = r->g->dims.rows_cap;
    return b->rows_cap < of_plan ? b->rows_cap : of_plan;
}

void mr_run_counts(mr_counts *out, const mr_batch *b, mr_exchange *const *xch)
{
    mr_counts c = {.rows = b->rows, .last = b->n_last};
    for (int s = 0; s < b->n_seq; s++) {
        const mr_exchange *x = xch[s];
        c.tokens[s] = b->seq[s].tokens + b->rows_cap - b->rows;
        if (!x) continue;
        c.unique[s] = x->n_unique;
        c.own[s] = x->n_own;
        c.exact += x->size > 1 && !x->is_fixed;
    }
    *out = c;
}

static int64_t count_of(const mr_run *r, int64_t n, int64_t cap)
{
    return r->rounds ? mr_run_rounded(n, cap) : n;
}

/* Of the lists of an exchange. What several ranks send as it is wanted has no room behind it. */
static void set_lists(mr_run *r, int s, const mr_counts *c)
{
    const mr_exchange *x = r->xch[s];
    bool rounds = x->size == 1 || (r->most && x->is_fixed);
    r->lists[s].n_unique = rounds ? count_of(r, c->unique[s], x->cap) : x->n_unique;
    r->lists[s].n_own = rounds ? count_of(r, c->own[s], x->n_send) : x->n_own;
    if (x->size == 1) r->lists[s].n_own = 0; /* gives to nobody */
}

/* Tokens of sequence set s that are computed. */
static int64_t tokens_of(const mr_run *r, const mr_batch *b, const mr_counts *most, int s)
{
    int64_t cap = rows_cap_of(r, b) * b->L;
    return count_of(r, most ? most->tokens[s] : b->seq[s].tokens, cap);
}

int64_t mr_run_tokens(const mr_run *r, const mr_batch *b, const mr_counts *most)
{
    int64_t tokens = 0;
    for (int s = 0; s < b->n_seq; s++) {
        int64_t n = tokens_of(r, b, most, s);
        tokens = n > tokens ? n : tokens;
    }
    return tokens;
}

static void set_counts(mr_run *r, const mr_batch *b)
{
    int64_t cap = rows_cap_of(r, b);
    mr_counts own;
    mr_run_counts(&own, b, r->xch);
    const mr_counts *c = r->most ? r->most : &own;
    r->rows[MR_SPACE_FIXED] = r->count[MR_SPACE_FIXED] = 1;
    r->rows[MR_SPACE_ROWS] = b->rows;
    r->count[MR_SPACE_ROWS] = r->most ? mr_run_rounded(c->rows, cap) : b->rows;
    r->rows[MR_SPACE_LAST] = b->n_last;
    r->count[MR_SPACE_LAST] = count_of(r, c->last, cap);
    for (int s = 0; s < b->n_seq; s++) {
        r->rows[MR_SPACE_TOK0 + s] = b->seq[s].tokens;
        r->count[MR_SPACE_TOK0 + s] = tokens_of(r, b, r->most, s);
        if (r->xch[s]) set_lists(r, s, c);
    }
}

void mr_run_stage(mr_run *r, const mr_batch *b, mr_exchange *const *xch, const mr_counts *most)
{
    pieces all = {0};
    mr_run other = *r; /* the one that has this batch: its counts, and places nobody reads */
    bool has_waited = r->sent[r->turn] != r->dev->counts.waits;
    r->staged = NULL;
    if (r->dev->host_memory || r->fetched || !has_waited) return;
    for (int s = 0; s < b->n_seq; s++) other.xch[s] = xch[s];
    other.most = most;
    set_counts(&other, b);
    list_pieces(&all, &other, b);
    if (bytes_of(&all) > r->block_bytes) return;
    write_pieces(r->block_host[r->turn], &all);
    r->staged = b->rid;
}

void mr_run_signature(const mr_run *r, mr_signature *out)
{
    int n = 0;
    memset(out, 0, sizeof *out);
    out->word[n++] = r->most ? r->most->places : r->number;
    out->word[n++] = r->most ? -1 : (int64_t)(intptr_t)r->block;
    for (int s = MR_SPACE_ROWS; s < MR_N_SPACES; s++) out->word[n++] = r->count[s];
    for (int s = 0; s < MR_MAX_SEQ; s++) out->word[n++] = r->lists[s].n_unique;
    for (int s = 0; s < MR_MAX_SEQ; s++) out->word[n++] = r->lists[s].n_own;
    for (int i = 0; i < MR_FEATURE_COUNT; i++) out->word[n++] = r->ids[i].n;
    if (!r->most) return;
    out->here[0] = r->number;
    out->here[1] = (int64_t)(intptr_t)r->block;
}
_Static_assert(2 + MR_N_SPACES - 1 + 2 * MR_MAX_SEQ + MR_FEATURE_COUNT <= MR_SIGNATURE_WORDS,
               "a signature holds all counts");

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
    int64_t tokens = mr_run_tokens(r, b, r->most), room = mr_space_cap(r->g, MR_SPACE_TOK0);
    MR_CHECK(tokens <= room, MR_ERR_INTERNAL, "batch of %lld tokens in a plan for %lld",
             (long long)tokens, (long long)room);
    round_params(r);
    r->host = b;
    r->in = *b;
    set_counts(r, b);
    if (r->dev->host_memory)
        use_host(r);
    else
        MR_TRY(copy_batch(r, b));
    for (int i = 0; !r->fetched && i < MR_FEATURE_COUNT; i++)
        r->ids[i] = (mr_feature_ids){.last = r->in.last,
                                     .distinct = r->in.last_id,
                                     .tok = r->in.seq[0].tok_id,
                                     .n = r->g->dims.n_items};
    if (r->plan->is_private) MR_TRY(mr_red_zones_fill(r));
    r->state_host = *state;
    r->state_host.step = b->step;
    r->state_host.rows = b->rows;
    r->state_host.rows_global = b->rows_global;
    return send_state(r, 0);
}
