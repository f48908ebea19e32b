/* Look-ups in the sharded item table, positions, last positions.
 * A look-up on several ranks: owners gather the rows that others asked for, one exchange brings
 * every distinct row once, then rows are spread to where they are used; backward is the same way
 * back. On one rank nothing is copied in between. Who needs what is planned per batch
 * (dist/shard.h); the list of a sequence set is its packed tokens followed by one PAD. Invariant:
 * id 0 passes no gradient (model.md §11.4). */
#include "graph/ops.h"
#include "graph/run.h"

#define MAX_RANKS 1024 /* counts of an exchange live on the stack */

/* ---- exchange of rows ---- */
typedef struct trade {
    const mr_exchange *x;           /* host: counts */
    const mr_exchange_lists *lists; /* device */
    const mr_seq *seq;
    int64_t w;
    char *unique, *give; /* scratch: [n_slots, w], [n_send, w]; NULL on one rank */
} trade;

static int64_t fixed_rows(const mr_graph *g) { return g->dims.n_ranks * g->dims.exchange_rows; }

static int64_t unique_cap(const mr_graph *g, int seq)
{
    int64_t tokens = mr_space_cap(g, mr_space_tok(seq)) + 1;
    return tokens > fixed_rows(g) ? tokens : fixed_rows(g);
}

static int64_t local_rows(const mr_graph *g, int table)
{
    int64_t rows = g->params->p[table].dim[0], n = g->dims.n_ranks;
    return (rows + n - 1) / n;
}

/* Most rows that all ranks together can want from one: every one for everybody, or every token of
 * the global batch and each rank's PAD. */
static int64_t give_cap(const mr_graph *g, int table)
{
    int64_t all = g->dims.n_ranks * local_rows(g, table);
    int64_t tokens = g->dims.rows_global_cap * g->dims.L + g->dims.n_ranks;
    int64_t most = tokens < all ? tokens : all;
    return most > fixed_rows(g) ? most : fixed_rows(g);
}

static mr_status trade_of(const mr_run *r, const mr_node *n, trade *t)
{
    int seq = (int)n->i[0];
    *t = (trade){.x = r->xch[seq],
                 .lists = &r->lists[seq],
                 .seq = &r->in.seq[seq],
                 .w = mr_node_width(r->g, mr_node_id(r, n))};
    MR_CHECK(r->items && r->items->size == r->g->dims.n_ranks, MR_ERR_INTERNAL,
             "%s: the graph was built for %d ranks, the communicator has %d", n->label,
             r->g->dims.n_ranks, r->items ? r->items->size : 0);
    MR_CHECK(t->x && t->x->n == r->rows[mr_space_tok(seq)] + 1, MR_ERR_INTERNAL,
             "%s: the row exchange of sequence set %d is not planned for this batch", n->label,
             seq);
    if (r->items->size == 1) return MR_OK;
    MR_CHECK(t->x->n_send <= give_cap(r->g, n->param[0]) && t->x->n_slots <= unique_cap(r->g, seq),
             MR_ERR_INTERNAL, "%s: %lld rows to send, planned for %lld", n->label,
             (long long)t->x->n_send, (long long)give_cap(r->g, n->param[0]));
    t->unique = r->ex.scratch;
    t->give = t->unique + (size_t)(unique_cap(r->g, seq) * t->w) * r->g->real_bytes;
    return MR_OK;
}

/* Move rows between owners' `give` and askers' `unique`; collective. */
static mr_status move_rows(mr_run *r, const trade *t, bool to_owner)
{
    int64_t want[MAX_RANKS], give[MAX_RANKS];
    for (int i = 0; i < r->items->size; i++) {
        want[i] = mr_exchange_wants(t->x, i) * t->w;
        give[i] = mr_exchange_gives(t->x, i) * t->w;
    }
    r->items->purpose = to_owner ? MR_FOR_ROW_GRADS : MR_FOR_ROWS;
    if (to_owner)
        return r->items->alltoallv(r->items, t->unique, want, t->give, give, r->dev->real);
    return r->items->alltoallv(r->items, t->give, give, t->unique, want, r->dev->real);
}

static mr_status fetch(mr_run *r, const mr_node *n, const trade *t)
{
    mr_k(r)->gather_rows(t->give, mr_pval(r, n, 0), t->lists->give_row, NULL, NULL, t->x->n_send,
                         t->w, MR_REAL_REAL, &r->ex);
    return move_rows(r, t, false);
}

/* Gradient of the look-up's own rows of the table; padded: dy is [B,L,w]. */
static mr_status scatter(mr_run *r, const mr_node *n, bool is_padded)
{
    trade t;
    MR_TRY(trade_of(r, n, &t));
    const mr_exchange *x = t.x;
    const mr_param *p = &r->params->p[n->param[0]];
    const void *dy = mr_grad(r, mr_node_id(r, n));
    const int32_t *tok_row = is_padded ? t.seq->tok_row : NULL, *tok_pos = t.seq->tok_pos;
    int64_t rows = p->row_hi - p->row_lo, L = r->g->dims.L;
    void *dtable = mr_pgrad(r, n, 0);
    int acc = mr_pacc(r, n, 0);
    if (r->items->size == 1) {
        mr_k(r)->add_rows(dtable, dy, t.lists->unique_id, t.lists->csr_start, t.lists->csr_pos,
                          t.lists->n_unique, t.w, rows, acc, 0, tok_row, tok_pos, L, MR_REAL_ACT,
                          &r->ex);
        return MR_OK;
    }
    /* PAD is in every list and the smallest id: its slot is 0 and stays zero. */
    const int32_t *slot = x->is_fixed ? t.lists->slot : NULL;
    mr_k(r)->add_rows(t.unique, dy, slot, t.lists->csr_start, t.lists->csr_pos, t.lists->n_unique,
                      t.w, x->n_slots, 0, 0, tok_row, tok_pos, L, MR_REAL_ACT, &r->ex);
    MR_TRY(move_rows(r, &t, true));
    mr_k(r)->add_rows(dtable, t.give, t.lists->own_row, t.lists->own_start, t.lists->own_pos,
                      t.lists->n_own, t.w, rows, acc, -1, NULL, NULL, 0, MR_REAL_REAL, &r->ex);
    return MR_OK;
}

static mr_status lookup_plus(mr_run *r, const mr_node *n, void *y, const mr_addend *plus)
{
    trade t;
    MR_TRY(trade_of(r, n, &t));
    int64_t N = t.seq->tokens;
    if (r->items->size == 1) {
        mr_k(r)->gather_rows(y, mr_pval(r, n, 0), t.seq->tok_id, plus->table, plus->at, N, t.w,
                             MR_ACT_REAL, &r->ex);
        return MR_OK;
    }
    MR_TRY(fetch(r, n, &t));
    mr_k(r)->gather_rows(y, t.unique, t.lists->inv, plus->table, plus->at, N, t.w, MR_ACT_REAL,
                         &r->ex);
    return MR_OK;
}

static mr_status lookup_forward(mr_run *r, const mr_node *n)
{
    const mr_addend none = {NULL, NULL};
    return lookup_plus(r, n, mr_val(r, mr_node_id(r, n)), &none);
}

static mr_status lookup_backward(mr_run *r, const mr_node *n) { return scatter(r, n, false); }

const mr_op mr_op_lookup = {.name = "lookup",
                            .forward_plus = lookup_plus,
                            .forward = lookup_forward,
                            .backward = lookup_backward};

static mr_status padded_forward(mr_run *r, const mr_node *n)
{
    trade t;
    MR_TRY(trade_of(r, n, &t));
    void *y = mr_val(r, mr_node_id(r, n));
    int64_t B = r->count[MR_SPACE_ROWS], L = r->g->dims.L;
    if (r->items->size == 1) {
        mr_k(r)->gather_rows(y, mr_pval(r, n, 0), t.seq->ids, NULL, NULL, B * L, t.w, MR_ACT_REAL,
                             &r->ex);
        return MR_OK;
    }
    MR_TRY(fetch(r, n, &t));
    mr_k(r)->gather_padded(y, t.unique, t.lists->inv, t.seq->start, t.seq->len, B, L, t.w,
                           t.seq->tokens, &r->ex);
    return MR_OK;
}

static mr_status padded_backward(mr_run *r, const mr_node *n) { return scatter(r, n, true); }

const mr_op mr_op_lookup_padded = {
    .name = "lookup_padded", .forward = padded_forward, .backward = padded_backward};

static int add_lookup(mr_graph *g, const mr_op *op, mr_space space, int64_t L, int table, int seq)
{
    if (table < 0) return mr_graph_fail(g, "%s: no table", op->name);
    const mr_param *p = &g->params->p[table];
    if (p->ndim != 2 || p->dim[0] < g->dims.n_items + 1)
        return mr_graph_fail(g, "%s: %s has %lld rows for %lld items and PAD", op->name, p->name,
                             (long long)p->dim[0], (long long)g->dims.n_items);
    if (seq < 0 || seq >= MR_MAX_SEQ) return mr_graph_fail(g, "%s: sequence set %d", op->name, seq);
    if (g->dims.n_ranks > MAX_RANKS || g->dims.n_ranks < 1)
        return mr_graph_fail(g,
                             "%s: %d ranks share the item table, at most %d; lower "
                             "dist.item_shard",
                             op->name, g->dims.n_ranks, MAX_RANKS);
    if (g->dims.n_ranks > 1 && !(p->flags & MR_PARAM_SHARDED))
        return mr_graph_fail(g, "%s: %s is not sharded", op->name, p->name);
    int64_t w = p->dim[1];
    mr_node n = mr_node_make(g, op, space, L ? 3 : 2, 0, L ? L : w, w, 1);
    mr_node_set_width(&n, w, p->own[1]);
    n.param[n.n_param++] = table;
    n.i[0] = seq;
    if (g->dims.n_ranks > 1)
        n.scratch_bytes = (size_t)((unique_cap(g, seq) + give_cap(g, table)) * w) * g->real_bytes;
    return mr_graph_add(g, &n);
}

int mr_g_lookup(mr_graph *g, int table, int seq)
{
    return add_lookup(g, &mr_op_lookup, mr_space_tok(seq), 0, table, seq);
}

int mr_g_lookup_padded(mr_graph *g, int table)
{
    return add_lookup(g, &mr_op_lookup_padded, MR_SPACE_ROWS, g->dims.L, table, 0);
}

/* ---- add_position: y[n] = x[n] + pos[position of n]; i[0] sequence set ---- */
static mr_status position_forward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    const mr_node *joined = mr_joined(r, n, 0);
    mr_addend plus = {mr_pval(r, n, 0), r->in.seq[n->i[0]].tok_pos};
    if (joined) return mr_forward_plus(r, n, joined, &plus);
    mr_k(r)->position_fwd(mr_val(r, id), mr_val(r, n->in[0]), plus.table, plus.at, mr_n(r, id),
                          mr_node_width(r->g, id), &r->ex);
    return MR_OK;
}

static mr_status position_backward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    int64_t w = mr_node_width(r->g, id);
    const mr_seq *q = &r->in.seq[n->i[0]];
    void *dx = mr_wants(r, n, 0) && !mr_joined(r, n, 0) ? mr_grad(r, n->in[0]) : NULL;
    mr_k(r)->position_bwd(dx, mr_pgrad(r, n, 0), mr_grad(r, id), q->start, q->len, mr_n(r, id),
                          r->count[MR_SPACE_ROWS], r->g->dims.L, w, mr_acc(r, n, 0),
                          mr_pacc(r, n, 0), &r->ex);
    return MR_OK;
}

const mr_op mr_op_add_position = {
    .name = "add_position", .adds = 1, .forward = position_forward, .backward = position_backward};

int mr_g_add_position(mr_graph *g, int x, int pos, int seq)
{
    if (x < 0) return -1;
    if (pos < 0) return mr_graph_fail(g, "add_position: no table");
    const mr_node *a = mr_node_at(g, x);
    const mr_param *p = &g->params->p[pos];
    if (a->space != mr_space_tok(seq) || a->ndim != 2)
        return mr_graph_fail(g, "add_position: the input is not tokens of sequence set %d", seq);
    if (p->dim[0] != g->dims.L || p->dim[1] != a->dim[1])
        return mr_graph_fail(g, "add_position: %s is not [%lld, %lld]", p->name,
                             (long long)g->dims.L, (long long)a->dim[1]);
    mr_node n = mr_node_like(g, &mr_op_add_position, a->space, a);
    n.in[n.n_in++] = x;
    n.param[n.n_param++] = pos;
    n.i[0] = seq;
    return mr_graph_add(g, &n);
}

/* ---- last: y[b] = x[last token of row b]; i[0] sequence set ---- */
static mr_status last_forward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    const mr_seq *q = &r->in.seq[n->i[0]];
    mr_k(r)->last_fwd(mr_val(r, id), mr_val(r, n->in[0]), q->start, q->len, mr_n(r, id),
                      mr_node_width(r->g, id), &r->ex);
    return MR_OK;
}

static mr_status last_backward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    const mr_seq *q = &r->in.seq[n->i[0]];
    if (mr_wants(r, n, 0))
        mr_k(r)->last_bwd(mr_grad(r, n->in[0]), mr_grad(r, id), q->start, q->len, mr_n(r, id),
                          mr_n(r, n->in[0]), mr_node_width(r->g, id), mr_acc(r, n, 0), &r->ex);
    return MR_OK;
}

const mr_op mr_op_last = {.name = "last", .forward = last_forward, .backward = last_backward};

int mr_g_last(mr_graph *g, int x, int seq)
{
    if (x < 0) return -1;
    const mr_node *a = mr_node_at(g, x);
    if (a->space != mr_space_tok(seq) || a->ndim != 2)
        return mr_graph_fail(g, "last: the input is not tokens of sequence set %d", seq);
    mr_node n = mr_node_like(g, &mr_op_last, MR_SPACE_ROWS, a);
    n.in[n.n_in++] = x;
    n.i[0] = seq;
    return mr_graph_add(g, &n);
}
